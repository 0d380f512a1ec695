"""Rules whose truth code can compute: what breaks each, and how people word it (`rule_families.yaml`).

Free, exact supervision without end, and a reward. Families about words are learnt first; those about marks, counting
and shape are harder for small models. What a model reads is the wording; code only says what the answer is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Truth = Callable[[str], bool]
FILE = Path(__file__).with_name("rule_families.yaml")
_WORD = re.compile(r"\b[a-z]{3,}\b(?!['’])")
_BREAK = re.compile(
    r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bvs\.)(?<!\be\.g\.)(?<!\bi\.e\.)"
    r"(?<=[.!?…])(?<!\.\.\.)\s+|(?:(?<=\.\.\.)|(?<=[.!?…][\"”’')\]*]))\s+(?![a-z])"
)
_SIGNS = "%&@#*/\\_]"
_SMILEY_END = re.compile(r"[:;=]['’]?-?[()]$")
_ONE_WORD = r"(?:[^\W\d_]{2,}|[ia])(?:['’][^\W\d_]+)*"
_REPEATED = re.compile(rf"(?<!\w)(?<!\w['’-])({_ONE_WORD})[^\w\s]{{0,4}}\s+[^\w\s]{{0,3}}\1(?!['’-]?\w)", re.IGNORECASE)
NAMES = "word:"  # before the words, in the name of a rule that names one or two: word:trains, word:trains+rain
NAMING = (  # none in a form that only tests of new wordings use, or that families use for what a word stands for
    "Do not write {}.",
    "No {} here.",
    "The word {} is not allowed.",
    "Do not mention {}.",
    "Leave {} out.",
    "Whoever writes {} is banned.",
)


@dataclass(frozen=True)
class Family:
    """A rule: what breaks it, and its wordings. `breaks` reads a cleaned comment (`data/moderation.py`).

    use: `demo` is what the demo teaches, `demo-unseen` what it only tests. about_words: of those, a model that knows
    some knows others; each mark, count or shape it must learn for itself. opposites: families that forbid the contrary,
    as at most 60 characters and at least 80.
    """

    name: str
    breaks: Truth
    wordings: tuple[str, ...]
    use: str = ""
    about_words: bool = True
    opposites: frozenset[str] = frozenset()

    @property
    def trained(self) -> tuple[str, ...]:
        """The wordings for training; the last one is kept for tests."""
        return self.wordings[:-1]


@cache
def families() -> dict[str, Family]:
    """All of them, in the file's order; one for each bound of a count."""
    found: dict[str, Family] = {}
    counted: dict[tuple[str, str], set[str]] = defaultdict(set)  # what, at least or at most -> families
    raw: dict[str, Mapping[str, Any]] = yaml.safe_load(FILE.read_text())
    for name, of in raw.items():
        if "bounds" not in of:
            found[name] = Family(name, _truth(of), tuple(of["wordings"]), of.get("use", ""), "words" in of)
            own = {name}
        else:
            own = {f"{name}-{n}" for n in of["bounds"]}
            for n in of["bounds"]:
                wordings = tuple(w.format(n=n, word=_NUMBERS.get(n, n)) for w in of["wordings"])
                breaks = _bounded(_COUNTS[of["count"]], of["bound"], n)
                found[f"{name}-{n}"] = Family(f"{name}-{n}", breaks, wordings, about_words=False)
        if "bound" in of:
            counted[of["count"], of["bound"]] |= own
    for (what, bound), names in counted.items():
        opposites = frozenset(counted[what, "least" if bound == "most" else "most"])
        found |= {name: replace(found[name], opposites=opposites) for name in names}
    return found


def family(name: str) -> Family | None:
    """One of the file's, or the rule that names words (`word:trains+rain`); None where there is no such family."""
    if not name.startswith(NAMES):
        return families().get(name)
    words = name.removeprefix(NAMES).split("+")
    if any(words_of(word) != {word} for word in words):
        return None
    return Family(
        name, lambda text: not words_of(text).isdisjoint(words), tuple(w.format(" or ".join(words)) for w in NAMING)
    )


def words_of(text: str) -> set[str]:
    """Words that a rule may name, in lower case: of three letters or more, no halves of don't."""
    return set(_WORD.findall(text.lower()))


def _bounded(count: Callable[[str], int], bound: str, n: int) -> Truth:
    return (lambda text: count(text) < n) if bound == "least" else (lambda text: count(text) > n)


def _truth(of: Mapping[str, Any]) -> Truth:
    if "counted" in of:
        return _COUNTED[of["counted"]]
    if "words" in of:
        found = re.compile(rf"\b(?:{'|'.join(of['words'].split())})\b", re.IGNORECASE)
    else:
        found = re.compile(of["pattern"])
    return lambda text: bool(found.search(text))


def _sentences(text: str) -> int:
    """Parts with a letter or digit; no end is the dot of Mr. or e.g., nor dots that a small letter follows."""
    return max(1, sum(any(map(str.isalnum, part)) for part in _BREAK.split(text)))


def _words(text: str) -> int:
    return sum(any(map(str.isalnum, part)) for part in text.split())


def _all_capitals(text: str) -> bool:
    """Scripts without case have no capitals."""
    return text.isupper() and sum(map(str.isupper, text)) >= 4


def _lower_start(text: str) -> bool:
    """The first letter or digit counts, whatever marks stand before it."""
    return next(filter(str.isalnum, text), "").islower()


def _no_end(text: str) -> bool:
    """A quotation mark or a bracket is a mark too; an emoji or smiley is none, nor a sign such as %, nor [NAME]."""
    if not text:
        return False
    last = text[-1]
    sign = last in _SIGNS or not unicodedata.category(last).startswith("P")
    return sign or bool(_SMILEY_END.search(text))


def _other_script(text: str) -> bool:
    names = (unicodedata.name(c, "LATIN") for c in text if c.isalpha() and not c.isascii())
    return any(not name.startswith(("LATIN", "MODIFIER")) for name in names)


_COUNTED: dict[str, Truth] = {
    "all-capitals": _all_capitals,
    "lower-start": _lower_start,
    "no-end": _no_end,
    "long": lambda text: _words(text) > 15,
    "short": lambda text: _words(text) < 6,
    "sentences": lambda text: _sentences(text) > 1,
    "repeats": lambda text: bool(_REPEATED.search(text)),
    "other-script": _other_script,
}
_COUNTS: dict[str, Callable[[str], int]] = {
    "characters": len,
    "sentences": _sentences,
    "commas": lambda text: text.count(","),
}
_NUMBERS = {1: "one", 2: "two", 3: "three"}
