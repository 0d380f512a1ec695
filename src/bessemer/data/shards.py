"""Token shards: a source's token ids and loss masks, made once, memory-mapped, `name@version`.

A token set is a folder `tokens/NAME/VERSION` of parts; a part holds

    ids.npy      token ids of its items end to end (uint16, or uint32 for large vocabularies)
    mask.npy     one bit a token: is it a target? (conversations only; of a document every token is)
    ends.npy     where each item ends in ids
    groups.npy   a hash of each item's group
    texts.npy    a hash of each item's letters and digits, to find held-out items among them
    hashes.npy   a hash of each item's id, sorted; order.npy: the items in that order
    about.npy    id and provenance of each item as JSON, end to end; about_ends.npy: where each ends

Each part appears whole or not at all, so an interrupted build goes on with the next one. The set's fingerprint
covers its ingredients; when one of them changes a new version is made, and what changed can be said. A part's
bytes are checked against their digest when it is first touched.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bessemer.data.fast import EnginesDiffer
from bessemer.data.items import Item
from bessemer.data.pack import VERSION, Packed, Packer, load_packed
from bessemer.data.render import Example
from bessemer.errors import BessemerError
from bessemer.files import (
    canonical_json,
    check_files,
    digest_files,
    exclusive,
    fsync_folder,
    home,
    new_folder,
    read_json,
    saving_arrays,
    sha256_text,
    write_json,
)

FORMAT = "bessemer.tokens/1"
PART_TOKENS = 1 << 24  # tokens in a part: what a kill can cost, and what is held in memory
BATCH_CHARACTERS = 1 << 21  # rendered in one threaded call
BATCH_ITEMS = 4096
EXCERPT = 100  # characters of an item that are kept to recognise it
OTHERS = re.compile(r"[\W_]+")  # all but letters and digits
OTHER_ASCII = bytes(c for c in range(128) if not chr(c).isalnum())
EDGE = 4096  # characters at both ends of a text that say whether two texts are the same


class Tokenizes(Protocol):
    """What a build needs of a renderer."""

    n_vocabulary: int

    @property
    def engine(self) -> str: ...
    def render(self, items: Sequence[Item]) -> list[Example]: ...
    def check_rendered(self, items: Sequence[Item], examples: Sequence[Example]) -> None: ...


@dataclass(frozen=True)
class Segment:
    """A run of an item's tokens: ids and supervised have the same length. A supervised token is a target."""

    id: str
    ids_L: NDArray[np.int32]
    supervised_L: NDArray[np.bool_]


