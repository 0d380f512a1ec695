"""What a stage looks like while it is trained: made from the events of metrics.jsonl, wherever the training runs."""

from __future__ import annotations

from collections import deque
from typing import Any

from bessemer.units import show_bytes, show_count

BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-=*#%@"  # where the terminal cannot show the others
WIDTH = 32  # points of a sparkline
RECENT = 8  # steps that a rate is averaged over


def sparkline(values: list[float], bars: str = BARS, width: int = WIDTH) -> str:
    """The course of a number in one line; of many values the mean of neighbours. Empty for fewer than two."""
    if len(values) < 2:
        return ""
    n = min(width, len(values))
    cells = [values[i * len(values) // n : (i + 1) * len(values) // n] for i in range(n)]
    means = [sum(c) / len(c) for c in cells]
    low, high = min(means), max(means)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((m - low) * scale)] for m in means)


class StageView:
    """Follows one stage. `note` is for one line, `lines` for a terminal."""

    def __init__(self, name: str, n_steps: int, budget: float, *, bars: str = BARS) -> None:
        """budget: how much worse, as a share, a probe may become."""
        self.name, self.n_steps, self.budget, self.bars = name, n_steps, budget, bars
        self.step = 0
        self.losses: list[float] = []
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.probes: dict[str, tuple[float, float]] = {}  # name -> (now, at the start)
        self.machine: dict[str, float] = {}
        self.skipped = 0

    def see(self, event: dict[str, Any]) -> None:
        if event.get("stage") != self.name:
            return
        kind = event["event"]
        if kind == "step":
            self.step = event["step"]
            self.losses.append(event["loss"])
            self.recent.append(event)
        elif kind == "probe":
            self.probes[event["probe"]] = (event["bits_per_byte"], event["start"])
        elif kind == "machine":
            self.machine = event
        elif kind == "skip":
            self.step, self.skipped = event["step"], self.skipped + 1
        elif kind == "roll back":
            self.losses = self.losses[: event["to"]]

    @property
    def share(self) -> float:
        return self.step / self.n_steps

    def note(self) -> str:
        """One line: step, loss, tokens a second."""
        if not self.recent:
            return ""
        parts = [f"step {self.step}/{self.n_steps}", f"loss {self.recent[-1]['loss']:.3f}"]
        return "  ".join([*parts, *self._speed()])

    def _speed(self) -> list[str]:
        seconds = sum(e["seconds"] for e in self.recent)
        if seconds <= 0:
            return []
        tokens = sum(sum(e["tokens"].values()) for e in self.recent)
        found = [f"{show_count(round(tokens / seconds))} tokens/s"]
        if self.machine.get("peak_flops"):
            share = sum(e["flops"] for e in self.recent) / seconds / self.machine["peak_flops"]
            found.append(f"{share:.0%} of peak")
        return [*found, show_bytes(self.recent[-1]["memory"])]

    def lines(self) -> list[str]:
        """Loss with its course, loss by source, probes against their budget."""
        if not self.recent:
            return []
        last = self.recent[-1]
        first = f"loss {last['loss']:.3f}  {sparkline(self.losses, self.bars)}  rate {last['lr']:.2e}"
        found = ["  ".join([first, *self._speed(), *([f"{self.skipped} skipped"] if self.skipped else [])])]
        found.append("  ".join(f"{name} {loss:.3f}" for name, loss in last["source_loss"].items()))
        if self.probes:
            budget = f"{self.budget:+.1%} allowed"
            found.append("  ".join([*(f"{n} {now / at - 1:+.1%}" for n, (now, at) in self.probes.items()), budget]))
        return found
