"""Personal data and secrets in a text: shapes first, then checks (Luhn, modulo 97, ranges) against false alarms.

Shapes find what is written in a known form. Names, addresses of houses and the like need a model: see presidio.py.

Sources: ISO/IEC 7812-1 annex B (Luhn), ISO 13616 (IBAN), RFC 1123 (host names), ITU-T E.164 (telephone numbers), the
published token formats of GitHub, GitLab, Slack, AWS, Google, Stripe, OpenAI, Anthropic and Hugging Face.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass


def luhn(number: str) -> bool:
    """Whether the check digit of a card number is right. `number` may hold spaces and dashes."""
    digits = [int(c) for c in number if c.isdigit()]
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


_IBAN_LENGTHS = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18
    FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20
    LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24
    SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
""".split()  # noqa: SIM905 - country and length, as in the registry of ISO 13616
_IBAN = "|".join(f"{known[:2]}[0-9]{{2}}(?:[ -]?[A-Z0-9]){{{int(known[2:]) - 4}}}" for known in _IBAN_LENGTHS)


def _is_iban(text: str) -> bool:
    number = re.sub(r"[ -]", "", text).upper()
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def _is_public_ip(text: str) -> bool:
    """Private, loopback and documentation addresses name nobody, and `1.2.3` style versions are no addresses."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and (address.version == 4 or int(address) >> 125 == 1)  # 2000::/3 is all that is given out


def _is_phone(text: str) -> bool:
    """Seven to fifteen digits, not all alike, and no date or version."""
    digits = re.sub(r"\D", "", text)
    if not 7 <= len(digits) <= 15 or len(set(digits)) < 3:
        return False
    return not re.fullmatch(
        r"(19|20)\d\d[-./ ](0?[1-9]|1[0-2])[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ](19|20)\d\d", text
    )


@dataclass(frozen=True, order=True)
class Find:
    """Characters `start` to `end` (not included) of a text are personal data."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Shape:
    kind: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool] = lambda text: True


# What goes on with a number or a name. Not \w: Chinese, Japanese and Thai put no space between words, so that letters
# of theirs may stand right beside what is looked for.
_WORD = r"A-Za-z0-9_\u00c0-\u024f\d"
_LETTERS = r"A-Za-z0-9_\u00c0-\u024f"

# In this order: the longer and surer shapes first, so that no part of them is taken for something else.
SHAPES = (
    Shape(
        "secret",
        re.compile(
            r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----.*?"
            r"(?:-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)"
            r"|\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[0-9A-Z]{16}\b"  # AWS
            r"|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_\w{22,255}\b"
            r"|\bglpat-[\w-]{20,64}"
            r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,250}"  # Slack
            r"|\bAIza[\w-]{35}"  # Google
            r"|\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}\b"  # Stripe
            r"|\bsk-(?:ant-|proj-|svcacct-)?[\w-]{20,250}"
            r"|\bhf_[A-Za-z0-9]{30,64}\b"
            r"|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w-]{50,250}"
            r"|\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}"  # JSON web token
            r"|(?i:\b(?:api[_-]?key|secret[_-]?(?:access[_-]?)?key|access[_-]?token|auth[_-]?token|client[_-]?secret|password|passwd)"
            r"\b['\"]?\s{0,3}[:=]\s{0,3}['\"]?)(?=[^\s'\"]{0,63}\d)[A-Za-z0-9_/+=.@$!%^&*-]{12,128}",
            re.DOTALL | re.ASCII,
        ),
    ),
    Shape(
        "email",
        re.compile(
            rf"(?<![{_LETTERS}.+-])[{_LETTERS}%+-]{{1,64}}(?:\.[{_LETTERS}%+-]{{1,64}}){{0,8}}@"
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
        ),
    ),
    Shape("iban", re.compile(rf"\b(?:{_IBAN})\b", re.IGNORECASE | re.ASCII), _is_iban),
    Shape("card", re.compile(rf"(?<![{_WORD}./=#-])\d(?:[ -]?\d){{12,18}}(?![{_WORD}/-]|\.\d)"), _is_card),
    Shape(
        "ip",
        re.compile(
            rf"(?<![{_WORD}.:])(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![{_WORD}]|\.\d)"
            rf"|(?<![{_WORD}:.])"
            r"(?=(?:[0-9A-Fa-f]*:){2})[0-9A-Fa-f:]{2,39}(?:(?<=:)(?:\d{1,3}\.){3}\d{1,3})?"
            rf"(?![{_WORD}:])"
        ),
        _is_public_ip,
    ),
    Shape(
        "phone",
        re.compile(
            rf"(?<![{_WORD}.+/=-])"
            r"(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"  # +44 20 7946 0958
            r"|\(\d{3}\) ?\d{3}[ .-]?\d{4}"  # (212) 555-0187
            r"|\d{3}([ .-])\d{3}\1\d{4}"  # 212-555-0187
            r"|0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5})"  # 020 7946 0958
            rf"(?![{_WORD}-]|\.\d)"
        ),
        _is_phone,
    ),
    Shape("user", re.compile(rf"(?<![{_WORD}/.:])/?u/[A-Za-z0-9_-]{{3,20}}(?![{_WORD}/-])")),
)
KINDS = tuple(shape.kind for shape in SHAPES)


