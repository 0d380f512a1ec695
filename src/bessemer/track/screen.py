"""What a user sees while something long runs: one line per step of the story, and a bar that moves.

Without a terminal the bar goes away and the lines stay. Lines also go to a log file.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bessemer.track.live import BARS, PLAIN_BARS, StageView
from bessemer.units import show_seconds

Advance = Callable[[float, str], None]  # (share done since the last call, note)
See = Callable[[dict[str, Any]], None]  # an event of metrics.jsonl


class _Console(Console):
    """Where nobody looks any more (`2>&1 | head`), what runs goes on with its log; the library would end it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Screen:
    """Prints to stderr, so that stdout stays free for results (`--json`)."""

    def __init__(self, *, quiet: bool = False, log: Path | None = None) -> None:
        self.console = _Console(stderr=True, quiet=quiet, highlight=False)
        self._log = log
        self.seconds: dict[str, float] = {}

    def to_file(self, log: Path) -> None:
        self._log = log

    def say(self, text: str, style: str = "") -> None:
        """One line. `text` is never read as markup."""
        try:
            self.console.print(f"[{style}]{escape(text)}[/]" if style else escape(text), soft_wrap=True)
        except OSError:  # a terminal that is gone
            self.console.quiet = True
        self._write(text)

    def _write(self, text: str) -> None:
        if self._log is not None:
            with contextlib.suppress(OSError), self._log.open("a") as file:  # a full disk ends no training
                file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    @contextlib.contextmanager
    def stage(self, name: str, n_steps: int, budget: float) -> Generator[See]:
        """A stage being trained, shown from its events: a bar, and below it losses, rate, speed and probes."""
        view = StageView(name, n_steps, budget, bars=BARS if _can_show(BARS) else PLAIN_BARS)
        with self.step(f"train {name}", lambda: [Text(f"  {line}", "dim") for line in view.lines()]) as advance:

            def see(event: dict[str, Any]) -> None:
                before = view.share
                view.see(event)
                advance(view.share - before, view.note())

            yield see

    @contextlib.contextmanager
    def step(self, title: str, below: Callable[[], Sequence[RenderableType]] = tuple) -> Generator[Advance]:
        """A step of the story with a bar; when it is done one line stays, with the time it took.

        below: what stands under the bar, asked for again and again.
        """
        started = time.monotonic()
        last_line = started
        progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        shown = Live(
            get_renderable=lambda: Group(progress, *below()), console=self.console, transient=True, refresh_per_second=4
        )
        with shown if self.console.is_terminal else contextlib.nullcontext():
            task = progress.add_task(title, total=1.0, note="")

            def advance(share: float, note: str = "") -> None:
                nonlocal last_line
                progress.update(task, advance=share, note=note)
                if not self.console.is_terminal and time.monotonic() - last_line > 20:
                    last_line = time.monotonic()  # a sign of life in a log
                    self.say(f"  {title}: {progress.tasks[task].completed:.0%} {note}")

            try:
                yield advance
            finally:  # what was stopped took its time, too
                took = time.monotonic() - started
                self.seconds[title] = self.seconds.get(title, 0.0) + round(took, 1)
        self.say(f"✓ {title} ({show_seconds(took)})" if _can_show("✓") else f"done: {title} ({show_seconds(took)})")


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
