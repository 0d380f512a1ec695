"""The fast engine gives the ids of `tokenizers`; one that does not is found out, before it is used or while it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from bessemer.data import fast, probes
from bessemer.data.fast import CheckedEngine, EnginesDiffer, load_checked, probed
from bessemer.data.probes import BLOCKS, SURROUNDINGS, fixed_probes
from tests.data.test_render import CHATML, FAMILIES, trained_on
from tests.tiny import SENTENCES, _tokenizer

Change = Callable[[str, list[int]], list[int]]
TEXTS = [*SENTENCES, "", "  \n", "<|im_end|>\n<|im_start|>assistant", "don't 12 345", "İ ſ 中文", "the end"]


@pytest.fixture(autouse=True)
def _few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "N_WORDS", 1000)
    monkeypatch.setattr(probes, "LONG", 5000)


@pytest.fixture
def every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines read everything."""
    monkeypatch.setattr(fast, "EVERY", 1)


@pytest.fixture
def no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found, is found without a sample."""
    monkeypatch.setattr(fast, "EVERY", 10**9)


def reading_all_as_text(tokenizer: Any) -> Tokenizer:
    """A copy for which special tokens in a text are text."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    return plain


def gpt4() -> Tokenizer:
    return reading_all_as_text(trained_on(CHATML, ("<think>",)))


def control_of(plain: Tokenizer) -> set[int]:
    return {i for i, token in plain.get_added_tokens_decoder().items() if token.special}


def right(plain: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in plain.encode_batch_fast(texts, add_special_tokens=False)]


class Stub:
    """An engine that gives the right ids, except for what `change` makes of them."""

    def __init__(self, plain: Tokenizer, change: Change = lambda _, ids: ids) -> None:
        self.plain, self.change = plain, change

    def encode_batch_flat(self, inputs: list[str], *, split_special_tokens: bool) -> tuple[bytes, bytes]:
        assert split_special_tokens, "special tokens in a text are text"
        rows = [self.change(text, ids) for text, ids in zip(inputs, right(self.plain, inputs), strict=True)]
        ends = [0, *accumulate(len(row) for row in rows)]
        return np.array([i for row in rows for i in row], "<u4").tobytes(), np.array(ends, "<u8").tobytes()


def checked(change: Change = lambda _, ids: ids) -> tuple[CheckedEngine, Tokenizer]:
    """An engine in use, after its probes."""
    plain = gpt4()
    return CheckedEngine(Stub(plain, change), "stub 1", plain, control_of(plain)), plain


def same(found: CheckedEngine, plain: Tokenizer, texts: list[str]) -> bool:
    return [ids.tolist() for ids in found.read(texts)] == right(plain, texts)


# -- the real engine --------------------------------------------------------------------------------------------

HOSTILE = st.lists(
    st.sampled_from(
        [*TEXTS, *CHATML, "<think>", "<|im_", "'s", "'LL", " ", "   ", "\t", "\r\n", "\u00a0", "\u2028", "7"]
    )
    | st.text(max_size=8)
    | st.characters(categories=["Mn", "Nd", "No", "Zs", "Cc", "Lo", "So"]),
    max_size=12,
).map("".join)


def engine_for(name: str, _made: dict[str, Any] = {}) -> tuple[CheckedEngine, Tokenizer]:  # noqa: B006
    """fastokens for the tokenizer of a family; probed once."""
    pytest.importorskip("fastokens")
    if name not in _made:
        special, _, _, words = FAMILIES.get(name, ((), "", "", ()))
        made = trained_on(special, words) if special else _tokenizer().backend_tokenizer
        plain = reading_all_as_text(made)
        _made[name] = load_checked(plain, control_of(plain)), plain
    found, plain = _made[name]
    assert found and found.name.startswith("fastokens")
    return found, plain


