"""An evaluation as a folder that anyone can check: offline, without the models, the keys or this machine's home.

    scorecard.json   every number, and what it was computed from
    results/         one file for each model and task, by digest
    seals/NAME/      the seal as it stood, without its key
    page.html        the same to look at
    manifest.json    sha256 of all of these

Checking computes the tasks of the scorecard again from the results, finds each sealed result in the ledger of its seal,
and each ledger under its commitment. What the run itself said (its probes, its budget, when it began) and which role a
task has is copied: that nobody edited it shows only against a manifest's sha256 that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.evaluate import seal
from bessemer.evaluate.card import FORMAT, Block, build_card, order_fault
from bessemer.files import exclusive, home, new_folder, read_json, tell, write_json, write_text
from bessemer.registry.evaluation_page import build_page
from bessemer.registry.papers import (
    RESTORE,
    check_papers,
    check_seal,
    compare,
    find_papers,
    finish_papers,
    need_models,
    next_folder,
    read_results,
    write_papers,
)

CARD, PAGE = "scorecard.json", "page.html"
FACTS = ("created", "by", "code", "models", "against")  # of a scorecard, beside the run's probes: what is not computed


def evaluations_folder() -> Path:
    return home() / "evaluations"


def write_evaluation(
    blocks: Sequence[Block],
    facts: Mapping[str, Any],
    probes: Mapping[str, Any],
    retain: float | None,
    out: Path | None = None,
) -> Path:
    """Compute the scorecard and write the folder, whole or not at all. out: by default the next one in our home."""
    card = build_card(blocks, facts, probes, retain)
    name = str(facts["models"][0]["name"]).replace("/", "-").replace("@", "-")
    with exclusive(evaluations_folder() / ".lock", "the list of evaluations", wait=tell):
        folder = out or next_folder(evaluations_folder(), name)
        with new_folder(folder) as tmp:
            results = [r for b in blocks for r in (*b.before, *b.after)]
            write_papers(tmp, results, {b.seal["name"]: b.seal["head"] for b in blocks if b.seal})
            write_json(tmp / CARD, card)
            write_text(tmp / PAGE, build_page(card))
            finish_papers(tmp)
    return folder


def find_evaluation(name: str) -> Path:
    """The folder of an evaluation: a path to it or to its scorecard, or its name in our home. Raises BessemerError."""
    return find_papers(name, evaluations_folder(), CARD, "evaluation")


def verify_evaluation(folder: Path, *, head: str = "") -> dict[str, Any]:
    """Check an evaluation from its folder alone and return its scorecard.

    head: sha256 of manifest.json, kept from when it was written. Raises BessemerError naming the first thing that is
    wrong.
    """
    with seal.from_anyone(folder, "an evaluation", RESTORE):
        check_papers(folder, CARD, head)
        card = read_json(folder / CARD)
        if card["format"] != FORMAT:
            raise BessemerError(f"format {card['format']!r} is not read here", where=CARD, fix=f"use {FORMAT}")
        blocks = [_block(folder, name, task) for name, task in card["tasks"].items()]
        models, other = [m["digest"] for m in card["models"]], (card["against"] or {}).get("digest")
        for block in blocks:
            need_models(block.name, block.after, models)
            need_models(block.name, block.before, [other] * len(block.before))
        for block in (b for b in blocks if b.seal):
            check_seal(folder, block.seal, block.spec, [*block.before, *block.after])
            faults = (order_fault(block.seal, model) for model in card["models"])
            if block.seal["out_of_order"] != "; ".join(dict.fromkeys(filter(None, faults))):
                raise BessemerError("it is said otherwise what came first", where=block.name, fix=RESTORE)
        facts = {key: card[key] for key in FACTS}
        compare(card, build_card(blocks, facts, card["probes"], card["retain"]), folder / CARD)
    return card


def _block(folder: Path, name: str, task: Mapping[str, Any]) -> Block:
    before, after = (read_results(folder, task["results"][side]) for side in ("before", "after"))
    return Block(name, task["role"], task["spec"], before, after, task["seal"])
