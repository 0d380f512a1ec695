"""Tasks of lm-evaluation-harness give the numbers of its own runner; logs of Inspect are read whole or not at all.

What needs lm-eval or Inspect itself is `full`; what is refused is refused without either.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bessemer.data.items import Item, Message
from bessemer.errors import BessemerError
from bessemer.evaluate import inspect_logs
from bessemer.evaluate.adapt import load_any, open_inspect_log, read_inspect_log
from bessemer.evaluate.answer import answer_task
from bessemer.evaluate.metrics import METRICS
from bessemer.evaluate.stats import difference
from bessemer.evaluate.tasks import LoadedTask
from bessemer.infer.model import Loaded, load
from bessemer.moderate.dataset import add_version

LOGS = Path(__file__).parent / "logs"
CHOICES = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: c\ndoc_to_target: right\n"
ROWS = [
    {"q": "The steel and the iron", "c": ["furnace and forge", "water", "blast of the mill"], "right": 1},
    {"q": "A teacher and a parent", "c": ["know", "morning and moment and minute", "girl guy"], "right": 0},
    {"q": "Is this comment allowed here?", "c": ["yes", "no"], "right": 1},
    {"q": "Was it “refused”? ", "c": ["Grüße aus Köln", "because"], "right": 0},
    {"q": "the quick brown fox", "c": ["jumps over the lazy dog", "sleeps", "is 12 hours"], "right": 2},
]


def write_task(folder: Path, text: str, rows: Sequence[Mapping[str, Any]], name: str = "local") -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {data}}}\ntest_split: train\n"
    path = folder / f"{name}.yaml"
    path.write_text(head + text)
    return path


# -- refused before lm-eval sees it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("doc_to_text: !function evil.run", r"`!function evil.run` \(line 9\) runs Python"),
        ("doc_to_text: !!python/name:os.system", "no valid YAML"),
        ("process_results: x", "process_results: not supported here"),
        ("class: x", "class: not supported here"),
        ("docs_to_text: x", "docs_to_text: unknown key"),
        ("output_type: greedy", "output_type: 'greedy': unknown"),
        (
            "output_type: loglikelihood",
            "output_type: 'loglikelihood': a single continuation is neither right nor wrong",
        ),
        ("dataset_path: EleutherAI/arc", "dataset_path: 'EleutherAI/arc' would be fetched from the hub"),
        ("dataset_name: main", "dataset_path: 'json' would be fetched"),
        ("dataset_kwargs: {data_files: 'https://a.org/b.json'}", r"https://a.org/b.json: no local file"),
        ("dataset_kwargs: {data_files: 'hf://datasets/a/b.json'}", r"no local file"),
        ("dataset_kwargs: {data_files: nowhere.jsonl}", r"'nowhere.jsonl' does not exist"),
        ("dataset_kwargs: {data_files: a.zip}", r"a.zip: archives are not read"),
        ("dataset_kwargs: {data_files: a.jsonl.gz}", r"a.jsonl.gz is compressed"),
        ("dataset_kwargs: {data_files: a.jsonl, field: x}", "only data_files is supported"),
        ("metric_list: [{metric: acc_mutual_info}]", r"metric_list\[0\]: 'acc_mutual_info' is not measured here"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", r"metric_list\[0\]: an aggregation or option"),
        ("metric_list: [{metric: acc, aggregation: max}]", r"metric_list\[0\]: an aggregation or option"),
        ("metric_list: [acc]", "metric_list: no list of mappings"),
        ("metric_list: [{metric: acc_norm}, {metric: acc_bytes}]", "acc_norm divides by characters"),
        (
            "output_type: loglikelihood_rolling\nmetric_list: [{metric: word_perplexity}]",
            "nothing that is measured here",
        ),
        ("filter_list: [{name: a, filter: [{function: map}]}]", r"filter_list\[0\]: map cannot be expressed here"),
        ("filter_list: [{name: a}, {name: b}]", r"filter_list: 2 pipelines \(a, b\)"),
        ("repeats: 3", "repeats: only 1"),
        ("output_type: generate_until\ngeneration_kwargs: {temperature: 0.7}", "answers are drawn"),
        (
            "output_type: generate_until\ngeneration_kwargs: {num_beams: 2}",
            "generation_kwargs.num_beams: not supported",
        ),
        ("include: local.yaml", "it includes itself"),
        ("task: [a, b]", "a group of tasks is loaded task by task"),
        ("metric_list: [{metric: [acc]}]", "lm-eval cannot read the task"),
        ("filter_list: 3", "lm-eval cannot read the task"),
        ("output_type: [x]", "lm-eval cannot read the task"),
        ("dataset_kwargs: {data_files: 2024-02-30}", "no valid YAML"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: str, what: str) -> None:
    """A later key wins in YAML, so each case is a line more."""
    path = write_task(tmp_path, CHOICES + change, ROWS)
    shutil.copy(tmp_path / "local.jsonl", tmp_path / "a.jsonl")
    for name in ("a.zip", "a.jsonl.gz"):
        (tmp_path / name).touch()
    with pytest.raises(BessemerError, match=what):
        load_any(f"lm-eval:{path}")


def test_all_mistakes_at_once_also_of_what_is_included(tmp_path: Path) -> None:
    (tmp_path / "common").write_text("repeats: 2\noutput_type: generate_until\nprocess_docs: x\n")
    path = write_task(tmp_path, CHOICES + "include: common\nmetric_list: [{metric: bleu}]\n", ROWS)
    with pytest.raises(BessemerError, match="4 mistakes") as caught:
        load_any(f"lm-eval:{path}")
    assert all(word in str(caught.value) for word in ("process_docs", "repeats", "'bleu'"))
    (tmp_path / "common").write_text("doc_to_text: !function a.b")
    with pytest.raises(BessemerError, match=r"common: `!function a.b`"):
        load_any(f"lm-eval:{path}")


def test_no_sealed_items_are_read(tmp_path: Path, bessemer_home: Path) -> None:
    sealed = bessemer_home / "seals" / "s"
    sealed.mkdir(parents=True)
    (sealed / "public.jsonl").write_text("{}\n")
    path = write_task(tmp_path, f"{CHOICES}dataset_kwargs: {{data_files: {sealed}/public.jsonl}}\n", ROWS)
    with pytest.raises(BessemerError, match="belongs to a sealed task"):
        load_any(f"lm-eval:{path}")


def test_without_lm_eval_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(BessemerError, match=r"lm_eval, which is not installed(.|\n)*'bessemer\[lm-eval\]'"):
        load_any(f"lm-eval:{write_task(tmp_path, CHOICES, ROWS)}")


def test_an_argument_without_a_prefix_is_a_task_of_ours(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": "a", "good": "x", "bad": "y"}\n')
    (tmp_path / "t.yaml").write_text("name: t\nkind: pairs\nitems: items.jsonl\n")
    assert load_any(str(tmp_path / "t.yaml")).name == "t"


def test_items_may_be_a_prepared_data_set(tmp_path: Path, bessemer_home: Path) -> None:
    turns = [(Message("user", f"Is {n} hot?"), Message("assistant", ("yes", "no")[n % 2])) for n in range(4)]
    parts = {"test": [Item(f"q{n}", messages=own) for n, own in enumerate(turns)], "texts": [Item("t", text="Hot.")]}
    add_version("heat", parts, ingredients={}, recipe={}, report={})
    (tmp_path / "t.yaml").write_text("name: t\nkind: classify\nitems: dataset:heat@1/test\nanswers: ['yes', 'no']\n")
    task = load_any(str(tmp_path / "t.yaml"))
    assert [(i.id, i.answer) for i in task.items] == [(f"q{n}", ("yes", "no")[n % 2]) for n in range(4)]
    (tmp_path / "p.yaml").write_text("name: p\nkind: perplexity\nitems: dataset:heat@1/texts\n")
    assert [i.text for i in load_any(str(tmp_path / "p.yaml")).items] == ["Hot."]


# -- the same numbers as lm-eval ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load(tiny_model, dtype=torch.float32)


@pytest.fixture
def harness(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a task file in lm-eval: (its results, its samples in order)."""
    pytest.importorskip("lm_eval", reason="lm-eval is in the extra `lm-eval`")
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(path: Path, model: Path = tiny_model) -> tuple[dict[str, float], list[dict[str, Any]]]:
        runner = HFLM(pretrained=str(model), dtype="float32", batch_size=3, device="cpu")
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        found: Any = simple_evaluate(model=runner, tasks=[path.stem], task_manager=manager, bootstrap_iters=0)
        numbers = {k.partition(",")[0]: v for k, v in found["results"][path.stem].items()}
        return numbers, sorted(found["samples"][path.stem], key=lambda s: s["doc_id"])

    return run