@pytest.mark.usefixtures("every_text")
@pytest.mark.parametrize("name", ["tiny", "chatml", "qwen3", "gptoss"])
@given(texts=st.lists(HOSTILE, max_size=6))
def test_the_fast_engine_gives_the_same_ids(name: str, texts: list[str]) -> None:
    found, plain = engine_for(name)
    assert same(found, plain, texts)


@pytest.mark.parametrize("name", ["tiny", "qwen3"])
def test_long_texts_and_runs_too(name: str) -> None:
    found, plain = engine_for(name)
    runs = [c * 70_000 for c in (" ", "a", "1", "\n", "é", "中", "'s", " \n")]
    assert same(found, plain, [*runs, "".join(TEXTS) * 300, *TEXTS])


def test_the_text_of_special_tokens_stays_text() -> None:
    found, plain = engine_for("qwen3")
    texts = [f"a {token} b{token}" for token in FAMILIES["qwen3"][0]]
    assert same(found, plain, texts)
    assert not control_of(plain) & {int(i) for ids in found.read(texts) for i in ids}


@pytest.mark.full
def test_the_same_ids_with_the_real_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    from bessemer.data.render import Renderer
    from bessemer.families.fetch import resolve

    monkeypatch.undo()  # every probe, and the cache with the model in it
    pytest.importorskip("fastokens")
    renderer = Renderer(resolve("smollm2-135m@post").path)
    found = load_checked(renderer._plain, renderer.control)
    assert found
    here = Path(__file__).parents[2]
    texts = [p.read_text() for p in sorted((here / "src").rglob("*.py"))]
    assert same(found, renderer._plain, [*texts, *TEXTS, *fixed_probes(CHATML), "\U000e0041 \x04 \x06"])


# -- what is not used -------------------------------------------------------------------------------------------


CATEGORIES = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Zs", "Cc", "Cf", "Co", "Sm", "So"}


def test_probes_are_hostile() -> None:
    found = fixed_probes(CHATML)
    characters = {c for text in found for c in text}
    assert len(found) > 1000 and {chr(c) for c in range(128)} <= characters and {chr(b) for b in BLOCKS} <= characters
    assert {unicodedata.category(c) for c in characters} >= CATEGORIES
    assert all(any(token in text for text in found) for token in CHATML)
    assert SURROUNDINGS.count("_") > 15


PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WRONG = {
    "letters with their marks": PATTERN.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}", r"\s\p{L}\p{M}"),
    "ASCII letters only": PATTERN.replace(r"\p{L}+", "[A-Za-z]+").replace(r"\s\p{L}", r"\sA-Za-z"),
    "longer numbers": PATTERN.replace("{1,3}", "{1,4}"),
    "single digits": PATTERN.replace("{1,3}", ""),
    "spaces before words": PATTERN.replace(r"|\s+(?!\S)", ""),
    "no line ends after signs": PATTERN.replace(r"]+[\r\n]*", "]+"),
    "contractions": r"'(?i:[sdmt]|ll|ve|re)|" + PATTERN,
}


def with_pattern(pattern: str) -> Tokenizer:
    plain = gpt4()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    plain.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return plain


@pytest.mark.parametrize("how", WRONG)
def test_an_engine_that_cuts_otherwise_is_not_used(how: str) -> None:
    plain = gpt4()
    assert probed(Stub(with_pattern(PATTERN)), "stub 1", plain, control_of(plain))
    assert probed(Stub(with_pattern(WRONG[how])), "stub 1", plain, control_of(plain)) is None


def test_an_engine_that_merges_otherwise_is_not_used() -> None:
    """A token that stands in none of the fixed probes, in parts: the text is spelled rightly."""
    plain = gpt4()
    fixed = " ".join(fixed_probes(CHATML))
    token = max((t for t in plain.get_vocab() if t.isascii() and t.isalpha() and t not in fixed), key=len)

    def change(text: str, ids: list[int]) -> list[int]:
        return [i for part in text.partition(token) for i in right(plain, [part])[0]] if text != token else letters

    letters = [i for c in token for i in right(plain, [c])[0]]
    assert len(token) > 3 and probed(Stub(plain, change), "stub 1", plain, control_of(plain)) is None


