"""Values that a recipe may leave open, by stage and objective, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.recipe.schema import Stage


@dataclass(frozen=True)
class Chosen:
    lr: float
    warmup: float
    why: dict[str, str]  # field -> source; empty for what the user chose


def choose(stage: Stage, checkpoint_stage: str, hidden_size: int) -> Chosen:
    """Learning rate and warm-up of a stage.

    Rate: 5e-5 * (2000 / hidden size)^0.78, a fit over Llama models for full fine-tuning (tinker-cookbook,
    hyperparameter notes); continued pre-training takes the same, because re-warming a finished checkpoint
    further makes it forget (arXiv 2403.08763). Adapters take ten times that rate (the same notes; "LoRA without
    regret", Schulman 2025). Muon's step is scaled to AdamW's, so it takes AdamW's rate. Warm-up: none from a
    constant-rate (pre) checkpoint, whose rate goes on (OLMo 3 mid-training); else a short one.
    """
    why: dict[str, str] = {}
    lr, warmup = stage.lr, stage.warmup
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
