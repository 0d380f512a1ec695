"""`bessemer families grow NAME`: a family from scratch, with a checkpoint after every stage.

A family is a random start, a tokenizer and a recipe whose stages are the family's: `pre` at a constant rate, `mid`
that anneals to zero on better data, `post` that tunes on conversations. The recipe runs like any other: it continues
after a kill, and the same recipe on the same machine gives the same bytes. Then every stage's weights become a
checkpoint of the catalogue, `NAME@pre`, `NAME@mid`, `NAME@post`, with what was seen until there. A company grows its
own family the same way: `--recipe own.yaml`.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bessemer.data.sources import Source
from bessemer.data.start import resolve_start
from bessemer.errors import BessemerError
from bessemer.families import catalogue, schema
from bessemer.families.catalogue import STAGES
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.files import exclusive, link_file, new_folder, read_json, saving_weights, write_json
from bessemer.recipe.load import load_recipe, parse_recipe
from bessemer.recipe.schema import Recipe, Stage
from bessemer.run import run_recipe
from bessemer.stage import overlay_of
from bessemer.track.runs import PLAN, runs_folder
from bessemer.track.screen import Screen
from bessemer.train import checkpoint
from bessemer.train.export import export_model
from bessemer.train.weights import Trained, merged, what_is_trained

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Of a Llama with tied embeddings. tokens: of the stages pre, mid and post."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    context: int
    tokens: tuple[int, int, int]


EXPORTS = "exports.json"  # of which plan the exported checkpoints are
NAME = re.compile(r"^[a-z0-9._]+-[a-z0-9._]+$")
SHAPES = {
    "nano-1m": Shape(128, 4, 4, 4096, 512, (1_600_000, 400_000, 160_000)),
    "nano-6m": Shape(256, 6, 8, 8192, 1024, (6_000_000, 1_500_000, 400_000)),
    "nano-30m": Shape(512, 9, 8, 16384, 2048, (60_000_000, 12_000_000, 2_000_000)),
}


def grow(
    name: str,
    screen: Screen,
    *,
    shape: str = "",
    recipe: Path | None = None,
    sets: Sequence[str] = (),
    restart: bool = False,
) -> list[Checkpoint]:
    """Train the stages and put their checkpoints into this machine's catalogue; returns them in order.

    name: family-size. shape: one of SHAPES, by default the one of this name. recipe: by default the one of `nano`; its
    `start` is made here. restart: train again. Raises BessemerError for an unknown shape, a recipe whose stages are not
    pre, mid and post, a name that the catalogue has, or a family that was begun otherwise.
    """
    if not NAME.match(name):
        raise BessemerError(f"{name!r} is no family-size", where="families grow", fix="such as acme-1m")
    if (shape or name) not in SHAPES:
        raise BessemerError(
            f"{shape or name!r} has no shape", where="families grow", fix=f"--shape: one of {', '.join(SHAPES)}"
        )
    catalogue.need_free([name], where="families grow")
    folder = catalogue.private_folder() / name
    with exclusive(folder.with_name(f".{name}.lock"), f"the family {name}"):
        made = read_recipe(name, SHAPES[shape or name], folder / "start", recipe, sets)
        _begin(folder, SHAPES[shape or name], made, screen)
        run_recipe(made, screen, restart=restart)
        plan = read_json(runs_folder() / made.name / PLAN)
        _forget_other_exports(folder, plan["identity"])
        told = {stage: _stage(folder, made, plan, n) for n, stage in enumerate(STAGES)}
        stages = {stage: facts for stage, (facts, _) in told.items()}
        data = {stage: fed for stage, (_, fed) in told.items()}
        catalogue.write_private(name, plan["estimate"]["parameters"], stages, data, made.name)
    return [resolve(f"{name}@{stage}") for stage in STAGES]


def _begin(folder: Path, shape: Shape, recipe: Recipe, screen: Screen) -> None:
    """Tokenizer and random weights, once. Raises BessemerError when those that are there came from something else."""
    texts = {name: recipe.sources[name].model_dump(mode="json") for name in recipe.used_by(recipe.stages[0])}
    made_of = {"shape": asdict(shape), "seed": recipe.seed, "sources": texts}
    record = folder / "start.json"
    if not (folder / "start").exists():
        write_json(record, made_of)  # first: a start whose making nobody knows could never be compared
        with screen.step(f"{folder.name}: tokenizer and random weights"):
            make_start(shape, recipe, folder / "start")
    elif record.exists() and read_json(record) != json.loads(json.dumps(made_of)):
        raise BessemerError(
            "this family was begun with another shape, seed or first sources",
            where=str(folder),
            fix="undo the change, take another name, or remove the folder and the run to begin again",
        )


def read_recipe(name: str, shape: Shape, start: Path, path: Path | None, sets: Sequence[str]) -> Recipe:
    """The family's recipe with its start and sizes. Raises BessemerError."""
    own = [f"name=grow-{name}", f"start={json.dumps(str(start), ensure_ascii=False)}"]
    if path is not None:
        made = load_recipe(path, [*own, *sets])
    else:
        text = files("bessemer.families").joinpath("nano_recipe.txt").read_text()
        own += [f"stages[{i}].tokens={tokens}" for i, tokens in enumerate(shape.tokens)]
        made = parse_recipe(text, where="nano", overrides=[*own, *sets])
    kinds = [s.objective for s in made.stages]
    if kinds != ["cpt", "cpt", "sft"]:
        raise BessemerError(
            f"a family has the stages pre (cpt), mid (cpt) and post (sft), this recipe has {', '.join(kinds)}",
            where=str(path or "nano"),
            fix="one stage each, in this order",
        )
    return made


