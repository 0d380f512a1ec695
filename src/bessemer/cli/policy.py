"""bessemer policy ..."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bessemer.cli.options import Json, print_json, print_table, read_each, rows_of

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
Policy = Annotated[str, typer.Argument(help="A file (.yaml, .md), or a stored name@version.", metavar="POLICY")]


@app.command()
def check(policy: Policy, json: Json = False) -> None:
    """Read a policy; say what the model will read, and its hash."""
    from bessemer.moderate.policy import load_policy

    found = load_policy(policy)
    if json:
        print_json({"reference": found.reference, "digest": found.digest, **found.model_dump(mode="json")})
        return
    print(f"{found.reference}, hash {found.digest}")
    for rule in found.rules:
        print(f"\n{rule.id} ({rule.action}, wanted precision {rule.precision:g})")
        print("\n".join(f"  {line}" for line in rule.read.lines()))


@app.command()
def add(policy: Policy) -> None:
    """Store a version, so that requests can name it. A stored version never changes."""
    from bessemer.moderate.policy import load_policy, store

    found = load_policy(policy)
    print(f"{found.reference} ({found.digest[:12]}) in {store(found)}")


@app.command("list")
def list_(json: Json = False) -> None:
    """Stored policies."""
    from bessemer.moderate.policy import references

    found = read_each(references(), _facts, "reference")
    if json:
        print_json(found)
        return
    rows = rows_of(
        found, lambda f: [f["reference"], f["digest"][:12], f["community"], ", ".join(f["rules"])], "reference"
    )
    title = "Policies" if rows else "No policies yet: bessemer policy add FILE"
    print_table(title, ["policy", "hash", "community", "rules"], rows)


def _facts(reference: str) -> dict[str, Any]:
    from bessemer.moderate.policy import stored

    found = stored(reference)
    rules = [r.id for r in found.rules]
    return {"reference": found.reference, "digest": found.digest, "community": found.community, "rules": rules}
