"""Generation against a plain transformers forward, and the promises of the stream."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.data.items import Message
from bessemer.errors import BessemerError
from bessemer.infer import generate as generate_module
from bessemer.infer.generate import (
    PREFILL_TOKENS,
    Token,
    _Draw,
    _StopFilter,
    generate,
    need_room,
    prompt_logprobs,
)
from bessemer.infer.model import Loaded, load
from bessemer.infer.sampling import sample_together
from bessemer.infer.score import option_logprobs
from bessemer.infer.text import TextStream, token_name, vocabulary
from tests.infer.conftest import MakeModel
from tests.tiny import MAX_TOKENS, SPECIAL

TEXT = "Grüße! 你好 👍🏽 the house"


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load(tiny_model, digest="d" * 64, end_of_text=SPECIAL[0], dtype=torch.float32)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="eager").eval()


def _text(tokens: list[Token]) -> str:
    return "".join(t.text for t in tokens)


@torch.inference_mode()
def _forward(plain: Any, ids: list[int]) -> torch.Tensor:
    return torch.log_softmax(plain(torch.tensor([ids])).logits[0].float(), -1)


def test_greedy_matches_a_forward_without_cache(loaded: Loaded, plain: Any) -> None:
    ids = loaded.renderer.encode_texts([TEXT])[0]
    tokens = list(generate(loaded, ids, max_tokens=24, temperature=0, top_logprobs=3))
    logprobs_TV = _forward(plain, ids + [t.id for t in tokens])
    for n, token in enumerate(tokens):
        best = logprobs_TV[len(ids) + n - 1]
        assert token.id == int(best.argmax())
        assert token.logprob == pytest.approx(float(best[token.id]), abs=1e-4)
        assert [i for i, _ in token.top] == best.topk(3).indices.tolist()
    assert [t.finish_reason for t in tokens[:-1]] == [""] * (len(tokens) - 1)
    assert tokens[-1].finish_reason in {"stop", "length"}


def test_long_prompts_are_read_in_pieces(loaded: Loaded, plain: Any) -> None:
    ids = (loaded.renderer.encode_texts([TEXT])[0] * 100)[: PREFILL_TOKENS * 2 + 7]
    (token,) = generate(loaded, ids, max_tokens=1, temperature=0)
    best = _forward(plain, ids)[-1]
    assert token.logprob == pytest.approx(float(best.max()), abs=1e-4)


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral"])
def test_layers_with_a_window_see_what_a_plain_forward_sees(
    kind: str, of_kind: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt in pieces, longer than the window, and an answer that goes on where the oldest keys are dropped."""
    from transformers import AutoModelForCausalLM

    more = {"sliding_window_pattern": 2} if kind == "gemma3_text" else {}
    folder = of_kind(kind, sliding_window=16, initializer_range=0.2, **more)
    loaded = load(folder, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    monkeypatch.setattr(generate_module, "PREFILL_TOKENS", 11)
    prompt = torch.randint(5, 400, (50,), generator=torch.Generator().manual_seed(1)).tolist()
    tokens = list(generate(loaded, prompt, max_tokens=24, temperature=0))
    (row,) = sample_together(loaded, [prompt], ends=loaded.eos, max_tokens=24, temperature=1e-6, seed=0)
    whole = prompt + [t.id for t in tokens]
    logprobs_TV = _forward(plain, whole)
    for n, token in enumerate(tokens):
        best = logprobs_TV[len(prompt) + n - 1]
        assert token.id == int(best.argmax())
        assert token.logprob == pytest.approx(float(best.max()), abs=1e-4)
    assert row.turns[0] == [t.id for t in tokens if not t.hidden] and len(tokens) > 16
    for layer in plain.model.layers:  # without the window the answer is another one
        layer.self_attn.sliding_window = None
    plain.config.sliding_window = None if kind == "mistral" else 4096
    assert (_forward(plain, whole) - logprobs_TV)[-1].abs().max() > 0.1


def test_prompt_logprobs_match_a_plain_forward(loaded: Loaded, plain: Any) -> None:
    ids = loaded.renderer.encode_texts([TEXT * 20])[0]
    tokens = prompt_logprobs(loaded, ids, 2)
    logprobs_TV = _forward(plain, ids)
    assert math.isnan(tokens[0].logprob)
    assert [t.id for t in tokens] == ids
    assert _text(tokens) == TEXT * 20
    for n, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(float(logprobs_TV[n, token.id]), abs=1e-4)
        assert [i for i, _ in token.top] == logprobs_TV[n].topk(2).indices.tolist()


def test_scoring_and_generating_in_turn_and_at_once(loaded: Loaded) -> None:
    prompts = [[Message("user", "Is it allowed?")], [Message("user", "yes or no, please?")]]
    ids = loaded.renderer.chat_ids(prompts[0])
    scores = option_logprobs(loaded, prompts, ["yes", "no"])
    answer = [t.id for t in generate(loaded, ids, max_tokens=12, temperature=0)]
    wrong: list[str] = []

    def score() -> None:
        for _ in range(15):
            if not (option_logprobs(loaded, prompts, ["yes", "no"]) == scores).all():
                wrong.append("score")

    thread = threading.Thread(target=score)
    thread.start()
    for _ in range(3):
        assert [t.id for t in generate(loaded, ids, max_tokens=12, temperature=0)] == answer
    thread.join()
    assert not wrong


def test_changed_and_replaced_weights_are_seen(tiny_model: Path) -> None:
    loaded = load(tiny_model, end_of_text=SPECIAL[0], dtype=torch.float32)
    ids = loaded.renderer.encode_texts([TEXT])[0]
    before = next(generate(loaded, ids, max_tokens=1, temperature=0)).logprob
    norm = loaded.model.base_model.norm
    norm.weight.data.mul_(0.5)
    changed = next(generate(loaded, ids, max_tokens=1, temperature=0)).logprob
    norm.weight = torch.nn.Parameter(norm.weight.data * 2, requires_grad=False)
    assert changed != before
    assert next(generate(loaded, ids, max_tokens=1, temperature=0)).logprob == before


def test_a_seed_fixes_the_draws(loaded: Loaded) -> None:
    ids = loaded.renderer.encode_texts([TEXT])[0]

    def draw(seed: int, **more: Any) -> list[int]:
        return [t.id for t in generate(loaded, ids, max_tokens=8, seed=seed, **more)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1, temperature=0.7, top_p=0.9) == draw(1, temperature=0.7, top_p=0.9)
    greedy = [t.id for t in generate(loaded, ids, max_tokens=8, temperature=0)]
    assert draw(3, top_p=1e-9) == greedy
    assert draw(4, temperature=1e-6)[:1] == greedy[:1]


def test_draws_follow_the_distribution() -> None:
    logits_V, n = torch.tensor([2.0, 1.0, 0.0, -5.0]), 4000
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8)):
        draw = _Draw(temperature, top_p, seed=1)
        shares = torch.bincount(torch.tensor([draw(logits_V) for _ in range(n)]), minlength=4) / n
        wanted = torch.softmax(logits_V / temperature, 0)
        if top_p < 1:
            wanted = wanted * torch.tensor([1, 1, 0, 0])  # 0.66 + 0.24 reach 0.8, 0.66 alone does not
            wanted /= wanted.sum()
            assert shares[2:].sum() == 0
        assert (shares - wanted).abs().max() < 5 * math.sqrt(0.25 / n)


