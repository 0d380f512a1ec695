from __future__ import annotations

from typing import Any

from bessemer.track.live import PLAIN_BARS, StageView, sparkline


def step(n: int, loss: float, **more: Any) -> dict[str, Any]:
    tokens = {"own": 1500, "general": 500}
    return {
        "event": "step", "stage": "01-cpt", "step": n, "loss": loss, "lr": 3e-4, "tokens": tokens, "seconds": 2.0,
        "source_loss": {"own": loss, "general": 2.0}, "flops": 1e12, "memory": 3 * 2**30, **more,
    }  # fmt: skip


def test_a_sparkline_shows_the_course() -> None:
    assert sparkline([3, 2, 1]) == "█▅▁" or sparkline([3, 2, 1]) == "█▄▁"
    assert sparkline([1, 1, 1]) == "▁▁▁" and sparkline([1]) == ""
    long = sparkline([float(x) for x in range(1000)], width=10)
    assert len(long) == 10 and list(long) == sorted(long, key="▁▂▃▄▅▆▇█".index)
    assert sparkline([2, 1], PLAIN_BARS) == "@_"


def test_a_stage_is_followed_by_its_events() -> None:
    view = StageView("01-cpt", 20, 0.0101)
    assert view.note() == "" and view.lines() == [] and view.share == 0
    view.see({"event": "machine", "stage": "01-cpt", "peak_flops": 1e12})
    for n in range(1, 11):
        view.see(step(n, 4 - n / 10))
    view.see({"event": "step", "stage": "02-sft", "step": 3, "loss": 99.0})  # another stage's
    view.see({"event": "probe", "stage": "01-cpt", "step": 10, "probe": "topics", "bits_per_byte": 1.02, "start": 1.0})
    view.see({"event": "skip", "stage": "01-cpt", "step": 11, "why": "loss nan"})
    assert view.share == 11 / 20
    assert view.note() == "step 11/20  loss 3.000  1.0k tokens/s  50% of peak  3.0 GiB"
    first, sources, probes = view.lines()
    assert first.startswith("loss 3.000  █") and "rate 3.00e-04" in first and first.endswith("1 skipped")
    assert sources == "own 3.000  general 2.000" and probes == "topics +2.0%  +1.0% allowed"


def test_a_roll_back_forgets_the_losses_that_were_undone() -> None:
    view = StageView("01-cpt", 20, 0.01)
    for n in range(1, 7):
        view.see(step(n, float(n)))
    view.see({"event": "roll back", "stage": "01-cpt", "step": 9, "to": 4, "why": "loss nan"})
    assert view.losses == [1, 2, 3, 4]
