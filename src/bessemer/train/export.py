"""Training weights -> a Hugging Face folder that plain transformers loads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bessemer.data.render import Renderer
from bessemer.data.start import GENERATION, generation_config
from bessemer.errors import BessemerError
from bessemer.families.check import tokenizer_digest
from bessemer.families.fetch import Checkpoint
from bessemer.families.read import open_weights, read_model
from bessemer.files import new_folder, read_json, saving_weights, write_json
from bessemer.infer.model import detect_machine


@dataclass(frozen=True)
class Difference:
    """What one checkpoint has over another, times a scale: post - base is how a family was tuned ("chat vector", Huang
    et al., arXiv 2310.04799). Tokenizer files and the way to end an answer come from `plus`."""

    plus: Checkpoint
    minus: Checkpoint
    scale: float = 1.0


def export_model(
    start: Checkpoint,
    overlays: Sequence[Path],
    out: Path,
    share: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    add: Difference | None = None,
) -> None:
    """The start checkpoint with the trained fp32 weights laid over it, in the precision it was trained to compute in.

    overlays: safetensors files by parameter name, none for the start itself; of several trainings the mean of what they
    changed (model soups: Wortsman et al., arXiv 2203.05482). dtype: another precision; training goes on exactly from
    fp32 only.
    share: how far to go from the start (0) to the trained weights (1); a little less than all the way gives back much
    of what was forgotten for little of what was learnt (weight interpolation: Wortsman et al., arXiv 2109.01903).
    add: added after that. One model and one tensor are in memory at a time. Tokenizer files are copied byte by byte.
    The folder appears whole or not at all.

    Raises BessemerError when what is added belongs to another architecture or vocabulary, and for weights that are
    damaged or missing.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = read_model(start.path, dtype=torch.float32)
    if len(overlays) == 1:
        _lay_over(dict(model.named_parameters()), overlays[0], share)
    elif overlays:
        _lay_over_mean(dict(model.named_parameters()), overlays, share)
    if add is not None:
        _add(dict(model.named_parameters()), _tied(model), start, add)
    _round(model, dtype or detect_machine().dtype)
    model.config._name_or_path = ""
    with new_folder(out) as tmp:
        with saving_weights(out):
            model.save_pretrained(tmp)
        papers = add.plus if add is not None else start
        if add is not None and GENERATION in papers.files:
            (tmp / GENERATION).unlink(missing_ok=True)
        for name in papers.files:
            if not name.endswith((".safetensors", ".safetensors.index.json")) and not (tmp / name).exists():
                shutil.copyfile(papers.path / name, tmp / name)
        _stop_after_answers(tmp, start.end_of_text)


def _stop_after_answers(folder: Path, end_of_text: str) -> None:
    """Whoever serves the model stops where its chat template ends an answer; a base's config may not say so."""
    end, path = Renderer(folder, end_of_text).answer_end, folder / GENERATION
    if end is None:
        return
    made, named = generation_config(folder, [end]), read_json(path).get("eos_token_id") if path.exists() else None
    if made["eos_token_id"] not in (named, [named]):
        write_json(path, made)


def _round(model: Any, dtype: torch.dtype) -> None:
    """Parameters in `dtype`, but for those that transformers itself keeps in fp32; buffers (routing biases) stay."""
    kept = tuple(model._keep_in_fp32_modules_strict or ())
    for name, parameter in model.named_parameters():
        if not any(part in name.split(".") for part in kept):
            parameter.data = parameter.data.to(dtype)


def _lay_over(own: dict[str, torch.nn.Parameter], overlay: Path, share: float) -> None:
    """One tensor at a time, so that there is never a second model in memory."""
    with open_weights(overlay) as trained, torch.no_grad():
        for name in trained.keys():  # noqa: SIM118 - no dictionary
            value = trained.get_tensor(name)
            own[name].lerp_(value, share) if share < 1 else own[name].copy_(value)


def _lay_over_mean(own: dict[str, torch.nn.Parameter], overlays: Sequence[Path], share: float) -> None:
    """What one of the trainings left alone it did not change."""
    with ExitStack() as stack, torch.no_grad():
        files = [stack.enter_context(open_weights(path)) for path in overlays]
        names = [set(file.keys()) for file in files]
        for name in sorted(set[str]().union(*names)):
            changed = torch.zeros_like(own[name])
            for file, has in zip(files, names, strict=True):
                if name in has:
                    changed += file.get_tensor(name) - own[name]
            own[name].add_(changed, alpha=share / len(files))


def _tied(model: Any) -> dict[str, str]:
    """Second name of a weight -> its first one, such as an output layer that is the embedding."""
    first = {parameter: name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[parameter] for name, parameter in every if first[parameter] != name}


def _add(own: dict[str, torch.nn.Parameter], tied: Mapping[str, str], start: Checkpoint, add: Difference) -> None:
    ids = tokenizer_digest(start.path)
    for side in (add.plus, add.minus):
        if tokenizer_digest(side.path) != ids:
            raise BessemerError(
                f"{side.name} has another vocabulary than {start.name}: its tokens have other ids",
                where=str(side.path),
                fix="only checkpoints of one family can be added",
            )
    with _Tensors(add.plus) as plus, _Tensors(add.minus) as minus, torch.no_grad():
        for name, parameter in own.items():
            one, other = (side.get(name, parameter.shape) for side in (plus, minus))
            parameter.add_((one.float() - other.float()).to(parameter.device), alpha=add.scale)
        for side in (plus, minus):
            side.refuse_own_copy(tied)


class _Tensors:
    """The tensors of a checkpoint, read one at a time from its files."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        names = [n for n in checkpoint.files if n.endswith(".safetensors")]
        self._files = [open_weights(checkpoint.path / n) for n in names]
        self._of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 - no dictionary

    def __enter__(self) -> _Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._of.clear()

    def refuse_own_copy(self, tied: Mapping[str, str]) -> None:
        """Raises BessemerError for a weight of its own where the model has one weight under two names."""
        for name, first in tied.items():
            if name in self._of and not torch.equal(*(self._of[n].get_tensor(n) for n in (name, first))):
                raise BessemerError(
                    f"{self._checkpoint.name} has a {name} of its own, which is {first} here",
                    where=str(self._checkpoint.path),
                    fix="only checkpoints of one family and size can be added",
                )

    def get(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Raises BessemerError when there is none of this name and shape."""
        found = list(self._of[name].get_slice(name).get_shape()) if name in self._of else None
        if found != list(shape):
            what = f"shape {found}" if found else "no such weight"
            raise BessemerError(
                f"{self._checkpoint.name} has another architecture: {name} has shape {list(shape)} here, {what} there",
                where=str(self._checkpoint.path),
                fix="only checkpoints of one family and size can be added",
            )
        return self._of[name].get_tensor(name)
