"""bessemer data show | mix | stats"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from bessemer.cli.options import Json, Set, print_json, print_table
from bessemer.errors import BessemerError
from bessemer.track.screen import Screen
from bessemer.units import show_count

if TYPE_CHECKING:
    from bessemer.data.batch import StageData
    from bessemer.data.items import Item
    from bessemer.data.look import Course, Shown, Statistics
    from bessemer.recipe.schema import Recipe

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
Kind = Annotated[str, typer.Option(help="documents, chat, preference or prompts; default: as the first row looks.")]
Thing = Annotated[str, typer.Argument(metavar="SOURCE|RECIPE", help="An address, or a recipe (.yaml).")]


def show(
    thing: Thing,
    mask: Annotated[bool, typer.Option("--mask", help="Colour the tokens that are learnt.")] = False,
    n: Annotated[int, typer.Option("--n", min=1, help="How many rows (of a recipe) or items (of a source).")] = 3,
    stage: Annotated[int, typer.Option(min=1, help="Stage of a recipe.")] = 1,
    first: Annotated[int, typer.Option(min=0, help="First row.")] = 0,
    kind: Kind = "",
    start: Annotated[str, typer.Option(help="Checkpoint whose tokenizer reads a source with --mask.")] = "",
    set_: Set = None,
    json: Json = False,
) -> None:
    """Decoded rows of a recipe's stage, or items of a source: what the model really sees."""
    if not _is_recipe(thing):
        _refuse_others(
            thing, {"--stage": stage != 1, "--set": bool(set_), "--first": first, "--start": start and not mask}
        )
        _show_source(thing, kind, n, mask, start, json)
        return
    _refuse_others(thing, {"--kind": kind, "--start": start})
    recipe, renderer, data = _stage(thing, set_ or [], stage)
    from bessemer.data.look import show_rows

    if first >= len(data.mixture):
        raise BessemerError(f"the stage has {len(data.mixture)} rows", where="--first", fix="count from 0")
    shown = show_rows(data, renderer.decode_all, first, n)
    if json:
        print_json([vars(s) for s in shown])
        return
    last = min(first + n, len(data.mixture)) - 1
    print(f"{recipe.name}, stage {stage}: rows {first} to {last} of {len(data.mixture)}")
    _print_documents(shown, mask)


def _refuse_others(thing: str, given: Mapping[str, object]) -> None:
    """Options that would be read by nobody."""
    if unused := [name for name, there in given.items() if there]:
        what = "a recipe" if _is_recipe(thing) else "a source"
        more = " without --mask" if unused == ["--start"] and not _is_recipe(thing) else ""
        raise BessemerError(f"{', '.join(unused)} says nothing about {what}{more}", where=thing, fix="leave it out")


def _show_source(address: str, kind: str, n: int, mask: bool, start: str, json: bool) -> None:
    from itertools import islice

    from bessemer.data.look import Shown, show_items

    items = list(islice(_items(address, kind), n))
    if mask:
        renderer = _renderer(start or "smollm2-135m@post")
        shown = show_items(items, renderer, address)
    else:
        shown = [Shown(i, address, item.id, ((plain(item), False),), 0, 0) for i, item in enumerate(items)]
    print_json([vars(s) for s in shown]) if json else _print_documents(shown, mask)


def plain(item: Item) -> str:
    return item.text or "\n".join(f"{m.role}: {m.content}" for m in item.messages)


