"""Items -> token ids and loss masks. The one renderer for training, evaluation and serving alike.

Text of users is never parsed for special tokens: a comment that contains "<|im_end|>" stays text. The chat
template is rendered with placeholders where contents belong; the template's own pieces are tokenised with special
tokens, the contents without (so special tokens come from the template only, by id).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.data.items import Item, Message
from bessemer.errors import BessemerError
from bessemer.files import sha256_file, sha256_text

PLACEHOLDER = "\ue000{}\ue001"  # private-use characters: no template contains them
PIECES = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True)
class Example:
    """One item as the model sees it. ids_L and supervised_L have the same length; a supervised token is a target."""

    id: str
    group: str
    ids_L: NDArray[np.int32]
    supervised_L: NDArray[np.bool_]
    n_bytes: int  # UTF-8 length of the text the ids stand for (documents)


class Renderer:
    """A tokenizer with its chat template. Loads nothing but files of the model folder."""

    def __init__(self, folder: Path, end_of_text: str = "") -> None:
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        self.chat = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._with_special = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._plain.encode_special_tokens = True
        for tokenizer in (self._with_special, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        end = end_of_text or self.chat.eos_token
        self.end_of_text_id: int | None = self._with_special.token_to_id(end) if end else None
        if self.end_of_text_id is None:
            raise BessemerError(f"the tokenizer has no end-of-text token ({end!r})", where=str(folder))
        self.n_vocabulary = self._with_special.get_vocab_size(with_added_tokens=True)
        self._folder = folder
        self.special_ids = {i for i, t in self._with_special.get_added_tokens_decoder().items() if t.special}

    def ingredients(self, kind: str) -> dict[str, str]:
        """What decides which ids an item of this kind becomes."""
        found = {"tokenizer": sha256_file(self._folder / "tokenizer.json"), "end_of_text": str(self.end_of_text_id)}
        if kind != "documents":
            found["template"] = sha256_text(str(self.chat.chat_template))
        return found

    # -- text -----------------------------------------------------------------------------------------------

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts without special tokens, in one threaded call."""
        return [e.ids for e in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._with_special.decode(list(ids), skip_special_tokens=True)

    def decode_all(self, ids: Sequence[int]) -> str:
        """Every id as text, special tokens too: for looking, never for training."""
        return self._with_special.decode(list(ids), skip_special_tokens=False)

    # -- chat -----------------------------------------------------------------------------------------------

    def _pieces(self, messages: Sequence[Message], *, answer_follows: bool) -> list[tuple[str, bool]]:
        """The rendered conversation as (text, is_content) pieces."""
        if not getattr(self.chat, "chat_template", None):
            raise BessemerError(
                "the model's tokenizer has no chat template, so it cannot read conversations",
                fix="start from an instruction-tuned (post) checkpoint, or use documents only",
            )
        hidden = [{"role": m.role, "content": PLACEHOLDER.format(i)} for i, m in enumerate(messages)]
        text: str = self.chat.apply_chat_template(hidden, tokenize=False, add_generation_prompt=answer_follows)
        parts = PIECES.split(text)
        used = [int(n) for n in parts[1::2]]
        if used != list(range(len(messages))):
            raise BessemerError(
                f"the chat template shows the messages {used}, not all of {list(range(len(messages)))} in order",
                fix="this template needs another shape of conversation (for example no system message)",
            )
        return [(messages[int(p)].content, True) if i % 2 else (p, False) for i, p in enumerate(parts)]

    def chat_ids(self, messages: Sequence[Message], *, answer_follows: bool = True) -> list[int]:
        """Token ids of a conversation; with `answer_follows` the assistant's turn is opened."""
        return self._encode_pieces([self._pieces(messages, answer_follows=answer_follows)])[0]

    def _encode_pieces(self, conversations: list[list[tuple[str, bool]]]) -> list[list[int]]:
        """Encode many conversations with two threaded calls: template pieces (few, repeated) and contents."""
        template = sorted({text for pieces in conversations for text, content in pieces if not content and text})
        encoded = [e.ids for e in self._with_special.encode_batch_fast(template, add_special_tokens=False)]
        fixed = dict(zip(template, encoded, strict=True))
        contents = iter(self.encode_texts([text for p in conversations for text, content in p if content]))
        result: list[list[int]] = []
        for pieces in conversations:
            ids: list[int] = []
            for text, content in pieces:
                ids += next(contents) if content else fixed.get(text, [])
            result.append(ids)
        return result

    # -- items ----------------------------------------------------------------------------------------------

    def render(self, items: Sequence[Item]) -> list[Example]:
        """Documents (every token is a target, closed by end-of-text) or conversations (answers are targets).

        Raises BessemerError when a conversation has no supervised token or its end of turn is not supervised.
        """
        if items and items[0].messages:
            return self._render_chat(items)
        examples: list[Example] = []
        for item, ids in zip(items, self.encode_texts([i.text for i in items]), strict=True):
            ids_L = np.array([*ids, self.end_of_text_id], np.int32)
            supervised_L = np.ones(len(ids_L), np.bool_)
            examples.append(Example(item.id, item.cluster, ids_L, supervised_L, len(item.text.encode())))
        return examples

    def _render_chat(self, items: Sequence[Item]) -> list[Example]:
        """Loss mask by prefix difference: what an answer adds to the conversation that asked for it."""
        views: list[list[tuple[str, bool]]] = []
        spans: list[tuple[Item, int, list[tuple[int, int]]]] = []
        for item in items:
            answers: list[tuple[int, int]] = []
            full = len(views)
            views.append(self._pieces(item.messages, answer_follows=False))
            for i, message in enumerate(item.messages):
                if message.role == "assistant":
                    answers.append((len(views), len(views) + 1))
                    views.append(self._pieces(item.messages[:i], answer_follows=True))
                    views.append(self._pieces(item.messages[: i + 1], answer_follows=False))
            spans.append((item, full, answers))
        encoded = self._encode_pieces(views)
        return [self._chat_example(item, encoded[full], encoded, answers) for item, full, answers in spans]

    def _chat_example(
        self, item: Item, ids: list[int], encoded: list[list[int]], answers: list[tuple[int, int]]
    ) -> Example:
        supervised_L = np.zeros(len(ids), np.bool_)
        for before, after in answers:
            start, end = len(encoded[before]), len(encoded[after])
            if ids[:start] != encoded[before] or ids[:end] != encoded[after]:
                raise BessemerError(
                    "the chat template changes earlier turns when an answer is added, so the answer's tokens "
                    "cannot be told apart",
                    where=item.id,
                    fix="keep one answer a conversation, or use another template",
                )
            while end > start and ids[end - 1] not in self.special_ids:
                end -= 1  # what the template writes after the end of the turn (a newline) is no answer
            if end <= start + 1:
                raise BessemerError("the end of the assistant's turn would never be trained", where=item.id)
            supervised_L[start:end] = True
        return Example(item.id, item.cluster, np.array(ids, np.int32), supervised_L, 0)


def eos_ids(renderer: Renderer, generation_config: dict[str, Any]) -> set[int]:
    """Ids that end a generation: the tokenizer's end token, the end of text, and what the model's config names."""
    named = generation_config.get("eos_token_id")
    ids = set(named) if isinstance(named, list) else {named}
    return {i for i in ids | {renderer.chat.eos_token_id, renderer.end_of_text_id} if i is not None}
