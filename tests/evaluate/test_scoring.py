"""What a model is asked, token by token: beginnings, melted tokens, windows; and when an answer is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bessemer.data.items import Item, Message
from bessemer.data.moderation import Comment
from bessemer.data.render import Example
from bessemer.errors import BessemerError
from bessemer.evaluate import answer, measure
from bessemer.evaluate.answer import Kept, answer_task
from bessemer.evaluate.grade import grade_texts
from bessemer.evaluate.tasks import LoadedTask, Match, Task, TaskItem, with_rows
from bessemer.infer import model as infer_model
from bessemer.infer.model import Loaded, load
from bessemer.infer.score import branch_odds, cut_windows, option_ids, option_logprobs
from bessemer.moderate.judge import Judge
from bessemer.moderate.policy import Policy


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load(tiny_model, dtype=torch.float32)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def task_of(kind: str, rows: Sequence[dict[str, Any]], **fields: Any) -> LoadedTask:
    task = Task.model_validate({"name": "t", "kind": kind, "items": "rows", **fields})
    return with_rows(task, [(str(i), {"id": str(i), **row}) for i, row in enumerate(rows)], where="test")


def alone(model: Any, prompt: Sequence[int], branch: Sequence[int]) -> float:
    with torch.inference_mode():
        logprobs = model(torch.tensor([[*prompt, *branch]])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(branch))


def encode(loaded: Loaded, text: str) -> list[int]:
    return loaded.renderer.encode_texts([text])[0]


def opened_model(model: Path, folder: Path) -> Path:
    """A copy of a model whose tokenizer puts a token before every text."""
    shutil.copytree(model, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    name = "<|endoftext|>"
    (id,) = [t["id"] for t in tokenizer["added_tokens"] if t["content"] == name]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_a_space_at_the_end_of_a_prompt_goes_with_the_choice(loaded: Loaded, plain: Any) -> None:
    rows = [{"prompt": "The steel and iron ", "choices": ["furnace", "water"], "answer": 0}]
    (row,) = answer_task(loaded, task_of("choice", rows)).values["logprob"]
    prompt = encode(loaded, "The steel and iron")
    wanted = [
        alone(plain, prompt, encode(loaded, f"The steel and iron {c}")[len(prompt) :]) for c in rows[0]["choices"]
    ]
    assert row == pytest.approx(wanted, abs=1e-4)
    spaced = [{"prompt": "The steel and iron", "choices": [" furnace", " water"], "answer": 0}]
    assert answer_task(loaded, task_of("choice", spaced)).values["logprob"][0] == pytest.approx(wanted, abs=1e-4)


def test_a_choice_that_melts_into_the_prompt_is_scored_from_before_the_melted_token(loaded: Loaded, plain: Any) -> None:
    """Here "st" and "eel" are one token, "steel": no token of the whole text is left out or scored for another."""
    asked, choices = "iron and st", ["eel", "ory of a day", "ill"]
    prompt = encode(loaded, asked)
    wholes = [encode(loaded, asked + c) for c in choices]
    shared = encode(loaded, "iron and")
    assert any(w[: len(prompt)] != prompt for w in wholes)
    assert all(w[: len(shared)] == shared for w in wholes)
    (row,) = answer_task(loaded, task_of("choice", [{"prompt": asked, "choices": choices, "answer": 0}])).values[
        "logprob"
    ]
    assert row == pytest.approx([alone(plain, shared, w[len(shared) :]) for w in wholes], abs=1e-4)


def test_choices_that_begin_alike_share_what_they_begin_with(loaded: Loaded, plain: Any) -> None:
    good, bad = "the teacher and the group of people know it", "the teacher and the group of people knows it"
    (row,) = answer_task(loaded, task_of("pairs", [{"good": good, "bad": bad}])).values["logprob"]
    begin = [answer._first_id(loaded)]
    assert row == pytest.approx([alone(plain, begin, encode(loaded, t)) for t in (good, bad)], abs=1e-4)
    (row,) = answer_task(loaded, task_of("pairs", [{"good": good, "bad": good + " all"}])).values["logprob"]
    assert row == pytest.approx([alone(plain, begin, encode(loaded, t)) for t in (good, good + " all")], abs=1e-4)


def test_a_text_begins_as_the_tokenizer_begins_it(tiny_model: Path, tmp_path: Path, plain: Any) -> None:
    """Llama's and Gemma's tokenizers open every text with a token; without it such models are out of their depth."""
    folder = opened_model(tiny_model, tmp_path / "opened")
    opened = load(folder, dtype=torch.float32)
    rows = [{"prompt": "Iron and", "choices": [" steel", " water and air"], "answer": 0}]
    (row,) = answer_task(opened, task_of("choice", rows)).values["logprob"]
    (id,) = opened.renderer.chat("")["input_ids"]
    prompt = [id, *encode(opened, "Iron and")]
    assert row == pytest.approx([alone(plain, prompt, encode(opened, c)) for c in rows[0]["choices"]], abs=1e-4)
    assert answer._prompt_ids(opened, TaskItem(id="a", prompt="Iron and")) == prompt
    (pair,) = answer_task(opened, task_of("pairs", [{"good": "iron", "bad": "air"}])).values["logprob"]
    assert pair == pytest.approx([alone(plain, [id], encode(opened, t)) for t in ("iron", "air")], abs=1e-4)


def test_every_token_of_a_document_is_scored_once(loaded: Loaded, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In windows; the last one is given as much of what stands before it as fits."""
    monkeypatch.setattr(answer, "WINDOW", 16)
    texts = ["time year people way day man thing woman life child world school state family student group"] * 3
    rows = [{"text": " ".join(texts)}, {"text": "iron"}]
    columns = answer_task(loaded, task_of("perplexity", rows))
    ids = encode(loaded, rows[0]["text"])
    begin = answer._first_id(loaded)
    assert len(ids) > 33 and len(ids) % 16
    given, total = [begin, *ids], 0.0
    for start in range(0, len(ids), 16):
        end = min(start + 16, len(ids))
        first = end - 16 if start else 0
        total += alone(plain, given[first : start + 1], ids[start:end])
    assert columns.values["bits"] == pytest.approx(
        [-total / np.log(2), -alone(plain, [begin], encode(loaded, "iron")) / np.log(2)], abs=1e-3
    )
    assert columns.values["bytes"].tolist() == [len(rows[0]["text"]), 4]


