"""`start:` with `chat_template:`: the same weights under a chat template that was given.

Base checkpoints often carry none, so nobody could tune them on conversations. The start and its template become a model
folder of their own in our cache: the start's files under second names, the template, and a generation config that
stops where an answer ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bessemer.data.render import PROBE, Renderer, end_of
from bessemer.data.template import Hole
from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint, Files, resolve, tuned_papers
from bessemer.files import (
    canonical_json,
    digest_of_files,
    exclusive,
    home,
    link_file,
    need_disk,
    new_folder,
    read_json,
    sha256_file,
    sha256_text,
    tell,
    write_json,
    write_text,
)

WHERE = PROBE.id
FAMILY = "family"
FILE, SETTINGS, GENERATION = "chat_template.jinja", "tokenizer_config.json", "generation_config.json"
MARKS = re.compile(r"""<[^\s<>'"{}]+>""")  # <|im_end|>, <end_of_turn>, </s>


@dataclass(frozen=True)
class Template:
    """said: where it comes from. tokens: that it writes and that the start must have. ends: of them, those that end a
    generation. written: the probe as the template's own checkpoint writes it; None where that is not known."""

    text: str
    said: str
    tokens: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    written: tuple[str, ...] | None = None


def resolve_start(start: str, chat_template: str | None) -> Checkpoint:
    """A recipe's start. chat_template: None (the start's own), `family`, or the path of a Jinja file.

    Raises BessemerError as `families.fetch.resolve` does, and for a template that is not there, that no answer can be
    told apart in, or whose tokens the start's tokenizer lacks. Marks that the tokenizer reads as mere words are no
    fault (OLMo 2's are), as long as an answer ends with a token.
    """
    found = resolve(start)
    if chat_template is None:
        return found
    template = _of_family(found) if chat_template == FAMILY else _of_file(Path(chat_template).expanduser())
    key = sha256_text(canonical_json([found.digest, found.end_of_text, template.text, template.ends]))[:16]
    plain = re.sub(r"[^A-Za-z0-9@.-]+", "-", found.name).strip("-.")[-60:]
    folder = home() / "cache" / "models" / f"{plain}-chat-{key}"
    manifest = folder.with_name(f"{folder.name}.json")
    if not manifest.exists():
        with exclusive(folder.with_name(f"{folder.name}.lock"), f"{found.name} with a chat template", wait=tell):
            if not folder.is_dir():
                _make(folder, found, template)
            write_json(manifest, _files(folder, found))
    files = _files(folder, found) if folder.is_dir() else {}
    if read_json(manifest) != files:
        raise BessemerError(
            "its bytes changed since it was made",
            where=str(folder),
            fix=f"remove {folder} and {manifest.name}; it is made again",
        )
    digest = digest_of_files(files)
    return replace(found, path=folder, digest=digest, files=files, chat_template=template.said, original=found.path)


def _of_file(path: Path) -> Template:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        fix = f"the path of a Jinja file, or {FAMILY}: the template of the start's family"
        raise BessemerError(f"{path} cannot be read ({said})", where=WHERE, fix=fix) from None
    if not text.strip():
        raise BessemerError(f"{path} is empty", where=WHERE, fix="write a Jinja template into it")
    return Template(text, f"{path.name} (sha256 {sha256_text(text)[:12]})")


def _of_family(found: Checkpoint) -> Template:
    """The template of the family's tuned checkpoint of the same size, with what it needs of a tokenizer."""
    if found.entry is None:
        raise BessemerError(
            f"{found.name} is no checkpoint of the catalogue, so its family is not known",
            where=f"{WHERE}: {FAMILY}",
            fix="give the path of a Jinja file, or a start such as olmo2-1b@pre",
        )
    entry, papers = tuned_papers(found.entry)
    tuned = Renderer(papers, entry.end_of_text)
    if not tuned.chat.chat_template:
        raise BessemerError(
            f"{entry.name} has no chat template either",
            where=f"{WHERE}: {FAMILY}",
            fix="give the path of a Jinja file",
        )
    text, path = str(tuned.chat.get_chat_template(tools=None)), papers / GENERATION
    named = _ids(read_json(path).get("eos_token_id")) if path.exists() else []
    ends = [token for i in named if (token := tuned.token(i))]
    tokens = sorted({*(t for t in tuned.control.values() if t in text), *ends})
    return Template(text, f"that of {entry.name}", tuple(tokens), tuple(ends), _written(tuned)[0])


def _make(folder: Path, found: Checkpoint, template: Template) -> None:
    if found.path.stat().st_dev != folder.parent.stat().st_dev:  # no second names: the files are copied
        need_disk(folder.parent, found.n_bytes, f"a copy of {found.name} with its chat template")
    with new_folder(folder) as tmp:
        for name in found.files:
            if "/" not in name and not name.startswith(WHERE) and name not in {SETTINGS, GENERATION}:
                link_file(found.path / name, tmp / name)
        if (settings := found.path / SETTINGS).exists():
            write_json(tmp / SETTINGS, {k: v for k, v in read_json(settings).items() if k != WHERE})
        write_text(tmp / FILE, template.text)
        renderer = Renderer(tmp, found.end_of_text)
        end = _checked(renderer, found, template)
        ids = [i for token in (*template.ends, end) if (i := renderer.token_id(token)) is not None]
        write_json(tmp / GENERATION, generation_config(found.path, ids))


def _checked(renderer: Renderer, found: Checkpoint, template: Template) -> str:
    """The token that ends an answer."""
    where = f"{WHERE}: {template.said}"
    lacking = [t for t in template.tokens if renderer.token_id(t) is None]
    try:
        written, end = _written(renderer)
    except BessemerError as error:
        lacking = lacking or [t for t in dict.fromkeys(MARKS.findall(template.text)) if renderer.token_id(t) is None]
        if not lacking:
            raise BessemerError(error.what, where=where, fix=error.fix) from None
        written, end = (), ""
    if lacking:
        raise BessemerError(
            f"the tokenizer of {found.name} has no token {', '.join(lacking)}",
            where=where,
            fix="give the path of a Jinja file that writes tokens which it has",
        )
    if template.written not in {None, written}:
        raise BessemerError(
            f"with the tokenizer of {found.name} it writes {''.join(written)!r}, with its own "
            f"{''.join(template.written or ())!r}",
            where=where,
            fix="give the path of a Jinja file that spells its tokens out",
        )
    return end


def _written(renderer: Renderer) -> tuple[tuple[str, ...], str]:
    """(the probe in control tokens and words, the control token that ends its answer)."""
    (job,) = renderer.jobs_of(PROBE)
    pieces = tuple(
        renderer.control[op] if isinstance(op, int) else op.fill(job.texts) if isinstance(op, Hole) else op
        for op in job.program
        if isinstance(op, (int, str, Hole))
    )
    return pieces, renderer.control[end_of(job)]


def generation_config(start: Path, ends: Iterable[int]) -> dict[str, Any]:
    """The start's generation config, which also stops at `ends`; without one, what transformers makes of its config."""
    path = start / GENERATION
    config = read_json(start / "config.json")
    config = config.get("text_config", config)
    named = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    made: dict[str, Any] = read_json(path) if path.exists() else named
    return made | {"eos_token_id": sorted({*_ids(made.get("eos_token_id")), *ends})}


def _ids(named: int | list[int] | None) -> list[int]:
    return named if isinstance(named, list) else [] if named is None else [named]


def _files(folder: Path, found: Checkpoint) -> Files:
    """{name: facts}; what lies on the disk once, under two names, was hashed when the start was resolved."""
    files: Files = {}
    for path in sorted(folder.iterdir()):
        start = found.path / path.name
        same = path.name in found.files and path.samefile(start)
        facts = {"sha256": sha256_file(path), "bytes": path.stat().st_size} if not same else found.files[path.name]
        files[path.name] = facts
    return files