def loglikelihoods(sample: Mapping[str, Any]) -> list[float]:
    return [float(value) for value, _ in sample["filtered_resps"]]


def check_choices(loaded: Loaded, path: Path, harness: Any, model: Path | None = None) -> LoadedTask:
    """acc, acc_norm and every log-likelihood."""
    task = load_any(f"lm-eval:{path}")
    columns = answer_task(loaded, task)
    numbers, samples = harness(path, model) if model else harness(path)
    for row, sample in zip(columns.values["logprob"], samples, strict=True):
        assert row[np.isfinite(row)] == pytest.approx(loglikelihoods(sample), abs=1e-4)
    for ours, theirs in (("accuracy", "acc"), ("accuracy_norm", "acc_norm")):
        if theirs in numbers:
            assert METRICS[ours].value(columns) == pytest.approx(numbers[theirs])
    return task


@pytest.mark.full
@pytest.mark.parametrize(
    "change",
    [
        "",
        "metric_list: [{metric: acc_norm, aggregation: mean, higher_is_better: true}, {metric: acc}]",
        'target_delimiter: ""',
        'target_delimiter: "\\nAnswer: "',
        "description: 'Of steel: '\nnum_fewshot: 2\nfewshot_delimiter: ' ## '\nfewshot_split: train",
        "num_fewshot: 1\nfewshot_config: {sampler: first_n, split: train}",
        "gen_prefix: 'It is'\ndoc_to_text: q",
        "doc_to_target: '{{c[right]}}'",
        'doc_to_text: ""\nmetric_list: [{metric: acc_norm}]',
    ],
    ids=[
        "plain",
        "norm",
        "no-space",
        "words-between",
        "few-shot",
        "first-shots",
        "prefix",
        "target-text",
        "no-question",
    ],
)
def test_multiple_choice(loaded: Loaded, tmp_path: Path, harness: Any, change: str) -> None:
    """Non-ASCII choices: acc_norm divides by characters."""
    task = check_choices(loaded, write_task(tmp_path, f"{CHOICES}{change}\n", ROWS), harness)
    assert task.task.kind == "choice" and task.task.primary == ("accuracy_norm" if "acc_norm" in change else "accuracy")


