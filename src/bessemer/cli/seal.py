"""bessemer seal create | list | show | reveal | withdraw | verify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bessemer.cli.options import Json, print_json, print_table, read_each, rows_of

if TYPE_CHECKING:
    from bessemer.evaluate.seal import Seal

Name = Annotated[str, typer.Argument(metavar="NAME", help="The seal's name.")]
By = Annotated[str, typer.Option(help="Who does this, for the ledger. Default: user@host.", show_default=False)]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def create(
    task: Annotated[str, typer.Argument(metavar="TASKFILE", help="The task file, with its items beside it.")],
    name: Annotated[str, typer.Option(help="Name of the seal. Default: the task's.", show_default=False)] = "",
    share: Annotated[float, typer.Option(help="Share of the items to seal.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Decides which clusters of items are sealed.")] = 0,
    control: Annotated[int, typer.Option(help="Sealed items whose answer becomes a coin flip.")] = 0,
    canary: Annotated[int, typer.Option(help="Items of invented words added to the sealed part.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Most models that may ever be scored.")] = None,
    by: By = "",
    json: Json = False,
) -> None:
    """Split a task, commit to it, and encrypt its sealed part; before anything is trained for it."""
    from bessemer.evaluate import seal
    from bessemer.evaluate.openings import who
    from bessemer.evaluate.tasks import load_task

    loaded = load_task(task)
    made = seal.create(
        name or loaded.name,
        loaded.rows(),
        loaded.spec(),
        share=share,
        seed=seed,
        by=by or who(),
        control=control,
        canary=canary,
        limit=limit,
        scorer=loaded.scorer,
    )
    if json:
        print_json(_facts(made) | {"key": str(seal.key_path(made.name))})
        return
    _print(made)
    print(f"  key         {seal.key_path(made.name)}  (who has it can open the items: keep a copy elsewhere)")
    print(f"  next        the items in {loaded.task.items} are still readable: move them away before you train")


@app.command("list")
def list_(json: Json = False) -> None:
    """List the seals here, and whether each is sound."""
    from bessemer.evaluate import seal

    found = read_each(seal.names(), lambda name: _facts(seal.load(name)))
    if json:
        print_json(found)
        return
    rows = rows_of(
        found,
        lambda f: [
            f["name"],
            f["created"],
            f"{f['counts']['public']} + {f['counts']['sealed']}",
            _states(f),
            f["head"][:12],
        ],
    )
    title = "Seals" if rows else "No seals yet: bessemer seal create TASK"
    print_table(title, ["name", "created", "public + sealed", "models", "head"], rows)


@app.command()
def show(name: Name, json: Json = False) -> None:
    """What was committed to, and every model that the seal was opened for, withdrawn ones too."""
    from bessemer.evaluate import seal

    found = seal.load(name)
    if json:
        print_json(_facts(found))
        return
    _print(found)
    rows = [
        [s["model"][:16], s["state"], s["by"], s["opened"], s["scored"], _score(s["score"]), s["why"]]
        for s in _facts(found)["submissions"]
    ]
    title = "Submissions" if rows else "Opened for no model yet"
    print_table(title, ["model", "state", "by", "opened", "scored", "score", "why withdrawn"], rows)


@app.command()
def reveal(name: Name, by: By = "", json: Json = False) -> None:
    """Publish the sealed items and their salts, so that others can verify. Afterwards no model can be scored."""
    from bessemer.evaluate import seal
    from bessemer.evaluate.openings import who

    path = seal.reveal(name, by or who())
    if json:
        print_json(_facts(seal.load(name)) | {"revealed": str(path)})
        return
    print(f"{path}\n  others check it with: bessemer seal verify {path.parent}")


@app.command()
def withdraw(
    name: Name,
    model: Annotated[str, typer.Option(help="Digest of the model, or its first 8 characters or more.")],
    why: Annotated[str, typer.Option(help="The reason, for the ledger.")],
    by: By = "",
    json: Json = False,
) -> None:
    """Withdraw a submission. It stays in the list, with its score."""
    from bessemer.evaluate import openings

    gone = openings.withdraw(name, model, by or openings.who(), why)
    if json:
        print_json(gone.as_json())
        return
    print(f"{name}: model {gone.model[:16]} is withdrawn, and stays in the list")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A seal's folder, from anywhere.")],
    head: Annotated[str, typer.Option(help="Hash of a ledger entry that must still be there.")] = "",
    commitment: Annotated[str, typer.Option(help="sha256 that commitment.json must have.")] = "",
    json: Json = False,
) -> None:
    """Check a seal from its folder alone: commitment, digests, Merkle root, ledger, and items if they are revealed."""
    from bessemer.evaluate import seal

    found = seal.verify_seal(folder, head=head, commitment=commitment)
    if json:
        print_json(_facts(found) | {"ok": True})
        return
    _print(found)
    seen = "every revealed item is the one committed to" if found.revealed else "the items are still sealed"
    print(f"  sound: files, root and {len(found.entries)} entries of the ledger; {seen}")
    if not head:
        print("  whether the ledger's end was cut off shows only against a head that was kept: --head")


def _facts(seal: Seal) -> dict[str, Any]:
    from bessemer.evaluate.submissions import submissions_of

    kept = ("created", "by", "plan", "counts", "limit", "root", "code")
    return {
        "name": seal.name,
        "folder": str(seal.folder),
        **{key: seal.commitment[key] for key in kept},
        "commitment": seal.digest,
        "head": seal.head,
        "entries": len(seal.entries),
        "revealed": seal.revealed["at"] if seal.revealed else None,
        "submissions": [s.as_json() for s in submissions_of(seal.entries)],
    }


def _print(seal: Seal) -> None:
    made, plan, counts = seal.commitment, seal.commitment["plan"], seal.commitment["counts"]
    control = "".join(
        f", {counts[k]} of them {k + 's' if k == 'control' else 'canaries'}" for k in ("control", "canary") if counts[k]
    )
    print(f"{seal.name}: created {made['created']} by {made['by']}")
    print(f"  items       {counts['public']} public, {counts['sealed']} sealed{control}")
    print(f"  plan        {plan['metric']}, smallest effect {plan['smallest_effect']}, alpha {plan['alpha']}")
    print(f"  commitment  {seal.digest}")
    print(f"  root        {made['root']}")
    print(f"  head        {seal.head}  (entry {len(seal.entries)} of the ledger)")
    if seal.revealed:
        print(f"  revealed    {seal.revealed['at']} by {seal.revealed['by']}: no opening counts any more")
    print(f"  folder      {seal.folder}")


def _states(facts: dict[str, Any]) -> str:
    counts = {
        state: sum(s["state"] == state for s in facts["submissions"]) for state in ("scored", "opened", "withdrawn")
    }
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "none"


def _score(score: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in score.items())
