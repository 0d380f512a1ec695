"""What a run may write is said before."""

from __future__ import annotations

from bessemer.plan.estimate import Size, disk_bytes
from bessemer.recipe.load import load_recipe

SIZE = Size(parameters=1_000_000, embedding=1000, hidden=64, layers=2, intermediate=128, vocabulary=512)


def test_keeping_every_checkpoint_needs_room_for_every_one() -> None:
    demo = load_recipe("recipes/demo.yaml")
    every = demo.model_copy(update={"keep_checkpoints": "all", "checkpoint_every": 0.1})
    trained = 12 * max(1_000_000 if s.freeze == 0 else round(0.5 * 999_000) for s in demo.stages)
    more = disk_bytes(SIZE, every, half=True) - disk_bytes(SIZE, demo, half=True)
    assert more == (2 * 11 - 3) * trained
