from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.data.curate.decontaminate import Evaluation
from bessemer.data.curate.quality import broken_rules, character_repetition, mean_line, word_repetition
from bessemer.data.curate.steps import LanguageStep, PiiStep, QualityStep, RepairStep, Step, identify, languages
from bessemer.data.items import Item, Message, ToolCall
from bessemer.recipe.data_recipe import Decontaminate, Language, Pii, Quality
from bessemer.recipe.schema import DataSource

PLAIN = "The quick brown fox jumps over the lazy dog while the old cat sleeps in the warm sun behind the house."


def chat(question: str, answer: str, id: str = "c") -> Item:
    return Item(id, messages=(Message("user", question), Message("assistant", answer)))


def through(step: Step, *items: Item) -> list[Item]:
    return list(step.run(items))


def test_wrongly_decoded_text_is_repaired_and_style_stays() -> None:
    step = RepairStep()
    odd = "It\u2019s \u201cfine\u201d \uff37\uff29\uff24\uff25 caf\u00c3\u00a9 &amp; more"
    out = through(step, Item("a", odd), chat("cafÃ©?", "no"), Item("b", "x < y &amp; <b>"))
    assert out[0].text == "It\u2019s \u201cfine\u201d \uff37\uff29\uff24\uff25 caf\u00e9 & more"
    assert [m.content for m in out[1].messages] == ["café?", "no"]
    assert out[2].text == "x < y &amp; <b>"  # looks like HTML: entities stay
    assert step.counts.did == {"items repaired": 2} and step.counts.items_out == 3


def test_languages_are_told_apart_and_unsure_is_a_choice() -> None:
    assert identify(PLAIN)[0] == "en" and identify(PLAIN)[1] > 0.9
    assert identify("Das ist wirklich eine gute Frage, danke")[0] == "de"
    assert identify("")[1] < 0.5 and identify("lol")[1] < 0.5
    items = [Item("en", PLAIN), Item("de", "Das ist wirklich eine gute Frage, danke"), Item("short", "lol")]
    kept = through(LanguageStep(Language(keep=["en"])), *items)
    assert [i.id for i in kept] == ["en", "short"]
    strict = LanguageStep(Language(keep=["en"], unsure="drop"))
    assert [i.id for i in through(strict, *items)] == ["en"]
    assert strict.counts.why == {"language de": 1, "language unsure": 1}
    sure = LanguageStep(Language(keep=["en"], confidence=0.0))
    assert [i.id for i in through(sure, *items)] == ["en"] and not sure.counts.did
    assert {"en", "de", "ja"} <= set(languages())


def test_a_system_message_says_neither_language_nor_quality() -> None:
    """It is the same in front of all conversations, and may be long, English and full of addresses."""
    turns = chat("Quelle heure est-il maintenant, s'il vous plaît ?", "Il est presque midi, il faut partir.").messages
    item = Item("fr", messages=(Message("system", f"{PLAIN} " * 20), *turns))
    assert through(LanguageStep(Language(keep=["fr"])), item) == [item]
    assert through(LanguageStep(Language(keep=["en"])), item) == []
    links = Message("system", "see https://example.com/" + "a" * 4000)
    plain = Item("q", messages=(links, *chat(PLAIN, "Nobody knows, but he comes back every morning at nine.").messages))
    assert through(QualityStep(Quality()), plain) == [plain]


LONG = " ".join(f"word{i} number{i * 7}" for i in range(40))


@pytest.mark.parametrize(
    ("text", "rule", "reason"),
    [
        ("Too short.", {}, "shorter than 50 characters"),
        ("a\n" * 60 + PLAIN, {}, "mean line below 10"),
        ("?!?! " * 30, {}, "letters and digits below 25%"),
        ("see https://example.com/" + "a" * 40 + " and more of it here", {}, "URLs above 20%"),
        (
            " ".join(["one two three four five six seven eight nine ten"] * 5),
            {"character_repetition": None},
            "word 10-grams",
        ),
        ("haha" * 60, {}, "character 10-grams"),
    ],
)
def test_each_rule_drops_what_it_is_for_and_can_be_switched_off(text: str, rule: dict[str, None], reason: str) -> None:
    found = list(broken_rules(text, Quality(**rule)))
    assert any(reason in f for f in found), found
    off = Quality(url_share=None, alphanumeric_share=None, word_repetition=None, character_repetition=None,
                  characters=None, mean_line=None)  # fmt: skip
    assert list(broken_rules(text, off)) == []
    assert list(broken_rules(LONG, Quality())) == [] and list(broken_rules(PLAIN, Quality())) == []


def test_a_threshold_itself_passes() -> None:
    assert list(broken_rules("x" * 9 + "y", Quality(characters=10, mean_line=10, ngram=10))) == []
    assert "shorter than 11 characters" in list(broken_rules("x" * 9 + "y", Quality(characters=11)))


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcde"), max_size=40), st.integers(2, 5))
def test_word_repetition_against_counting(words: list[str], n: int) -> None:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    expected = sum(grams.count(g) > 1 for g in grams) / len(grams) if len(words) > n else 0.0
    assert word_repetition(" ".join(words), n) == pytest.approx(expected)


@settings(deadline=None)
@given(st.text(alphabet="ab😂", max_size=60), st.integers(2, 5))
def test_character_repetition_against_counting(text: str, n: int) -> None:
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    counts = sorted((grams.count(g) for g in set(grams)), reverse=True)
    common = counts[: min(int(len(counts) ** 0.5), sum(c > 1 for c in counts))]
    expected = sum(common) / len(grams) if len(text) > n else 0.0
    assert character_repetition(text, n) == pytest.approx(expected)


