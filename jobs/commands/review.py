"""`deshi review RUN` and `deshi review import RUN FILES...`: the people who do the work are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deshi.jobs.commands.terminal import Run, refusals


class _SheetByDefault(TyperGroup):
    """`deshi review RUN` is `deshi review sheet RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["sheet", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_SheetByDefault, no_args_is_help=True, help="Ask the people who do the work what they think of the answers."
)


@app.command()
def sheet(
    run: Run,
    rows: Annotated[int, typer.Option(help="items on the sheets")] = 60,
    out: Annotated[Path | None, typer.Option(help="folder for the sheets; default the run's folder")] = None,
) -> None:
    """Write review.html and review.xlsx, blind sheets of teacher and student answers (the default command)."""
    with refusals():
        from deshi.jobs.review_run import write_sheets

        for path in write_sheets(run, rows=rows, out=out):
            typer.echo(str(path))


@app.command(name="import")
def review_import(
    run: Run, files: Annotated[list[Path], typer.Argument(help="filled sheets of all raters, .xlsx or .csv")]
) -> None:
    """Read filled sheets into review.json and write the report again."""
    with refusals():
        from deshi.jobs.review_run import import_answers, table, write_page

        typer.echo(table(import_answers(run, files)))
        typer.echo(str(write_page(run)))
