"""A sealed task: committed to before training, encrypted at rest, scored once for each model, listed for ever.

`BESSEMER_HOME/seals/NAME/` holds `commitment.json`, `public.jsonl`, `sealed.bin`, `leaves.json`, `ledger.jsonl`, maybe
`scorer.py` and, at the end, `revealed.jsonl`; the folder can be given to others, who check it with `verify_seal`. The
key lies outside, in `BESSEMER_HOME/keys/seals/NAME.key`. docs/design/evaluation.md says what this proves and what not.

What leads to what: ledger (its first entry) -> commitment.json -> public.jsonl, sealed.bin, leaves.json, key;
commitment -> Merkle root -> leaves -> items, once their salts are revealed. Models are scored by openings.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bessemer.data.open import need
from bessemer.errors import BessemerError
from bessemer.evaluate import ledger, merkle
from bessemer.evaluate.controls import CANARY, Wanted, check_controls, with_controls
from bessemer.evaluate.metrics import METRICS
from bessemer.evaluate.sides import JACCARD, WORDS, Row, choose_sealed
from bessemer.evaluate.stats import MISSING
from bessemer.evaluate.submissions import submissions_of
from bessemer.evaluate.tasks import METRICS_OF
from bessemer.files import (
    canonical_json,
    check_files,
    digest_files,
    exclusive,
    fsync_folder,
    home,
    new_folder,
    read_json,
    sha256_file,
    sha256_text,
    write_json,
    write_text,
)
from bessemer.units import now

FORMAT = "bessemer.seal/1"
COMMITMENT, LEDGER = "commitment.json", "ledger.jsonl"
PUBLIC, SEALED, LEAVES, SCORER, REVEALED = "public.jsonl", "sealed.bin", "leaves.json", "scorer.py", "revealed.jsonl"
# What turns a model and items into a number: files of this folder, and of the package.
CODE = ("metrics.py", "stats.py", "tasks.py", "answer.py", "grade.py", "endpoint.py", "client.py", "infer/score.py",
        "infer/generate.py", "data/render.py")  # fmt: skip
TERMS = {"name", "created", "by", "task", "plan", "counts", "split", "limit", "root", "code", "control_seed_sha256",
         "key_sha256", "files"}  # fmt: skip
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
KEY_BYTES, NONCE_BYTES = 32, 12
RESTORE = "restore the folder from a copy; a seal that was changed proves nothing"


@dataclass(frozen=True)
class Seal:
    """A checked seal. `digest` is the sha256 of commitment.json; `entries` are those of the ledger."""

    name: str
    folder: Path
    digest: str
    commitment: dict[str, Any]
    entries: list[ledger.Entry]

    @property
    def head(self) -> str:
        """The hash of the last entry: who keeps it sees when the ledger is cut later."""
        return self.entries[-1]["hash"]

    @property
    def task(self) -> dict[str, Any]:
        """The task's spec, without items."""
        return self.commitment["task"]

    @property
    def scorer(self) -> Path | None:
        return self.folder / SCORER if SCORER in self.commitment["files"] else None

    @property
    def revealed(self) -> ledger.Entry | None:
        return next((entry for entry in self.entries if entry["event"] == "revealed"), None)


@dataclass(frozen=True)
class SealedItem:
    """One item of the sealed part. control: its answer is a coin flip; scored apart. canary: nobody can have written
    its words. leaf: its salted hash, public."""

    row: Row
    salt: bytes
    leaf: str
    control: bool
    canary: bool = False


