"""Can this model be loaded safely, and does its tokenizer belong to it? Found out before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.families.download import INDEX, WHOLE, RemoteFile, choose
from bessemer.families.schema import Fact, Tokenizer
from bessemer.files import canonical_json, read_json, sha256_file, sha256_text
from bessemer.signatures import RELEASE_FORMAT

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What transformers loads beside or instead of the files that `choose` takes and the digest covers.
BESIDE = {
    "adapter_config.json": (
        "transformers would lay an adapter over the weights, which the digest does not cover",
        "merge the adapter into the weights (peft: merge_and_unload) and give that folder, or move it elsewhere",
    ),
    "additional_chat_templates": (
        "its templates would take the place of the model's own, and the digest does not cover them",
        "write the template that you mean to chat_template.jinja, and move this folder elsewhere",
    ),
    "shard-*-model-*": (
        "transformers would load this part of a distributed checkpoint instead of the model's weights",
        "move it elsewhere, or save the model anew with save_pretrained",
    ),
}
ELSEWHERE = {
    "config.json": ("transformers_weights", "configuration_files"),
    "tokenizer_config.json": ("fast_tokenizer_files",),
}
FOR_OTHERS = 16  # special tokens without a row: Gemma 3's text models share the tokenizer of those that see images


def check_model(folder: Path, *, complete: bool = True, known: bool = False) -> None:
    """config.json, tokenizer.json and safetensors weights (all shards of an index) are there, transformers would load
    nothing else, and no code is needed.

    complete: False while the weights are still to come. known: its architecture was looked at when it was fetched;
    asking transformers takes seconds. Raises BessemerError with the remedy.
    """
    names = {p.name for p in folder.iterdir()}
    files = {name for name in names if (folder / name).is_file()}
    for pattern, (what, fix) in BESIDE.items():
        if found := sorted(name for name in names if fnmatch(name, pattern)):
            raise BessemerError(what, where=str(folder / found[0]), fix=fix)
    if complete and not files & {WHOLE, INDEX}:
        raise no_weights(files, str(folder))
    for needed in ("config.json", "tokenizer.json"):
        if needed not in files:
            raise BessemerError(f"{needed} is missing", where=str(folder), fix="give a complete model folder")
    config = _settings(folder / "config.json")
    if "tokenizer_config.json" in files:
        _settings(folder / "tokenizer_config.json")
    if not known:
        _need_known_architecture(config.get("model_type"), str(folder / "config.json"))
    if complete and WHOLE not in files:
        _need_shards(read_json(folder / INDEX), files, folder)


def _settings(path: Path) -> dict[str, Any]:
    """A JSON object that needs no code and names no other files. Raises BessemerError for any other."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise BessemerError("no JSON object", where=str(path), fix="give a complete model folder")
    if "auto_map" in settings:
        raise BessemerError(
            "the model needs code of its own (auto_map), which Bessemer never runs",
            where=str(path),
            fix="use a family whose architecture transformers has",
        )
    if other := next((key for key in ELSEWHERE[path.name] if key in _keys(settings)), None):
        raise BessemerError(
            f"it names other files to load ({other}), which the digest does not cover",
            where=str(path),
            fix=f"give the files their usual names and remove {other}, or save the model anew with save_pretrained",
        )
    return settings


def _keys(value: dict[str, Any]) -> Iterator[str]:
    """Of an object and of all objects in it: the model may be a part of a larger one."""
    for key, inner in value.items():
        yield key
        if isinstance(inner, dict):
            yield from _keys(inner)


def no_weights(names: set[str], where: str) -> BessemerError:
    """For a folder or repository without safetensors under a name that transformers loads."""
    pickles = sorted(n for n in names if n.endswith(PICKLES))
    others = sorted(n for n in names if n.endswith(".safetensors"))
    only = f", only {others[0]}, which transformers does not load" if others else ""
    return BessemerError(
        f"no safetensors weights ({WHOLE}, or {INDEX} and its shards)"
        f"{f', only {pickles[0]} (a pickle, which can run code)' if pickles else only}",
        where=where,
        fix="take a revision that has them (on the hub often refs/pr/N), or convert them with the family's own tools "
        "and give that folder",
    )


