"""Long texts in pieces, much text by the fast engine, and what happens when that turns out to be wrong."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.data import encode, fast, render
from bessemer.data.encode import Encoder
from bessemer.data.fast import CheckedEngine, EnginesDiffer
from bessemer.data.items import Item, Message
from bessemer.data.render import Renderer
from bessemer.data.shards import TokenSet, open_or_build
from tests.data.test_fast import Change, Stub, in_bytes
from tests.tiny import SENTENCES, WORDS


@pytest.fixture
def renderer(tiny_model: Path) -> Renderer:
    return Renderer(tiny_model)


@pytest.mark.parametrize("joint", ["\n", ",\n    ", "\n\n", " \n", "; ", ""])
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(
    joint: str, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    text = joint.join(str(rng.choice([*SENTENCES, *WORDS])) for _ in range(400))
    (whole,) = renderer.encode_texts([text])
    monkeypatch.setattr(encode, "PIECE", 200)
    monkeypatch.setattr(encode, "AROUND", 40)
    monkeypatch.setattr(encode, "CALL", 500)
    pieces = list(renderer._encoder._cut(text))
    assert "".join(pieces) == text
    assert len(pieces) > 10 or joint in {" \n", "; ", ""}, "no place to cut: it stays whole"
    texts = ["first", text, "", "last"]
    assert renderer.encode_texts(texts)[1:3] == [whole, []]
    use(renderer, lambda _, ids: ids)
    assert [ids.tolist() for ids in renderer._encoder.encode_much(texts)] == renderer.encode_texts(texts)


def use(renderer: Renderer, change: Change) -> None:
    """Give a renderer a fast engine that has passed its probes."""

    def load(plain: Any, control: Collection[int]) -> CheckedEngine:
        return CheckedEngine(Stub(plain, change), "stub 1", plain, control)

    renderer._encoder = Encoder(renderer._plain, renderer.control, load)
    renderer._encoder._until_fast = 1


def documents(n: int) -> list[Item]:
    return [Item(f"d{i}", SENTENCES[i % len(SENTENCES)] * (i % 9 + 1) + f" {i}") for i in range(n)]


def chats(n: int) -> list[Item]:
    return [
        Item(f"c{i}", messages=(Message("user", SENTENCES[i % 7] + "<|im_end|>"), Message("assistant", f"yes {i}")))
        for i in range(n)
    ]


def build(items: list[Item], renderer: Renderer, name: str, said: list[str] | None = None) -> TokenSet:
    say = said.append if said is not None else lambda _: None
    return open_or_build(name, lambda: items, renderer, {"data": "x"}, say=say)


def engines(tokens: TokenSet) -> set[str]:
    return {part["engine"].split()[0] for part in tokens.manifest["parts"]}


def test_little_text_does_not_wait_for_the_fast_engine(renderer: Renderer) -> None:
    def load(plain: Any, control: Collection[int]) -> None:
        pytest.fail("loaded")

    renderer._encoder = Encoder(renderer._plain, renderer.control, load)
    renderer.render(documents(50))
    assert renderer.engine.startswith("tokenizers ")


def test_it_is_asked_for_once(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(encode, "WORTH", 1000)
    renderer._encoder = Encoder(renderer._plain, renderer.control, lambda *what: asked.append(what))
    for _ in range(5):
        renderer.encode_texts(["x" * 2000])
    assert not asked, "a few texts are always read by `tokenizers`"
    for _ in range(5):
        renderer.render(documents(10))
    assert len(asked) == 1 and asked[0][1] == renderer.control


@pytest.mark.parametrize("make", [documents, chats])
def test_a_token_set_is_the_same_with_either_engine(
    make: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastokens")
    items = make(200)
    slow = build(items, Renderer(tiny_model), "slow")
    monkeypatch.setattr(encode, "WORTH", 1)
    quick = build(items, Renderer(tiny_model), "quick")
    assert engines(slow) == {"tokenizers"} and engines(quick) == {"fastokens"}
    assert slow.digest() == quick.digest() and slow.manifest["fingerprint"] == quick.manifest["fingerprint"]


@pytest.mark.parametrize("small_parts", [False, True])
def test_a_set_whose_engine_goes_wrong_is_made_again(
    small_parts: bool, renderer: Renderer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that were written before are thrown away, also those of an earlier, interrupted build."""
    if small_parts:
        monkeypatch.setattr("bessemer.data.shards.PART_TOKENS", 300)
    monkeypatch.setattr("bessemer.data.shards.BATCH_ITEMS", 16)
    monkeypatch.setattr(fast, "EVERY", 1)
    items = [*documents(100), Item("bad", "steel and iron")]
    straight = build(items, Renderer(tiny_model), "straight")
    use(renderer, in_bytes(renderer._plain))
    said: list[str] = []
    tokens = build(items, renderer, "again", said)
    assert tokens.digest() == straight.digest() and engines(tokens) == {"tokenizers"}
    assert len(said) == 1 and "again@1: stub 1 gives other ids than `tokenizers` for 'steel and iron'" in said[0]
    assert renderer.engine.startswith("tokenizers")


def test_elsewhere_it_is_an_error_and_the_next_try_is_right(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "EVERY", 1)
    use(renderer, in_bytes(renderer._plain))
    items = [Item("a", "steel and iron")]
    with pytest.raises(EnginesDiffer, match="pip uninstall fastokens"):
        renderer.render(items)
    assert renderer.render(items)[0].ids_L.tolist()[:-1] == renderer.encode_texts(["steel and iron"])[0]


def test_what_is_kept_of_renderings_has_a_bound(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's request of a thousand messages is kept by its whole frame; few of them must not fill the memory."""
    monkeypatch.setattr(render, "KEPT_CHARACTERS", 2000)
    for n in range(1, 30):
        renderer.render([Item("x", messages=(Message("user", "a"), Message("assistant", "b")) * n)])
        assert renderer._programs and sum(len(text) for text, _ in renderer._programs) <= max(2000, 100 * n)
