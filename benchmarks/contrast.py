"""Two arms of the demo, with and without general replay, on the same items: what replay costs and what it saves.

Run `bessemer run` on both recipes first (`make demo-contrast` does); this reads their measurements.
"""

from __future__ import annotations

import sys

import numpy as np

from bessemer.cli.options import print_table
from bessemer.evaluate import stats
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
        weights = stats.draw_weights(start["clusters"])
        labels = np.array(start["labels"])
        compared = stats.compare_auroc(np.array(a["scores"]), np.array(b["scores"]), labels, weights)
        untouched = stats.weighted_auroc(np.array(start["scores"]), labels, weights)[0]
        values = [f"{untouched:.3f}", f"{compared.before.value:.3f}", f"{compared.after.value:.3f}"]
        rows.append([name, "AUROC", *values, shown(compared.change)])
    for name, start in before["probes"].items():
        weights = stats.draw_weights(start["clusters"])
        metric = stats.weighted_ratio(weights, np.array(start["bytes"], np.float64))
        bits = [np.array(x["probes"][name]["bits"]) for x in (before, without, with_)]
        changes = [stats.compare(metric, bits[0], b, relative=True).change for b in bits[1:]]
        between = stats.compare(metric, bits[1], bits[2], relative=True).change
        row = [f"{metric(bits[0])[0]:.3f}", *(shown(c, percent=True) for c in changes), shown(between, percent=True)]
        rows.append([name, "bits per byte", *row])
    columns = ["held out", "metric", "untouched", "without replay", "with replay", "replay's effect (paired, 95 %)"]
    print_table("What replay is worth (one seed)", columns, rows, right=[2])


if __name__ == "__main__":
    main()
