"""Which side of a split an item is on: by hash or by time, never one side each for two items that belong together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bessemer.data.curate.near import I64, U64, Clusters, mix
from bessemer.recipe.data_recipe import Split
from bessemer.units import parse_time


def sides_of(split: Split | None) -> list[str]:
    """The names of the sides, in order."""
    if split is None:
        return ["train"]
    if split.by == "time":
        return ["train", *sorted(split.cuts, key=lambda name: parse_time(split.cuts[name], f"split.cuts.{name}"))]
    return list(split.shares)


def draw(units: U64, split: Split) -> NDArray[np.uint8]:
    """A side for each unit, by a hash of the unit and the seed: other units change nothing."""
    draws = mix(units ^ mix(np.array([split.seed], np.uint64))) / float(2**64)
    borders = np.cumsum(list(split.shares.values()))[:-1]
    return np.searchsorted(borders, draws, side="right").astype(np.uint8)


def by_time(times: NDArray[np.float64], split: Split) -> NDArray[np.uint8]:
    """The side of each moment, in seconds since 1970: a later part begins exactly at its cut."""
    cuts = [parse_time(split.cuts[name], f"split.cuts.{name}") for name in sides_of(split)[1:]]
    return np.searchsorted(np.array(cuts), times, side="right").astype(np.uint8)


def united(labels: I64, units: U64) -> I64:
    """Clusters that share a unit become one, and units that share a cluster too. 0: the item has no unit."""
    clusters = Clusters(len(labels))
    clusters.parents = labels.copy()
    order = np.argsort(units, kind="stable")
    same = np.flatnonzero((units[order][1:] == units[order][:-1]) & (units[order][1:] != 0))
    clusters.join(order[same], order[same + 1])
    return clusters.labels()


def n_straddling(labels: I64, sides: NDArray[np.uint8], stays: NDArray[np.bool_]) -> int:
    """How many items that stay have a near-duplicate on another side."""
    kept = np.flatnonzero(stays)
    pairs = np.unique(np.stack([labels[kept], sides[kept].astype(np.int64)]), axis=1)[0]
    clusters, n_sides = np.unique(pairs, return_counts=True)
    return int(np.isin(labels[kept], clusters[n_sides > 1]).sum())