@pytest.mark.full
def test_a_tokenizer_that_opens_texts_with_a_token(tiny_model: Path, tmp_path: Path, harness: Any) -> None:
    from tests.evaluate.test_scoring import opened_model

    folder = opened_model(tiny_model, tmp_path / "opened")
    (tmp_path / "tasks").mkdir()
    check_choices(load(folder, dtype=torch.float32), write_task(tmp_path / "tasks", CHOICES, ROWS), harness, folder)


@pytest.mark.full
def test_minimal_pairs(loaded: Loaded, tmp_path: Path, harness: Any) -> None:
    rows = [
        {"good": "the teacher knows it", "bad": "the teacher know it", "at": 0},
        {"good": "people work here", "bad": "people works here", "at": 1},
        {"good": "a group of 12 hours", "bad": "group a of 12 hours", "at": 0},
    ]
    template = "{{[good, bad] if at == 0 else [bad, good]}}"
    text = f"doc_to_text: ''\ndoc_to_choice: '{template}'\ndoc_to_target: at\nmetric_list: [{{metric: acc}}]\n"
    path = write_task(tmp_path, "output_type: multiple_choice\n" + text, rows)
    task = load_any(f"lm-eval:{path}")
    assert task.task.kind == "pairs"
    columns = answer_task(loaded, task)
    numbers, samples = harness(path)
    for row, sample, wanted in zip(columns.values["logprob"], samples, rows, strict=True):
        found = loglikelihoods(sample)
        assert row == pytest.approx(found if wanted["at"] == 0 else found[::-1], abs=1e-4)
    assert METRICS["accuracy"].value(columns) == pytest.approx(numbers["acc"])


