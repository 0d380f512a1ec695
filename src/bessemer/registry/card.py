"""The model card of a release: README.md as Hugging Face reads it. Says what was measured, and what was not learnt."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from bessemer.registry import facts as read
from bessemer.registry.facts import listed, measured, number, section
from bessemer.registry.svg import minus, visible
from bessemer.units import show_bytes

# Licence identifiers of the Hugging Face hub; anything else is `other` with its name.
HUB_LICENCES = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0"})
_ON_HUB = re.compile(r"hub ([\w.-]+/[\w.-]+) at commit \S+")  # as families/fetch.py words it
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


def build_card(manifest: Mapping[str, Any], scorecard: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """README.md of a release: YAML front matter and Markdown. Deterministic in its arguments.

    manifest: the release's manifest, with or without `files` and `version`. scorecard, plan: as in formats.md.
    """
    name = str(manifest.get("name") or section(plan.get("recipe")).get("name") or "unnamed")
    base = {**section(plan.get("base")), **section(manifest.get("base"))}
    parts = [
        f"# {plain(_reference(name, manifest))}",
        _what(base, manifest, scorecard),
        "## Intended use and limits",
        _limits(scorecard),
        "## Results",
        _results(scorecard),
        "## Training data",
        _data(manifest, plan),
        "## Load it",
        _load(name, manifest),
        "## How a prompt must look",
        _prompt(scorecard),
        "## Lineage",
        _lineage(base, manifest, plan),
    ]
    return _front_matter(name, base) + "\n\n".join(p for p in parts if p) + "\n"


def plain(value: object) -> str:
    """Data as one line of Markdown text that formats nothing, links nothing and is no HTML."""
    line = html.escape(_MARKDOWN.sub(r"\\\1", " ".join(visible(value).split())), quote=False)
    return line.replace("://", ":&#8203;//")


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _front_matter(name: str, base: Mapping[str, Any]) -> str:
    licence = str(base.get("licence") or "unknown")
    known = licence.lower() in HUB_LICENCES
    facts: dict[str, Any] = {
        "license": licence.lower() if known else "other",
        **({} if known else {"license_name": licence}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["bessemer", "continued-pretraining", "fine-tuned", "text-generation"],
    }
    if on_hub := _ON_HUB.fullmatch(str(base.get("origin") or "")):
        facts["base_model"] = on_hub[1]
    facts["model_name"] = name
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n"


def _reference(name: str, manifest: Mapping[str, Any]) -> str:
    return f"{name}@{manifest['version']}" if manifest.get("version") else name


def _what(base: Mapping[str, Any], manifest: Mapping[str, Any], scorecard: Mapping[str, Any]) -> str:
    verdict = section(scorecard.get("verdict"))
    word = str(verdict.get("word") or manifest.get("verdict") or "not measured")
    start = plain(base.get("name") or "an unrecorded base model")
    origin = f" ({plain(base['origin'])})" if base.get("origin") else ""
    meaning = f": {read.VERDICT_WORDS[word]}" if word in read.VERDICT_WORDS else ""
    reasons = "\n".join(f"- {plain(r)}" for r in listed(verdict.get("reasons")))
    return (
        f"A language model trained from {start}{origin} with Bessemer, measured before and after on the same items.\n\n"
        f"**Verdict: {plain(word)}**{meaning}.\n\n{reasons}"
    ).rstrip()


def _limits(scorecard: Mapping[str, Any]) -> str:
    tasks = read.tasks_of(scorecard)
    names = ", ".join(plain(name) for name in tasks)
    use = f"It is meant for what its held-out tasks measure: {names}." if names else "No task was measured."
    word = section(scorecard.get("verdict")).get("word")
    warning = "" if word == "SHIP" else "\n\n**This version did not pass its own gates; do not rely on it.**"
    misses = [plain(s) for name, task in tasks.items() for s in read.not_learnt(name, task)]
    for name, probe in section(scorecard.get("probes")).items():
        words = read.probe_words(section(probe))
        if words != "within the budget":
            change = read.show_signed(measured(section(probe).get("change")), 2, percent=True)
            misses.append(f"{plain(name)}: retention {words} (change in bits per byte {change}).")
    if misses:
        found = "What it is **not** shown to have learnt or kept:\n\n" + "\n".join(f"- {m}" for m in misses)
    else:
        found = "No measured task or slice is at chance, and every probe is within its budget."
    return f"{use} Nothing is known about other uses.{warning}\n\n{found}"


def _results(scorecard: Mapping[str, Any]) -> str:
    tasks: list[list[str]] = []
    for name, task in read.tasks_of(scorecard).items():
        when = [section(task.get(w)) for w in ("before", "after", "change")]
        for metric in dict.fromkeys([read.metric_of(task), *(str(m) for w in when for m in w)]):
            d = read.digits_of(metric)
            before, after, change = (measured(w.get(metric)) for w in when)
            values = [read.show_measured(before, d), read.show_measured(after, d), read.show_change(change, metric)]
            items = number(task.get("n_items"))
            count = "–" if items is None else f"{items:,.0f}"
            tasks.append([plain(name), plain(read.metric_words(metric)), *values, count])
    probes: list[list[str]] = []
    for name, entry in section(scorecard.get("probes")).items():
        probe, limit = section(entry), number(section(entry).get("limit"))
        change = read.show_signed(measured(probe.get("change")), 2, percent=True)
        budget = "–" if limit is None else minus(f"{limit * 100:+.2f} %")
        before, after = (read.show_measured(measured(probe.get(w)), 3) for w in ("before", "after"))
        probes.append([plain(name), before, after, change, budget, read.probe_words(probe)])
    if not tasks and not probes:
        return "Nothing was measured."
    parts = ["Brackets: 95 % intervals (bootstrap over groups of items)."]
    if tasks:
        parts.append(markdown_table(["Task", "Metric", "Before", "After", "Change", "Items"], tasks))
    if probes:
        parts.append("Probes: general texts never trained on, in bits per byte; more means forgetting.")
        parts.append(markdown_table(["Probe", "Before", "After", "Change", "Budget", "In words"], probes))
    return "\n\n".join(parts)


def _data(manifest: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    sources = read.sources_of(plan)
    data = {str(k): section(v) for k, v in section(manifest.get("data")).items()}
    fed: dict[str, int] = {}
    for stage in read.consumed(plan, [], manifest.get("tokens")).values():
        for source, n in stage.items():
            fed[source] = fed.get(source, 0) + n
    rows: list[list[str]] = []
    for name in dict.fromkeys([*sources, *data, *fed]):
        known = {**sources.get(name, {}), **data.get(name, {})}
        licences = ", ".join(map(str, listed(known.get("licences")))) or "not stated"
        tokens, items = fed.get(name), number(known.get("items"))
        counts = ["–" if items is None else f"{items:,.0f}", "not recorded" if tokens is None else f"{tokens:,}"]
        origin = str(known.get("from", known.get("from_", "–")))
        rows.append([plain(name), plain(known.get("role", "–")), plain(origin), plain(licences), *counts])
    if not rows:
        return "No source is recorded."
    table = markdown_table(["Source", "Role", "From", "Licences", "Items", "Tokens fed"], rows)
    words = "Domain sources are the user's own; general sources keep old skills alive. Tokens are those really fed"
    return f"{words}: {sum(fed.values()):,} in all.\n\n{table}"


def _load(name: str, manifest: Mapping[str, Any]) -> str:
    python = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": "..."}]  # see the next section
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
    serve = f"bessemer serve {_reference(name, manifest)}"
    return (
        f"With transformers:\n\n{fenced(python, 'python')}\n\n"
        f"Or serve it with Bessemer, which checks every byte against the manifest first:\n\n{fenced(serve, 'sh')}"
    )


def _prompt(scorecard: Mapping[str, Any]) -> str:
    samples = [section(s) for s in listed(scorecard.get("samples"))]
    sample = next((s for s in samples if listed(s.get("messages"))), None)
    if sample is None:
        return "No sample was recorded."
    turns = [
        f"{plain(section(m).get('role', 'text'))}:\n\n{fenced(str(section(m).get('content', '')), 'text')}"
        for m in listed(sample.get("messages"))
    ]
    wanted = sample.get("wanted")
    end = [] if wanted is None else [f"wanted answer:\n\n{fenced(str(wanted), 'text')}"]
    return "\n\n".join(["The model was measured on prompts of this form; others may work less well.", *turns, *end])


def _lineage(base: Mapping[str, Any], manifest: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    size = number(base.get("bytes"))
    rows = [
        ("base", base.get("digest"), str(base.get("name") or "") + (f", {show_bytes(size)}" if size else "")),
        ("plan", manifest.get("plan_identity") or plan.get("identity"), "identity of the run"),
        ("recipe", manifest.get("recipe_sha256") or plan.get("recipe_sha256"), "with defaults filled in"),
        ("code", manifest.get("code_sha256") or plan.get("code_sha256"), "Bessemer's own source files"),
    ]
    for other in map(section, listed(manifest.get("averaged"))):
        rows.append(("averaged with", other.get("weights_sha256"), f"weights of the run {other.get('run')}"))
    data = {**section(plan.get("sources")), **section(manifest.get("data"))}
    rows += [(f"data {name}", section(v).get("digest"), "every item, in order") for name, v in data.items()]
    shown = [[plain(what), f"`{_hex(value)}`", plain(note)] for what, value, note in rows]
    created = f"Created {plain(manifest['created'])}. " if manifest.get("created") else ""
    return f"{created}Digests (SHA-256):\n\n{markdown_table(['Of', 'Digest', 'What'], shown)}"


def _hex(value: object) -> str:
    """A digest; anything that could end the code span or the table cell is taken out."""
    return re.sub(r"[^\w.:-]", "", str(value or "")) or "not recorded"
