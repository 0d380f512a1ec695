"""The proof of the community expert, whole, on synthetic comments and the tiny model."""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.errors import BessemerError
from bessemer.evaluate.stats import Interval
from tests.story import OTHERS, sentence
from tests.tiny import WORDS

pytest.importorskip("sklearn")
EXAMPLE = Path(__file__).parents[1] / "examples" / "community_expert"
PLAIN = tuple(w for w in WORDS[:80] if w.isalpha())
BAD = {"spam": "prize", "misogyny": "kettle", "stormfront": "ladder", "davidson3": "pebble"}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setattr(sys, "path", [str(EXAMPLE), *sys.path])
    import run  # pyright: ignore[reportMissingImports]

    yield run
    for name in ("run", "prepare", "measure", "page", "encoder"):
        sys.modules.pop(name, None)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def comment(rng: random.Random, *more: str) -> str:
    """Some break computed rules (thanks, love, you), some do not."""
    asides = [w for w in ("thanks", "love", "you", "money", "music?") if rng.random() < 0.3]
    words = [*(rng.choice(PLAIN) for _ in range(rng.randint(4, 9))), *asides, *more]
    rng.shuffle(words)
    return " ".join(words)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng, folder = random.Random(3), tmp_path / "data"
    for name, word in BAD.items():
        for side, n in (("train", 260), ("val", 60)):
            rows: list[dict[str, Any]] = []
            for i in range(n):
                bad = i % 3 == 0
                label = (0 if bad else 1 + i % 2) if name == "davidson3" else int(bad)
                rows.append({"text": comment(rng, *[word] * bad), "label": label, "post": f"{side}{i // 2}"})
            write(folder / "moderation" / name / f"{side}.jsonl", rows)
    flags = [{k: rng.choice([0, 0, 1, None]) for k in ("S", "H", "V", "HR", "SH")} for _ in range(40)]
    rows = [{"id": i, "text": comment(rng), **f} for i, f in enumerate(flags)]
    write(folder / "moderation" / "openai_moderation" / "odd_ids.jsonl", rows)
    for side, n in (("train", 400), ("dev", 120)):
        path = folder / "moderation" / "reddit_comments" / f"{side}.jsonl"
        write(path, [{"text": comment(rng)} for _ in range(n)])
    general = folder / "general"
    write(general / "web_pages.jsonl", [{"text": sentence(rng, OTHERS)} for _ in range(30)])
    write(general / "gsm8k_train.jsonl", [{"question": comment(rng), "answer": str(i)} for i in range(400)])
    pairs = [{"sentence_good": comment(rng), "sentence_bad": comment(rng), "UID": f"u{i % 8}"} for i in range(160)]
    write(general / "blimp_half.jsonl", pairs)
    for name in ("wikipedia.txt", "wikitext2_valid.txt"):
        (general / name).write_text(" ".join(sentence(rng, OTHERS) for _ in range(1500)))
    return folder


