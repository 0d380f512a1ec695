"""Results in a few lines of text: at the end of a run, and for `bessemer show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import read_json
from bessemer.registry import store
from bessemer.signatures import signer_of
from bessemer.track.runs import PLAN, run_names, runs_folder
from bessemer.units import show_count


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def result_lines(card: dict[str, Any]) -> list[str]:
    """One line per measurement: before -> after with 95 % intervals."""
    lines: list[str] = []
    for name, task in card["tasks"].items():
        for metric in task["before"]:
            before, after = task["before"][metric], task["after"][metric]
            label = metric.replace("_", " ")
            lines.append(
                f"  domain  {name:16} {label:14} {before['value']:.3f} -> {_interval(after)}  n={task['n_items']}"
            )
    for name, probe in card["probes"].items():
        change = probe["change"]
        shown = f"{change['value'] * 100:+.2f} % [{change['low'] * 100:+.2f}, {change['high'] * 100:+.2f}]"
        lines.append(
            f"  general {name:16} {'bits per byte':14} {probe['before']['value']:.3f} -> "
            f"{probe['after']['value']:.3f}  {shown}, budget {probe['limit'] * 100:+.2f} %"
        )
    return lines


def closing_lines(card: dict[str, Any], release: store.StoredRelease | None, folder: Path) -> list[str]:
    """The end of the story: what was learnt, the verdict and why, how to serve and try it."""
    lines = ["", "Before -> after on held-out items, 95 % intervals:", *result_lines(card), ""]
    lines.append(f"verdict {card['verdict']['word']}")
    lines += [f"  {reason}" for reason in card["verdict"]["reasons"]]
    lines.append(f"report  {folder / 'report.html'}")
    if release is None:
        lines.append(f"model   {folder / 'model'} (not released: only SHIP is)")
        return lines
    lines += [f"release {release.reference}  digest {release.digest}", f"        {release.path}"]
    lines += [f"        signed by the key {signer[:12]}"] if (signer := signer_of(release.path)) else []
    lines += ["", "Serve it and try it:", f"  bessemer serve {release.reference}", *_example(card)]
    return lines


def _example(card: dict[str, Any]) -> list[str]:
    """The first sample that the model has learnt to answer; where none is, the first."""
    if not card["samples"]:
        return []
    sample = next(filter(_learnt, card["samples"]), card["samples"][0])
    lines = ["  then ask, as it was trained:"]
    for message in sample["messages"]:
        for line in f"{message['role']}: {message['content']}".splitlines():
            lines.append(f"    {line}")
    lines.append(f"    -> wanted {sample['wanted']}; before {sample['before']}, now {sample['after']}")
    return lines


def _learnt(sample: dict[str, Any]) -> bool:
    before, after = (str(sample[when]).startswith(f"{sample['wanted']} (") for when in ("before", "after"))
    return after and not before


def explain(thing: str) -> dict[str, Any]:
    """A release (`name@1`) or a run (`name`): facts, and the same as lines of text.

    Raises BessemerError when there is neither.
    """
    folder = runs_folder() / thing
    if "@" not in thing and (folder / PLAN).exists():
        return _explain_run(folder)
    try:
        return _explain_release(store.find_release(thing))
    except BessemerError:
        name = thing.partition("@")[0]
        if any(reference.partition("@")[0] == name for reference in store.references()):
            raise  # there are such releases: which, or what is wrong with it
        runs = ", ".join(run_names()) or "none"
        raise BessemerError(
            f"there is no release or run {thing!r}", fix=f"runs: {runs}; see `bessemer releases`"
        ) from None


def _explain_run(folder: Path) -> dict[str, Any]:
    plan = read_json(folder / PLAN)
    lines = [
        f"run {folder.name}",
        f"  folder  {folder}",
        f"  plan    {plan['identity'][:12]}",
        f"  base    {plan['base']['name']}",
    ]
    for stage in plan["stages"]:
        state = "done" if (folder / stage["name"] / "done.json").exists() else "not finished"
        lines.append(f"  {stage['name']}  {stage['steps']} steps, {show_count(stage['tokens'])} tokens, {state}")
    card = read_json(folder / "scorecard.json") if (folder / "scorecard.json").exists() else None
    if card:
        lines += [
            *result_lines(card),
            f"verdict {card['verdict']['word']}",
            *(f"  {r}" for r in card["verdict"]["reasons"]),
        ]
    return {"run": folder.name, "plan": plan, "scorecard": card, "lines": lines}


def _explain_release(release: store.StoredRelease) -> dict[str, Any]:
    manifest, card = release.manifest, read_json(release.path / "scorecard.json")
    base, signer = manifest["base"], signer_of(release.path)
    lines = [
        f"release {release.reference}  {manifest['verdict']}  made {manifest['created']}",
        f"  digest  {release.digest}",
        f"  folder  {release.path}",
        f"  signed  {f'by the key {signer}; check it: bessemer verify' if signer else 'no: bessemer sign'}",
        f"  base    {base['name']} {base['digest'][:12]} ({base['origin']}), licence {base['licence']}",
        f"  plan    {manifest['plan_identity'][:12]}",
        f"  recipe  {manifest['recipe_sha256'][:12]}, code {manifest['code_sha256'][:12]}",
    ]
    for stage, tokens in manifest["tokens"].items():
        lines.append(f"  {stage}  " + ", ".join(f"{name} {n} tokens" for name, n in tokens.items()))
    for name, data in manifest["data"].items():
        lines.append(
            f"  data    {name}: {data['role']}, {data['items']} items from {data['from']}, {data['digest'][:12]}"
        )
    lines += result_lines(card)
    return {
        "release": release.reference,
        "digest": release.digest,
        "signed_by": signer,
        "manifest": manifest,
        "scorecard": card,
        "lines": lines,
    }
