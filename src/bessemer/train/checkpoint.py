"""Checkpoints: whole or not there, verified on load, and enough to continue bit by bit.

A checkpoint is a folder: weights and optimizer state (safetensors), state.json, and manifest.json with the
sha256 of the others, written last. Training has no dropout and the data order is a function of the step, so the
step, the weights and the optimizer are the whole state.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bessemer.errors import BessemerError
from bessemer.files import check_files, digest_files, new_folder, read_json, write_json
from bessemer.train.weights import Trainable

KEEP = 2
MANIFEST = "manifest.json"


def save(
    folder: Path, step: int, trainable: Trainable, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> Path:
    """Write `folder/step-N`, then remove all but the newest KEEP."""
    final = folder / f"step-{step:07d}"
    shutil.rmtree(final, ignore_errors=True)
    by_param = {id(master): name for name, master in trainable.masters.items()}
    moments: dict[str, torch.Tensor] = {}
    for param, values in optimizer.state.items():
        for key, value in values.items():
            moments[f"{by_param[id(param)]}/{key}"] = torch.as_tensor(value).detach().cpu()
    with new_folder(final) as tmp:
        save_file({n: m.detach().cpu() for n, m in trainable.masters.items()}, tmp / "weights.safetensors")
        save_file(moments, tmp / "optimizer.safetensors")
        write_json(tmp / "state.json", {"step": step, **state})
        write_json(tmp / MANIFEST, digest_files(tmp))
    for old in complete(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def complete(folder: Path) -> list[Path]:
    """Checkpoints that have a manifest, newest first. Half-written ones are not among them."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and (p / MANIFEST).is_file()]
    return sorted(found, reverse=True)


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose bytes match its manifest, and why newer ones were passed over."""
    refused: list[str] = []
    for path in complete(folder):
        try:
            check_files(path, read_json(path / MANIFEST), fix="")
            return path, refused
        except BessemerError as error:
            refused.append(str(error).strip())
    return None, refused


def restore(path: Path, trainable: Trainable, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a verified checkpoint into weights and optimizer; returns its state.json."""
    weights = load_file(path / "weights.safetensors")
    if weights.keys() != trainable.masters.keys():
        raise BessemerError("it holds other parameters than this stage trains", where=str(path), fix="--restart")
    moments = load_file(path / "optimizer.safetensors")
    with torch.no_grad():
        for name, master in trainable.masters.items():
            master.copy_(weights[name])
            optimizer.state[master] = {
                key.rpartition("/")[2]: value if value.ndim == 0 else value.to(master.device)
                for key, value in moments.items()
                if key.rpartition("/")[0] == name
            }
    trainable.round()
    return read_json(path / "state.json")
