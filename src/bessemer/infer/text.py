"""Token ids -> text, one token at a time, without ever splitting a character.

A token stands for bytes, not for text: an emoji is often three or four tokens. Everything here works on bytes
and decodes UTF-8 incrementally, so that the deltas of a stream always join to what the whole decodes to.
"""

from __future__ import annotations

import codecs
import json
import re
import weakref

from tokenizers import Tokenizer

from bessemer.data.fast import bytes_of_characters
from bessemer.data.render import Renderer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The bytes of every token of a tokenizer. Ids beyond the tokenizer (a padded head) stand for nothing."""

    def __init__(self, renderer: Renderer) -> None:
        self._tokenizer: Tokenizer = renderer._with_special  # as tokenizer.json says, before transformers' changes
        self._added = self._tokenizer.get_added_tokens_decoder()
        self._special = renderer.special_ids
        self._kind = _decoder_kind(self._tokenizer)
        self._known: dict[int, bytes] = {}

    def raw(self, token: int) -> bytes:
        """The bytes of a token; a special token's are its name."""
        if token not in self._known:
            self._known[token] = self._find(token)
        return self._known[token]

    def content(self, token: int) -> bytes:
        """The bytes that a token adds to the text: none when it is special."""
        return b"" if token in self._special else self.raw(token)

    def _find(self, token: int) -> bytes:
        name = self._tokenizer.id_to_token(token)
        if name is None:
            return b""
        if token in self._added:
            return name.encode()
        if self._kind == "bytes":
            table = bytes_of_characters()
            return bytes(table[c] for c in name) if all(c in table for c in name) else name.encode()
        if self._kind == "pieces":
            match = _BYTE_TOKEN.fullmatch(name)
            return bytes([int(match[1], 16)]) if match else name.replace("\u2581", " ").encode()
        return self._tokenizer.decode([token], skip_special_tokens=False).encode()


_vocabularies: weakref.WeakKeyDictionary[Renderer, Vocabulary] = weakref.WeakKeyDictionary()


def vocabulary(renderer: Renderer) -> Vocabulary:
    """The renderer's vocabulary, made once."""
    if renderer not in _vocabularies:
        _vocabularies[renderer] = Vocabulary(renderer)
    return _vocabularies[renderer]


def token_name(raw: bytes) -> str:
    """A token as OpenAI writes it: its text, or `bytes:\\xf0\\x9f` where it is no whole UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in raw)


class TextStream:
    """Bytes in, whole characters out. Bytes that never become a character turn into U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, raw: bytes) -> str:
        return self._decoder.decode(raw)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def _decoder_kind(tokenizer: Tokenizer) -> str:
    """`bytes` (GPT-2's alphabet), `pieces` (SentencePiece) or `other`."""
    decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
    kinds = {d.get("type") for d in decoder.get("decoders", [decoder])}
    if "ByteLevel" in kinds:
        return "bytes"
    return "pieces" if kinds & {"ByteFallback", "Metaspace"} else "other"