def test_deltas_join_to_the_decoded_text(loaded: Loaded) -> None:
    """A random model draws many single bytes: whole characters come out of the stream, halves never."""
    ids = loaded.renderer.encode_texts([TEXT])[0]
    for seed in range(4):
        tokens = list(generate(loaded, ids, max_tokens=40, temperature=1.5, seed=seed))
        shown = [t.id for t in tokens if not t.hidden]
        assert _text(tokens) == loaded.renderer.decode(shown)


@pytest.mark.parametrize("text", ["😀👍🏽 🇩🇪❤️", "Äpfel, 東京と大阪", "a\n\n  b\t", "𝔘𝔫𝔦", "<|im_end|> is text"])
def test_text_streams_never_split_a_character(loaded: Loaded, text: str) -> None:
    words, stream = vocabulary(loaded.renderer), TextStream()
    deltas = [stream.add(words.content(i)) for i in loaded.renderer.encode_texts([text])[0]]
    assert "".join(deltas) + stream.finish() == text
    assert not any("\ufffd" in d for d in deltas)


def test_bytes_that_never_become_a_character() -> None:
    stream = TextStream()
    assert [stream.add(b) for b in (b"\xf0\x9f", b"\x98", b"a")] == ["", "", "\ufffda"]
    assert stream.add(b"\xc3") == ""
    assert stream.finish() == "\ufffd"


def test_names_of_tokens(loaded: Loaded) -> None:
    words = vocabulary(loaded.renderer)
    assert words.raw(2) == b"<|im_end|>"
    assert words.content(2) == b""
    assert words.raw(loaded.model.config.vocab_size - 1) == b""  # the head is padded
    assert token_name(b"\xf0\x9f") == "bytes:\\xf0\\x9f"
    for i in range(3, len(loaded.renderer.chat)):
        assert words.raw(i).decode(errors="replace") == loaded.renderer.chat.decode([i])


def test_sentencepiece_tokenizers_have_bytes_too(loaded: Loaded) -> None:
    from tokenizers import Tokenizer, decoders, models

    pieces = {"<unk>": 0, "\u2581Hello": 1, "<0xF0>": 2, "<0x9F>": 3, "<0x98>": 4, "<0x80>": 5}
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )

    class Small:
        _with_special, special_ids = tokenizer, frozenset[int]()

    words, stream = vocabulary(Small()), TextStream()  # type: ignore[arg-type]
    assert [stream.add(words.content(i)) for i in (1, 2, 3, 4, 5)] == [" Hello", "", "", "", "😀"]


