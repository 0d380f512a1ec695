"""Two arms of the demo, with and without general replay, on the same items: what replay costs and what it saves.

Run `bessemer run` on both recipes first (`make demo-contrast` does); this reads their measurements.
"""

from __future__ import annotations

import sys

from bessemer.cli.options import print_table
from bessemer.evaluate import scorecard, stats
from bessemer.evaluate.metrics import METRICS
from bessemer.files import read_record
from bessemer.track.runs import runs_folder

WITH, WITHOUT = "house-rules", "house-rules-no-replay"


def shown(interval: stats.Interval, *, percent: bool = False) -> str:
    if percent:
        return f"{interval.value * 100:+.1f} % [{interval.low * 100:+.1f}, {interval.high * 100:+.1f}]"
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def main() -> None:
    before, without, with_ = (
        read_record(runs_folder() / name / "measured" / f"{when}.json")
        for name, when in ((WITH, "before"), (WITHOUT, "after"), (WITH, "after"))
    )
    rows: list[list[str]] = []
    for name, start in before["tasks"].items():
        a, b = without["tasks"][name], with_["tasks"][name]
        if not start["ids"] == a["ids"] == b["ids"]:
            sys.exit(f"{name}: the two arms measured different items")
        sides = [scorecard.answers_columns(x) for x in (start, a, b)]
        untouched = METRICS["auroc"].value(sides[0])
        compared = stats.difference(METRICS["auroc"], sides[1], sides[2], margin=0.0, permutations=0)
        values = [f"{untouched:.3f}", f"{compared.before.value:.3f}", f"{compared.after.value:.3f}"]
        rows.append([name, "AUROC", *values, shown(compared.change)])
    for name in before["probes"]:
        sides = [scorecard.bits_columns(x["probes"][name]) for x in (before, without, with_)]
        changes = [
            stats.difference(METRICS["bits_per_byte"], x, y, margin=0.0, relative=True, permutations=0).change
            for x, y in ((sides[0], sides[1]), (sides[0], sides[2]), (sides[1], sides[2]))
        ]
        row = [f"{METRICS['bits_per_byte'].value(sides[0]):.3f}", *(shown(c, percent=True) for c in changes)]
        rows.append([name, "bits per byte", *row])
    columns = ["held out", "metric", "untouched", "without replay", "with replay", "replay's effect (paired, 95 %)"]
    print_table("What replay is worth (one seed)", columns, rows, right=[2])


if __name__ == "__main__":
    main()
