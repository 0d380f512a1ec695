"""The data of the proof: files of labelled comments -> training, development and test parts, policies, data sets.

The given validation files are the test here: recipes were compared on them, nothing else. What is chosen for a model
(thresholds, temperatures, the regularisation of the separate classifiers) is chosen on a tenth of the training files.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bessemer.data.curate.near import near_duplicates
from bessemer.data.moderation import clean
from bessemer.data.sources import Source
from bessemer.errors import BessemerError
from bessemer.files import canonical_json, sha256_file, sha256_text, write_text

Row = dict[str, Any]
POLICIES = Path(__file__).parent / "policies"
DEVELOPMENT = 0.1  # share of the training files that only chooses
MOST_TEST = 2000  # comments of a test; the same ones for every arm
N_SUMS = 150  # that test what is kept
UNSEEN = ("S", "H", "V", "HR", "SH")  # flags, in the order of the rules of policies/unseen.yaml

# task -> (folder, policy, rule, which label breaks the rule, what must stay on one side)
TASKS: dict[str, tuple[str, str, str, int, str]] = {
    "spam": ("spam", "messages", "spam", 1, ""),
    "misogyny": ("misogyny", "board", "misogyny", 1, ""),
    "racial-hate": ("stormfront", "forum", "racial-hate", 1, "post"),
    "hate-speech": ("davidson3", "feed", "hate-speech", 0, ""),
}


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().split("\n") if line.strip()]


def write(path: Path, rows: Sequence[Row]) -> Path:
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))  # whole, or not at all
    return path


def labelled(data: Path, task: str) -> tuple[list[Row], list[Row]]:
    """(training, test) rows: id, text, group, label (1: broken). Training rows like a test comment are left out.

    Test comments that are alike are one group: intervals must not count a copy as another comment.
    """
    folder, _, _, broken, group = TASKS[task]
    sides: list[list[Row]] = []
    for side in ("train", "val"):
        rows = [r for r in read(data / "moderation" / folder / f"{side}.jsonl") if clean(r["text"])]
        sides.append(
            [
                {
                    "id": f"{side}{i}",
                    "text": r["text"],
                    "group": f"{task}:{r[group]}" if group else "",
                    "label": int(r["label"] == broken),
                }
                for i, r in enumerate(rows)
            ]
        )
    train, test = sides
    alike = near_duplicates([clean(r["text"]) for r in [*test, *train]], jaccard=0.8, words=2).tolist()
    held_out = set(alike[: len(test)])
    for row, label in zip(test, alike, strict=False):
        row["group"] = row["group"] or f"{task}:like {label}"
    return [r for r, label in zip(train, alike[len(test) :], strict=True) if label not in held_out], test


def in_development(row: Row, task: str) -> bool:
    return int(sha256_text(row["group"] or f"{task} {row['text']}")[:8], 16) / 16**8 < DEVELOPMENT


def prepare(data: Path, out: Path) -> None:
    """Files under out/data: TASK-train, TASK-development, TASK-test, unseen, general texts."""
    folder, done = out / "data", out / "data" / "done"
    given = [p for part in ("moderation", "general") for p in sorted((data / part).rglob("*.*")) if p.is_file()]
    taken = canonical_json({str(p.relative_to(data)): sha256_file(p) for p in given})
    if done.exists():
        if done.read_text() != taken:
            raise BessemerError(
                "it was made of other files than these", where=str(folder), fix="give another --out, or remove it"
            )
        return
    for task in TASKS:
        train, test = labelled(data, task)
        rng = random.Random(f"test {task}")
        write(folder / f"{task}-test.jsonl", rng.sample(test, min(MOST_TEST, len(test))))
        write(folder / f"{task}-train.jsonl", [r for r in train if not in_development(r, task)])
        write(folder / f"{task}-development.jsonl", [r for r in train if in_development(r, task)])
    flags = read(data / "moderation" / "openai_moderation" / "odd_ids.jsonl")
    write(
        folder / "unseen.jsonl",
        [{"id": str(r["id"]), "text": r["text"], **{k: r.get(k) for k in UNSEEN}} for r in flags],
    )
    write_general(data / "general", folder)
    write_text(done, taken)


def write_general(data: Path, folder: Path) -> None:
    """Replay texts, and what is measured of the old: encyclopedia, minimal pairs, answers to sums."""
    rng = random.Random(0)
    encyclopedia = _pieces(data / "wikipedia.txt", 1500)
    web = [{"text": r["text"]} for r in read(data / "web_pages.jsonl")]
    write(folder / "replay.jsonl", rng.sample([*encyclopedia, *web], len(encyclopedia) + len(web)))
    held_out = _pieces(data / "wikitext2_valid.txt", 1200)
    task(folder, "encyclopedia", "perplexity", rng.sample(held_out, 80))
    pairs = [
        {"id": str(i), "group": r["UID"], "good": r["sentence_good"], "bad": r["sentence_bad"]}
        for i, r in enumerate(read(data / "blimp_half.jsonl"))
        if i % 4 == 0
    ]
    task(folder, "minimal-pairs", "pairs", pairs)
    rows = read(data / "gsm8k_train.jsonl")
    sums = [{"id": str(i), "text": f"{r['question']}\n{r['answer']}"} for i, r in enumerate(rows)]
    tested = rng.sample(sums, N_SUMS)
    task(folder, "maths", "perplexity", tested)
    write(folder / "sums.jsonl", [s for s in sums if s not in tested])  # for replay


def _pieces(path: Path, size: int) -> list[Row]:
    text = path.read_text()
    return [{"id": str(at), "text": text[at : at + size]} for at in range(0, len(text) - size // 2, size)]


def task(folder: Path, name: str, kind: str, rows: Sequence[Row]) -> None:
    write(folder / f"{name}.jsonl", rows)
    spec = {"name": name, "kind": kind, "items": f"{name}.jsonl", "overlap_limit": 0.6}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def write_wordings(folder: Path) -> list[str]:
    """Policies for training: the ones that are served, and one for each other wording."""
    paths = [str(POLICIES / f"{policy}.yaml") for _, policy, *_ in TASKS.values()]
    for known in yaml.safe_load((POLICIES / "wordings.yaml").read_text()):
        for i, text in enumerate(known["texts"]):
            rule = {"id": known["id"], "text": text, "action": "remove"}
            policy = {"name": f"{known['community']}-{i}", "community": known["community"], "rules": [rule]}
            path = folder / f"{known['community']}-{i}.yaml"
            path.write_text(yaml.safe_dump(policy, sort_keys=False))
            paths.append(str(path))
    return paths


def few_labels(out: Path, task: str, n_labels: int, tests: str) -> list[Row]:
    """Training comments of a task, drawn at random; none of a test twin (of the data set `tests`) or of its group."""
    held_out = {i.meta["comment"] for i in Source(f"dataset:{tests}/test", "chat")}
    rows = read(out / "data" / f"{task}-train.jsonl")
    tested = [r for r in rows if f"{TASKS[task][1]}:{r['id']}" in held_out]
    groups, ids = {r["group"] for r in tested} - {""}, {r["id"] for r in tested}
    rows = [r for r in rows if r["id"] not in ids and r["group"] not in groups]
    return random.Random(f"{task} {n_labels}").sample(rows, min(n_labels, len(rows)))


def data_recipe(
    data: Path, out: Path, name: str, n_labels: int | None, tests: str, computed: Row, per_comment: int
) -> Row:
    """n_labels: of each task, drawn at random; None takes all. tests: the data set whose test twins all are asked."""
    folder = out / "data"
    logs: Row = {}
    for task_name, (_, policy, rule, *_rest) in TASKS.items():
        if n_labels is None:
            rows = read(folder / f"{task_name}-train.jsonl")
        else:
            rows = few_labels(out, task_name, n_labels, tests)
        path = write(folder / f"{name}-{task_name}.jsonl", rows)
        logs[policy] = {"from": str(path), "columns": {"action": "label"}, "rule": rule}
    return {
        "name": name,
        "logs": logs,
        "comments": {"reddit": {"from": str(data / "moderation" / "reddit_comments" / "train.jsonl")}},
        "policies": write_wordings(folder),
        "computed": {**computed, "held_out": 1000},
        "split": {"validation": 0.01, "test": 0.06},
        "per_comment": per_comment,
        "leak": 0.6 if n_labels else 0.55,
    }