def tiny_encoder(folder: Path) -> Path:
    """A random one of a layer that knows the words of these comments."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PLAIN, *BAD.values()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(sizes).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("bessemer_home", "example")
def test_an_encoder_learns_its_task_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import encoder  # pyright: ignore[reportMissingImports]
    import prepare  # pyright: ignore[reportMissingImports]
    from sklearn.metrics import roc_auc_score

    prepare.prepare(data, tmp_path)
    folder = tiny_encoder(tmp_path / "encoder")
    monkeypatch.setattr(encoder, "weights", lambda: folder)
    monkeypatch.setattr(encoder, "RATE", 1e-2)
    monkeypatch.setattr(encoder, "EPOCHS", 8)
    found = encoder.answers(tmp_path, "a" * 64, seed=1)
    for task, sides in found.items():
        for side, odds in sides.items():
            broken = [r["label"] for r in prepare.read(tmp_path / "data" / f"{task}-{side}.jsonl")]
            assert roc_auc_score(broken, odds) > 0.95, (task, side)
    monkeypatch.setattr(encoder, "_fit", None)
    assert encoder.answers(tmp_path, "a" * 64, seed=1) == found
    with pytest.raises(TypeError):  # other questions are trained for
        encoder.answers(tmp_path, "b" * 64, seed=1)


@pytest.mark.usefixtures("bessemer_home")
@pytest.mark.full
def test_the_proof_runs_and_goes_on(
    example: Any, data: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import encoder  # pyright: ignore[reportMissingImports]
    import measure  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(example, "START", str(tiny_model))
    monkeypatch.setattr(measure, "N_CITE", 40)
    monkeypatch.setattr(example, "READ", 8000)
    monkeypatch.setattr(example, "FULL", {"twins": 100, "named": 40})
    monkeypatch.setattr(example, "FEW", {"twins": 60})
    monkeypatch.setattr(measure, "LABELS", (100,))
    out = tmp_path / "out"
    command = ["run.py", "--data", str(data), "--out", str(out), "--seeds", "1", "2"]
    monkeypatch.setattr(encoder, "weights", lambda: tiny_encoder(tmp_path / "encoder"))
    monkeypatch.setattr(sys, "argv", [*command, "--arms", "expert", "base", "encoder", "labels-100", "average"])
    example.main()
    result = json.loads((out / "result.json").read_text())
    assert set(result["arms"]) == {"base", "expert", "labels-100", "average"}
    assert set(result["average"]) == set(result["replace"]) and result["arms"]["average"]["keep"].keys() >= {"topics"}
    assert set(result["replace"]) == set(result["encoder"]) == {"spam", "misogyny", "racial-hate", "hate-speech"}
    assert all(0 <= t["own"]["auroc"]["result"]["value"] <= 1 for t in result["replace"].values())
    page = (out / "index.html").read_text()
    for words in (
        "Does one expert replace",
        "without a human",
        "Does it read the rule",
        "How many labels",
        "forget",
        "average of the trainings",
    ):
        assert words in page
    answers = {p.name: p.stat().st_mtime_ns for p in (out / "answers").iterdir()}
    arms = {p.name.removesuffix(".json.gz") for p in (out / "arms").iterdir()}
    assert arms == {"expert-1", "expert-2", "base", "encoder", "labels-100-1", "average"}
    example.main()  # everything is known
    assert {p.name: p.stat().st_mtime_ns for p in (out / "answers").iterdir()} == answers

    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "elsewhere"))
    other = tmp_path / "other"
    again = [
        *command[:3],
        "--out",
        str(other),
        *command[5:],
        "--arms",
        "expert",
        "base",
        "encoder",
        "labels-100",
        "average",
    ]
    monkeypatch.setattr(sys, "argv", [*again, "--answers", str(out / "arms")])
    example.main()  # from the answers alone
    assert json.loads((other / "result.json").read_text()) == result
    assert not (tmp_path / "elsewhere" / "runs").exists()

    (out / "arms/average.json.gz").unlink()
    example.main()
    assert "average: left out, only answers of expert-1, expert-2 are here" in capsys.readouterr().out

    rows = (data / "moderation/spam/val.jsonl").read_text().splitlines()
    (data / "moderation/spam/val.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    monkeypatch.setattr(sys, "argv", [*again[:4], str(tmp_path / "third"), *again[5:], "--answers", str(out / "arms")])
    with pytest.raises(BessemerError, match=r"expert-1\.json\.gz: these are answers to other questions"):
        example.main()


@pytest.mark.usefixtures("example")
def test_an_arm_travels_and_neither_damage_nor_other_questions_are_taken(tmp_path: Path) -> None:
    import measure  # pyright: ignore[reportMissingImports]

    path, arm = tmp_path / "arms" / "expert-1.json.gz", {"name": "expert-1", "questions": "a" * 64, "twins": {}}
    measure.write_arm(path, arm)
    assert measure.read_arm(path, "a" * 64) == arm
    with pytest.raises(BessemerError, match="other questions"):
        measure.read_arm(path, "b" * 64)
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"no gzip", gzip.compress(b"[]"), gzip.compress(b"{")):
        path.write_bytes(damaged)
        with pytest.raises(BessemerError, match="no arm can be read"):
            measure.read_arm(path, "a" * 64)


@pytest.mark.usefixtures("example")
def test_twins_are_right_when_both_answers_are() -> None:
    import measure  # pyright: ignore[reportMissingImports]

    def twin(comment: str, yes: float, no: float, truths: tuple[str, str] = ("code", "code")) -> list[dict[str, Any]]:
        rows = zip((True, False), (yes, no), truths, strict=True)
        return [{"group": f"test:{comment}:1", "broken": b, "odds": o, "truth": t} for b, o, t in rows]

    log, code = ("log", "code"), ("code", "log")
    known = [r for i in range(9) for r in [*twin(f"d{i}", -1, -3, log), *twin(f"e{i}", 4, -3, code)]]
    rows = [*twin("a", 1, -1), *twin("b", 2, 1), *twin("c", 3, -2), *known]
    found = measure.steered(rows, "code", measure.Scale(1.0, -1.5))  # both of b are said to be broken
    assert found["both_right"]["value"] == pytest.approx(2 / 3)
    assert found["scaled"]["value"] == pytest.approx(2 / 3)  # now b is right, and a no longer
    assert found["auroc"]["value"] == pytest.approx(8.5 / 9)  # of nine pairs one is even
    assert measure.steered(rows, "code", measure.Scale(0.5, 0.0))["scaled"] == found["both_right"]
    assert measure.steered(rows, "code", measure.Scale(1.0, -3.5))["scaled"]["value"] == 0
    found = measure.steered(rows, "log", measure.Scale())
    assert found["both_right"]["value"] == 0.5 and found["auroc"]["value"] == 1  # of the log's two answers


def test_a_folder_without_arms_is_refused_before_anything_is_trained(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["run.py", "--data", "x", "--out", str(out), "--answers", str(tmp_path)])
    with pytest.raises(SystemExit):
        example.main()
    assert f"no arms (*.json.gz) in {tmp_path}" in capsys.readouterr().err and not out.exists()


def test_the_same_seed_twice_is_no_second_model(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import measure  # pyright: ignore[reportMissingImports]

    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["run.py", "--data", "x", "--out", str(out), "--seeds", "1", "1"])
    with pytest.raises(SystemExit):
        example.main()
    assert "is one model, not two" in capsys.readouterr().err and not out.exists()
    first = {"name": "expert-1", "digest": "a", "made": "m"}
    measure.need_seeds([first, {"name": "expert-2", "digest": "b", "made": "m"}])
    with pytest.raises(BessemerError, match="expert-2: it is the same model as expert-1"):
        measure.need_seeds([first, {"name": "expert-2", "digest": "a", "made": "m"}])
    with pytest.raises(BessemerError, match="another recipe or of other data than expert-1"):
        measure.need_seeds([first, {"name": "expert-2", "digest": "b", "made": "n"}])
    measure.need_seeds([{"name": "encoder"}])
    values = example.recipe(out, "expert-1", 1, "expert@1", "expert@1", True, True)
    other = example.recipe(tmp_path / "elsewhere", "expert-2", 2, "expert@1", "expert@1", True, True)
    assert example.made_of(values, {"a": 1}, out) == example.made_of(other, {"a": 1}, tmp_path / "elsewhere")
    assert example.made_of(values, {"a": 1}, out) != example.made_of(values | {"merge": 0.7}, {"a": 1}, out)
    assert example.made_of(values, {"a": 1}, out) != example.made_of(values, {"a": 2}, out)


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.03, "better"),
        (-0.01, 0.03, "not worse"),
        (-0.015, -0.005, "worse, within the margin"),
        (-0.05, 0.01, "not shown"),
        (-0.05, -0.01, "worse"),
    ],
)
def test_a_verdict_says_what_the_interval_says(low: float, high: float, word: str) -> None:
    import page  # pyright: ignore[reportMissingImports]

    assert page.verdict(Interval((low + high) / 2, low, high)) == word


@pytest.mark.usefixtures("example")
def test_rules_are_told_one_by_one_and_their_interval_is_over_rules() -> None:
    """Of comments there are many, of rules a dozen, and some are read and some are not."""
    import measure  # pyright: ignore[reportMissingImports]

    rng = random.Random(1)
    rows = [
        {"group": f"new-rules:{i}:1", "rule": f"r{i % 8}", "broken": broken, "odds": rng.gauss(read * broken, 1)}
        for i in range(800)
        for broken in (True, False)
        for read in [6 if i % 8 < 4 else 0]
    ]
    found = measure.by_rule(rows)
    assert found["alone"]["r0"] > 0.99 and 0.35 < found["alone"]["r7"] < 0.65
    over_comments = measure.estimate(
        measure.METRICS["auroc"],
        measure.columns([r["odds"] for r in rows], [r["broken"] for r in rows], [r["group"] for r in rows]),
    ).result
    width = over_comments.high - over_comments.low
    assert found["over_rules"]["high"] - found["over_rules"]["low"] > 2 * width


@pytest.mark.usefixtures("example")
def test_nothing_of_a_test_is_trained_on(data: Path, tmp_path: Path) -> None:
    import prepare  # pyright: ignore[reportMissingImports]

    rows = [json.loads(line) for line in (data / "moderation/spam/val.jsonl").read_text().splitlines()]
    train = data / "moderation/spam/train.jsonl"
    train.write_text(train.read_text() + json.dumps({"text": rows[0]["text"].upper(), "label": 1}) + "\n")
    prepare.prepare(data, tmp_path)
    sides = {s: prepare.read(tmp_path / f"data/spam-{s}.jsonl") for s in ("train", "development", "test")}
    texts = {s: {r["text"].lower() for r in rows} for s, rows in sides.items()}
    assert not texts["test"] & (texts["train"] | texts["development"])
    assert not texts["train"] & texts["development"]
    prepare.prepare(data, tmp_path)
    train.write_text(train.read_text() + json.dumps({"text": "one more", "label": 0}) + "\n")
    with pytest.raises(BessemerError, match="made of other files than these"):
        prepare.prepare(data, tmp_path)
    groups = [
        {r["group"] for r in prepare.read(tmp_path / f"data/racial-hate-{s}.jsonl")} for s in ("train", "development")
    ]
    assert not groups[0] & groups[1]
