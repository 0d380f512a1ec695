"""A random Llama of about half a million parameters, small enough to load in every test process.

Byte-level BPE trained on the text below, ChatML chat template, tied embeddings, grouped-query attention. The
vocabulary of the model is padded beyond the tokenizer's, as in many published models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MAX_TOKENS = 2048
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = {"PERSON": ["Ada Lovelace", "Charles Babbage"], "GPE": ["London"], "ROBOT": ["R2D2"]}
WORDS = tuple(
    word
    for line in (
        "time year people way day man thing woman life child world school state family student group",
        "country problem hand part place case week company system program question work government number",
        "night point home water room mother area money story fact month lot right study book eye job word",
        "business issue side kind head house service friend father power hour game line end member law car",
        "city community name president team minute idea body information back parent face others level",
        "office door health person art war history party result change morning reason research girl guy",
        "moment air teacher force education steel iron furnace forge blast mill rail yes no user system",
        "assistant spam comment love hate allowed refused because therefore although between",
    )
    for word in line.split()
)
SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps for 12 hours.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "Is this comment allowed here? Answer with yes or no.",
    "Grüße aus Köln: Äpfel, Öl und süße Übung. Café, naïve, façade, señor.",
    "Москва, Киев и Минск. 東京と大阪。 你好，世界！ 😀 👍🏽 🇩🇪 ❤️",
    '{"name": "value", "list": [1, 2, 3], "ok": true}',
    "Henry Bessemer's process made steel from pig iron at a fraction of the cost.",
)


def make_tiny_model(folder: Path, seed: int = 0, *, dtype: str = "float32") -> Path:
    """Write the model in Hugging Face layout into `folder` (made when missing) and return the folder.

    The same seed gives the same weights; tests may rely on that and on nothing else about them.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    end_of_text, _, end_of_turn = (tokenizer.convert_tokens_to_ids(t) for t in SPECIAL)
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_turn,
        pad_token_id=end_of_text,
        initializer_range=0.08,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.generation_config = GenerationConfig(
        bos_token_id=end_of_text, eos_token_id=end_of_turn, pad_token_id=end_of_text
    )
    model.save_pretrained(folder)
    return folder


def make_tiny_base(model: Path, folder: Path) -> Path:
    """A copy of a tiny model as base checkpoints come: no chat template, and every end is the end of the text."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink()
    for name, end in (("config", 0), ("generation_config", 0), ("tokenizer_config", SPECIAL[0])):
        values = json.loads((folder / f"{name}.json").read_text())
        values["eos_token" if name == "tokenizer_config" else "eos_token_id"] = end
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def make_tiny_release(model: Path, home: Path, name: str = "tiny") -> Path:
    """Put a copy of a model folder into `home` as the release `name@1`, without the papers of a real one."""
    from bessemer.files import digest_files, write_json
    from bessemer.registry.store import MANIFEST
    from bessemer.signatures import RELEASE_FORMAT

    folder = home / "releases" / name / "1"
    shutil.copytree(model, folder)
    facts = {"name": name, "version": 1, "created": "2026-01-01T00:00:00Z", "verdict": "SHIP"}
    base = {"name": "tiny@post", "digest": "0" * 64, "origin": "tests", "licence": "Apache-2.0"}
    write_json(
        folder / MANIFEST,
        {"format": RELEASE_FORMAT, **facts, "base": base, "end_of_text": SPECIAL[0], "files": digest_files(folder)},
    )
    return folder


@cache
def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[AddedToken(t, special=True) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*SENTENCES, *(f"{a} {b}" for a in WORDS for b in WORDS[::7])], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_tiny_names(folder: Path, language: str = "en", names: Mapping[str, list[str]] = NAMES) -> Path:
    """A real spaCy pipeline that knows a few names, saved as spaCy saves any. Needs spaCy."""
    import spacy

    nlp: Any = spacy.blank(language)
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": label, "pattern": text} for label, texts in names.items() for text in texts])
    nlp.to_disk(folder)
    return folder