def create(
    name: str,
    rows: Sequence[Row],
    spec: Mapping[str, Any],
    *,
    share: float,
    seed: int,
    by: str,
    control: int = 0,
    canary: int = 0,
    limit: int | None = None,
    scorer: Path | None = None,
) -> Seal:
    """Split a task, commit to it and encrypt the sealed part. The folder appears whole or not at all.

    rows: the items, as a task's `rows()`. spec: the task without them, as its `spec()`. share: of the items to seal.
    control: sealed items whose answer becomes a coin flip; a model that beats chance on them has seen the answers.
    canary: items added to the sealed part that exist nowhere else; one that was fed shows that the file leaked.
    limit: of models that may be scored, ever. scorer: the code of `match.scorer`, kept with the seal.
    Raises BessemerError when the name is taken, an item is unfit, or a part would be empty.
    """
    need_name(name)
    folder = folder_of(name)
    rows, spec, by = checked_rows(rows), dict(plain(spec, "task")), checked_text(by, "by")
    kind = str(spec.get("kind"))
    if kind not in METRICS_OF:
        raise BessemerError(f"kind {kind!r} is no kind of task", where="task", fix=f"one of {', '.join(METRICS_OF)}")
    if limit is not None and limit < 1:
        raise BessemerError(f"a limit of {limit} lets no model be scored", where="limit", fix="at least 1, or none")
    chosen = choose_sealed(rows, share, seed)
    public = [row for row, is_sealed in zip(rows, chosen, strict=True) if not is_sealed]
    _need_classes(kind, public, "public")
    control_seed = secrets.token_bytes(KEY_BYTES)
    wanted = Wanted(control, canary)
    items = with_controls([row for row, s in zip(rows, chosen, strict=True) if s], spec, wanted, control_seed)
    sealed = [item for item in items if "control" not in item]
    _need_classes(kind, sealed, "sealed")
    _need_interval(spec, sealed)
    salts = [secrets.token_bytes(merkle.SALT_BYTES) for _ in items]
    records = [{"salt": salt.hex(), "item": item} for salt, item in zip(salts, items, strict=True)]
    leaves = [merkle.leaf_of(salt, item) for salt, item in zip(salts, items, strict=True)]
    with exclusive(folder.parent / f".{name}.lock", f"the seal {name}"):
        if folder.exists():
            raise BessemerError(
                f"there is a seal {name!r} already, and a seal is never changed",
                where=str(folder),
                fix="choose another name (--name)",
            )
        key = _make_key(name)  # first: sealed items without a key would be lost
        with new_folder(folder) as tmp:
            write_text(tmp / PUBLIC, _lines(public))
            write_json(tmp / LEAVES, {"leaves": [leaf.hex() for leaf in leaves]})
            if scorer is not None:
                (tmp / SCORER).write_bytes(scorer.read_bytes())
            terms: dict[str, Any] = {
                "format": FORMAT,
                "name": name,
                "created": now(),
                "by": by,
                "task": spec,
                "plan": {
                    "metric": spec.get("metric") or METRICS_OF[kind][0],
                    "smallest_effect": spec.get("smallest_effect"),
                    "alpha": spec.get("alpha"),
                },
                "counts": {
                    "items": len(rows),
                    "public": len(public),
                    "sealed": len(items),
                    "control": control,
                    "canary": canary,
                },
                "split": {"share": share, "seed": seed, "jaccard": JACCARD, "words": WORDS},
                "limit": limit,
                "root": merkle.root_of(leaves).hex(),
                "code": code_digests(),
                "control_seed_sha256": hashlib.sha256(control_seed).hexdigest(),
                "key_sha256": hashlib.sha256(key).hexdigest(),
            }
            secret = {"control_seed": control_seed.hex(), "records": records}
            (tmp / SEALED).write_bytes(_encrypt(key, secret, terms))
            write_json(tmp / COMMITMENT, terms | {"files": digest_files(tmp)})
            facts = {"name": name, "by": by, "commitment": sha256_file(tmp / COMMITMENT)}
            ledger.append(tmp / LEDGER, "created", lock=lock_of(name), **facts)
    return load(name)


def names() -> list[str]:
    """The seals here, by name, without checking them."""
    found = (path.parent.name for path in (home() / "seals").glob(f"*/{COMMITMENT}"))
    return sorted(name for name in found if NAME.fullmatch(name))  # not what a kill left: .tmp-NAME