def test_a_question_may_fill_the_model(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token of an answer is predicted, not read."""
    rows = [{"prompt": "time year people", "choices": [" way", " day"], "answer": 0}]
    n = max(len(encode(loaded, f"time year people {c}")) for c in ("way", "day")) - 1
    monkeypatch.setattr(infer_model, "max_positions", lambda _: n)
    answer_task(loaded, task_of("choice", rows))
    monkeypatch.setattr(infer_model, "max_positions", lambda _: n - 1)
    with pytest.raises(BessemerError, match=f"item 0: {n} tokens, but the model reads at most {n - 1}"):
        answer_task(loaded, task_of("choice", rows))


def test_windows_of_a_document_fit_into_the_model_s_own(
    loaded: Loaded, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": "time year people way day man thing woman life child world school"}]
    ids, begin = encode(loaded, rows[0]["text"]), answer._first_id(loaded)
    assert len(ids) > 8
    monkeypatch.setattr(infer_model, "sliding_window_of", lambda _: 8)
    found = answer_task(loaded, task_of("perplexity", rows)).values["bits"]
    assert found != pytest.approx([-alone(plain, [begin], ids) / np.log(2)], abs=1e-3)
    long = [{"prompt": "time year people way day man thing woman life", "choices": [" way", " day"], "answer": 0}]
    with pytest.raises(BessemerError, match=r"item 0: \d+ tokens, but .* sliding window, and scores at most 8"):
        answer_task(loaded, task_of("choice", long))


def test_nothing_is_written_when_an_item_leaves_no_room(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": "time", "answer": "x"}, {"prompt": "time " * 2048, "answer": "x"}]
    monkeypatch.setattr(answer, "generate", lambda *_, **__: pytest.fail("written"))
    with pytest.raises(BessemerError, match=r"item 1: \d+ prompt tokens and 3 new tokens are .* at most 2048"):
        answer_task(loaded, task_of("generate", rows, max_tokens=3))


def test_an_item_beyond_the_context_is_named_before_anything_is_measured(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(Message("user", "time " * n), Message("assistant", a)) for n, a in ((1, "yes"), (2048, "no"))]
    items = [Item(name, messages=own) for name, own in zip("ab", asked, strict=True)]
    monkeypatch.setattr(Loaded, "hidden", lambda *_: pytest.fail("computed"))
    with pytest.raises(BessemerError, match=r"^item b: 2,\d\d\d tokens, but the model reads at most 2,048"):
        measure._measure_answers(loaded, items, lambda _: None)


THINKS = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}Steel and iron: {% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_answers_are_scored_behind_what_every_answer_begins_with(tiny_model: Path, tmp_path: Path, plain: Any) -> None:
    """As Qwen 3's template writes an empty thought: what stands there was trained, the place before it was not."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(THINKS)
    loaded = load(folder, dtype=torch.float32)
    asked = (Message("user", "Is it steel?"),)
    stem = loaded.renderer.answer_stem
    first = [ids[len(stem)] for ids in loaded.renderer.answer_ids(("yes", "no"))]
    assert loaded.renderer.decode(stem).startswith("Steel and iron")
    ids = [*loaded.renderer.chat_ids(asked), *stem]
    wanted = [alone(plain, ids, [token]) for token in first]
    assert option_logprobs(loaded, [asked], ("yes", "no"))[0].tolist() == pytest.approx(wanted, abs=1e-4)
    row = {"messages": [{"role": "user", "content": "Is it steel?"}], "answer": "yes"}
    rows = [row, {**row, "answer": "no"}]
    found = answer_task(loaded, task_of("classify", rows, answers=["yes", "no"])).values["logprob"][0]
    whole = [alone(plain, ids, own[len(stem) :]) for own in loaded.renderer.answer_ids(("yes", "no"))]
    assert found.tolist() == pytest.approx(whole, abs=1e-4)
    policy = Policy.model_validate({"name": "p", "rules": [{"id": "kind", "text": "Be kind."}]})
    ((prompt,),) = Judge(loaded).prepare(Comment("Go away"), policy).pieces
    assert list(prompt[-len(stem) :]) == stem


def test_items_are_drawn_independently(loaded: Loaded) -> None:
    """With one seed for all, items of one distribution would all be right or all be wrong."""
    task = task_of("generate", [{"prompt": "time year", "answer": "x"}] * 8, temperature=2.0, max_tokens=3)
    rows = [item.prompt + " people" * n for n, item in enumerate(task.items)]
    prompts = [loaded.renderer.encode_texts([text])[0] for text in rows]
    seen = list[int]()
    real = answer.generate

    def generate(*args: Any, seed: int, **more: Any) -> Any:
        seen.append(seed)
        return real(*args, seed=seed, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "generate", generate)
        first = [answer._say(loaded, ids, task, 0) for ids in prompts]
        assert [answer._say(loaded, ids, task, 0) for ids in prompts] == first  # the same ones again
        answer._say(loaded, prompts[0], task, 1)
    assert len(set(seen[:8])) == 8 and seen[8:16] == seen[:8] and seen[16] not in seen[:16]


def test_an_answer_that_begins_another_is_refused(loaded: Loaded) -> None:
    answers = ["people", "people way"]
    rows = [{"messages": [{"role": "user", "content": "How many?"}], "answer": a} for a in answers]
    task = task_of("classify", rows, answers=answers)
    with pytest.raises(BessemerError, match="'people' begin those of 'people way'"):
        answer_task(loaded, task)


def test_answers_are_compared_in_full_precision(tiny_model: Path) -> None:
    """Logits in bf16 lie on a grid; what is measured is what is served."""
    half = load(tiny_model, dtype=torch.bfloat16)
    asked = [[Message("user", text)] for text in ("time", "year people", "way day man", "thing woman")]
    logprobs = option_logprobs(half, asked, ["yes", "no"])
    yes, no = option_ids(half, ["yes", "no"])
    prompts = [[[*half.renderer.chat_ids(m), *half.renderer.answer_stem]] for m in asked]
    odds = [own[0] for own in branch_odds(half, prompts, (yes, no))]
    assert (logprobs[:, 0] - logprobs[:, 1]).tolist() == pytest.approx(odds, abs=2e-5)


def test_windows_of_one_group_are_one_cluster(loaded: Loaded) -> None:
    ids = np.arange(5, 65)
    examples = [Example(f"d{i}", f"thread{i // 2}", ids, np.ones(60, bool)) for i in range(6)]
    windows = cut_windows(loaded, examples, 1000, 30)
    assert {w.group for w in windows} == {"thread0", "thread1", "thread2"} and len(windows) == 12
    measured = measure._measure_windows(loaded, windows, lambda _: None)
    assert set(measured["clusters"]) == {"thread0", "thread1", "thread2"}


def test_lengths_decide_what_is_divided_by(loaded: Loaded) -> None:
    row = {"prompt": "A", "choices": [": é", ": b"], "answer": 0}
    assert answer_task(loaded, task_of("choice", [row])).values["bytes"].tolist() == [[4, 3]]
    assert answer_task(loaded, task_of("choice", [row | {"lengths": [1, 2]}])).values["bytes"].tolist() == [[1, 2]]
    for lengths in ([1], [0, 1]):
        with pytest.raises(BessemerError, match="2 choices need as many lengths, each at least 1"):
            task_of("choice", [row | {"lengths": lengths}])


@pytest.mark.parametrize("how", [{}, {"how": "python", "scorer": "x.py"}])
def test_answers_that_were_graded_are_not_written_again(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    task = task_of("generate", [{"prompt": f"Say {n}", "answer": "1"} for n in range(5)], max_tokens=2, samples=1)
    task = replace(task, task=task.task.model_copy(update={"match": Match.model_validate(how)}))
    monkeypatch.setattr(LoadedTask, "spec", lambda _: {})
    monkeypatch.setattr(answer, "TOGETHER", 2)
    said: list[int] = []
    monkeypatch.setattr(answer, "_say", lambda *args: said.append(len(said)) or str(len(said)))
    calls = iter(range(99))

    def grade(match: Match, items: Sequence[TaskItem], texts: Sequence[str], scorer: object) -> list[float]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return [float(text == "1") for text in texts]

    monkeypatch.setattr(answer, "grade_texts", grade)
    with pytest.raises(KeyboardInterrupt):
        answer_task(loaded, task, kept=Kept.named("it", tmp_path))
    n_kept = 4 if how else 2
    columns = answer_task(loaded, task, kept=Kept.named("it", tmp_path))
    assert columns.values["right"].tolist() == [[1.0], [0.0], [0.0], [0.0], [0.0]]
    assert len(said) == (n_kept + 1) + (5 - n_kept)


@pytest.mark.parametrize("how", ["python", "exact"])
def test_items_of_one_prompt_share_an_answer_unless_code_sees_what_else_they_say(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    match = {"how": how} | ({"scorer": "x.py"} if how == "python" else {})
    task = task_of("generate", [{"prompt": "Say 1", "answer": "1"}] * 2, max_tokens=2, samples=1)
    task = replace(task, task=task.task.model_copy(update={"match": Match.model_validate(match)}))
    monkeypatch.setattr(LoadedTask, "spec", lambda _: {})
    monkeypatch.setattr(answer, "_say", lambda *_: "1")
    by_id = {item.id: float(n) for n, item in enumerate(task.items)}
    monkeypatch.setattr(answer, "grade_texts", lambda _, items, *more: [by_id[i.id] for i in items])
    kept = Kept.named("it", tmp_path)
    for _ in range(2):
        right = answer_task(loaded, task, kept=kept).values["right"].tolist()
    assert right == ([[0.0], [1.0]] if how == "python" else [[1.0], [1.0]])


@pytest.mark.parametrize(
    ("match", "wanted", "said", "right"),
    [
        ({"how": "exact"}, "Ada", " Ada\n", True),
        ({"how": "exact", "strip": False}, "Ada", " Ada", False),
        ({"how": "exact"}, "Ada", "ada", False),
        ({"how": "exact", "ignore_case": True}, "Ada", "aDA", True),
        ({"how": "exact", "ignore_punctuation": True}, "Ada B", "A.da B!", True),
        ({"how": "exact", "ignore": [",", r"(?s).*#### "]}, "so\n#### 1,200", "1200", True),
        ({"how": "numeric"}, "0.5", "It is .5", True),
        ({"how": "numeric"}, "5", "It is .5", False),
        ({"how": "numeric"}, "-5", "It costs -$5.", True),
        ({"how": "numeric"}, "5", "It costs -€5", False),
        ({"how": "numeric"}, "-5", "It is \u22125", True),
        ({"how": "numeric"}, "15", "between 10-15", True),
        ({"how": "numeric"}, "1000", "1e3", True),
        ({"how": "numeric"}, "$1,200", "so 1,200.", True),
        ({"how": "numeric"}, "20", "20%", True),
        ({}, "A", "A.", True),  # what is left of it without articles is nothing
        ({}, "A", "", False),
        ({}, "A", "The", False),
        ({}, "+", "-", False),
        ({}, "+", " + ", True),
        ({}, "the Bessemer", "Bessemer!", True),
        ({"how": "regex", "pattern": r"\d+"}, "3", "3 or 4", True),
        ({"how": "regex", "pattern": r"\d+", "which": "last"}, "4", "3 or 4", True),
        ({"how": "regex", "pattern": r"(\d+)|(x)"}, "x", "an x", True),
        ({"how": "regex", "pattern": r"(\d*)"}, "", "none", False),
        ({"how": "regex", "pattern": r"\d+"}, "3", "none", False),
    ],
)
def test_when_an_answer_is_right(match: dict[str, Any], wanted: str, said: str, right: bool) -> None:
    item = TaskItem(id="a", prompt="?", answer=wanted)
    assert grade_texts(Match.model_validate(match), [item], [said]) == [float(right)]


@pytest.mark.parametrize(
    ("match", "what"),
    [
        ({"how": "numeric", "ignore_case": True}, "ignore_case: goes with how: exact and how: regex"),
        ({"how": "exact", "which": "last"}, "which: goes with how: regex"),
        ({"how": "exact", "ignore": ["("]}, "ignore: no regular expression"),
        ({"how": "regex", "pattern": "("}, "pattern: no regular expression"),
    ],
)
def test_what_a_match_cannot_be(match: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Match.model_validate(match)
