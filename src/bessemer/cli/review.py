"""bessemer review ..."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=THEIRS", help="The file's own name of a column; repeatable."),
]
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def review() -> None:
    """What people say about decisions, and what comes of it."""


@app.command()
def export(
    comments: Annotated[Path, typer.Argument(help="A file of comments.")],
    policy: Annotated[str, typer.Option(help="A policy file, or a stored name@version.")],
    model: Annotated[str, typer.Option(help="The release: name@version.")],
    out: Annotated[Path, typer.Option(help=".jsonl, .csv, or .json for Label Studio.")],
    n: Annotated[int, typer.Option(help="How many questions at most, the least sure first.", min=1)] = 200,
    random: Annotated[
        bool, typer.Option("--random", help="Whole comments drawn at random instead: for a calibration.")
    ] = False,
    column: Columns = None,
) -> None:
    """What people should answer: comments and rules about which the model is least sure."""
    from bessemer.cli.moderate import columns_of, judge_file
    from bessemer.files import need_new
    from bessemer.moderate.decide import decide
    from bessemer.moderate.review import form_of, questions, write_questions
    from bessemer.moderate.unlabelled import known_of

    form_of(out)
    need_new(out)  # people may have answered in it
    judge, rules, judged = judge_file(comments, policy, model, columns_of(column))
    known = known_of(rules, judge.loaded.digest)
    decisions = [decide(rules, odds, known) for odds in judged.odds]
    asked = questions(rules, judged.rows, decisions, n, at_random=random)
    files = write_questions(out, asked, judge.loaded.digest)
    print(f"{len(asked)} questions in {', '.join(map(str, files))}; {len(judged.refused)} comments could not be judged")


@app.command("import")
def import_(
    answers: Annotated[Path, typer.Argument(help="The answered file: .jsonl, .csv, or Label Studio's .json.")],
    out: Annotated[Path, typer.Option(help="The rows to write (.jsonl).")],
) -> None:
    """Answers -> rows that `moderate --calibrate` and `data moderation` read. Several people: the majority."""
    from bessemer.files import need_new, write_text
    from bessemer.moderate.review import read_answers

    need_new(out)
    rows, left_out = read_answers(answers)
    write_text(out, "".join(jsonlib.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for reason, count in left_out.items():
        print(f"left out: {count} ({reason})")
    print(f"{len(rows)} answers in {out}")


@app.command()
def curriculum(
    data: Annotated[str, typer.Argument(help="Twins, such as dataset:NAME@VERSION/train.")],
    model: Annotated[str, typer.Option(help="The release whose uncertainty decides: name@version.")],
    name: Annotated[str, typer.Option(help="Name of the data set that is made.")],
    parts: Annotated[int, typer.Option(help="How many parts, the easiest first.")] = 2,
) -> None:
    """Order twins from easy to hard by what the model thinks of them, in parts for stages that follow each other."""
    from bessemer.cli.options import print_table
    from bessemer.data.sources import read_items
    from bessemer.launch.here import quiet_libraries
    from bessemer.moderate.curriculum import make_curriculum
    from bessemer.moderate.judge import Judge
    from bessemer.recipe.schema import need_name
    from bessemer.serve.server import open_model
    from bessemer.track.screen import Screen

    quiet_libraries()
    need_name(name)  # before the model is loaded
    items = read_items(data, kind="chat", where="review curriculum")
    judge = Judge(open_model(model)[0])
    with Screen().step(f"{len(items)} examples looked at") as advance:
        made = make_curriculum(judge, name, items, parts, lambda share: advance(share, ""))
    rows = [[p, str(v["twins"]), *(f"{x:+.2f}" for x in v["margin"])] for p, v in made.manifest["moderation"].items()]
    columns = ["part", "twins", "easiest", "median", "hardest"]
    print_table(f"{made.reference}: margins of the right answer", columns, rows, right=[1, 2, 3, 4])


@app.command()
def appeal(
    decision: Annotated[str, typer.Argument(help="The id of the decision.")],
    outcome: Annotated[str, typer.Argument(help="overturned, upheld, or missed (with --rule).")],
    rule: Annotated[
        list[str] | None, typer.Option(help="A rule that is meant; repeatable; default: those cited.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A file with the comment, to be learnt from.")] = None,
    title: Annotated[str, typer.Option(help="Its title, as it was judged with.")] = "",
    parent: Annotated[str, typer.Option(help="What it answers, as it was judged with.")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Record what people found about a decision."""
    from bessemer.errors import BessemerError
    from bessemer.moderate.chain import ChainLog
    from bessemer.moderate.decisions import RULINGS, appeals_folder, comment_key, decisions_folder
    from bessemer.moderate.decisions import appeal as record

    if outcome not in RULINGS:
        raise BessemerError(f"{outcome!r} is no outcome", where="review appeal", fix=f"known: {', '.join(RULINGS)}")
    log = ChainLog(appeals_folder(), "appeal")
    try:
        words = text.read_text() if text else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BessemerError(f"the comment cannot be read ({error})", where=str(text)) from None
    entry = record(
        log,
        decisions_folder(),
        decision,
        outcome,
        rules=rule or [],
        text=words,
        title=title,
        parent=parent,
        note=note,
        key=comment_key(),
    )
    print(f"{entry['id']}: {'can be learnt from' if entry['teaches'] else 'without a text nothing is learnt from it'}")


@app.command()
def appeals(
    out: Annotated[Path | None, typer.Option(help="The file to write; default: stdout.")] = None,
) -> None:
    """Appeals and suggestions as rows of a moderation log, for `bessemer data moderation`."""
    from bessemer.files import write_text
    from bessemer.moderate.decisions import read_appeals, training_rows

    rows = [jsonlib.dumps(row, ensure_ascii=False) + "\n" for row in training_rows(read_appeals())]
    if out:
        write_text(out, "".join(rows))
        print(f"{len(rows)} rows in {out}", file=sys.stderr)
    else:
        sys.stdout.writelines(rows)