def test_mean_line() -> None:
    assert mean_line("abcd\nabcd") == 4.5 and mean_line("") == 0


def test_quality_counts_the_first_rule_and_shows_an_example_without_personal_data() -> None:
    step = QualityStep(Quality())
    through(step, Item("x", "me@example.org"), Item("y", PLAIN))
    assert step.counts.why == {"shorter than 50 characters": 1}
    assert step.counts.examples == {"shorter than 50 characters": ["[email]"]}
    assert step.dropped == [{"id": "x", "step": "quality", "reason": "shorter than 50 characters"}]


def test_personal_data_is_replaced_dropped_flagged_or_kept() -> None:
    text = "a@b.org wrote to u/someone from 8.8.8.8"
    step = PiiStep(Pii(user="flag", ip="keep"))
    (out,) = through(step, Item("x", text))
    assert out.text == "[email] wrote to u/someone from 8.8.8.8"
    assert out.meta == {"pii": {"user": 1}}
    assert step.counts.did == {"email replaced": 1, "user flagged": 1}
    step = PiiStep(Pii())
    (out,) = through(step, Item("x", "plain", meta={"author": "a@b.org", "n": 3}))
    assert out.meta["author"] == "a@b.org" and step.counts.did == {"email left in the column author": 1}
    assert through(dropper := PiiStep(Pii(email="drop")), Item("x", text)) == []
    assert dropper.counts.why == {"holds email": 1}
    (out,) = through(PiiStep(Pii()), chat("mail a@b.org", "ok, a@b.org"))
    assert [m.content for m in out.messages] == ["mail [email]", "ok, [email]"]


def test_personal_data_in_tool_calls_and_their_results() -> None:
    arguments = {"to": "+44 20 7946 0958", "n": 2, "cc": [{"mail": "a@b.org"}, None], "note": "hello"}
    messages = (
        Message("user", "Call my friend"),
        Message("assistant", "", tool_calls=(ToolCall("call", arguments, "c1"), ToolCall("look", {"ip": "8.8.8.8"}))),
        Message("tool", '{"called": "+44 20 7946 0958"}', name="call", call_id="c1"),
        Message("assistant", "Done."),
    )
    step = PiiStep(Pii(ip="flag"))
    (out,) = through(step, Item("c", messages=messages))
    first, second = out.messages[1].tool_calls
    assert first == ToolCall(
        "call", {"to": "[phone]", "n": 2, "cc": [{"mail": "[email]"}, None], "note": "hello"}, "c1"
    )
    assert second.arguments == {"ip": "8.8.8.8"} and out.meta == {"pii": {"ip": 1}}
    assert out.messages[2].content == '{"called": "[phone]"}'
    assert step.counts.did == {"phone replaced": 2, "email replaced": 1, "ip flagged": 1}
    assert arguments["to"] == "+44 20 7946 0958"  # the item that came in is as it was


# -- decontamination ----------------------------------------------------------------------------------------------


def evaluation(*texts: str, **settings: float) -> Evaluation:
    against = {"test": DataSource.model_validate({"from": "x"})}
    return Evaluation(
        {"test": [Item(f"test/{i}", t) for i, t in enumerate(texts)]}, Decontaminate(against=against, **settings)
    )


def run_of(start: int, n: int) -> str:
    return " ".join(f"w{i}" for i in range(start, start + n))


def test_a_run_of_13_words_is_a_hit_and_12_are_not() -> None:
    tested = evaluation("other text", run_of(0, 60))
    assert tested.hits([f"before {run_of(10, 13)} after"]) == {0: ("13 words in a row", "test/1")}
    assert tested.hits([f"before {run_of(10, 12)} after"]) == {}


def test_half_of_the_8_word_runs_is_a_hit() -> None:
    """20 words have 13 runs of 8. Two pieces of 11 words hold 4 runs each, three pieces 12."""
    tested = evaluation(run_of(0, 30))  # 23 runs
    pieces = [run_of(0, 12), run_of(9, 12), run_of(18, 12)]  # 5 runs each
    assert tested.hits([" / ".join(pieces[:2])]) == {}
    hit = tested.hits([" , x ".join(pieces)])
    assert hit == {0: ("50% of its 8-word runs", "test/0")}
    assert tested.hits([" x ".join(pieces[:2] * 5)]) == {}  # the same runs again count once


def test_a_short_evaluation_item_is_a_hit_only_when_it_is_the_whole_text() -> None:
    tested = evaluation("You are an idiot!", "...")
    assert tested.hits(["you are an IDIOT", "I said: you are an idiot", "", "!!!"]) == {
        0: ("the same short text", "test/0")
    }


def test_case_and_punctuation_do_not_hide_a_hit() -> None:
    words = run_of(0, 20)
    assert evaluation(words).hits([words.upper().replace(" ", ", ")])[0][1] == "test/0"


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 30), st.integers(2, 15))
def test_the_long_rule_is_exactly_a_shared_run(start: int, n: int, ngram: int) -> None:
    tested = evaluation(run_of(0, 50), ngram=ngram, coverage_ngram=40)
    shared = max(0, min(start + n, 50) - start)
    assert (0 in tested.hits([f"a {run_of(start, n)} z"])) == (shared >= ngram)
