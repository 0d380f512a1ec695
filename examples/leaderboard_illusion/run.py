"""The leaderboard illusion: many seeds of one recipe, the best on the public part, and what is left of it.

    python examples/leaderboard_illusion/run.py [--seeds 27] [--out FOLDER]

Twenty-seven runs that differ in nothing but luck are trials of one contestant. The contest takes the one that is best
on the public part and opens the sealed part for it, once. Then, for this demonstration only, the sealed part is opened
for all the others too: every opening stands in the ledger. Some minutes on two cores; it goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
HERE = Path(__file__).parent
N_ITEMS, PUBLIC = 1000, 0.1  # 100 public items, as many a public test has; 900 sealed ones
N_TRAIN, TOKENS = 1500, "90k"


def prepare(folder: Path, n_seeds: int) -> Path:
    """Model, data, task, seal and contest file; returns the contest file."""
    import small
    from bessemer.evaluate import seal
    from bessemer.evaluate.tasks import load_task

    items = small.all_comments()
    model = small.make_model(folder / "model", [i.text for i in items])
    test, rest = small.balanced(items, N_ITEMS)
    train, rest = small.balanced(rest, N_TRAIN)
    files = {"train": small.chats(train), "probe": [{"id": i.id, "text": i.text} for i in rest[:200]]}
    paths = {name: small.write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in files.items()}
    task = load_task(small.write_task(folder / "task", "films", test))
    if "films" not in seal.names():
        seal.create("films", task.rows(), task.spec(), share=1 - PUBLIC, seed=0, by="demonstration")
    recipe = small.recipe("illusion", model, paths["train"], paths["probe"], tokens=0)
    recipe["stages"][0]["tokens"] = TOKENS
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    contest = {
        "name": "illusion",
        "tasks": ["seal:films"],
        "data": {"films": str(paths["train"])},
        "budget": {"tokens": f"{93 * (n_seeds + 1)}k"},
        "contestants": {
            "one-seed": {"recipe": "recipe.yaml", "set": ["seed=1000"]},
            "best-of-many": {"recipe": "recipe.yaml", "trials": [[f"seed={n + 1}"] for n in range(n_seeds)]},
        },
    }
    (folder / "contest.yaml").write_text(yaml.safe_dump(contest, sort_keys=False))
    return folder / "contest.yaml"


def measure_all(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Public and sealed accuracy of every trial."""
    from bessemer.evaluate.card import GAIN
    from bessemer.evaluate.metrics import METRICS
    from bessemer.examine import ask, find_subject, find_task
    from bessemer.track.screen import Screen

    trials = next(e for e in card["entrants"] if e["name"] == "best-of-many")["trials"]
    sealed = find_task("seal:films", GAIN)
    found: list[dict[str, Any]] = []
    for trial in trials:
        result = ask(find_subject(trial["run"]), [sealed], Screen(quiet=True), by="demonstration")["films"]
        found.append({**trial, "sealed": METRICS["accuracy"].value(result.columns)})
    return found


def summarise(trials: list[dict[str, Any]], card: dict[str, Any]) -> dict[str, Any]:
    public, sealed = [t["public"] for t in trials], [t["sealed"] for t in trials]
    best = max(trials, key=lambda t: t["public"])
    sd = statistics.stdev(public)
    return {
        "n_trials": len(trials),
        "n_public": card["tasks"]["films"]["seal"]["counts"]["public"],
        "n_sealed": card["tasks"]["films"]["seal"]["counts"]["sealed"],
        "public": {"mean": statistics.mean(public), "sd": sd, "best": best["public"]},
        "sealed": {"mean": statistics.mean(sealed), "sd": statistics.stdev(sealed), "of_the_best": best["sealed"]},
        "best_minus_mean_in_sd": (best["public"] - statistics.mean(public)) / sd,
        "gain_claimed": best["public"] - statistics.mean(public),
        "gain_left": best["sealed"] - statistics.mean(sealed),
        "rank_of_the_best_on_the_sealed_part": 1 + sum(s > best["sealed"] for s in sealed),
        "correlation": statistics.correlation(public, sealed),
        "trials": trials,
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, default=27)
    asked.add_argument("--out", type=Path, default=Path("leaderboard-illusion"))
    options = asked.parse_args()
    folder: Path = options.out.absolute()
    os.environ.setdefault("BESSEMER_HOME", str(folder / "home"))
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    from bessemer.contest import run_contest
    from bessemer.launch.here import quiet_libraries
    from bessemer.launch.place import Place
    from bessemer.track.screen import Screen

    quiet_libraries()
    file = prepare(folder, options.seeds)
    made = run_contest(file, Place(), Screen(), lambda: False, by="demonstration")
    card = json.loads((made / "contest.json").read_text())
    found = summarise(measure_all(card), card)
    (folder / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    public, sealed = found["public"], found["sealed"]
    best, sd, claimed, left = public["best"], found["best_minus_mean_in_sd"], found["gain_claimed"], found["gain_left"]
    print(f"\n{found['n_trials']} runs of one recipe, {found['n_public']} public and {found['n_sealed']} sealed items")
    print(f"  public part   mean {public['mean']:.3f}, sd {public['sd']:.3f}; the best one {best:.3f}")
    print(f"                which is {sd:.2f} sd above the mean: a gain of {claimed:+.3f}")
    print(f"  sealed part   mean {sealed['mean']:.3f}, sd {sealed['sd']:.3f}; that one {sealed['of_the_best']:.3f}")
    rank = found["rank_of_the_best_on_the_sealed_part"]
    print(f"                what is left of the gain: {left:+.3f}; it is number {rank} there")
    print(f"  correlation of public and sealed scores over the runs {found['correlation']:+.2f}")
    print(f"  contest page  {made / 'page.html'}")


if __name__ == "__main__":
    main()
