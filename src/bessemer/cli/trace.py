"""bessemer trace"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bessemer.cli.options import Json, print_json, print_table
from bessemer.errors import BessemerError


def trace(
    run: Annotated[str | None, typer.Argument(help="A run, or a release (name@1).")] = None,
    step: Annotated[int | None, typer.Option(help="Name every document in this step, counted from 1.")] = None,
    stage: Annotated[str | None, typer.Option(help="The step's stage, such as 01-cpt; default: the last one.")] = None,
    document: Annotated[
        str | None, typer.Option(metavar="ID", help="Name every run and release that saw this document.")
    ] = None,
    json: Json = False,
) -> None:
    """What was fed when: the documents of a step, or the runs that saw a document (for deletion requests)."""
    if document and run is None and step is None:
        _document(document, json)
    elif run is not None and step is not None and document is None:
        _step(run, step, stage, json)
    else:
        raise BessemerError("nothing to trace", fix="bessemer trace RUN --step N, or bessemer trace --document ID")


def _step(run: str, step: int, stage: str | None, json: bool) -> None:
    from bessemer.registry.lineage import trace_step

    name, fed = trace_step(run, step, stage)
    if json:
        print_json({"run": run, "stage": name, "step": step, "documents": [asdict(f) for f in fed]})
        return
    rows = [[str(f.row), f.source, f.id, str(f.epoch + 1), str(f.start), str(f.tokens), f.excerpt] for f in fed]
    columns = ["row", "source", "document", "epoch", "from token", "tokens", "begins"]
    print_table(f"{run}, {name}, step {step}: {len(fed)} documents", columns, rows, right=[0, 3, 4, 5])


def _document(document: str, json: bool) -> None:
    from bessemer.registry.lineage import trace_document

    seen, gone = trace_document(document)
    if json:
        print_json({"document": document, "seen": [asdict(s) for s in seen], "unknown": gone})
        return
    rows = [
        [s.what, s.stage, s.source, ", ".join(map(str, s.steps)) or "in the source, but in no step that was done"]
        for s in seen
    ]
    if rows:
        print_table(f"{document} was seen by", ["what", "stage", "source", "steps"], rows)
    else:
        print(f"{document}: no run and no release has a source with this document")
    for line in gone:
        print(f"cannot say for {line}")