@pytest.mark.full
def test_rolling_log_likelihood(loaded: Loaded, tmp_path: Path, harness: Any) -> None:
    """One text is longer than the model reads."""
    words = "time year people way day man thing woman life child world Grüße aus Köln"
    rows = [{"page": words}, {"page": f"{words}\n\n" * 300}, {"page": "iron"}]
    path = write_task(tmp_path, "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: page\n", rows)
    columns = answer_task(loaded, load_any(f"lm-eval:{path}"))
    numbers, samples = harness(path)
    bits = [-sample["filtered_resps"][0] / np.log(2) for sample in samples]
    assert columns.values["bits"] == pytest.approx(bits, rel=1e-5)
    assert len(loaded.renderer.encode_texts([rows[1]["page"]])[0]) > 2 * 2048
    assert METRICS["bits_per_byte"].value(columns) == pytest.approx(numbers["bits_per_byte"], rel=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    "change",
    [
        "",
        "filter_list: [{name: a, filter: [{function: remove_whitespace}, {function: take_first}]}]",
        "filter_list: [{name: a, filter: [{function: regex, regex_pattern: '([a-z])'}, {function: take_first}]}]",
        "filter_list: [{name: a, filter: [{function: regex, regex_pattern: '[a-z]', group_select: -1}, "
        "{function: take_first}]}]",
        "metric_list: [{metric: exact_match, ignore_case: true, ignore_punctuation: true, "
        "regexes_to_ignore: ['[a-c]']}]",
        "doc_to_target: '{{[want, other]}}'",
    ],
    ids=["raw", "stripped", "first", "last", "ignoring", "several"],
)
def test_generation(loaded: Loaded, tmp_path: Path, harness: Any, change: str) -> None:
    """Half of the targets are what lm-eval itself makes of the model's answers."""
    text = "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{want}}'\n" + change
    text += "\ngeneration_kwargs: {until: ['\\n', 'or'], max_gen_toks: 12, do_sample: false}\n"
    rows = [{"q": row["q"].strip(), "want": "-", "other": "nobody says this"} for row in ROWS]
    _, samples = harness(write_task(tmp_path, text, rows))
    said = [sample["filtered_resps"][0] for sample in samples]
    assert len(set(said)) > 1
    rows = [row | ({"want": a} if i % 2 == 0 else {}) for i, (row, a) in enumerate(zip(rows, said, strict=True))]
    path = write_task(tmp_path, text, rows, "again")
    numbers, samples = harness(path)
    columns = answer_task(loaded, load_any(f"lm-eval:{path}"))
    assert columns.values["right"][:, 0].tolist() == [sample["exact_match"] for sample in samples]
    assert METRICS["exact_match"].value(columns) == numbers["exact_match"] >= 0.6


