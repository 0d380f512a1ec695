"""transformers' objects of a model folder: what is damaged, incomplete or needs code of its own is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError

SHOWN = 3  # names of weights in a message
REFUSALS = (ValueError, KeyError, OSError)  # how transformers says that it cannot read a folder
COMPLETE = "give the complete model folder, with the config.json that belongs to these weights"
NEWER = (
    "check the folder; a newer transformers may know the architecture, and code that comes with a model is never run"
)


def read_model(folder: Path, **options: Any) -> Any:
    """transformers' causal language model of a folder, with every weight as its files have it.

    options: for `from_pretrained`.
    Raises BessemerError for an architecture that transformers lacks, code that comes with a model (it is never run), a
    damaged file, and weights that are missing or of another shape.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    where = str(folder)
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,  # None would ask
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **options,
        )
    except SafetensorError as error:
        for path in sorted(folder.glob("*.safetensors")):
            open_weights(path)  # says which one
        raise _damaged(where, error) from None
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise BessemerError(
            "weights that belong together, such as a layer's experts, are missing or of different shapes",
            where=where,
            fix=COMPLETE,
        ) from None
    except REFUSALS as error:
        raise _refused("the model", error, where, NEWER) from None
    model, found = read
    need_all_weights(found, where)
    return model


def need_all_weights(found: Mapping[str, Any], where: str, fix: str = COMPLETE) -> None:
    """found: what `from_pretrained(..., output_loading_info=True)` returns beside the model.

    transformers fills what is missing with random numbers and only logs it. Weights that are another one under a second
    name, or that the architecture can do without, are not in its list.
    Raises BessemerError with how many are missing or of another shape, and the first names.
    """
    if missing := sorted(found["missing_keys"]):
        raise BessemerError(
            f"the files lack {len(missing)} of the model's weights: {_first(missing)}", where=where, fix=fix
        )
    if other := sorted(found["mismatched_keys"]):
        named = [f"{name} is {list(there)}, not {list(wanted)}" for name, there, wanted in other]
        raise BessemerError(
            f"the shapes of {len(other)} weights are not what config.json says: {_first(named)}",
            where=where,
            fix=fix,
        )


def read_config(folder: Path) -> Any:
    """transformers' configuration of a folder. Raises BessemerError as `read_model` does."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except REFUSALS as error:
        raise _refused("config.json", error, str(folder), NEWER) from None


def read_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a folder. Raises BessemerError for one that cannot be read or needs code of its own.

    Of Mistral's folders it is tokenizer.json, not a `tekken.json` that no digest covers.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, mistral_format=False
        )
    except REFUSALS as error:
        fix = "take a model whose tokenizer transformers has; code that comes with one is never run"
        raise _refused("the tokenizer", error, str(folder), fix) from None


def open_weights(path: Path, framework: str = "pt") -> Any:
    """A safetensors file, opened; use it with `with`. Raises BessemerError for one that is damaged or not there."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise _damaged(str(path), error) from None


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _damaged(where: str, error: Exception) -> BessemerError:
    return BessemerError(
        f"the file is damaged, or only a part of it was copied ({error})", where=where, fix="copy or download it again"
    )


def _refused(what: str, error: Exception, where: str, fix: str) -> BessemerError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return BessemerError(f"transformers cannot load {what} ({said})", where=where, fix=fix)