def _print_documents(shown: list[Shown], mask: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    row = -1
    for document in shown:
        if document.row != row:
            row = document.row
            console.print(Text(f"== row {row} · {document.source} ".ljust(80, "="), style="bold"))
        size = f" · {document.tokens} tokens, {document.supervised} supervised" if document.tokens else ""
        console.print(Text(f"-- {document.id}{size}", style="dim"))
        text = Text()
        for part, learnt in document.runs:
            # Without colours the brackets still say what is learnt.
            text.append(f"⟦{part}⟧" if mask and learnt else part, style="green" if mask and learnt else "")
        console.print(text)


def mix(recipe: Annotated[str, typer.Argument(metavar="RECIPE")], set_: Set = None, json: Json = False) -> None:
    """Tokens, share and epochs per source over the run, as a table and a plot."""
    from bessemer.data.look import mixture_course
    from bessemer.data.shares import mean_shares
    from bessemer.recipe.load import load_recipe

    found: list[dict[str, Any]] = []
    for number in range(1, len(load_recipe(recipe, set_ or []).stages) + 1):
        loaded, _, data = _stage(recipe, set_ or [], number)
        taken, asked = data.mixture.taken(len(data.mixture)), mean_shares(data.phases)
        tokens = {s.name: round(taken[s.name] * s.n_tokens / s.n_rows) for s in data.sources}
        total = sum(tokens.values())
        rows = [
            {
                "source": s.name,
                "role": loaded.sources[s.name].role,
                "asked": float(asked[s.name]),
                "share": tokens[s.name] / total,
                "tokens": tokens[s.name],
                "supervised": round(tokens[s.name] * s.tokens.n_supervised / s.tokens.n_tokens),
                "epochs": taken[s.name] / s.n_rows,
            }
            for s in data.sources
        ]
        course = mixture_course(data)
        found.append({"stage": number, "rows": rows, "course": [vars(c) for c in course]})
        if not json:
            _print_mixture(number, rows, course)
    if json:
        print_json(found)


def _print_mixture(number: int, rows: list[dict[str, Any]], course: list[Course]) -> None:
    cells = [
        [
            r["source"],
            r["role"],
            f"{r['asked']:.2%}",
            f"{r['share']:.2%}",
            show_count(r["tokens"]),
            show_count(r["supervised"]),
            f"{r['epochs']:.2f}",
        ]
        for r in rows
    ]
    columns = ["source", "role", "asked", "fed", "tokens", "supervised", "epochs"]
    print_table(f"\nStage {number}", columns, cells, right=[2, 3, 4, 5, 6])
    console, names = Console(highlight=False), [r["source"] for r in rows]
    width, letters = 50, "█▓▒░▞▚"
    key = Text("  ".join(f"{letters[i % 6]} {name}" for i, name in enumerate(names)))
    console.print("share of tokens over the run", style="bold")
    for part in course:
        total, bar, at = sum(part.tokens.values()) or 1, Text(), 0.0
        for i, name in enumerate(names):
            before, at = round(at * width), at + part.tokens[name] / total
            bar.append(letters[i % 6] * (round(at * width) - before), style=COLOURS[i % 6])
        console.print(Text(f"{part.at:>5.0%} "), bar, sep="")
    console.print(key)


def stats(
    thing: Thing,
    kind: Kind = "",
    start: Annotated[str, typer.Option(help="Checkpoint whose tokenizer counts tokens of a source.")] = "",
    set_: Set = None,
    json: Json = False,
) -> None:
    """Tokens, lengths as a histogram, duplicates, columns, languages and personal data of a source or a recipe."""
    from bessemer.data.look import statistics

    found: dict[str, Statistics] = {}
    if _is_recipe(thing):
        _refuse_others(thing, {"--kind": kind, "--start": start})
        from bessemer.data.stage import open_sources
        from bessemer.families.own_data import with_family_data
        from bessemer.recipe.load import load_recipe

        recipe = with_family_data(load_recipe(thing, set_ or []))
        renderer = _renderer(recipe.start, recipe.chat_template)
        for name, source in open_sources(recipe).items():
            found[name] = statistics(source, renderer)
    else:
        _refuse_others(thing, {"--set": bool(set_)})
        found[thing] = statistics(_items(thing, kind), _renderer(start) if start else None)
    if json:
        print_json({name: vars(s) for name, s in found.items()})
        return
    for name, s in found.items():
        _print_statistics(name, s)


def _print_statistics(name: str, s: Statistics) -> None:
    print(f"\n{name}")
    tokens = f", {show_count(s.tokens)} tokens ({show_count(s.supervised or 0)} supervised)" if s.tokens else ""
    print(f"  {s.items} items in {s.groups} groups, {show_count(s.characters)} characters{tokens}")
    print(f"  duplicates: {s.duplicates} ({s.duplicates / s.items:.1%}) have the letters and digits of another item")
    if s.columns:
        print("  columns: " + ", ".join(f"{c} ({n / s.items:.0%})" for c, n in s.columns.items()))
    if s.languages:
        first = f" of the first {sum(s.languages.values())}" if sum(s.languages.values()) < s.items else ""
        shares = [f"{name} {n / sum(s.languages.values()):.1%}" for name, n in list(s.languages.items())[:6]]
        print(f"  languages{first}: {', '.join(shares)}")
    else:
        print("  languages: unknown without pip install 'bessemer[data]'")
    print("  personal data: " + (", ".join(f"{n} {kind}" for kind, n in s.personal.items()) or "none found"))
    most = max(n for _, _, n in s.histogram)
    print(f"  {s.unit} per item")
    for low, high, n in s.histogram:
        print(f"  {low:>9,} to {high - 1:<9,} {'█' * round(40 * n / most):<40} {n:>8,}")


# -- what a word on the command line means ----------------------------------------------------------------------


def _is_recipe(thing: str) -> bool:
    return Path(thing).suffix in {".yaml", ".yml"}


def _items(address: str, kind: str) -> Iterable[Item]:
    from bessemer.data.sources import Source, look_of

    return Source(address, kind or look_of(address), where=address)


def _renderer(start: str, chat_template: str | None = None) -> Any:
    from bessemer.data.render import Renderer
    from bessemer.data.start import resolve_start

    checkpoint = resolve_start(start, chat_template)
    return Renderer(checkpoint.path, checkpoint.end_of_text)


def _stage(path: str, overrides: list[str], number: int) -> tuple[Recipe, Any, StageData]:
    from bessemer.data.stage import build_stage, tokenise
    from bessemer.families.own_data import with_family_data
    from bessemer.recipe.load import load_recipe

    recipe = with_family_data(load_recipe(path, overrides))
    if number > len(recipe.stages):
        raise BessemerError(f"no stage {number}: the recipe has {len(recipe.stages)}", where=path)
    renderer = _renderer(recipe.start, recipe.chat_template)
    sets = tokenise(recipe, renderer, Screen().say)
    return recipe, renderer, build_stage(recipe, number - 1, sets)
