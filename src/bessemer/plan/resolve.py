"""Recipe -> plan: every value, digest, token and step. The plan's identity is what a run is.

Identity covers recipe, data, base and code. It does not cover the machine, paths or precision: those may change
when a run is resumed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import bessemer
from bessemer.data.batch import StageData
from bessemer.data.items import Item, digest_items
from bessemer.data.render import Renderer
from bessemer.data.shards import TokenSet, text_hash
from bessemer.data.shares import mean_shares
from bessemer.data.sources import need_found
from bessemer.data.stage import build_stage, tokenise
from bessemer.data.start import resolve_start
from bessemer.errors import BessemerError
from bessemer.evaluate.measure import TASK_TOKENS, read_held_out, refuse_long_items
from bessemer.families.check import check_tokenizer
from bessemer.families.fetch import Checkpoint
from bessemer.families.own_data import with_family_data
from bessemer.files import canonical_json, home, need_writable, sha256_file, sha256_folder, sha256_text
from bessemer.plan import estimate
from bessemer.plan.advice import advise
from bessemer.plan.defaults import Chosen, choose, end_of_stage, end_of_start, optimizer_choice, peak_of_start
from bessemer.recipe.load import dump_recipe
from bessemer.recipe.schema import Recipe

FORMAT = "bessemer.plan/2"
Plan = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A plan and the objects it was made of, so that a run need not make them again."""

    plan: Plan
    recipe: Recipe
    checkpoint: Checkpoint
    renderer: Renderer
    stages: list[StageData]
    tasks: dict[str, list[Item]]
    probes: dict[str, list[Item]]

    @property
    def identity(self) -> str:
        return self.plan["identity"]


def code_sha256() -> str:
    """One digest over Bessemer's own source files."""
    root = Path(bessemer.__file__).parent
    return sha256_folder({p.relative_to(root).as_posix(): sha256_file(p) for p in sorted(root.rglob("*.py"))})


def stage_name(number: int, objective: str) -> str:
    return f"{number + 1:02d}-{objective}"


def prepare(recipe: Recipe, say: Callable[[str], None] = lambda _: None) -> Prepared:
    """Resolve a recipe completely. Raises BessemerError for whatever would fail later."""
    need_writable(home())
    need_found(recipe)
    recipe = with_family_data(recipe)
    checkpoint = resolve_start(recipe.start, recipe.chat_template)
    check_tokenizer(checkpoint.path)
    renderer = Renderer(checkpoint.path, checkpoint.end_of_text)
    tasks, probes = read_held_out(recipe)
    refuse_long_items(recipe, tasks, renderer, estimate.context_of(checkpoint), checkpoint.name)
    sets = tokenise(recipe, renderer, say)
    refuse_overlap(sets, tasks | probes)
    stages = [build_stage(recipe, n, sets) for n in range(len(recipe.stages))]
    refuse_beyond_context(stages, checkpoint)
    size = estimate.size_of(checkpoint)
    identity_part: Plan = {
        "recipe": without_addresses(dump_recipe(recipe)),
        "base": {"digest": checkpoint.digest},
        "code_sha256": code_sha256(),
        "sources": {name: _describe_source(recipe.sources[name].role, s) for name, s in sets.items()},
        "held_out": {name: _describe_held_out(i) for name, i in (tasks | probes).items()},
        "stages": _stage_plans(recipe, stages, checkpoint, size.hidden),
    }
    plan: Plan = {
        "format": FORMAT,
        "identity": sha256_text(canonical_json(identity_part)),
        **identity_part,
        "recipe": dump_recipe(recipe),
        "base": {
            "name": checkpoint.name,
            "stage": checkpoint.stage,
            "digest": checkpoint.digest,
            "origin": checkpoint.origin,
            "licence": checkpoint.licence,
            "bytes": checkpoint.n_bytes,
            "end_of_text": checkpoint.end_of_text,
            "chat_template": checkpoint.chat_template,
        },
        "recipe_sha256": sha256_text(canonical_json(dump_recipe(recipe))),
        "token_sets": {name: tokens.reference for name, tokens in sets.items()},
        "defaults": sorted(_defaults(recipe)),
        "machine": describe_machine(),
        "advice": advise(recipe, identity_part["stages"], checkpoint),
        "estimate": {},
    }
    return Prepared(plan, recipe, checkpoint, renderer, stages, tasks, probes)


def refuse_beyond_context(stages: Sequence[StageData], checkpoint: Checkpoint) -> None:
    """Positions that the start never learnt, or (rotations that follow the longest document) learnt otherwise.

    Raises BessemerError for a document that reaches further in a row.
    """
    context = estimate.context_of(checkpoint)
    for n, stage in enumerate(stages):
        for source in stage.sources:
            if (longest := int(source.packed.lengths.max())) > context:
                raise BessemerError(
                    f"a document of {source.name} has {longest} tokens in a row; {checkpoint.name} reads {context}",
                    where=f"stages[{n}].row_tokens",
                    fix=f"row_tokens: {context}",
                )


