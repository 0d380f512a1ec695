"""Hostile texts on which two tokenizer engines must agree before one may stand in for the other."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

# A character "_" beside letters, digits, signs, spaces, line ends, apostrophes, marks and Hangul, which may join it.
SURROUNDINGS = "a_b A_ 1_234567 _1234 ._! __ \n_\r\n  _'_s'_ _\n \n_\n\n\n  _\t_  x_\u0301 e_ \u1100_\uac00_ _"

SPACES = " \t\n\r\v\f\x1c\x1f\x85\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
UNSEEN = "\u00ad\u200b\u200c\u200d\u200e\u202e\u2060\ufeff\ufffc\ufffd\U000e0041"
DIGITS = "0123456789٠٣٩०९০๓𝟘𝟡０９²½⅞Ⅷↈ①㊿一"
ENDINGS = ("s", "t", "re", "ve", "m", "ll", "d", "S", "T", "RE", "vE", "M", "Ll", "D", "ſ", "x", "", "ss", "s't")
APOSTROPHES = "'’ʼ＇`"
# What the blocks of Unicode begin with: every script, signs, private use, the last plane.
BLOCKS = (
    *range(0x20, 0x3400, 0x40),
    *(0x3400, 0x4E00, 0x9FA0, 0xAC00, 0xD780, 0xE000, 0xF8E0),
    *range(0xA000, 0xAC00, 0x40),
    *range(0xF900, 0x10000, 0x40),
    *range(0x10000, 0x12000, 0x40),
    *range(0x12000, 0x20000, 0x200),
    *(0x20000, 0x2A6C0, 0x2F800, 0x30000, 0x40000, 0xE0000, 0xF0000, 0x10FFC0),
)
NEAR = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025, 4097)
PHRASES = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps for 12 hours.",
    "They're sure it's what we've said: I'd, you'll, THEY'RE, O'Neill's, rock'n'roll, '90s, ''quoted''.",
    "def add(a: int, b: int) -> int:\n    return a + b  # ok\n\n\n\tif x:\r\n\t\ty[-1] += 0x1F\n",
    '{"name": "value", "list": [1, 2, 3.5e-7], "ok": true, "u": "\\u00e9\\n"}',
    "https://example.org/a/b?c=d&e=%20f#g user.name+tag@mail.example 192.168.0.1 v1.2.3-rc4",
    "# Title\n\n* item\n  - sub\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```sh\n$ ls -la\n```\n",
    "<div class='x'>&nbsp;</div><!-- c --> \\frac{1}{2} $$x^2$$ C:\\dir\\file.txt",
    "Grüße, ÄÖÜ ß ẞ; l'été où ça naïve œuvre; señor ¿qué? ¡ay!; İstanbul ıI iİ; ĳ ŉ ǆ ﬁ ﬀ",
    "Москва, Київ; Ελλάδα ΑΣ ας; Հայաստան; საქართველო ᲡᲐ; עִבְרִית; اَلْعَرَبِيَّةُ، ٣٫١٤؛ فارسی‌نویسی",
    "हिन्दी क्षत्रिय १२३; বাংলা; தமிழ்; తెలుగు; ಕನ್ನಡ; മലയാളം; සිංහල; ภาษาไทย ๑๒; ລາວ; မြန်မာ; ខ្មែរ; བོད་ཡིག་",
    "你好，世界！「東京」と大阪。カタカナ ﾊﾝｶｸ ー々〆 한국어 조선말 각 한 ꥠ Tiếng Việt Ộ",
    "አማርኛ ᏣᎳᎩ ᐃᓄᒃ ᚠᚢᚦ ⲕⲁ 𐌰𐌱 𓀀𓂀 𒀀 ⠓⠑ 𝒜𝔅ℂ Ａｂ① ㌀ ℡ №",
    "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪🇺🇳 ❤️ ❤︎ 1️⃣ #️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☠ ‼️ ©®™",
    "e\u0301 \u00e9 A\u030a \u212b \u2126 \u0344 \u1e9b\u0323 \ufb1d \u0958 q\u0307\u0323 o\u0308\u0308 \u0301x \u20dd",
    "Z\u0335\u0310\u0348a\u0336\u034cl\u0334\u0352g\u0337\u0300o\u0338\u0301 \u0b47\u0b3e",
    "\u0f71\u0f72 \u1100\u1161\u11a8 \u1112\u119e\u11ab \u3131\u314f \uac00\u11a8",
    "-- --- ... …… !!! ?!?! ((())) [[x]] {{y}} <<z>> «» “” ‘’ „“ ––— •·°§¶†‡ ←→⇒∀∃∈ ₀¹⁴ €£¥₿",
)
N_MIXED = 400  # texts mixed of everything above
N_WORDS = 20_000  # words made of tokens
LONG = 50_000  # tokens in one long text: places inside an engine where it cuts, too


def fixed_probes(added: Sequence[str]) -> list[str]:
    """Hundreds of texts: every script, spaces, digits, control characters, contractions, lengths, and the text of the
    added tokens, special or not."""
    spaces = [a * n + b for a in SPACES for n in (1, 2, 5) for b in ("", "x", "1", ".", "\n", " y")]
    digits = [("7" * n, f" {'12345' * n}", f"x{'9' * n}y,{'0' * n}") for n in range(1, 9)]
    endings = [f"I{a}{e}, {a}{e} x{a}{e}y" for a in APOSTROPHES for e in ENDINGS]
    shown = [SURROUNDINGS.replace("_", chr(c)) for c in range(0x180)]
    blocks = [text for start in BLOCKS for text in _block(start)]
    near = [f"{'a' * n}é {'b ' * n}\n{' ' * n}c{'1' * n} 中{'-' * n}" for n in NEAR]
    atoms = [
        *SPACES,
        *UNSEEN,
        *DIGITS,
        *APOSTROPHES,
        *PHRASES,
        *added[:64],
        "  ",
        "don't",
        "A",
        "z",
        ".",
        "é",
        "中",
        "🚀",
    ]
    random = Random(0)
    mixed = ["".join(random.choices(atoms, k=random.randint(1, 12))) for _ in range(N_MIXED)]
    singly = [*spaces, *(d for row in digits for d in row), *DIGITS, *UNSEEN, *endings, *PHRASES]
    return ["", *singly, *shown, *blocks, *near, *mixed, *_around(added)]


def spelled_probes(tokens: Sequence[str]) -> list[str]:
    """Every token's text, words made of several, and a long text. What could be merged across a place is in here."""
    random = Random(0)
    words = ["".join(random.choices(tokens, k=random.randint(2, 6))) for _ in range(N_WORDS)]
    return [*tokens, *words, "".join(random.choices(tokens, k=LONG))]


def _block(start: int) -> list[str]:
    characters = [chr(c) for c in range(start, start + 0x40) if not 0xD800 <= c < 0xE000]
    words = ["".join(characters[i : i + 5]) for i in range(0, len(characters), 5)]
    return ["".join(characters), " ".join(words), "'".join(words[::2]) + "1,".join(words[1::2])]


def _around(added: Sequence[str]) -> list[str]:
    """The text of added tokens: alone, in words, between spaces, doubled, cut off, overlapping the next one."""
    found: list[str] = []
    for token, other in zip(added, [*added[1:], *added[:1]], strict=True):
        found += [token, f"a{token}b", f" {token} x", f"\n{token}\n", f"{token}{token}", token[:-1], token[1:]]
        found += [token.upper(), f"{token}{other}", token[:-1] + other, f"  {token}  {other}."]
    return found