class _Part:
    """One part of a token set; its arrays are mapped when they are first needed."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.n_items: int = about["items"]
        self._files: dict[str, dict[str, Any]] = about["files"]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        check_files(self.folder, self._files, fix=f"remove {self.folder.parent}; the next run makes it again")
        return {p.stem: np.load(p, mmap_mode="r") for p in sorted(self.folder.glob("*.npy"))}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def span(self, item: int) -> tuple[int, int]:
        ends = self["ends"]
        return int(ends[item - 1]) if item else 0, int(ends[item])

    def supervised(self, start: int, end: int) -> NDArray[np.bool_]:
        if "mask" not in self._arrays:
            return np.ones(end - start, np.bool_)
        bits = np.unpackbits(self["mask"][start // 8 : -(-end // 8)])
        return bits[start % 8 : start % 8 + end - start].astype(np.bool_)

    def about(self, item: int) -> dict[str, Any]:
        ends = self["about_ends"]
        start = int(ends[item - 1]) if item else 0
        return json.loads(self["about"][start : int(ends[item])].tobytes())


@dataclass(frozen=True)
class TokenSet:
    """A source as token ids. Items are numbered from 0 in the source's order.

    A conversation whose template rewrites earlier turns is several items of one id: one for each answer.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def reference(self) -> str:
        return f"{self.manifest['name']}@{self.manifest['version']}"

    @property
    def n_read(self) -> int:
        """Items of the source."""
        return self.manifest["read"]

    @property
    def n_items(self) -> int:
        return self.manifest["items"]

    @property
    def n_tokens(self) -> int:
        return self.manifest["tokens"]

    @property
    def n_supervised(self) -> int:
        return self.manifest["supervised"]

    @cached_property
    def _parts(self) -> list[_Part]:
        return [_Part(self.folder / part["folder"], part) for part in self.manifest["parts"]]

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """Number of the first item of each part, and of all items."""
        return np.cumsum([0, *(part.n_items for part in self._parts)])

    def _find(self, item: int) -> tuple[_Part, int]:
        p = int(np.searchsorted(self._first, item, side="right")) - 1
        return self._parts[p], item - int(self._first[p])

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every item."""
        return np.concatenate([np.diff(part["ends"], prepend=0) for part in self._parts])

    def groups(self) -> NDArray[np.uint64]:
        """A number for every item; equal for items of one group."""
        return np.concatenate([part["groups"] for part in self._parts])

    def item_id(self, item: int) -> str:
        return self.about(item)["id"]

    def about(self, item: int) -> dict[str, Any]:
        """{"id", "group", "excerpt", "meta"} of an item."""
        part, own = self._find(item)
        return part.about(own)

    def segment(self, item: int, start: int = 0, length: int | None = None) -> Segment:
        """Tokens `start` to `start + length` of an item."""
        part, own = self._find(item)
        begin, end = part.span(own)
        begin += start
        end = end if length is None else begin + length
        ids_L = part["ids"][begin:end].astype(np.int32)
        return Segment(part.about(own)["id"], ids_L, part.supervised(begin, end))

    def find(self, item_id: str) -> list[int]:
        """The items with this id: one, several renderings of one, or none."""
        wanted, found = hash64(item_id), []
        for first, part in zip(self._first.tolist(), self._parts, strict=False):
            hashes = part["hashes"]
            for at in range(*(int(np.searchsorted(hashes, wanted, side=s)) for s in ("left", "right"))):  # type: ignore[arg-type]
                item = int(part["order"][at])
                if part.about(item)["id"] == item_id:
                    found.append(first + item)
        return found

    def same_texts(self, texts: NDArray[np.uint64]) -> list[tuple[int, int]]:
        """(index into texts, item) for every item whose letters and digits have one of these hashes."""
        pairs: list[tuple[int, int]] = []
        for first, part in zip(self._first.tolist(), self._parts, strict=False):
            for item in np.flatnonzero(np.isin(part["texts"], texts)).tolist():
                pairs += [(int(t), first + item) for t in np.flatnonzero(texts == part["texts"][item])]
        return pairs

    def digest(self) -> str:
        """sha256 over every id, mask bit and item id."""
        return sha256_text(canonical_json([part["files"] for part in self.manifest["parts"]]))

    def pack(self, packer: Packer, *, grouped: bool, where: str = "") -> Packed:
        """The set's rows for these settings: made once, kept beside the tokens, memory-mapped."""
        key = f"rows{VERSION}-{packer.row_tokens}-{packer.long}-{packer.seed}{'-grouped' if grouped else ''}"
        folder = self.folder / key
        if not folder.exists():
            with exclusive(self.folder / ".rows.lock", f"the rows of {self.reference}", wait=lambda _: None):
                if not folder.exists():
                    groups = self.groups() if grouped else None
                    packed = packer.pack(self.lengths(), groups, where=where, id_of=self.item_id)
                    packed.save(folder, {"tokens": self.reference})
        return load_packed(folder)


def open_tokens(reference: str) -> TokenSet:
    """A finished token set by `name@version`. Raises BessemerError when it is gone."""
    name, _, version = reference.partition("@")
    folder = home() / "tokens" / name / version
    return TokenSet(folder, read_json(folder / "manifest.json"))


def excerpt(item: Item) -> str:
    """The beginning of an item, on one line."""
    text = item.text[: 2 * EXCERPT] or " / ".join(m.content[:EXCERPT] for m in item.messages[:4])
    return " ".join(text.split())[:EXCERPT]


