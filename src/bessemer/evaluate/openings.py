"""Who opened a sealed task, and what came of it: one score for each model, and no way to take one back.

    with begin_opening("rules", model_digest=..., by=who()) as opening:
        score = ...opening.rows()...                  # decrypted in memory only
        finish_opening(opening, result_digest=..., score={"auroc": 0.81})

An opening is two entries of the ledger: `opened` stands on the disk before the first item is decrypted, `scored` comes
after. Killed between them, the same model continues with the same opening, however often. Write the results to the
disk before `finish_opening`: after it the model is never given the items again.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import hmac
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bessemer.errors import BessemerError
from bessemer.evaluate import ledger
from bessemer.evaluate.ledger import Entry
from bessemer.evaluate.seal import (
    LEDGER,
    Seal,
    SealedItem,
    checked_text,
    code_digests,
    items_of,
    load,
    lock_of,
    need_key,
    plain,
)
from bessemer.evaluate.sides import Row
from bessemer.evaluate.submissions import Submission, submissions_of
from bessemer.files import exclusive, sha256_text

DIGEST = re.compile(r"[A-Za-z0-9:._-]{8,200}")
SHORTEST = 8  # characters of a digest that stand for the whole one


@dataclass(frozen=True)
class Opening:
    """A model that may see the sealed items, once. Held by one process at a time, until it is closed or dies.

    continued: an earlier process was killed before it scored. code_changed: as in `Submission`. entry: of the ledger.
    """

    seal: Seal
    model: str
    by: str
    entry: Entry
    continued: bool
    code_changed: tuple[str, ...]
    _lock: contextlib.ExitStack = field(repr=False, compare=False)

    def items(self) -> list[SealedItem]:
        """The sealed items, decrypted in memory, each checked against its leaf."""
        return items_of(self.seal)

    def rows(self) -> list[Row]:
        """The items alone, as a task's rows; controls are among them and look like the others."""
        return [item.row for item in self.items()]

    def controls(self) -> frozenset[str]:
        """Ids of the items whose answers are coin flips: scored apart."""
        return frozenset(item.row["id"] for item in self.items() if item.control)

    def canaries(self) -> frozenset[str]:
        """Ids of those controls whose words exist nowhere else."""
        return frozenset(item.row["id"] for item in self.items() if item.canary)

    @property
    def salt(self) -> str:
        """A secret of this seal, for keys of a cache that must tell nothing about the items."""
        return hmac.digest(need_key(self.seal), b"bessemer answers", hashlib.sha256).hex()

    def close(self) -> None:
        """Let another process continue. The opening stays in the ledger."""
        self._lock.close()

    def __enter__(self) -> Opening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def need_openings(name: str, models: Mapping[str, str], n_unmade: int = 0) -> None:
    """Raises BessemerError, before any opening (none can be taken back), where a seal cannot be opened for all of them.

    models: {digest: what it is called}. n_unmade: further ones, which may not be trained yet.
    """
    seal = load(name)
    known = {s.model for s in submissions_of(seal.entries)}
    new = [called for digest, called in models.items() if digest not in known]
    if not new and not n_unmade:
        return
    need_key(seal)
    _refuse_if_closed(seal, seal.entries)
    limit, n_new = seal.commitment["limit"], len(new) + n_unmade
    if limit is not None and len(known) + n_new > limit:
        names = ", ".join([*new, *([f"{n_unmade} runs"] if n_unmade else [])])
        raise BessemerError(
            f"the commitment lets {limit} models be scored; {len(known)} were, and {n_new} more are asked for "
            f"({names})",
            where=f"seal {name}",
            fix="leave models out, or make a new seal; nothing was opened",
        )


def begin_opening(name: str, *, model_digest: str, by: str) -> Opening:
    """Enter in the ledger that this model is scored on the sealed items, or continue after a kill.

    Raises BessemerError when it was scored or withdrawn, the seal is revealed, its limit of models is reached, the key
    does not fit, or another process is at it.
    """
    by, model = checked_text(by, "by"), checked_digest(model_digest, "model")
    seal = load(name)
    need_key(seal)  # an opening that could not see the items would count for nothing
    with contextlib.ExitStack() as held:
        lock = lock_of(name, sha256_text(model)[:16])
        held.enter_context(exclusive(lock, f"the opening of {name} for model {model[:12]}"))
        with ledger.writing(seal.folder / LEDGER, lock_of(name)) as book:
            known = {s.model: s for s in submissions_of(book.entries)}
            _refuse_if_closed(seal, book.entries)
            if old := known.get(model):
                _refuse_if_done(seal, old)
                entry = next(e for e in book.entries if e["event"] == "opened" and e["model"] == model)
            else:
                limit = seal.commitment["limit"]
                if limit is not None and len(known) >= limit:
                    raise BessemerError(
                        f"the commitment lets {limit} models be scored, and {len(known)} were opened for",
                        where=f"seal {name}",
                        fix="a withdrawn one counts too; make a new seal with items that no model was scored on",
                    )
                entry = book.add("opened", model=model, by=by, code_changed=_changed_code(seal))
            opened = Seal(seal.name, seal.folder, seal.digest, seal.commitment, list(book.entries))
        changed = tuple(_changed_code(seal))
        return Opening(opened, model, by, entry, old is not None, changed, held.pop_all())
    raise AssertionError  # an exit stack swallows nothing


