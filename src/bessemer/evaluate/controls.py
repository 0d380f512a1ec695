"""Items of a sealed part whose answers nobody can know: a model that is right on them too often has seen them.

A control is an ordinary item whose answer a committed seed replaces by a coin flip. A canary is an item of its own,
made of words that exist nowhere else, also with a coin flip for an answer: its text among what a model was fed shows
that the sealed file itself leaked, which an ordinary text (that others may quote) does not show.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bessemer.errors import BessemerError
from bessemer.evaluate.sides import Row

KINDS = ("classify", "choice")  # kinds whose answers a coin can decide
CONTROL_ALPHA = 0.001  # how unlikely luck must be before a model is said to have seen the answers of the controls
CANARY = "canary"
CANARY_WORDS = 24  # more than the longest run of words that overlap is told by
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Wanted:
    """How many of each."""

    controls: int = 0
    canaries: int = 0


def with_controls(rows: list[Row], spec: Mapping[str, Any], wanted: Wanted, seed: bytes) -> list[Row]:
    """The rows, some with a coin flip for an answer and a mark, then the canaries. Raises BessemerError."""
    if (wanted.controls or wanted.canaries) and spec["kind"] not in KINDS:
        raise BessemerError(
            f"kind {spec['kind']} has no answers to flip a coin about",
            where="control",
            fix=f"leave it out; it is for {' and '.join(KINDS)}",
        )
    if not 0 <= wanted.controls <= len(rows) // 2:
        raise BessemerError(
            f"{wanted.controls} of {len(rows)} sealed items cannot be controls",
            where="control",
            fix=f"0 to {len(rows) // 2}",
        )
    if not 0 <= wanted.canaries <= len(rows):
        raise BessemerError(
            f"{wanted.canaries} canaries beside {len(rows)} sealed items", where="canary", fix=f"0 to {len(rows)}"
        )
    n_flips, chance = wanted.controls + wanted.canaries, 1 / min(len(_options(row, spec)) for row in rows)
    if wanted.controls and chance**n_flips >= CONTROL_ALPHA:
        raise BessemerError(
            f"a model that is right on all of {n_flips} coin flips may be lucky (p {chance**n_flips:.2g}; below "
            f"{CONTROL_ALPHA:g} says that it has seen the answers)",
            where="control",
            fix=f"at least {math.floor(math.log(CONTROL_ALPHA) / math.log(chance)) + 1} in all, or none",
        )
    picked = _picked([row["id"] for row in rows], wanted.controls, seed)
    flipped = [row | _coin_flip(row, spec, seed) | {"control": True} if row["id"] in picked else row for row in rows]
    return flipped + [_canary(rows[0], spec, seed, n) for n in range(wanted.canaries)]


def check_controls(
    marked: Sequence[tuple[Row, bool]], spec: Mapping[str, Any], wanted: Wanted, seed: bytes, seed_sha256: str
) -> str:
    """Why the controls are not those that the committed seed draws, so that somebody chose them; empty when they are.

    marked: (row without its mark, whether it was marked), in the order of the seal.
    """
    if hashlib.sha256(seed).hexdigest() != seed_sha256:
        return "the seed is not the one that was committed to"
    n_own = len(marked) - wanted.canaries
    own, canaries = marked[:n_own], marked[n_own:]
    picked = _picked([row["id"] for row, _ in own], wanted.controls, seed)
    if picked != {row["id"] for row, is_marked in own if is_marked}:
        return "other items were picked than the seed picks"
    if any(row | _coin_flip(row, spec, seed) != row for row, _ in own if row["id"] in picked):
        return "an answer is not what the seed flips"
    made = [_unmarked(_canary(own[0][0], spec, seed, n)) for n in range(wanted.canaries)]
    return "" if made == [row for row, _ in canaries] else "a canary is not what the seed makes"


def _unmarked(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "control"}


def _picked(ids: Sequence[str], n: int, seed: bytes) -> set[str]:
    return set(sorted(ids, key=lambda identity: _draw(seed, "pick", identity))[:n])


def _options(row: Row, spec: Mapping[str, Any]) -> list[str]:
    return spec["answers"] if spec["kind"] == "classify" else row["choices"]


def _coin_flip(row: Row, spec: Mapping[str, Any], seed: bytes) -> Row:
    """An answer that the seed and the id decide; in the form that the item had (a text or a place in `choices`)."""
    options = _options(row, spec)
    place = _draw(seed, "flip", row["id"]) % len(options)
    return {"answer": place if isinstance(row.get("answer"), int) else options[place]}


def _canary(form: Row, spec: Mapping[str, Any], seed: bytes, n: int) -> Row:
    """An item in the form of another one, its question made of words that exist nowhere else."""
    identity = f"{CANARY}-{_draw(seed, CANARY, str(n)) % 16**12:012x}"
    words = " ".join(_word(seed, f"{identity} {k}") for k in range(CANARY_WORDS))
    row: Row = {"id": identity, "slice": CANARY}
    if form.get("messages"):
        *before, last = form["messages"]
        row["messages"] = [*before, last | {"content": words}]
    else:
        row["prompt"] = words
    if "choices" in form:
        row["choices"] = form["choices"]
    return row | _coin_flip(row | {"answer": form.get("answer")}, spec, seed) | {"control": CANARY}


def _word(seed: bytes, what: str) -> str:
    number, text = _draw(seed, "word", what), ""
    for _ in range(3):
        number, c = divmod(number, len(_CONSONANTS))
        number, v = divmod(number, len(_VOWELS))
        text += _CONSONANTS[c] + _VOWELS[v]
    return text


def _draw(seed: bytes, what: str, identity: str) -> int:
    return int.from_bytes(hmac.digest(seed, f"{what} {identity}".encode(), "sha256"))