def hash64(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def text_hash(item: Item) -> np.uint64:
    """Equal for items whose letters and digits are the same (of long texts: the same beginning and end); where there
    are none, as in a row of emoji, whose other characters are."""
    text = item.text or "\n".join(m.content for m in item.messages)
    edges = (text,) if len(text) <= 2 * EDGE else (text[:EDGE], text[-EDGE:])
    same = "\n".join(map(_letters_and_digits, edges))
    return hash64(same if same.strip() else "".join(text.split()))


def _letters_and_digits(text: str) -> str:
    """In small letters: what str.isalnum() says, at the speed of a regular expression or, for ASCII, of a table."""
    if text.isascii():
        return text.lower().encode().translate(None, OTHER_ASCII).decode()
    return OTHERS.sub("", text.lower())


# -- building ---------------------------------------------------------------------------------------------------


def open_or_build(
    name: str,
    items: Callable[[], Iterable[Item]],
    renderer: Tokenizes,
    ingredients: dict[str, str],
    *,
    report: Callable[[], dict[str, Any]] = dict,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _items, _tokens: None,
) -> TokenSet:
    """The token set of these ingredients: an existing version, or a new one.

    items: called only when something is to be built. ingredients: {what: digest or setting}; the fingerprint.
    report: what to keep in the manifest about the reading, asked for when it is over. progress: called with (items,
    tokens) so far. Raises BessemerError for items that cannot be rendered.
    """
    folder = home() / "tokens" / name
    fingerprint = sha256_text(canonical_json(ingredients))

    def made() -> TokenSet | None:
        known = (m for m in (_versions(folder) if folder.exists() else ()) if m["fingerprint"] == fingerprint)
        return next((TokenSet(folder / str(m["version"]), m) for m in known), None)

    if found := made():  # versions never change: many processes may look at once
        return found
    with exclusive(folder / ".lock", f"the token set {name}", wait=say):
        if found := made():
            return found
        versions = _versions(folder)
        number = versions[0]["version"] + 1 if versions else 1
        if versions:
            changed = ", ".join(_changes(versions[0]["ingredients"], ingredients))
            say(f"{name}@{number}: tokens are made again; changed since {name}@{number - 1}: {changed}")
        building = folder / f".building-{fingerprint[:16]}"
        try:
            build = _run(building, renderer, items, progress)
        except EnginesDiffer as error:
            say(f"{name}@{number}: {error.what}; every part is made again with `tokenizers` ({error.fix})")
            _remove(building)
            build = _run(building, renderer, items, progress)
        try:
            told = report()
        except BessemerError:
            _remove(building)
            raise
        manifest = {
            "format": FORMAT,
            "name": name,
            "version": number,
            "fingerprint": fingerprint,
            "ingredients": ingredients,
            **build.totals(name),
            **told,
        }
        write_json(building / "manifest.json", manifest)
        building.rename(folder / str(number))
        fsync_folder(folder)
    return TokenSet(folder / str(number), manifest)


def _remove(building: Path) -> None:
    """In one step: half of the parts must not look like a beginning."""
    gone = building.with_name(f".gone-{building.name}")
    shutil.rmtree(gone, ignore_errors=True)
    building.rename(gone)
    shutil.rmtree(gone)


def _run(
    folder: Path, renderer: Tokenizes, items: Callable[[], Iterable[Item]], progress: Callable[[int, int], None]
) -> _Build:
    build = _Build(folder, renderer, progress)
    build.run(items())
    return build


def _versions(folder: Path) -> list[dict[str, Any]]:
    """Manifests of the finished versions, newest first."""
    numbers = sorted((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), reverse=True)
    return [read_json(folder / str(n) / "manifest.json") for n in numbers]


def _changes(old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield f"{key} ({str(old.get(key, 'none'))[:12]} -> {str(new.get(key, 'none'))[:12]})"


class _Build:
    """Writes parts one after another into a folder; begins after those that are there."""

    def __init__(self, folder: Path, renderer: Tokenizes, progress: Callable[[int, int], None]) -> None:
        self.folder, self.renderer, self.progress = folder, renderer, progress
        self.dtype = np.uint16 if renderer.n_vocabulary <= 1 << 16 else np.uint32
        folder.mkdir(parents=True, exist_ok=True)
        self.parts = [read_json(p / "part.json") for p in sorted(folder.glob("part-?????"))]
        self.done_read = sum(part["read"] for part in self.parts)
        self.done_tokens = sum(part["tokens"] for part in self.parts)
        self._clear()

    def _clear(self) -> None:
        self.ids: list[NDArray[Any]] = []
        self.masks: list[NDArray[np.bool_]] = []
        self.about: list[bytes] = []
        self.groups: list[np.uint64] = []
        self.texts: list[np.uint64] = []
        self.hashes: list[np.uint64] = []
        self.licences: Counter[str] = Counter()
        self.n_read = self.n_tokens = 0

    def run(self, items: Iterable[Item]) -> None:
        """Render in a second thread (the tokenizer works outside Python's lock) while the batch before is kept."""
        batches = _batches(islice(items, self.done_read, None))
        with ThreadPoolExecutor(1) as pool:
            waiting: tuple[list[Item], Future[list[Example]]] | None = None
            for batch in batches:
                ahead = (batch, pool.submit(self._render, batch))
                if waiting:
                    self._add(waiting[0], waiting[1].result())
                waiting = ahead
            if waiting:
                self._add(waiting[0], waiting[1].result())
        if self.ids:
            self._write()

    def _render(self, items: list[Item]) -> list[Example]:
        examples = self.renderer.render(items)
        self.renderer.check_rendered(items, examples)
        return examples

    def _add(self, items: list[Item], examples: list[Example]) -> None:
        """An item has one example, or several of its id in a row; they stay in one part."""
        at = 0
        for item in items:
            about = {"id": item.id, "group": item.group, "excerpt": excerpt(item), "meta": dict(item.meta)}
            own = json.dumps(about, ensure_ascii=False, default=str).encode(errors="replace")
            first = at
            while at < len(examples) and examples[at].id == item.id:
                self.ids.append(examples[at].ids_L.astype(self.dtype))
                self.masks.append(examples[at].supervised_L)
                self.groups.append(hash64(examples[at].group))
                self.n_tokens += len(examples[at].ids_L)
                at += 1
            assert at > first, "every item is rendered"
            self.about += [own] * (at - first)
            self.texts += [text_hash(item)] * (at - first)
            self.hashes += [hash64(item.id)] * (at - first)
            self.licences[str(item.meta.get("licence", item.meta.get("license", "not stated")))] += 1
            self.n_read += 1
            if self.n_tokens >= PART_TOKENS:
                self._write()
        self.progress(self.done_read + self.n_read, self.done_tokens + self.n_tokens)

    def _write(self) -> None:
        name = f"part-{len(self.parts):05d}"
        mask = np.concatenate(self.masks)
        hashes = np.array(self.hashes, np.uint64)
        order = np.argsort(hashes, kind="stable")
        arrays: dict[str, NDArray[Any]] = {
            "ids": np.concatenate(self.ids),
            "ends": np.cumsum([len(x) for x in self.ids]),
            "groups": np.array(self.groups, np.uint64),
            "texts": np.array(self.texts, np.uint64),
            "hashes": hashes[order],
            "order": order,
            "about": np.frombuffer(b"".join(self.about), np.uint8),
            "about_ends": np.cumsum([len(x) for x in self.about]),
        }
        if not mask.all():
            arrays["mask"] = np.packbits(mask)
        with new_folder(self.folder / name) as tmp, saving_arrays(tmp):
            for key, array in arrays.items():
                np.save(tmp / f"{key}.npy", array)
            part = {
                "folder": name,
                "read": self.n_read,
                "items": len(self.ids),
                "tokens": self.n_tokens,
                "supervised": int(mask.sum()),
                "engine": self.renderer.engine,
                "licences": dict(self.licences),
                "files": digest_files(tmp),
            }
            write_json(tmp / "part.json", part)
        self.parts.append(part)
        self.done_read += self.n_read
        self.done_tokens += self.n_tokens
        self._clear()

    def totals(self, name: str) -> dict[str, Any]:
        if not self.parts:
            raise BessemerError("the source has no items", where=name, fix="give a source with text in it")
        licences = sum((Counter(part["licences"]) for part in self.parts), Counter[str]())
        sums = {key: sum(part[key] for part in self.parts) for key in ("read", "items", "tokens", "supervised")}
        return {**sums, "licences": dict(sorted(licences.items())), "parts": self.parts}


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.text) + sum(len(m.content) for m in item.messages)
        if size >= BATCH_CHARACTERS or len(batch) >= BATCH_ITEMS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
