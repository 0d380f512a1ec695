from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.data.curate.pii import KINDS, luhn, mask, mask_all

# Made from parts, so that no scanner takes this file for a leak.
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2" * 9
SLACK = "xoxb-" + "123456789012-abcdefGHIJKL"
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA " + "PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail me: jane.doe+x@mail.example.co.uk.", "mail me: [email]."),
        ("call +44 20 7946 0958 now", "call [phone] now"),
        ("call (212) 555-0187 or 212-555-0187", "call [phone] or [phone]"),
        ("from 8.8.8.8 and 2001:4860:4860::8888", "from [ip] and [ip]"),
        ("pay 4111 1111 1111 1111 today", "pay [card] today"),
        ("pay 5500-0000-0000-0004", "pay [card]"),
        ("to DE89 3704 0044 0532 0130 00 is mine", "to [iban] is mine"),
        ("GB82WEST12345698765432", "[iban]"),
        (f"key {AWS} and {GITHUB}, {SLACK}", "key [secret] and [secret], [secret]"),
        (f"see {KEY} there", "see [secret] there"),
        ("API_KEY = 'abcd1234efgh5678'", "[secret]'"),
        ("邮箱zhang@example.com谢谢", "邮箱[email]谢谢"),  # no space between words
        (f"密钥{GITHUB}。", "密钥[secret]。"),
        ("卡号4111111111111111号", "卡号[card]号"),
        ("手机+86 138 1234 5679好", "手机[phone]好"),
        ("地址8.8.8.8在", "地址[ip]在"),
        ("账户GB82WEST12345698765432。", "账户[iban]。"),
        ("ขอบคุณu/some_nameครับ", "ขอบคุณ[user]ครับ"),
        ("an müller@gmail.com", "an [email]"),
        ("thanks u/some_name and /u/other-name!", "thanks [user] and [user]!"),
    ],
)
def test_what_is_found(text: str, expected: str) -> None:
    assert mask_all(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-05-17 we met at 10:30:15",
        "version 1.2.3.4.5 and 10.0.0.1 and 127.0.0.1 and ::1",
        "order 1234567890123456 is no card",  # wrong check digit
        "0000 0000 0000 0000",
        "DE89370400440532013001",  # wrong check digits
        "https://x.com/a/status/4111111111111111",
        "not.an@email and @mention",
        "you/me, http://site.com/u/name/x, u/ab",
        "3.14159265358979 and 1,000,000 and 1999-2000",
        "The password is long. token: none",
        "std::vector::iterator and a::b",
        "it costs 100 200 300",
        "TR34 İ23456789012345678901",  # a letter that only looks like one of an IBAN
        "é4111111111111111",  # a part of a longer name
    ],
)
def test_what_is_no_personal_data(text: str) -> None:
    assert mask_all(text) == text


def test_only_the_kinds_that_are_asked_for() -> None:
    text = "a@b.org 8.8.8.8"
    assert mask(text, ["ip"]) == ("a@b.org [ip]", {"ip": 1})
    assert mask(text, [])[0] == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=12, max_size=18))
def test_luhn_finds_every_single_wrong_digit(digits: list[int]) -> None:
    """The check digit is the only one of ten that fits, and changing any one digit breaks it."""
    fitting = [d for d in range(10) if luhn("".join(map(str, [*digits, d])))]
    assert len(fitting) == 1
    number = [*digits, fitting[0]]
    for i in range(len(number)):
        changed = [*number[:i], (number[i] + 1) % 10, *number[i + 1 :]]
        assert not luhn("".join(map(str, changed)))


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_passes_and_twice_is_once(text: str) -> None:
    once = mask_all(text)
    assert mask_all(once) == once


def test_long_hostile_texts_take_linear_time() -> None:
    """Patterns with nested repeats would hang here; 200,000 characters of each shape's letters."""
    for letters in ("a.", "1 ", "a@", "1.", "A1", ":a", "(1)", "eyJ", "-----BEGIN ", "u/", "+1 (", "password=", "a@a."):
        text = (letters * 200_000)[:200_000]
        assert isinstance(mask_all(text), str)
    noise = "".join(random.Random(1).choices("0123456789 -.:@abc/u+()", k=200_000))
    assert mask(noise)[1].keys() <= set(KINDS)
