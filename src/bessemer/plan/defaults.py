"""Values that a recipe may leave open, by stage and objective, each with its source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.recipe.schema import Stage


@dataclass(frozen=True)
class Chosen:
    lr: float
    warmup: float
    why: dict[str, str]  # field -> source; empty for what the user chose


@dataclass(frozen=True)
class Ended:
    """The rate at which training ended, and whose."""

    lr: float
    of: str
    of_start: bool = False  # the start checkpoint's own training, not a stage before


def choose(stage: Stage, checkpoint_stage: str, hidden_size: int, ended: Ended | None = None) -> Chosen:
    """Learning rate and warm-up of a stage. ended: the stage before, or the training of the start checkpoint.

    Rate: 5e-5 * (2000 / hidden size)^0.78, a fit over Llama models for full fine-tuning (tinker-cookbook,
    hyperparameter notes); continued pre-training takes the same, because re-warming a finished checkpoint
    further makes it forget (arXiv 2403.08763). From a constant-rate (pre) checkpoint of the catalogue continued
    pre-training goes on at that checkpoint's own rate (OLMo 3 mid-training). Adapters take ten times the rate (the
    same notes; "LoRA without regret", Schulman 2025). Muon's step is scaled to AdamW's, so it takes AdamW's rate.
    Warm-up: none from a constant-rate checkpoint, nor for an inherited rate; else a short one.

    Raises BessemerError when a rate is to be inherited and nobody knows it.
    """
    why: dict[str, str] = {}
    lr, warmup = stage.lr, stage.warmup
    if lr == "inherit":
        if ended is None:
            raise BessemerError(
                "the start checkpoint does not say at which rate its training ended",
                where="stages.lr: inherit",
                fix="give the rate as a number; known are releases and folders with a trainer_state.json",
            )
        lr, why["lr"] = ended.lr, f"inherited: {ended.of} ended there"
        if warmup is None:
            warmup, why["warmup"] = 0.0, "the rate goes on"
    if lr is None and ended is not None and ended.of_start and checkpoint_stage == "pre" and stage.objective == "cpt":
        lr, why["lr"] = ended.lr, f"a constant-rate start goes on at its own: {ended.of} ended there"
    if lr is None:
        full = 5e-5 * (2000 / hidden_size) ** 0.78
        lr = float(f"{full if stage.method == 'full' else 10 * full:.1e}")
        why["lr"] = f"5e-5 * (2000 / {hidden_size})^0.78 for full-rank training"
        if stage.method != "full":
            why["lr"] += ", ten times that for adapters"
    if warmup is None:
        warmup = 0.0 if checkpoint_stage == "pre" else 0.06
        why["warmup"] = f"the start's stage is {checkpoint_stage}"
    return Chosen(lr, warmup, why)


def end_of_stage(stage: Stage, lr: float, name: str) -> Ended:
    return Ended(lr if stage.schedule == "constant" else lr * stage.final_lr, name)


def end_of_start(start: Checkpoint) -> Ended | None:
    """Of the start checkpoint: from the catalogue, else from its folder; None when nobody knows."""
    if start.lr is not None:
        return Ended(start.lr, f"{start.name} (the catalogue)", of_start=True)
    return end_of_checkpoint(start.path)


def end_of_checkpoint(folder: Path) -> Ended | None:
    """From a release's plan, or from the state that the Hugging Face Trainer leaves; None when neither is there."""
    plan, state = folder / "plan.lock.json", folder / "trainer_state.json"
    if plan.exists():
        made: dict[str, Any] = json.loads(plan.read_text())
        last = Stage.model_validate(made["recipe"]["stages"][-1])
        return end_of_stage(last, made["stages"][-1]["lr"], f"the start's {made['stages'][-1]['name']}")
    if state.exists():
        rates = [e["learning_rate"] for e in json.loads(state.read_text())["log_history"] if "learning_rate" in e]
        return Ended(rates[-1], "the start's trainer_state.json") if rates and rates[-1] > 0 else None
    return None
