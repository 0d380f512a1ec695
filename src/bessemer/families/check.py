"""Does this tokenizer belong to this model? Found out before anything is trained."""

from __future__ import annotations

from pathlib import Path

from bessemer.errors import BessemerError
from bessemer.files import read_json


def check_tokenizer(folder: Path) -> None:
    """Compare the tokenizer's ids with the model's embedding rows and end-of-sequence token.

    Raises BessemerError when ids lie outside the embedding, when far fewer ids exist than rows, or when the two
    name different end-of-sequence tokens.
    """
    config = read_json(folder / "config.json")
    tokenizer = read_json(folder / "tokenizer.json")
    fix = "use the tokenizer that was published with the weights"
    where = str(folder / "tokenizer.json")
    try:
        config = config.get("text_config", config)
        rows: int = config["vocab_size"]
        added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])}
        vocab = tokenizer["model"]["vocab"]
        vocab = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BessemerError(
            f"config.json or tokenizer.json is not as transformers writes it ({type(error).__name__}: {error})",
            where=str(folder),
            fix=fix,
        ) from None
    ids = {**vocab, **added}
    largest = max(ids.values())
    if largest >= rows:
        raise BessemerError(
            f"the tokenizer does not belong to the model: its largest id is {largest}, the embedding has {rows} rows",
            where=where,
            fix=fix,
        )
    if len(set(ids.values())) < 0.9 * rows:
        raise BessemerError(
            f"the tokenizer does not belong to the model: {len(set(ids.values()))} ids for {rows} embedding rows",
            where=where,
            fix=fix,
        )
    settings_file = folder / "tokenizer_config.json"
    name = read_json(settings_file).get("eos_token") if settings_file.exists() else None
    name = name["content"] if isinstance(name, dict) else name
    eos = config.get("eos_token_id")
    allowed = eos if isinstance(eos, list) else [eos]
    if name is not None and eos is not None and ids.get(name) not in allowed:
        raise BessemerError(
            f"the tokenizer does not belong to the model: its end token {name!r} has id {ids.get(name)}, "
            f"the model's has id {eos}",
            where=where,
            fix=fix,
        )
