"""bessemer plan RECIPE"""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from bessemer.cli.options import Json, RecipePath, Set, print_json, print_table
from bessemer.units import show_bytes, show_count


def plan(
    recipe: RecipePath,
    set_: Set = None,
    measure: Annotated[bool, typer.Option(help="Train a few steps on copies to measure the minutes.")] = True,
    json: Json = False,
) -> None:
    """Resolve everything before anything is spent: digests, tokens, steps, memory, disk, minutes."""
    from bessemer.launch.here import quiet_libraries
    from bessemer.recipe.load import load_recipe
    from bessemer.track.screen import Screen

    quiet_libraries()
    loaded = load_recipe(recipe, set_ or [])
    from bessemer.run import PLAN, plan_run, runs_folder

    made = plan_run(loaded, Screen(), measured=measure).plan
    path = runs_folder() / loaded.name / PLAN
    if json:
        print_json(made)
        return
    show_plan(made)
    print(f"\nplan {made['identity'][:12]} written to {path}")
    print(f"next: {shlex.join(['bessemer', 'run', str(recipe), *(f'--set={s}' for s in set_ or [])])}")


def show_plan(made: dict[str, Any]) -> None:
    """Tables of a plan; values that the user did not choose are marked as defaults."""
    base, cost = made["base"], made["estimate"]
    print(f"base   {base['name']}  {base['digest'][:12]}  {show_bytes(base['bytes'])}  licence {base['licence']}")
    print(f"       {base['origin']}")
    if base["chat_template"]:
        print(f"       chat template: {base['chat_template']}")
    recipe = made["recipe"]
    print(f"run    seed {recipe['seed']}, retain {recipe['retain']:g}, merge {recipe['merge']:g}")
    rows: list[list[str]] = []
    for stage in made["stages"]:
        for name, source in stage["sources"].items():
            facts = made["sources"][name]
            rows.append(
                [
                    stage["name"],
                    name,
                    facts["role"],
                    f"{source['share']:.1%}",
                    show_count(source["tokens"]),
                    show_count(source["supervised"]),
                    f"{source['epochs']:.2f}",
                    str(facts["items"]),
                    facts["digest"][:12],
                ]
            )
    columns = ["stage", "source", "role", "share", "tokens", "supervised", "epochs", "items", "digest"]
    print_table("\nMixture", columns, rows, right=[3, 4, 5, 6, 7])
    for stage in made["stages"]:
        for change in stage["changes"]:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in change["shares"].items())
            ramp = f", reached in a line over {change['ramp']:.0%} before" if change["ramp"] else ""
            print(f"{stage['name']} from {change['at']:.0%} of its rows on: {shares}{ramp}")
    rows = []
    defaults = set(made["defaults"])
    for i, stage in enumerate(made["stages"]):
        asked = made["recipe"]["stages"][i]
        for field in ("lr", "warmup", "freeze", "row_tokens", "rows", "final_lr", "clip", "weight_decay"):
            value = stage.get(field, asked.get(field))
            note = stage["why"].get(field) or ("default" if f"stages[{i}].{field}" in defaults else "")
            rows.append([stage["name"], field, f"{value:g}", note])
        if "optimizer" in stage["why"]:
            rows.append([stage["name"], "optimizer", asked["optimizer"], stage["why"]["optimizer"]])
        rows.append([stage["name"], "steps", str(stage["steps"]), f"{show_count(stage['tokens'])} tokens"])
    print_table("\nStages", ["stage", "field", "value", "why"], rows, right=[2])
    held_out = [[name, str(f["items"]), f["digest"][:12]] for name, f in made["held_out"].items()]
    print_table("\nHeld out (never trained on)", ["set", "items", "digest"], held_out, right=[1])
    if made["advice"]:
        print("\nAdvice (the choice is yours)", *(f"  {line}" for line in made["advice"]), sep="\n")
    trained = ", ".join(show_count(n) for n in cost["trained_parameters"])
    print(f"\nparameters  {show_count(cost['parameters'])}, trained per stage: {trained}")
    print(f"memory      about {show_bytes(cost['memory_bytes'])}")
    print(f"disk        about {show_bytes(cost['disk_bytes'])}")
    if "minutes" in cost:
        steps = ", ".join(f"{s:g} s" for s in cost["step_seconds"])
        print(f"time        about {cost['minutes']:g} min ({cost['precision']}, measured step: {steps})")
