"""What checkpoints cost, and how soon a resumed run trains: a real stage of SmolLM2-135M, full rank.

    python benchmarks/checkpoints.py [--steps 41] [--every 20] [--rounds 3] [--start CHECKPOINT]

Stages of so many steps of 2,048 tokens, with and without a checkpoint every so many steps, one after the other. Then a
fresh process that resumes from the newest checkpoint: seconds until its first step is done, imports and all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROW, ROWS = 512, 4


def train(folder: Path, start: str, n_steps: int, every: int, stop_after: int = 0) -> list[float]:
    """Train the stage in this process; returns when (on the wall clock) each of its steps was done."""
    from bessemer.launch.here import quiet_libraries

    quiet_libraries()
    from bessemer.data.stage import build_stage, tokenise
    from bessemer.errors import StoppedByUserError
    from bessemer.families.fetch import resolve
    from bessemer.recipe.load import load_recipe
    from bessemer.track.metrics import MetricsFile
    from bessemer.train.compiled import compile_layers
    from bessemer.train.loop import Hooks, StageRun, train_stage
    from bessemer.train.weights import prepare

    recipe = load_recipe(Path(__file__).parent.parent / "recipes" / "demo.yaml", [f"start={start}"])
    checkpoint = resolve(start)
    trainable = prepare(checkpoint, None)
    compile_layers(trainable)
    fields = {"objective": "cpt", "mixture": {"docstrings": 1.0}, "tokens": n_steps * ROW * ROWS, "rows": ROWS}
    stage = recipe.stages[0].model_copy(update={**fields, "row_tokens": ROW, "freeze": 0.0, "general": "text"})
    recipe = recipe.model_copy(update={"stages": [stage]})
    data = build_stage(recipe, 0, tokenise(recipe, trainable.loaded.renderer))
    done: list[float] = []
    metrics = MetricsFile(
        folder / "metrics.jsonl", lambda e: done.append(time.time()) if e["event"] == "step" else None
    )
    run = StageRun("bench", stage, 1e-5, 0.1, data, folder / "stage", probe_every=10**9, checkpoint_every=every)
    hooks = Hooks(metrics, lambda _: None, lambda _: None, lambda: 0 < stop_after <= len(done))
    with contextlib.suppress(StoppedByUserError):
        train_stage(run, trainable, hooks)
    done.append(time.time())  # after the last checkpoint was written
    return done


def child(*args: Any) -> list[float]:
    code = f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r}); import checkpoints; "
    code += "from pathlib import Path; a = json.loads(sys.argv[1]); "
    code += "print('\\n' + json.dumps(checkpoints.train(Path(a[0]), *a[1:])))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(args)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--steps", type=int, default=41)
    asked.add_argument("--every", type=int, default=20)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--start", default="smollm2-135m@post")
    options = asked.parse_args()
    found: dict[str, list[float]] = {"with": [], "without": []}
    first, resumed = 2, list[float]()  # the first steps touch new memory
    for _ in range(options.rounds):
        for kind, every in (("without", 10**9), ("with", options.every)):
            with tempfile.TemporaryDirectory() as folder:
                done = child(folder, options.start, options.steps, every)
            found[kind].append(done[-1] - done[first])
            print(f"  {kind} checkpoints: {found[kind][-1]:.1f} s", flush=True)
        folder = tempfile.mkdtemp()
        child(folder, options.start, options.steps, 4, 5)
        begun = time.time()
        resumed.append(child(folder, options.start, options.steps, 10**9, 1)[0] - begun)
        print(f"  first step of a resumed process after {resumed[-1]:.1f} s", flush=True)
        shutil.rmtree(folder)
    plain, kept = (statistics.median(found[k]) for k in ("without", "with"))
    n = (options.steps - 1) // options.every
    print(
        f"{options.steps} steps: {plain:.1f} s without, {kept:.1f} s with {n} checkpoints, "
        f"{(kept - plain) / n:.2f} s each"
    )
    print(f"resumed: first step done after {statistics.median(resumed):.1f} s")


if __name__ == "__main__":
    main()