def without_addresses(recipe: Plan) -> Plan:
    """The recipe without where data, base and its chat template lie: digests say what they are, folders may move."""
    groups = {
        group: {name: {k: v for k, v in member.items() if k != "from"} for name, member in recipe[group].items()}
        for group in ("sources", "probes", "tasks")
    }
    return {k: v for k, v in recipe.items() if k not in {"start", "chat_template"}} | groups


@dataclass(frozen=True)
class Needs:
    """What this machine must have. workers: processes of it that train a stage together; 0: it trains nothing.
    written: bytes of the disk that the run has already."""

    workers: int = 1
    written: int = 0


def add_estimate(prepared: Prepared, *, measured: bool, needs: Needs | None) -> None:
    """Fill in memory, disk and (when `measured`) minutes. Raises BessemerError when this machine lacks what it needs.

    needs: None for a run that is told elsewhere.
    """
    from bessemer.infer.model import detect_machine
    from bessemer.train.memory import GPU_MICRO_TOKENS, MICRO_TOKENS

    recipe, size = prepared.recipe, estimate.size_of(prepared.checkpoint)
    machine = detect_machine()
    half = str(machine.dtype) != "torch.float32"
    on_gpu, workers = machine.device.type == "cuda", needs.workers if needs else 0
    most = GPU_MICRO_TOKENS if on_gpu else MICRO_TOKENS
    together = 1 if on_gpu else max(1, workers)  # processes in one memory; every worker has a GPU of its own
    free = estimate.available_memory() // together if workers else 0
    micro, memory = estimate.fit(size, recipe, free, half=half, most=most, workers=max(1, workers))
    disk = estimate.disk_bytes(size, recipe, half=half)
    found: Plan = {
        "parameters": size.parameters,
        "trained_parameters": [estimate.trained_parameters(size, s) for s in recipe.stages],
        "micro_tokens": micro,
        "memory_bytes": memory,
        "disk_bytes": disk,
    }
    prepared.plan["estimate"] = found
    if workers:
        estimate.need_memory(memory * together)
    if needs:
        estimate.need_disk(disk - needs.written)
    if measured:
        seconds, precision = estimate.measure_step(prepared.checkpoint, recipe, prepared.stages, micro)
        training = [s * data.n_steps for s, data in zip(seconds, prepared.stages, strict=True)]
        tokens = recipe.stages[-1].rows * recipe.stages[-1].row_tokens
        per_token = seconds[-1] / tokens / estimate.EVALUATION_SPEEDUP
        evaluation = 2 * per_token * held_out_tokens(recipe, prepared.tasks)
        found |= {
            "precision": precision,
            "step_seconds": [round(s, 3) for s in seconds],
            "minutes": round((sum(training) * 1.05 + evaluation) / 60, 1),
        }


def held_out_tokens(recipe: Recipe, tasks: Mapping[str, Sequence[Item]]) -> int:
    """About how many tokens are measured before and after: three characters are one. Of texts some windows are."""
    found = sum(p.tokens for p in recipe.probes.values())
    for name, items in tasks.items():
        n = sum(len(item.text) + sum(len(m.content) for m in item.messages) for item in items) // 3
        found += min(n, TASK_TOKENS) if recipe.tasks[name].metric == "bits_per_byte" else n
    return found


def keep_estimate(old: Plan, new: Plan) -> None:
    """What was estimated stays, measured minutes too, so that a run continues as it began; unless memory got scarce."""
    fewer = [min(pair) for pair in zip(old["estimate"]["micro_tokens"], new["estimate"]["micro_tokens"], strict=True)]
    new["estimate"] = old["estimate"] | {"micro_tokens": fewer}


def drift(old: Plan, new: Plan) -> list[str]:
    """What differs between two plans' identities, one readable line each."""
    keys = ("recipe", "base", "code_sha256", "sources", "held_out", "stages")
    lines: list[str] = []
    for key in keys:
        a, b = old.get(key), new.get(key)
        if key == "recipe" and a and b:
            a, b = without_addresses(a), without_addresses(b)
        _differences(key, a, b, lines)
    return lines


def _differences(path: str, old: Any, new: Any, lines: list[str]) -> None:
    if path.endswith("digest") or path == "code_sha256":
        if old != new:
            lines.append(f"{path}: {str(old)[:12]} -> {str(new)[:12]}")
    elif path == "base" and isinstance(old, dict) and isinstance(new, dict):
        _differences("base.digest", old.get("digest"), new.get("digest"), lines)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            _differences(f"{path}.{key}", old.get(key), new.get(key), lines)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            _differences(f"{path}[{i}]", a, b, lines)
    elif old != new:
        lines.append(f"{path}: {old!r} -> {new!r}")