# -- stop strings ------------------------------------------------------------


def _stopped(texts: list[str], stop: list[str]) -> tuple[list[str], list[Token]]:
    tokens = [Token(i, t, -1.0, finish_reason="length" if i + 1 == len(texts) else "") for i, t in enumerate(texts)]
    result = list(_StopFilter(stop).run(iter(tokens)))
    return [t.text for t in result], result


@pytest.mark.parametrize(
    ("texts", "stop", "wanted"),
    [
        (["a", "b", "c"], ["x"], ["a", "b", "c"]),
        (["ab", "cd", "ef"], ["cd"], ["ab", ""]),
        (["ab", "cd", "ef"], ["bcde"], ["a", "", ""]),
        (["ab", "c", "ab", "cd"], ["abcd"], ["ab", "c", "", ""]),
        (["a", "", "bX", "y"], ["X"], ["a", "", "b"]),
        (["x", "STO", "P"], ["STOP", "TO"], ["x", "S"]),
        (["x", "STO"], ["STOP"], ["x", "STO"]),
        (["", "ab"], ["a"], ["", ""]),
    ],
)
def test_stop_strings_do_not_leak(texts: list[str], stop: list[str], wanted: list[str]) -> None:
    got, tokens = _stopped(texts, stop)
    assert got == wanted
    cut = any(s in "".join(texts) for s in stop)
    assert tokens[-1].finish_reason == ("stop" if cut else "length")
    assert [t.finish_reason for t in tokens[:-1]] == [""] * (len(tokens) - 1)


def test_nothing_is_shown_that_may_become_a_stop_string() -> None:
    def source() -> Iterator[Token]:
        for i, text in enumerate("xabyabc"):
            produced.append(text)
            yield Token(i, text, -1.0)

    produced: list[str] = []
    shown = ""
    for token in _StopFilter(["abc"]).run(source()):
        shown += token.text
        assert "".join(produced).startswith(shown)
        assert not shown.endswith("a") or produced[len(shown)] == "b"
    assert shown == "xaby"


def test_stop_strings_of_a_real_stream(loaded: Loaded) -> None:
    ids = loaded.renderer.encode_texts([TEXT])[0]
    whole = _text(list(generate(loaded, ids, max_tokens=40, temperature=0)))
    stop = whole[5:8]
    tokens = list(generate(loaded, ids, max_tokens=40, temperature=0, stop=[stop]))
    assert _text(tokens) == whole[: whole.index(stop)]
    assert tokens[-1].finish_reason == "stop"


# -- limits ------------------------------------------------------------


def test_the_end_of_turn_stops_and_is_hidden(loaded: Loaded) -> None:
    ids = loaded.renderer.encode_texts([TEXT])[0]
    open_end = list(generate(loaded, ids, max_tokens=8, temperature=0))
    end = open_end[5].id
    first = [t.id for t in open_end].index(end)
    ending = dataclasses.replace(loaded, eos=frozenset({end}))
    tokens = list(generate(ending, ids, max_tokens=8, temperature=0))
    assert [t.id for t in tokens] == [t.id for t in open_end[: first + 1]]
    assert (tokens[-1].hidden, tokens[-1].finish_reason) == (True, "stop")
    assert _text(tokens) == loaded.renderer.decode([t.id for t in tokens[:-1]])


def test_cancelling_ends_the_stream(loaded: Loaded) -> None:
    ids = loaded.renderer.encode_texts([TEXT])[0]
    tokens: list[Token] = []
    for token in generate(loaded, ids, max_tokens=50, temperature=0, cancelled=lambda: len(tokens) == 3):
        tokens.append(token)
    assert len(tokens) == 3
    assert tokens[-1].finish_reason == ""


def test_too_long_and_empty_prompts_are_refused(loaded: Loaded) -> None:
    with pytest.raises(BessemerError, match=f"at most {MAX_TOKENS}"):
        generate(loaded, [5] * MAX_TOKENS, max_tokens=1)
    with pytest.raises(BessemerError, match="no tokens"):
        generate(loaded, [], max_tokens=1)
    with pytest.raises(BessemerError, match="no tokens"):
        prompt_logprobs(loaded, [])
    need_room(loaded, MAX_TOKENS - 1, 1)


@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.999999])
def test_the_likeliest_are_those_of_a_whole_sort(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_module, "LIKELY", 4)
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(torch, "multinomial", lambda probs, *_, **__: drawn.append(probs) or torch.tensor([0]))
    logits = torch.randn(300, generator=torch.Generator().manual_seed(3))
    generate_module._Draw(1.0, top_p, 1)(logits)
    probs, order = torch.softmax(logits.double(), 0).sort(descending=True)
    kept = order[probs.cumsum(0) - probs < top_p]
    assert set(drawn[0].nonzero()[:, 0].tolist()) == set(kept.tolist())