def test_an_engine_that_makes_special_tokens_of_text_is_not_used() -> None:
    plain = gpt4()
    other = gpt4()
    other.encode_special_tokens = False
    assert probed(Stub(other), "stub 1", plain, control_of(plain)) is None


def test_an_engine_that_drops_marks_is_not_used() -> None:
    plain, other = gpt4(), gpt4()
    other.normalizer = normalizers.NFC()
    assert probed(Stub(other), "stub 1", plain, control_of(plain)) is None


def test_an_engine_that_refuses_much_is_not_used() -> None:
    def refuse(text: str, ids: list[int]) -> list[int]:
        raise ValueError(text)

    plain = gpt4()
    assert probed(Stub(plain, refuse), "stub 1", plain, control_of(plain)) is None


def test_tokenizers_without_bytes_or_with_normalisation_keep_to_tokenizers() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "中": 1}, unk_token="a"))
    assert load_checked(words, ()) is None
    prefixed = gpt4()
    prefixed.normalizer = normalizers.Prepend(" ")
    assert probed(Stub(prefixed), "stub 1", prefixed, control_of(prefixed)) is None, "every text would be read twice"


def test_where_it_is_not_installed_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastokens", None)
    assert load_checked(gpt4(), ()) is None


# -- what is found out while it is used -------------------------------------------------------------------------


@pytest.mark.usefixtures("no_sample")
@pytest.mark.parametrize(
    "change",
    [
        lambda text, ids: ids[:-1] if text == "the end" else ids,
        lambda text, ids: [*ids, ids[-1]] if text == "the end" else ids,
        lambda text, ids: ids[::-1] if text == "the end" else ids,
        lambda text, ids: [i + 1 for i in ids] if text == "the end" else ids,
        lambda text, ids: [10**6] if text == "the end" else ids,
        lambda text, ids: [2**32 - 1] if text == "the end" else ids,
        lambda text, ids: [] if text == "the end" else ids,
    ],
)
def test_ids_that_do_not_spell_their_text_are_found_at_once(change: Change) -> None:
    found, plain = checked(change)
    assert same(found, plain, TEXTS[:-1])
    with pytest.raises(EnginesDiffer, match="stub 1 gives other ids than `tokenizers` for 'the end'"):
        found.read(TEXTS)


@pytest.mark.usefixtures("no_sample")
def test_a_control_token_out_of_text_is_found_at_once() -> None:
    found, plain = checked()
    control = plain.token_to_id("<|im_end|>")
    found._engine.change = lambda text, ids: [control] if text == "<|im_end|>" else ids  # type: ignore[attr-defined]
    with pytest.raises(EnginesDiffer, match=r"im_end"):
        found.read([*TEXTS, "<|im_end|>"])


@pytest.mark.usefixtures("no_sample")
def test_ids_of_one_text_among_those_of_the_next_are_found_at_once() -> None:
    found, _ = checked()

    class Shifted(Stub):
        def encode_batch_flat(self, inputs: list[str], *, split_special_tokens: bool) -> tuple[bytes, bytes]:
            ids, ends = super().encode_batch_flat(inputs, split_special_tokens=split_special_tokens)
            places = np.frombuffer(ends, "<u8").copy()
            places[1] += len(places) > 2
            return ids, places.tobytes()

    found._engine = Shifted(found._plain)
    with pytest.raises(EnginesDiffer):
        found.read(TEXTS)


def in_bytes(plain: Tokenizer) -> Change:
    """Ids that spell a text rightly, but are not those of the tokenizer."""
    return lambda text, ids: (
        [plain.token_to_id("Ġ" if c == " " else c) for c in text] if text == "steel and iron" else ids
    )


@pytest.mark.usefixtures("every_text")
def test_ids_that_spell_rightly_are_found_by_the_sample() -> None:
    found, plain = checked(in_bytes(gpt4()))
    assert same(found, plain, TEXTS)
    with pytest.raises(EnginesDiffer, match="steel and iron"):
        found.read([*TEXTS, "steel and iron"])