def commitments() -> dict[str, str]:
    """{name: sha256 of commitment.json} of the seals here, without checking them."""
    return {name: sha256_file(folder_of(name) / COMMITMENT) for name in names()}


def load(name: str) -> Seal:
    """A seal of this home, after checking all of it. A ledger line that a kill tore is left out.

    Raises BessemerError when there is none, or a byte of it changed.
    """
    need_name(name)
    if name not in names():
        known = ", ".join(names()) or "none yet; `bessemer seal create TASK` makes one"
        raise BessemerError(f"there is no seal {name!r}", where=str(home() / "seals"), fix=f"seals: {known}")
    found = _checked(folder_of(name), torn_ok=True)
    if found.name != name:
        raise BessemerError(f"the commitment is of seal {found.name!r}", where=str(found.folder), fix=RESTORE)
    return found


def verify_seal(folder: Path, *, head: str = "", commitment: str = "") -> Seal:
    """Check everything that can be checked from the folder alone: no key, no network, no BESSEMER_HOME.

    head: the hash of a ledger entry that must still be there, and commitment: the sha256 that commitment.json must
    have, both from a scorecard. Raises BessemerError naming the first thing that is wrong.
    """
    found = _checked(folder, head=head, torn_ok=False)
    if commitment and found.digest != commitment:
        raise BessemerError(
            f"another commitment than expected: sha256 {found.digest[:12]}..., not {commitment[:12]}...",
            where=str(folder / COMMITMENT),
            fix=RESTORE,
        )
    if found.revealed:
        verify_reveal(folder)
    return found


def public_rows(name: str) -> list[Row]:
    """The public items, in the order of the task. Only the evaluate floor reads them; as a source they are refused."""
    return _rows(load(name).folder / PUBLIC)


# -- reveal -------------------------------------------------------------------------------------------------


def reveal(name: str, by: str) -> Path:
    """Publish the sealed items and their salts in `revealed.jsonl`, for good: afterwards nothing is scored any more.

    The ledger is told first. A reveal that was killed is finished by calling it again.
    """
    seal = load(name)
    by, secret = checked_text(by, "by"), decrypt(seal)
    text = _lines(secret["records"])
    with ledger.writing(seal.folder / LEDGER, lock_of(name)) as book:
        if not any(entry["event"] == "revealed" for entry in book.entries):
            facts = {"by": by, "sha256": sha256_text(text), "control_seed": secret["control_seed"]}
            book.add("revealed", note="openings after this entry do not count", **facts)
        write_text(seal.folder / REVEALED, text)
    return seal.folder / REVEALED


def verify_reveal(folder: Path) -> list[SealedItem]:
    """The revealed items, after checking each against its leaf, and which answers had to be coin flips.

    Raises BessemerError naming the first item that differs, or when nothing was revealed.
    """
    seal = _checked(folder, torn_ok=True)
    with from_anyone(folder):
        return _checked_reveal(seal)


def _checked_reveal(seal: Seal) -> list[SealedItem]:
    path, entry = seal.folder / REVEALED, seal.revealed
    if entry is None or not path.is_file() or path.is_symlink():
        raise BessemerError(
            "its items are not revealed" if entry is None else "it was revealed, but the file is missing",
            where=str(path),
            fix=f"bessemer seal reveal {seal.name}, by who holds the key",
        )
    items = _unpacked(seal, _rows(path), str(path))
    if sha256_file(path) != entry["sha256"]:
        raise BessemerError("its bytes changed since it was revealed", where=str(path), fix=RESTORE)
    counts = seal.commitment["counts"]
    fault = check_controls(
        [(item.row, item.control) for item in items],
        seal.task,
        Wanted(counts["control"], counts["canary"]),
        bytes.fromhex(entry["control_seed"]),
        seal.commitment["control_seed_sha256"],
    )
    if fault:
        raise BessemerError(f"the controls were not drawn by the seed: {fault}", where=str(path), fix=RESTORE)
    return items


# -- the sealed part ----------------------------------------------------------------------------------------