@pytest.mark.full
@pytest.mark.parametrize(
    ("change", "rows", "what"),
    [
        ("doc_to_text: '{{ q.__class__.__mro__ }}'", ROWS, r"lm-eval cannot read the task \(SecurityError"),
        ("doc_to_text: '{{ cycler.__init__.__globals__.os.getcwd() }}'", ROWS, "SecurityError"),
        ("doc_to_text: '{{missing}}'", ROWS, r"lm-eval cannot read the task \(UndefinedError: 'missing' is undefined"),
        ("test_split: other", ROWS, "lm-eval cannot read the task"),
        ("doc_to_target: '{{7 if q[0] == \"A\" else 0}}'", ROWS, "document 1: the target 7 is none of 3 choices"),
        ("doc_to_target: '{{[0, 1]}}'", ROWS, "several choices are right"),
        ("", [{"q": "a", "c": ["x", "x"], "right": 0}], "choices need at least two different texts"),
        ("", [{"q": "x", "c": ["a {{q}}", "b {{q}}"], "right": 0}], None),
    ],
)
def test_documents_that_are_refused(
    loaded: Loaded, tmp_path: Path, change: str, rows: list[dict[str, Any]], what: str | None
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is in the extra `lm-eval`")
    path = write_task(tmp_path, CHOICES + change, rows)
    if what is None:  # data are no templates
        assert load_any(f"lm-eval:{path}").items[0].choices == ["a {{q}}", "b {{q}}"]
        return
    with pytest.raises(BessemerError, match=what):
        load_any(f"lm-eval:{path}")


@pytest.mark.full
def test_choices_inside_of_the_question_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is in the extra `lm-eval`")
    text = "output_type: multiple_choice\ndoc_to_text: right\ndoc_to_choice: c\ndoc_to_target: q\n"
    with pytest.raises(BessemerError, match="its choices stand in the question"):
        load_any(f"lm-eval:{write_task(tmp_path, text, ROWS[:1])}")


# -- Inspect ------------------------------------------------------------------------------------------------------


def sample(id: str | int, value: Any, epoch: int = 1, scorer: str = "match") -> dict[str, Any]:
    return {"id": id, "epoch": epoch, "input": "?", "target": "x", "scores": {scorer: {"value": value}}}


def log_of(samples: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    head = {"model": "mockllm/model", "task": "sums", "dataset": {}, "config": {}}
    return {"version": 2, "status": "success", "eval": head, "samples": list(samples), **more}


def write_log(folder: Path, log: Any) -> Path:
    path = folder / "log.json"
    path.write_text(json.dumps(log))
    return path


def test_a_json_log(tmp_path: Path) -> None:
    values = [[("a", "C"), ("a", "I")], [(2, 0.25), (2, "N")], [("c", "P"), ("c", True)], [("d", "no"), ("d", "1.0")]]
    log = log_of([sample(id, value, epoch + 1) for own in values for epoch, (id, value) in enumerate(own)])
    found = open_inspect_log(write_log(tmp_path, log))
    assert (found.model, found.task, found.scorer) == ("mockllm/model", "sums", "match")
    assert found.columns.ids == ("2", "a", "c", "d") and found.columns.kind == "generate"
    assert found.columns.values["right"].tolist() == [[0.25, 0], [1, 0], [0.5, 1], [0, 1]]


def test_two_logs_are_compared_like_anything_else(tmp_path: Path) -> None:
    before, after = (
        read_inspect_log(write_log(tmp_path, log_of([sample(i, "C" if i % n == 0 else "I") for i in range(60)])))
        for n in (3, 2)
    )
    found = difference(METRICS["exact_match"], before, after, margin=0.02)
    assert found.change.value == pytest.approx(1 / 2 - 1 / 3)


@pytest.mark.parametrize(
    ("log", "what"),
    [
        (log_of([sample(1, "C")], status="error"), "the evaluation ended with 'error'"),
        (log_of([sample(1, "C"), sample(1, "C", 2), sample(2, "C")]), "sample 2: 2 epochs, but number 2"),
        (log_of([sample(1, {"a": 1})]), r"sample 1, epoch 1: the score \{'a': 1\} is no number from 0 to 1"),
        (log_of([sample(1, 7)]), "the score 7 is no number"),
        (log_of([sample(1, float("nan"))]), "the score nan is no number"),
        (log_of([sample(1, "maybe")]), "the score 'maybe' is no number"),
        (
            log_of([{"id": 1, "epoch": 1, "error": {"message": "x"}}, sample(2, "C")]),
            "sample 1.*: the sample has an error",
        ),
        (log_of([sample(1, "C"), sample(2, "C", scorer="model")]), r"2 scorers(.|\n)*LOG#match, LOG#model"),
        (log_of([{"id": 1, "epoch": 1}]), "no sample has a score"),
        (log_of([]), "no sample has a score"),
        ({"version": 2}, "no log of Inspect"),
        ([1], "no log of Inspect"),
    ],
)
def test_logs_that_are_refused(tmp_path: Path, log: Any, what: str) -> None:
    with pytest.raises(BessemerError, match=what):
        read_inspect_log(write_log(tmp_path, log))


def test_one_of_several_scorers(tmp_path: Path) -> None:
    both = sample(1, "C")
    both["scores"]["model"] = {"value": 0.5}
    path = write_log(tmp_path, log_of([both]))
    assert read_inspect_log(path, "model").values["right"].tolist() == [[0.5]]
    with pytest.raises(BessemerError, match="no scorer 'other'"):
        read_inspect_log(path, "other")


def test_a_zipped_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of([sample(1, "C"), sample(2, "I")])
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("summaries.json", json.dumps(log.pop("samples")))
        file.writestr("_journal/start.json", "{}")
    with pytest.raises(BessemerError, match="the evaluation did not finish"):
        read_inspect_log(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("header.json", json.dumps(log))
    assert read_inspect_log(path).values["right"].tolist() == [[1], [0]]
    monkeypatch.setattr(inspect_logs, "MAX_BYTES", 10)
    with pytest.raises(BessemerError, match="header.json has .* bytes"):
        read_inspect_log(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(BessemerError, match="no log of Inspect"):
        read_inspect_log(path)
    with pytest.raises(BessemerError, match="cannot be read"):
        read_inspect_log(tmp_path / "none.eval")


RIGHT = {"match": [[1, 0], [1, 0], [0, 1]], "includes": [[1, 0], [1, 0], [1, 1]]}  # of "3", "one", "two"


def test_a_log_that_inspect_wrote_with_zstandard() -> None:
    """Of version 0.3.285: two scorers, two epochs, answers 2, "4 it is", 6, then no, 4, nothing."""
    for scorer, right in RIGHT.items():
        found = open_inspect_log(LOGS / "inspect-0.3.285.eval", scorer)
        assert (found.model, found.task, found.columns.ids) == ("mockllm/model", "sums", ("3", "one", "two"))
        assert found.columns.values["right"].tolist() == right


def test_a_damaged_log(tmp_path: Path) -> None:
    content = bytearray((LOGS / "inspect-0.3.285.eval").read_bytes())
    with zipfile.ZipFile(LOGS / "inspect-0.3.285.eval") as log:
        info = log.getinfo("summaries.json")
    content[info.header_offset + 300] ^= 1
    (tmp_path / "log.eval").write_bytes(content)
    with pytest.raises(BessemerError, match="damaged|no log of Inspect|cannot be read"):
        read_inspect_log(tmp_path / "log.eval", "match")
    path = tmp_path / "deflated.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as log:
        for name in ("header.json", "summaries.json"):
            log.writestr(name, json.dumps(log_of([sample(n, "C") for n in range(300)])))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as log:
        info = log.getinfo("summaries.json")
    for place in range(info.header_offset + 60, info.header_offset + 90):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BessemerError, match="no log of Inspect"):
        read_inspect_log(path)


@pytest.mark.full
@pytest.mark.parametrize("format", ["eval", "json"])
def test_a_log_that_inspect_writes_now(tmp_path: Path, format: str) -> None:
    inspect_ai = pytest.importorskip("inspect_ai", reason="inspect-ai is in the extra `inspect`")
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import includes, match

    said = ("2", "4 it is", "6", "no", "4", "nothing")
    outputs = [ModelOutput.from_content("mockllm/model", text) for text in said]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # newer versions would count them
    samples = [Sample(id="one", input="1+1", target="2"), Sample(id="two", input="2+2", target="4")]
    samples.append(Sample(id=3, input="3+3", target="6"))
    task = inspect_ai.Task(dataset=MemoryDataset(samples), scorer=[match(), includes()], epochs=2, name="sums")
    (log,) = inspect_ai.eval(
        task,
        model=get_model("mockllm/model", custom_outputs=outputs),
        log_dir=str(tmp_path),
        log_format=format,
        display="none",
        max_samples=1,
        max_connections=1,
    )
    assert log.status == "success"
    for scorer, right in RIGHT.items():
        found = open_inspect_log(log.location, scorer)
        assert (found.model, found.task, found.scorer) == ("mockllm/model", "sums", scorer)
        assert found.columns.values["right"].tolist() == right
