"""Values that a recipe may leave open, by stage and objective, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.files import read_json, sha256_file
from bessemer.recipe.schema import Stage

MANIFEST = "manifest.json"  # of a training checkpoint (train/checkpoint.py)
FINAL_LR = 0.05  # of the peak, where nothing speaks for another end


@dataclass(frozen=True)
class Chosen:
    lr: float
    warmup: float
    final_lr: float
    why: dict[str, str]  # field -> source; empty for what the user chose


@dataclass(frozen=True)
class Ended:
    """The rate at which training ended, and whose."""

    lr: float
    of: str
    of_start: bool = False  # the start checkpoint's own training, not a stage before


def choose(
    stage: Stage, checkpoint_stage: str, hidden_size: int, ended: Ended | None = None, peak: float | None = None
) -> Chosen:
    """Rate, warm-up and end of a training stage, where the recipe leaves them open.

    ended: the stage before, or the training of the start checkpoint. peak: the highest rate of the start's training.

    - Continued pre-training from a constant rate (says the catalogue): its own rate, no warm-up, down to zero, as OLMo
      3's mid-training does.
    - Continued pre-training from a decayed checkpoint (`mid`, the end of some `pre`) whose peak is known: 0.3 of the
      peak after a short warm-up; less than it was, because re-warming makes it forget (arXiv 2403.08763).
    - A finished model (`post`) whose peak is known: at most 0.1 of it; a lower rate keeps more at equal learning
      (arXiv 2509.20758).
    - Else 5e-5 * (2000 / hidden size)^0.78, a fit over Llama models for full fine-tuning (tinker-cookbook,
      hyperparameter notes), after a short warm-up, down to 5 %.

    Adapters take ten times the rate (the same notes; "LoRA without regret", Schulman 2025). Muon's step is scaled to
    AdamW's, so it takes AdamW's rate. Raises BessemerError when a rate is to be inherited and nobody knows it.
    """
    why: dict[str, str] = {}
    constant = ended is not None and ended.of_start
    goes_on = constant and stage.objective == "cpt"
    lr, warmup, final_lr = stage.lr, stage.warmup, stage.final_lr
    if lr == "inherit":
        if ended is None:
            raise BessemerError(
                "the start checkpoint does not say at which rate its training ended",
                where="stages.lr: inherit",
                fix="give the rate as a number; known are releases and folders with a trainer_state.json",
            )
        if ended.lr <= 0:
            raise BessemerError(
                f"{ended.of} ended at a rate of 0, with which nothing is learnt",
                where="stages.lr: inherit",
                fix="give the rate as a number, or end the stage before at one (final_lr)",
            )
        lr, why["lr"] = ended.lr, f"inherited: {ended.of} ended there"
        if warmup is None:
            warmup, why["warmup"] = 0.0, "the rate goes on"
    if lr is None:
        lr, why["lr"] = _rate(stage, checkpoint_stage, hidden_size, ended if goes_on else None, peak)
    if warmup is None:
        warmup = 0.0 if constant else 0.06
        why["warmup"] = "the start's rate was constant" if constant else f"the start's stage is {checkpoint_stage}"
    if final_lr is None:
        final_lr = 0.0 if goes_on else FINAL_LR
        why["final_lr"] = "annealed to zero, as a family's own mid-training is" if goes_on else "default"
    return Chosen(lr, warmup, final_lr, why)


def _rate(
    stage: Stage, checkpoint_stage: str, hidden_size: int, goes_on: Ended | None, peak: float | None
) -> tuple[float, str]:
    """(peak rate, why) by the table of `choose`."""
    if goes_on is not None and stage.method == "full":
        return goes_on.lr, f"a constant-rate start goes on at its own: {goes_on.of} ended there"
    rate, why = 5e-5 * (2000 / hidden_size) ** 0.78, f"5e-5 * (2000 / {hidden_size})^0.78 for full-rank training"
    if peak is not None and checkpoint_stage in {"pre", "mid"} and stage.objective == "cpt" and goes_on is None:
        rate, why = 0.3 * peak, f"0.3 of the {peak:g} at which the start was trained: it has been annealed"
    if peak is not None and checkpoint_stage == "post" and 0.1 * peak < rate:
        rate, why = 0.1 * peak, f"0.1 of the {peak:g} at which the start was trained: it is a finished model"
    if stage.method != "full":
        rate, why = 10 * rate, f"{why}, ten times that for adapters"
    return float(f"{rate:.1e}"), why


def end_of_stage(stage: Stage, chosen: Chosen, name: str) -> Ended:
    return Ended(chosen.lr if stage.schedule == "constant" else chosen.lr * chosen.final_lr, name)


def end_of_start(start: Checkpoint) -> Ended | None:
    """Of the start checkpoint: from the catalogue, else from its folder; None when nobody knows."""
    if start.lr is not None:
        return Ended(start.lr, f"{start.name} (the catalogue)", of_start=True)
    if start.entry is not None and start.entry.lr is not None:
        return Ended(start.entry.lr, f"{start.name} (the catalogue)")
    return end_of_checkpoint(start.original or start.path)


def end_of_checkpoint(folder: Path) -> Ended | None:
    """From a release's plan, or from the state that the Hugging Face Trainer leaves; None when neither is there."""
    plan, state = folder / "plan.lock.json", folder / "trainer_state.json"
    if plan.exists():
        made: dict[str, Any] = read_json(plan)
        try:
            last, planned = made["recipe"]["stages"][-1], made["stages"][-1]
            share = 1.0 if last.get("schedule") == "constant" else planned.get("final_lr", last.get("final_lr") or 0.0)
            return Ended(planned["lr"] * share, f"the start's {planned['name']}")
        except (KeyError, IndexError, TypeError, AttributeError):
            return None  # another version's, which says it elsewhere
    if state.exists():
        logged = read_json(state).get("log_history", [])
        rates = [e["learning_rate"] for e in logged if isinstance(e.get("learning_rate"), float | int)]
        return Ended(rates[-1], "the start's trainer_state.json") if rates and rates[-1] > 0 else None
    return None


def optimizer_state_of(start: Checkpoint) -> Path | None:
    """The folder with the state of the optimizer that trained the start: beside its weights, `NAME.optimizer`."""
    weights = start.original or start.path
    folder = weights.with_name(f"{weights.name}.optimizer")
    return folder if (folder / MANIFEST).is_file() else None


def optimizer_digest(folder: Path) -> str:
    return sha256_file(folder / MANIFEST)


def optimizer_choice(stage: Stage, start: Checkpoint) -> tuple[str | None, str]:
    """(digest of the state that a first stage's optimizer goes on with, or None; why)."""
    folder = optimizer_state_of(start)
    if folder is None:
        return None, "begins anew: the start's optimizer state is not at hand"
    state = read_json(folder / "state.json")
    made_by = state.get("optimizer", "adamw")
    if stage.objective != "cpt" or stage.method != "full" or stage.freeze > 0:
        return None, "begins anew: the start's state fits full-rank continued pre-training only"
    if not state.get("all_weights", True):
        return None, "begins anew: the start's last training moved only some of its weights"
    if made_by != stage.optimizer:
        return None, f"begins anew: the start was trained with {made_by}"
    return optimizer_digest(folder), "goes on with the state of the start's own training"


def peak_of_start(start: Checkpoint) -> float | None:
    """The highest rate of the start's training, where the catalogue knows it."""
    return start.entry.peak_lr if start.entry is not None else None