def decrypt(seal: Seal) -> dict[str, Any]:
    """{"control_seed", "records"} of the sealed part; in memory only. Raises BessemerError for a wrong key."""
    need("cryptography", seal.name, "sealed sets", extra="eval")
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    content, key = (seal.folder / SEALED).read_bytes(), need_key(seal)
    try:
        text = AESGCM(key).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], _terms_digest(seal.commitment))
    except InvalidTag:
        raise BessemerError(
            "the sealed items do not belong to this commitment, or were changed",
            where=str(seal.folder / SEALED),
            fix=RESTORE,
        ) from None
    return json.loads(text)


def items_of(seal: Seal) -> list[SealedItem]:
    """Decrypt the sealed items and check each against its leaf. Only openings.py may call this."""
    return _unpacked(seal, decrypt(seal)["records"], str(seal.folder / SEALED))


def need_key(seal: Seal) -> bytes:
    """The key of a seal. Raises BessemerError when it is missing, another one, or others may read it."""
    path = key_path(seal.name)
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise BessemerError(
            f"the key cannot be read ({error.strerror})",
            where=str(path),
            fix="sealed items are opened where the key is; whoever made the seal has it",
        ) from None
    if mode & 0o077:
        raise BessemerError(
            f"other users may read the key (mode {mode & 0o777:o})", where=str(path), fix=f"chmod 600 '{path}'"
        )
    if hashlib.sha256(content).hexdigest() != seal.commitment["key_sha256"]:
        raise BessemerError("this is not the key of the seal", where=str(path), fix="restore the key from a copy")
    return content


def code_digests() -> dict[str, str]:
    """{file: sha256} of the code that turns a model and items into a number."""
    here = Path(__file__).parent
    return {name: sha256_file((here.parent if "/" in name else here) / name) for name in CODE}


def need_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise BessemerError(
            f"{name!r} is no name of a seal", where="name", fix="small letters, digits, and . _ - after the first"
        )


def folder_of(name: str) -> Path:
    return home() / "seals" / name


def key_path(name: str) -> Path:
    return home() / "keys" / "seals" / f"{name}.key"


def lock_of(name: str, what: str = "ledger") -> Path:
    """A lock file beside the seal's folder, so that the folder holds nothing but the seal."""
    return home() / "seals" / f".{name}.{what}.lock"


def plain(value: Any, where: str) -> Any:
    """The value, if JSON gives it back as it is. Raises BessemerError for not-a-numbers, keys that are no text, ..."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
        canonical_json(value).encode()
    except (TypeError, ValueError) as error:
        raise BessemerError(f"cannot be written as JSON ({error})", where=where, fix="use plain values") from None
    if not same:
        raise BessemerError("JSON would not give back the same value", where=where, fix="use text as keys, and lists")
    return value


def checked_text(text: str, where: str) -> str:
    if not text.strip():
        raise BessemerError("is empty, but stands in the ledger for ever", where=where, fix="say it in some words")
    return plain(text, where)


def checked_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows, if each is a JSON object with an id of its own. Raises BessemerError naming the first that is not."""
    seen: dict[str, int] = {}
    for n, row in enumerate(rows, 1):
        identity = row.get("id")
        if not isinstance(identity, str) or not identity:
            raise BessemerError(f"item {n} of {len(rows)} has no id", where="items", fix="give each one a text as `id`")
        if identity in seen:
            raise BessemerError(
                f"items {seen[identity]} and {n} have the same id {identity!r}", where="items", fix="make them differ"
            )
        if "control" in row:
            raise BessemerError(
                f"item {identity!r} has a key `control`, which marks coin flips in the sealed part",
                where="items",
                fix="put it under `meta`",
            )
        seen[identity] = n
        plain(row, f"item {identity!r}")
    return list(rows)


# -- inside -------------------------------------------------------------------------------------------------