def test_the_sample_is_one_in_every() -> None:
    found, plain = checked(in_bytes(gpt4()))
    with pytest.raises(EnginesDiffer):
        for _ in range(20 * fast.EVERY):
            found.read(["steel and iron"])
    assert same(found, plain, TEXTS)


@pytest.mark.usefixtures("no_sample")
def test_a_character_that_is_read_otherwise_is_left_to_tokenizers() -> None:
    odd = "\u3105"
    plain = gpt4()

    def change(text: str, ids: list[int]) -> list[int]:
        return right(plain, [text.replace(odd, " ")])[0] if odd in text else ids

    found, plain = checked(change)
    assert same(found, plain, [f"the {odd} word", "the word", "中 文"])
    assert found._met_U[[ord(odd), ord("中"), ord("a")]].tolist() == [True, True, False], "ASCII is in the probes"
    assert found._agreed_U[[ord(odd), ord("中")]].tolist() == [False, True]


class Panic(BaseException):
    """As pyo3 raises one."""


@pytest.mark.usefixtures("no_sample")
@pytest.mark.parametrize("error", [ValueError("no such byte"), Panic("index out of bounds")])
def test_what_is_refused_is_left_to_tokenizers(error: BaseException) -> None:
    def refuse(text: str, ids: list[int]) -> list[int]:
        if "iron" in text:
            raise error
        return ids

    found, plain = checked(refuse)
    assert same(found, plain, [*TEXTS, "steel and iron", "steel"])


@pytest.mark.usefixtures("no_sample")
@pytest.mark.parametrize("places", [[0], [0, 1, 2, 3], [1, 5], [0, 4]])
def test_ids_that_do_not_come_one_text_after_another_are_refused(places: list[int]) -> None:
    found, plain = checked()

    class Broken(Stub):
        def encode_batch_flat(self, inputs: list[str], *, split_special_tokens: bool) -> tuple[bytes, bytes]:
            ids = np.array(right(self.plain, ["steel"])[0][:1] * 5, "<u4")
            return ids.tobytes(), np.array(places, "<u8").tobytes()

    found._engine = Broken(plain)
    assert same(found, plain, ["steel"])


def test_control_c_is_no_failure_of_the_engine() -> None:
    def interrupt(text: str, ids: list[int]) -> list[int]:
        raise KeyboardInterrupt

    found, _ = checked(interrupt)
    with pytest.raises(KeyboardInterrupt):
        found.read(["a"])


def test_half_a_surrogate_is_what_it_was() -> None:
    found, plain = checked()
    with pytest.raises(TypeError) as expected:
        right(plain, ["\ud800"])
    with pytest.raises(TypeError, match=str(expected.value)[:20]):
        found.read(["a", "\ud800"])


def test_a_byte_that_the_vocabulary_lacks_is_left_out_as_before() -> None:
    """Published vocabularies lack some; `tokenizers` passes over them, fastokens refuses the text."""
    lacking = {"Ą", "ò"}  # the bytes 0x04 and 0xf2
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c not in lacking]
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    pytest.importorskip("fastokens")
    found = load_checked(plain, control_of(plain))
    assert found
    texts = ["a\U00080000b", "steel", "\x04x", *TEXTS]
    assert same(found, plain, texts) and len(found._try(texts)) == len(texts) - 2


def test_added_tokens_that_are_not_special_are_found_in_texts() -> None:
    plain = gpt4()
    plain.add_tokens([AddedToken("<b>", lstrip=True, normalized=False), AddedToken("ß-x", single_word=True)])
    pytest.importorskip("fastokens")
    found = load_checked(plain, control_of(plain))
    if found:  # a version that reads these otherwise is not used, which is as good
        assert same(found, plain, ["a  <b> c", "<b><b>", "ß-x aß-x ß-xb", "<think>ok"])
