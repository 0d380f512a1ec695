"""One stage of the tiny story, trained by as many processes as started this: python -m tests.train.sharded CONFIG.json

Not a test: tests start it, alone or under torchrun, and compare what it leaves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from bessemer.data.stage import build_stage, tokenise
from bessemer.errors import StoppedByUserError
from bessemer.families.fetch import resolve
from bessemer.launch.worker import leave
from bessemer.recipe.load import load_recipe
from bessemer.track.metrics import MetricsFile
from bessemer.train.loop import Hooks, StageRun, train_stage
from bessemer.train.weights import prepare, what_is_trained
from bessemer.train.world import close_world, open_world


def whole(tensor: Any) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    world = open_world()
    recipe = load_recipe(config["recipe"], config["set"])
    stage, start = recipe.stages[config["stage"]], resolve(recipe.start)
    folder = Path(config["folder"])
    data_of = build_stage(recipe, config["stage"], tokenise(recipe, prepare(start, None).loaded.renderer))
    trainable = prepare(
        start, None, what_is_trained(stage, recipe.seed), keep_start=bool(data_of.anchored), world=world
    )
    run = StageRun(
        "01", stage, 3e-3, 0.1, data_of, folder, 10**9, config["checkpoint_every"], 0, config["micro_tokens"]
    )
    seen: list[int] = []

    def note(event: dict[str, Any]) -> None:
        seen.extend([event["step"]] if event["event"] == "step" else [])

    hooks = Hooks(
        metrics=MetricsFile(folder / "metrics.jsonl", note) if world.leads else None,
        on_probe=lambda _step: None,
        say=lambda text: print(text, flush=True) if world.leads else None,
        stop_asked=lambda: world.leads and len(seen) >= config["stop_after"],  # only one process hears the signal
    )
    try:
        train_stage(run, trainable, hooks)
    except StoppedByUserError as stopped:
        if world.leads:
            print(stopped, flush=True)
    weights = {name: whole(m) for name, m in trainable.masters.items()}
    if world.leads:
        torch.save(weights, folder / "weights.pt")
    close_world()
    leave()


if __name__ == "__main__":
    main()