def _need_classes(kind: str, rows: Sequence[Row], part: str) -> None:
    """Raises BessemerError when a part could not be scored once it is opened: all of its items have one answer."""
    answers = {row.get("answer") for row in rows}
    if kind == "classify" and len(answers) < 2:
        raise BessemerError(
            f"all {len(rows)} items of the {part} part have the answer {next(iter(answers), None)!r}",
            where="items",
            fix="give more items of the other answers, in groups of their own, or another share or seed",
        )


def _need_interval(spec: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Raises BessemerError for so few of an answer that the sealed part would have no interval: see `stats._spread`.

    Once it is opened, it is too late to say so.
    """
    metric = METRICS.get(str(spec.get("metric")))
    if metric is None or not metric.by_class:
        return
    clusters: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        clusters[str(row.get("answer"))].add(str(row.get("group") or row["id"]))
    n = len(set[str]().union(*clusters.values()))
    for answer, own in clusters.items():
        if (lost := (1 - len(own) / n) ** n) > MISSING:
            raise BessemerError(
                f"{len(own)} of {n} groups of the sealed part have the answer {answer!r}: {metric.name} would have no "
                f"interval, since {lost:.0%} of the draws lack it",
                where="items",
                fix="give more items of that answer, in groups of their own, or seal a larger share",
            )


@contextlib.contextmanager
def from_anyone(folder: Path, kind: str = "a seal", fix: str = RESTORE) -> Generator[None]:
    """A folder may come from anyone and hold anything: what our own code would never write is refused, no crash."""
    try:
        yield
    except BessemerError:
        raise
    except Exception as error:  # whatever our code trips over
        what = f"not in the form of {kind} ({type(error).__name__}: {error})"
        raise BessemerError(what, where=str(folder), fix=fix) from None


def _checked(folder: Path, *, head: str = "", torn_ok: bool) -> Seal:
    for name in (COMMITMENT, LEDGER):
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise BessemerError(f"{name} is missing or no plain file", where=str(folder), fix=RESTORE)
    entries = ledger.read_ledger(folder / LEDGER, head=head, torn_ok=torn_ok)
    with from_anyone(folder):
        return _checked_with(folder, entries)


def _checked_with(folder: Path, entries: list[ledger.Entry]) -> Seal:
    digest = sha256_file(folder / COMMITMENT)
    first = entries[0]
    if first["event"] != "created" or first.get("commitment") != digest:
        raise BessemerError(
            f"the commitment changed: sha256 {digest[:12]}..., but the ledger begins with "
            f"{str(first.get('commitment'))[:12]}...",
            where=str(folder / COMMITMENT),
            fix=RESTORE,
        )
    commitment: dict[str, Any] = read_json(folder / COMMITMENT)
    _check_form(commitment, str(folder / COMMITMENT))
    check_files(folder, commitment["files"], fix=RESTORE)
    known = {COMMITMENT, LEDGER, REVEALED, *commitment["files"]}
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".tmp-")}
    if unknown := found - known:
        raise BessemerError(
            f"{sorted(unknown)[0]} is in the folder but not in the commitment", where=str(folder), fix="remove it"
        )
    need_name(commitment["name"])
    seal = Seal(commitment["name"], folder, digest, commitment, entries)
    if REVEALED in found and not seal.revealed:
        raise BessemerError(f"{REVEALED} is there, but the ledger knows of no reveal", where=str(folder), fix=RESTORE)
    _check_counts(seal)
    opened, limit = len(submissions_of(entries)), commitment["limit"]
    if limit is not None and opened > limit:
        raise BessemerError(f"{opened} models were opened, but the commitment allows {limit}", where=str(folder))
    return seal


def _check_form(commitment: Mapping[str, Any], where: str) -> None:
    if commitment.get("format") != FORMAT:
        raise BessemerError(f"format {commitment.get('format')!r} is not read here", where=where, fix=f"use {FORMAT}")
    if missing := TERMS - commitment.keys():
        raise BessemerError(f"the commitment has no {', '.join(sorted(missing))}", where=where, fix=RESTORE)
    files = cast(dict[str, Any], commitment["files"]).keys()
    if not {PUBLIC, SEALED, LEAVES} <= files <= {PUBLIC, SEALED, LEAVES, SCORER}:
        raise BessemerError(f"the commitment is about the files {', '.join(sorted(files))}", where=where, fix=RESTORE)


def _check_counts(seal: Seal) -> None:
    """What the commitment says of its own files: how many items, and the root over the leaves."""
    counts, leaves = seal.commitment["counts"], _leaves(seal)
    n_public = (seal.folder / PUBLIC).read_bytes().count(b"\n")
    if (n_public, len(leaves)) != (counts["public"], counts["sealed"]):
        raise BessemerError(
            f"{n_public} public and {len(leaves)} sealed items, but the commitment says {counts['public']} and "
            f"{counts['sealed']}",
            where=str(seal.folder),
            fix=RESTORE,
        )
    if merkle.root_of(leaves).hex() != seal.commitment["root"]:
        raise BessemerError("its leaves have another root than the commitment", where=str(seal.folder / LEAVES))


def leaves_of(seal: Seal) -> set[str]:
    """The salted hashes of the sealed items: what their results go by."""
    return {leaf.hex() for leaf in _leaves(seal)}


def _leaves(seal: Seal) -> list[bytes]:
    return [bytes.fromhex(leaf) for leaf in read_json(seal.folder / LEAVES)["leaves"]]


def _unpacked(seal: Seal, records: Sequence[Mapping[str, Any]], where: str) -> list[SealedItem]:
    """Records of salt and item, each checked against its leaf."""
    leaves, items = _leaves(seal), list[SealedItem]()
    for n, (record, leaf) in enumerate(zip(records, leaves, strict=False), 1):
        item, salt = cast(Row, record["item"]), bytes.fromhex(record["salt"])
        if len(salt) != merkle.SALT_BYTES or merkle.leaf_of(salt, item) != leaf:
            raise BessemerError(
                f"item {n} ({item.get('id')!r}) is not what was committed to: its salted hash is not leaf "
                f"{leaf.hex()[:12]}...",
                where=where,
                fix=RESTORE,
            )
        row = {key: value for key, value in item.items() if key != "control"}
        items.append(SealedItem(row, salt, leaf.hex(), "control" in item, item.get("control") == CANARY))
    if len(records) != len(leaves):
        raise BessemerError(f"{len(records)} items, but {len(leaves)} were sealed", where=where, fix=RESTORE)
    return items


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(canonical_json(row) + "\n" for row in rows)


def _rows(path: Path) -> list[Row]:
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except ValueError as error:
        raise BessemerError(f"no valid JSON ({error})", where=str(path), fix=RESTORE) from None


def _terms_digest(commitment: Mapping[str, Any]) -> bytes:
    """What sealed.bin is bound to: everything of the commitment but the digests of the files, its own among them."""
    return sha256_text(canonical_json({k: v for k, v in commitment.items() if k != "files"})).encode()


def _encrypt(key: bytes, secret: Any, terms: Mapping[str, Any]) -> bytes:
    need("cryptography", "seal", "sealed sets", extra="eval")
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, canonical_json(secret).encode(), _terms_digest(terms))


def _make_key(name: str) -> bytes:
    """A new key, for this user alone; whole on the disk before it has its name.

    A key without a seal is left by a kill, or its folder was moved away: then it is used again, for overwriting it
    would lose the moved items (every encryption draws a nonce of its own).
    """
    path = key_path(name)
    path.parent.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    if path.exists():
        key = path.read_bytes()
        if len(key) != KEY_BYTES or path.stat().st_mode & 0o077:
            raise BessemerError(
                f"there is a file that is no key of this user alone ({len(key)} bytes, mode "
                f"{path.stat().st_mode & 0o777:o})",
                where=str(path),
                fix="move it away, or choose another name for the seal",
            )
        return key
    key, tmp = secrets.token_bytes(KEY_BYTES), path.with_name(f".tmp-{path.name}")
    tmp.unlink(missing_ok=True)
    handle = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    tmp.rename(path)
    fsync_folder(path.parent)
    return key
