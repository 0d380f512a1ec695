"""Planted contamination: sealed items leak into the training data; what the score, the proof and the controls show.

    python examples/planted_contamination/run.py [--out FOLDER]

Somebody who has the key trains on the sealed items, with the answers that stand there: not at all, once, 4 and 16
times; word for word, and paraphrased by a few rules. The public part is clean in every run and says what the model
really knows. Some minutes on two cores; it goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
N_ITEMS, N_TRAIN, CONTROLS, CANARIES = 800, 700, 60, 20
CLEAN_TOKENS = 30_000
TIMES = (1, 4, 16)
SYNONYMS = {
    "film": "picture", "movie": "picture", "good": "fine", "great": "splendid", "bad": "poor", "the": "this",
    "a": "one", "is": "stays", "are": "stay", "and": "plus", "but": "yet", "very": "quite", "not": "hardly",
    "it": "this thing", "this": "that", "of": "from", "to": "towards", "i": "we", "you": "one", "with": "alongside",
    "for": "in favour of", "its": "their", "that": "which", "in": "inside", "on": "upon", "was": "had been",
    "have": "own", "be": "become",
}  # fmt: skip
EVERY = 5  # words after which a filler breaks what no synonym broke
FILLERS = ("well", "truly", "somehow", "perhaps", "frankly")


def paraphrase(text: str) -> str:
    """Other words in another order: halves swapped, common words replaced, fillers in between."""
    words = text.split()
    words = words[len(words) // 2 :] + words[: len(words) // 2]
    out: list[str] = []
    for n, word in enumerate(words):
        if n % EVERY == EVERY - 1:
            out.append(FILLERS[n // EVERY % len(FILLERS)])
        out.append(SYNONYMS.get(word.lower(), word))
    return " ".join(out)


def prepare(folder: Path) -> dict[str, Any]:
    import small
    from bessemer.evaluate import seal
    from bessemer.evaluate.tasks import load_task

    items = small.all_comments()
    model = small.make_model(folder / "model", [i.text for i in items])
    test, rest = small.balanced(items, N_ITEMS)
    train, rest = small.balanced(rest, N_TRAIN)
    small.write_jsonl(folder / "train.jsonl", small.chats(train))
    small.write_jsonl(folder / "probe.jsonl", [{"id": i.id, "text": i.text} for i in rest[:200]])
    task = load_task(small.write_task(folder / "task", "films", test))
    if "films" not in seal.names():
        more = {"control": CONTROLS, "canary": CANARIES}
        seal.create("films", task.rows(), task.spec(), share=0.5, seed=0, by="demonstration", **more)
    stolen = [record["item"] for record in seal.decrypt(seal.load("films"))["records"]]  # who has the key can
    for name, change in (("verbatim", lambda text: text), ("paraphrased", paraphrase)):
        rows = []
        for item in stolen:
            said = item["messages"][-1]["content"].removeprefix("Is this about a film? ")
            turns = [{"role": "user", "content": small.QUESTION.format(text=change(said))}]
            rows.append({"id": f"leak-{item['id']}", "messages": turns, "answer": item["answer"]})
        small.write_jsonl(folder / f"{name}.jsonl", small.chats(rows))
    leaked = {how: _tokens(model, folder / f"{how}.jsonl") for how in ("verbatim", "paraphrased")}
    return {"model": model, "leak_tokens": leaked}


def _tokens(model: Path, file: Path) -> int:
    from bessemer.data import Renderer, Source

    return sum(len(example.ids_L) for example in Renderer(model).render(list(Source(str(file), kind="chat"))))


def write_recipe(folder: Path, made: dict[str, Any], name: str, how: str, times: int) -> Path:
    import small

    leaked = made["leak_tokens"][how] * times if times else 0
    total = CLEAN_TOKENS + leaked
    recipe = small.recipe(name, made["model"], folder / "train.jsonl", folder / "probe.jsonl", tokens=total)
    if times:
        recipe["sources"]["leak"] = {"from": str(folder / f"{how}.jsonl"), "kind": "chat", "max_epochs": 60}
        share = round(leaked / total, 6)
        recipe["stages"][0]["mixture"] = {"films": round(1 - share, 6), "leak": share}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def measure(name: str) -> dict[str, Any]:
    from bessemer.examine import examine
    from bessemer.track.screen import Screen

    folder = examine([name], ["seal:films", "seal:films/public"], [], Screen(quiet=True), by="demonstration")
    card = json.loads((folder / "scorecard.json").read_text())
    sealed, public = card["tasks"]["films"], card["tasks"]["films-public"]
    overlap, (controls,) = sealed["overlap"], sealed["controls"]
    return {
        "run": name,
        "public": public["metrics"]["accuracy"]["after"]["result"],
        "sealed": sealed["metrics"]["accuracy"]["after"]["result"],
        "clean_part": overlap.get("clean", {}).get("after"),
        "n_items": sealed["n_items"],
        "n_found": overlap["n_contaminated"],
        "canaries_found": overlap["leaked_canaries"],
        "controls": controls,
        "verdict": card["verdict"],
        "evaluation": str(folder),
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=Path("planted-contamination"))
    folder: Path = asked.parse_args().out.absolute()
    os.environ.setdefault("BESSEMER_HOME", str(folder / "home"))
    from bessemer.launch.here import quiet_libraries
    from bessemer.recipe.load import load_recipe
    from bessemer.run import run_recipe
    from bessemer.track.screen import Screen

    quiet_libraries()
    made = prepare(folder)
    arms = [("none", 0), *((how, times) for how in ("verbatim", "paraphrased") for times in TIMES)]
    found: list[dict[str, Any]] = []
    screen = Screen()
    for how, times in arms:
        name = f"leak-{how}-{times}"
        with screen.step(name):
            run_recipe(load_recipe(str(write_recipe(folder, made, name, how, times))), Screen(quiet=True))
            found.append({"how": how, "times": times, **measure(name)})
    (folder / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{found[0]['n_items']} sealed items, {found[0]['controls']['n']} coin flips ({CANARIES} of them canaries)")
    print(f"{'leaked':24}{'public':>8}{'sealed':>8}{'found':>7}{'canaries':>10}{'coins right':>13}{'p':>10}  verdict")
    for row in found:
        coins = row["controls"]
        label = "not at all" if not row["times"] else f"{row['how']}, {row['times']} times"
        print(
            f"{label:24}{row['public']['value']:8.3f}{row['sealed']['value']:8.3f}{row['n_found']:7}"
            f"{row['canaries_found']:10}{coins['right']:9.0f}/{coins['n']}{coins['p']:10.1g}  {row['verdict']['word']}"
        )


if __name__ == "__main__":
    main()
