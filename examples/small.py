"""What both demonstrations share: a small model with random weights, and a real question about real comments.

Film reviews, shop reviews and tweets come with the collection `bessemer:comments`; the question is whether a comment is
about a film. A run of this model takes seconds, so that dozens of runs fit into minutes; what they show about selection
and about leaks does not depend on the model's size.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from bessemer.data.builtin import comments
from bessemer.data.items import Item

QUESTION = "Is this about a film? {text}"
FILMS = "movieReviewSnippets"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
Row = dict[str, Any]


def all_comments() -> list[Item]:
    """Every comment that is not held out by the collection itself, in a fixed random order."""
    found = comments.domain_documents()
    random.Random(0).shuffle(found)
    return found


def row(item: Item) -> Row:
    """A comment as an item of a task."""
    answer = "yes" if item.id.startswith(FILMS) else "no"
    return {
        "id": item.id,
        "messages": [{"role": "user", "content": QUESTION.format(text=item.text)}],
        "answer": answer,
    }


def balanced(items: list[Item], n: int) -> tuple[list[Row], list[Item]]:
    """(n rows, half of them films, what is left of the items)."""
    taken, rest, counts = list[Row](), list[Item](), {"yes": 0, "no": 0}
    for item in items:
        one = row(item)
        if counts[one["answer"]] < n // 2:
            counts[one["answer"]] += 1
            taken.append(one)
        else:
            rest.append(item)
    return taken, rest


def chats(rows: list[Row]) -> list[Row]:
    """Rows of a task as conversations to train on."""
    return [{"id": r["id"], "messages": [*r["messages"], {"role": "assistant", "content": r["answer"]}]} for r in rows]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return path


def write_task(folder: Path, name: str, rows: list[Row]) -> Path:
    write_jsonl(folder / f"{name}.jsonl", rows)
    task = {"name": name, "kind": "classify", "items": f"{name}.jsonl", "answers": ["yes", "no"], "metric": "accuracy"}
    task |= {"overlap_limit": 0.02}  # some comments stand in the collection twice, in other words
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False))
    return path


def make_model(folder: Path, texts: list[str]) -> Path:
    """A Llama of about two million random weights with a tokenizer trained on the texts; made once."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=[AddedToken(t, special=True) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, "user assistant yes no", QUESTION], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    end_of_text, end_of_turn = (tokenizer.convert_tokens_to_ids(t) for t in (SPECIAL[0], SPECIAL[2]))
    ids = {"bos_token_id": end_of_text, "eos_token_id": end_of_turn, "pad_token_id": end_of_text}
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.05,
        **ids,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    return folder


def recipe(name: str, model: Path, train: Path, probe: Path, *, tokens: int, seed: int = 1, lr: float = 2e-3) -> Row:
    """One stage of tuning on the question; the probe is only there because a run must have one."""
    return {
        "name": name,
        "start": str(model),
        "seed": seed,
        "retain": 0.51,
        "sources": {"films": {"from": str(train), "kind": "chat", "max_epochs": 60}},
        "stages": [
            {
                "objective": "sft",
                "mixture": {"films": 1.0},
                "tokens": tokens,
                "lr": lr,
                "row_tokens": 512,
                "rows": 4,
            }
        ],
        "probes": {"general": {"from": str(probe), "tokens": 2000}},
        "tasks": {"own": {"from": str(probe), "metric": "bits_per_byte"}},
    }