def make_start(shape: Shape, recipe: Recipe, out: Path) -> None:
    """A tokenizer of the texts of the first stage, and random weights that the recipe's seed decides."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = recipe.used_by(recipe.stages[0])
    texts = (item.text for n in names for item in Source.of(recipe.sources[n], f"sources.{n}"))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=[AddedToken(t, special=True) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[0], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    begin, end = (tokenizer.convert_tokens_to_ids(t) for t in (SPECIAL[0], SPECIAL[2]))
    # Documents end with <|endoftext|>: the tokens of a chat stay out of the stages before `post`.
    ids: dict[str, Any] = {"bos_token_id": begin, "eos_token_id": begin, "pad_token_id": begin}
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=shape.hidden,
        intermediate_size=-(-8 * shape.hidden // 3 // 64) * 64,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 2,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: Any = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids | {"eos_token_id": [begin, end]})
    with new_folder(out) as tmp:
        tokenizer.save_pretrained(tmp)
        with saving_weights(tmp):
            model.save_pretrained(tmp)


def _forget_other_exports(folder: Path, identity: str) -> None:
    """What another plan left must not stand under the new one's facts."""
    record = folder / EXPORTS
    if not record.exists() or read_json(record)["plan"] != identity:
        for path in folder.iterdir():
            if path.is_dir() and path.name.partition("-")[0] in STAGES:
                shutil.rmtree(path)
        write_json(record, {"plan": identity})


def _stage(folder: Path, recipe: Recipe, plan: dict[str, Any], n: int) -> tuple[schema.Stage, schema.Data]:
    """Export a stage's checkpoints; what the catalogue says of them, and of what they were fed."""
    start, run = resolve_start(recipe.start, recipe.chat_template), runs_folder() / recipe.name
    planned, trained = plan["stages"][n], recipe.stages[n]
    kept = {int(p.name.removeprefix("step-")): p for p in checkpoint.complete(run / planned["name"])}
    out = {step: folder / f"{STAGES[n]}-{step}" for step in sorted(kept)}
    for step, path in out.items():
        if not path.exists():
            what = what_is_trained(trained, recipe.seed)
            _export(start, overlay_of(run, plan, n) if n else None, what, kept[step], path)
    where: dict[str, Any] = {
        "folder": str(folder / f"{STAGES[n]}-{{step}}"),
        "steps": list(out),
        "digests": {step: resolve(str(path)).digest for step, path in out.items()},
    }
    if not kept:  # the recipe keeps no checkpoints: there is one, of the end
        path = folder / STAGES[n]
        if not path.exists():
            export_model(start, [overlay_of(run, plan, n + 1)], path, dtype=torch.float32)
        where = {"folder": str(path), "digest": resolve(str(path)).digest, "steps": [planned["steps"]]}
    before = sum(s["tokens"] for s in plan["stages"][:n])
    facts = {
        "tokens_before": before,
        "batch_tokens": round(planned["tokens"] / planned["steps"]),
        "tokens_seen": before + planned["tokens"],
        "peak_lr": planned["lr"],
        "schedule": _schedule(trained, planned),
        "context": trained.row_tokens,
        "optimizer": "included" if kept else "none",
    }
    said = {key: catalogue.said_by_run(value) for key, value in facts.items()}
    return schema.Stage.model_validate({"source": "run", **where, **said}), _data(recipe, planned)


def _schedule(trained: Stage, planned: dict[str, Any]) -> dict[str, Any]:
    """The rate's path in the catalogue's words."""
    steps = planned["steps"]
    warmup = min(round(planned["warmup"] * steps), steps - 1)
    if trained.schedule == "constant":
        return {"shape": "constant", "warmup": warmup}
    begins = {"begins": min(round((1 - trained.decay) * steps), steps - 1)} if trained.schedule == "wsd" else {}
    shape = "cosine" if trained.schedule == "cosine" else "linear"
    return {"shape": shape, "warmup": warmup, **begins, "ends": steps, "final": planned["final_lr"]}


def _data(recipe: Recipe, planned: dict[str, Any]) -> schema.Data:
    parts = [
        {"name": name, "from": recipe.sources[name].from_, "kind": recipe.sources[name].kind, "share": facts["share"]}
        for name, facts in planned["sources"].items()
    ]
    return schema.Data.model_validate({"status": "open", "parts": parts, "source": "run"})


def _export(start: Checkpoint, before: Path | None, what: Trained, path: Path, out: Path) -> None:
    """A checkpoint of the training as a model in fp32, and beside it the state of its optimizer."""
    state = out.with_name(f"{out.name}.optimizer")
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(path, state, copy_function=link_file)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-") as tmp:
        weights = Path(tmp) / "weights.safetensors"
        earlier = load_file(before) if before else {}  # of stages before, what this one does not train
        with saving_weights(weights):
            save_file(earlier | merged(start, before, what, checkpoint.masters_of(path)), weights)
        export_model(start, [weights], out, dtype=torch.float32)


def describe(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """One line each."""
    return [f"{c.name}  {c.digest[:16]}  {c.path}" for c in checkpoints]