def refuse_release(manifest: Any, where: str) -> None:
    """Of a release elsewhere only the model would be fetched, not what was signed; for where a trusted key is set.

    manifest: what its manifest.json says. Raises BessemerError for that of a release.
    """
    if isinstance(manifest, dict) and manifest.get("format") == RELEASE_FORMAT:
        raise BessemerError(
            "this is a release, and who signed it cannot be checked from here",
            where=where,
            fix="copy the release's whole folder to this machine and name that: its signature is checked there",
        )


def _need_known_architecture(kind: str | None, where: str) -> None:
    if kind is None or find_spec("transformers") is None:
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        import transformers

        raise BessemerError(
            f"transformers {transformers.__version__} has no causal language model of the architecture {kind!r}",
            where=where,
            fix="update transformers, or use a family whose architecture it has",
        )


def _need_shards(index: Any, names: set[str], folder: Path) -> None:
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise BessemerError("no list of shards", where=str(folder / INDEX), fix="give a complete model folder")
    missing = sorted({str(s) for s in shards.values()} - {f.name for f in choose([RemoteFile(n, 0) for n in names])})
    if missing:
        raise BessemerError(
            f"{len(missing)} of {len(set(shards.values()))} shards are missing, first {missing[0]}",
            where=str(folder),
            fix="give a complete model folder",
        )


def tokenizer_digest(folder: Path) -> str:
    """sha256 of {token: id}, added tokens included: the same however tokenizer.json is spelt."""
    return sha256_text(canonical_json(_ids(read_json(folder / "tokenizer.json"))))


def _ids(tokenizer: Any) -> dict[str, int]:
    added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])}
    vocab = tokenizer["model"]["vocab"]
    return {**(vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}), **added}


def check_against_catalogue(folder: Path, known: Tokenizer, name: str) -> None:
    """Raises BessemerError when the tokenizer is another one than the catalogue says."""
    config = read_json(folder / "config.json")
    rows = config.get("text_config", config).get("vocab_size")
    facts: list[tuple[Fact[Any] | None, Any, str]] = [(known.rows, rows, "rows of the embedding")]
    if known.ids_sha256:
        facts.append((known.ids_sha256, tokenizer_digest(folder), "sha256 of its ids"))
    if known.file_sha256:
        facts.append((known.file_sha256, sha256_file(folder / "tokenizer.json"), "sha256 of tokenizer.json"))
    for fact, got, what in facts:
        if fact is not None and got is not None and fact.is_ != got:
            raise BessemerError(
                f"the tokenizer is not the one that the catalogue knows for {name}: {what} {str(got)[:12]}, "
                f"not {str(fact.is_)[:12]}",
                where=str(folder),
                fix="the publisher changed it or this copy is wrong: compare with the source that "
                f"`bessemer families show {name}` names; to use it anyway, start from the folder or hub id itself",
            )


def check_tokenizer(folder: Path) -> None:
    """Compare the tokenizer's ids with the model's embedding rows and end-of-sequence token.

    Raises BessemerError when ids lie outside the embedding (but for a few special ones), when far fewer ids exist than
    rows, or when the two name different end-of-sequence tokens.
    """
    config = read_json(folder / "config.json")
    tokenizer = read_json(folder / "tokenizer.json")
    fix = "use the tokenizer that was published with the weights"
    where = str(folder / "tokenizer.json")
    try:
        config = config.get("text_config", config)
        rows: int = config["vocab_size"]
        ids = _ids(tokenizer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BessemerError(
            f"config.json or tokenizer.json is not as transformers writes it ({type(error).__name__}: {error})",
            where=str(folder),
            fix=fix,
        ) from None
    beyond = {t["content"] for t in tokenizer.get("added_tokens", []) if t.get("special") and t["id"] >= rows}
    if len(beyond) <= FOR_OTHERS:  # contents never become special tokens
        ids = {name: id for name, id in ids.items() if name not in beyond}
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