def finish_opening(opening: Opening, *, result_digest: str, score: Mapping[str, Any]) -> Entry:
    """Enter the score; the opening is closed. Called again with the same result, it returns the same entry.

    result_digest: sha256 of the columns. score: {metric: value} and what else is wanted, as plain JSON. Raises
    BessemerError when this model has another result already, was withdrawn, or the seal was revealed meanwhile.
    """
    seal, result = opening.seal, checked_digest(result_digest, "result")
    score = plain(dict(score), "score")
    with ledger.writing(seal.folder / LEDGER, lock_of(seal.name)) as book:
        (old,) = (s for s in submissions_of(book.entries) if s.model == opening.model)
        if old.scored and old.result == result:
            entry = next(e for e in book.entries if e["event"] == "scored" and e["model"] == opening.model)
        else:
            _refuse_if_closed(seal, book.entries)
            _refuse_if_done(seal, old)
            changed = sorted({*opening.code_changed, *_changed_code(seal)})  # an opening may continue under other code
            entry = book.add(
                "scored", model=opening.model, by=opening.by, result=result, score=score, code_changed=changed
            )
    opening.close()
    return entry


def withdraw(name: str, model_digest: str, by: str, why: str) -> Submission:
    """Say that a submission is withdrawn. It stays in the list with its score, and the model is never scored again.

    model_digest: the whole one, or as many of its first characters as tell it from the others (at least SHORTEST).
    """
    by, why, seal = checked_text(by, "by"), checked_text(why, "why"), load(name)
    with ledger.writing(seal.folder / LEDGER, lock_of(name)) as book:
        known = submissions_of(book.entries)
        found = [s for s in known if s.model.startswith(model_digest) and len(model_digest) >= SHORTEST]
        found = [s for s in found if s.model == model_digest] or found
        if len(found) != 1:
            listed = ", ".join(s.model[:16] for s in known) or "none yet"
            raise BessemerError(
                f"{len(found)} submissions are of model {model_digest!r}", where=f"seal {name}", fix=f"there: {listed}"
            )
        if found[0].withdrawn:
            raise BessemerError(
                f"model {found[0].model[:12]} was withdrawn on {found[0].withdrawn} by {found[0].withdrawn_by}",
                where=f"seal {name}",
                fix="nothing is left to do",
            )
        book.add("withdrawn", model=found[0].model, by=by, why=why)
        return next(s for s in submissions_of(book.entries) if s.model == found[0].model)


def submissions(name: str) -> list[Submission]:
    """Every model that the seal was opened for, in order, withdrawn ones too."""
    return submissions_of(load(name).entries)


def who() -> str:
    """user@host, for the ledger."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container where nobody has a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def checked_digest(digest: str, where: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise BessemerError(f"{digest!r} is no digest", where=where, fix="give the sha256, as 64 hex digits")
    return digest


def _changed_code(seal: Seal) -> list[str]:
    """An opening by a later Bessemer is no fault, but a score that it gave is read with that in mind."""
    then, today = seal.commitment["code"], code_digests()
    return sorted(name for name in then if then[name] != today.get(name))


def _refuse_if_closed(seal: Seal, entries: Sequence[Entry]) -> None:
    if entry := next((e for e in entries if e["event"] == "revealed"), None):
        raise BessemerError(
            f"its items were revealed on {entry['at']} by {entry['by']}, so no opening counts any more",
            where=f"seal {seal.name}",
            fix=f"score them as an open task ({Path(seal.folder, 'revealed.jsonl')}), or seal new items",
        )


def _refuse_if_done(seal: Seal, old: Submission) -> None:
    if old.withdrawn:
        what = f"was withdrawn on {old.withdrawn} by {old.withdrawn_by} ({old.why})"
    elif old.scored:
        what = f"was scored on {old.scored} by {old.by}, with result {old.result}"
    else:
        return
    raise BessemerError(
        f"model {old.model[:12]} {what}; a model is scored once",
        where=f"seal {seal.name}",
        fix=f"that result stands: bessemer seal show {seal.name}; another model has another digest",
    )