def describe_machine() -> Plan:
    """Where the plan was made; never part of the identity."""
    packages = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    found: dict[str, str] = {"bessemer": bessemer.__version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "system": platform.platform(), "versions": found}


def refuse_overlap(sources: dict[str, TokenSet], held_out: dict[str, list[Item]]) -> None:
    """Raises BessemerError when a held-out item is also trained on, word for word (letters and digits only)."""
    for name, items in held_out.items():
        texts = np.array([text_hash(item) for item in items], np.uint64)
        for source, tokens in sources.items():
            if hits := tokens.same_texts(texts):
                item, trained = hits[0]
                raise BessemerError(
                    f"{len({i for i, _ in hits})} of its {len(items)} items are also in the training data, first: "
                    f"{items[item].id} = {tokens.item_id(trained)} of source {source}",
                    where=f"held-out set {name}",
                    fix="take them out of one of the two; a test that was trained on measures memory",
                )


def _describe_source(role: str, tokens: TokenSet) -> Plan:
    return {
        "role": role,
        "items": tokens.n_read,
        "tokens": tokens.n_tokens,
        "digest": tokens.manifest["ingredients"]["data"],
        "licences": list(tokens.manifest["licences"]),
        **({"refused": tokens.manifest["refused"]["reasons"]} if tokens.manifest["refused"]["n"] else {}),
    }


def _describe_held_out(items: list[Item]) -> Plan:
    licences = sorted({str(i.meta.get("licence", "not stated")) for i in items})
    return {"role": "held out", "items": len(items), "digest": digest_items(items), "licences": licences}


def _stage_plans(recipe: Recipe, stages: list[StageData], checkpoint: Checkpoint, hidden: int) -> list[Plan]:
    plans: list[Plan] = []
    ended, peak = end_of_start(checkpoint), peak_of_start(checkpoint)
    for number, (stage, data) in enumerate(zip(recipe.stages, stages, strict=True)):
        chosen = choose(stage, checkpoint.stage, hidden, ended, peak)
        plans.append(_stage_plan(number, recipe, data, chosen))
        if number == 0:
            state, plans[0]["why"]["optimizer"] = optimizer_choice(stage, checkpoint)
            plans[0] |= {"optimizer_state": state} if state else {}
        ended = end_of_stage(stage, chosen, plans[-1]["name"])
    return plans


def _stage_plan(number: int, recipe: Recipe, data: StageData, chosen: Chosen) -> Plan:
    stage = recipe.stages[number]
    sources: Plan = {}
    taken = data.mixture.taken(len(data.mixture))
    share = mean_shares(data.phases)
    for packed in data.sources:
        n_rows, counts = taken[packed.name], packed.packed.counts
        supervised = packed.tokens.n_supervised / packed.tokens.n_tokens
        tokens = round(n_rows * packed.n_tokens / packed.n_rows)
        sources[packed.name] = {
            "share": round(float(share[packed.name]), 6),
            "items": packed.tokens.n_read,
            "tokens_in_source": packed.n_tokens,
            "rows": n_rows,
            "tokens": tokens,
            "supervised": round(tokens * supervised),
            "epochs": round(n_rows / packed.n_rows, 3),
            "long": {k: v for k, v in asdict(counts).items() if k not in {"items", "placed"} and v},
            "digest": packed.digest(),
        }
    return {
        "name": stage_name(number, stage.objective),
        "objective": stage.objective,
        "steps": data.n_steps,
        "tokens": sum(s["tokens"] for s in sources.values()),
        "lr": chosen.lr,
        "warmup": chosen.warmup,
        "final_lr": chosen.final_lr,
        "why": chosen.why,
        "sources": sources,
        "changes": [
            {"at": p.at, "ramp": p.ramp, "shares": {n: round(float(s), 6) for n, s in p.shares.items()}}
            for p in data.phases[1:]
        ],
    }


def _defaults(recipe: Recipe) -> Iterable[str]:
    """Paths of the fields that the user left to their defaults."""
    yield from (name for name in type(recipe).model_fields if name not in recipe.model_fields_set)
    groups = {"sources": recipe.sources, "probes": recipe.probes, "tasks": recipe.tasks}
    for group, members in groups.items():
        for key, member in members.items():
            unset = type(member).model_fields.keys() - member.model_fields_set
            yield from (f"{group}.{key}.{name}" for name in unset)
    for i, stage in enumerate(recipe.stages):
        yield from (f"stages[{i}].{name}" for name in type(stage).model_fields if name not in stage.model_fields_set)