def find(text: str, kinds: Collection[str] = KINDS) -> list[Find]:
    """What the text holds, in order; no two finds overlap."""
    found: list[Find] = []
    for shape in SHAPES:
        if shape.kind in kinds and _worth_a_look(shape.kind, text):
            matches = [m.span() for m in shape.pattern.finditer(text) if shape.check(m[0])]
            new = [Find(start, end, shape.kind) for start, end in matches]
            text = replace(text, new, lambda f: f"[{'_' * (f.end - f.start - 2)}]")  # no part is found once more
            found += new
    return sorted(found)


def add(found: Sequence[Find], more: Iterable[Find], text: str) -> list[Find]:
    """Also `more`, the surest first, as far as no earlier find covers it; in order."""
    every = sorted(found)
    for late in more:
        every = sorted([*every, *(f for f in _uncovered(late, every) if any(map(str.isalnum, text[f.start : f.end])))])
    return every


def _uncovered(late: Find, found: Sequence[Find]) -> Iterator[Find]:
    start = late.start
    for early in [f for f in found if f.start < late.end and f.end > late.start]:
        if early.start > start:
            yield Find(start, early.start, late.kind)
        start = early.end
    if start < late.end:
        yield Find(start, late.end, late.kind)


def replace(text: str, found: Iterable[Find], by: Callable[[Find], str] = lambda f: f"[{f.kind}]") -> str:
    """The text with something else in the place of each find, such as [email]; `found` is in order."""
    pieces: list[str] = []
    at = 0
    for f in found:
        pieces += [text[at : f.start], by(f)]
        at = f.end
    return "".join([*pieces, text[at:]])


def mask(text: str, kinds: Collection[str] = KINDS) -> tuple[str, Counter[str]]:
    """The text with a placeholder in the place of each find, and how many of each kind there were."""
    found = find(text, kinds)
    return replace(text, found), Counter(f.kind for f in found)


def mask_all(text: str) -> str:
    return mask(text)[0]


_CHEAP: dict[str, Callable[[str], object]] = {
    "email": lambda text: "@" in text,
    "user": lambda text: "u/" in text,
    "iban": re.compile(r"[A-Za-z]{2}\d\d[ -]?\w").search,
    "card": re.compile(r"\d[ -]?\d[ -]?\d").search,
    "ip": re.compile(r"\d\.\d|:[0-9A-Fa-f]{0,4}:").search,
    "phone": re.compile(r"\d{2}[^\d\n]?\d|\d\)").search,
}


def _worth_a_look(kind: str, text: str) -> object:
    """A quick test that most texts fail; what fails it cannot match."""
    return kind not in _CHEAP or _CHEAP[kind](text)
