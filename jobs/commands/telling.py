"""Commands that tell what is known: `report`, `trace`, `changes`, `verify`, `schema`, `platforms`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from deshi.jobs.commands.terminal import Run, refusals

app = typer.Typer()


@app.command()
def report(
    run: Run,
    lang: Annotated[Literal["ja", "en"], typer.Option(help="language; the page holds both and shows it first")] = "ja",
    form: Annotated[Literal["html", "md", "json", "xlsx"], typer.Option("--format")] = "html",
    out: Annotated[Path | None, typer.Option(help="file to write; default report.html in the run's folder")] = None,
) -> None:
    """Write the report from a run's evidence.json, which must be as the release was judged by."""
    with refusals():
        from deshi.jobs.finished_run import write_report

        typer.echo(write_report(run, lang=lang, out=out, form=form))


@app.command()
def trace(
    run: Run, pointer: Annotated[str, typer.Argument(help="data-evidence of a number on the page: /models/0/...")]
) -> None:
    """Follow a number of the report to its entry, its rows and how it came about, and compute it once more."""
    with refusals():
        from deshi.jobs.finished_run import traced

        told = traced(run, pointer)
        typer.echo(json.dumps(told.entry, ensure_ascii=False, indent=2))
        typer.echo(f"rows   {told.rows}")
        if told.agrees is not None:
            typer.echo(f"again  {told.again}: {'the same' if told.agrees else 'DIFFERS'}")
            raise typer.Exit(0 if told.agrees else 1)


@app.command()
def changes(
    run: Run,
    unmasked: Annotated[bool, typer.Option(help="leave personal data as it stands")] = False,
    lang: Annotated[Literal["ja", "en"], typer.Option(help="language of the page")] = "en",
) -> None:
    """Write the test rows that are answered otherwise than by the teacher, personal data masked."""
    with refusals():
        from deshi.jobs.evidence.risk.changes import write_changes

        typer.echo(write_changes(run, unmasked=unmasked, lang=lang))


@app.command()
def verify(run: Run) -> None:
    """Recompute every digest of a run's release and name the first file that differs."""
    with refusals():
        from deshi.jobs.finished_run import verify as check

        typer.echo(check(run))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the recipe, for editors and checks."""
    from deshi.jobs.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command()
def platforms(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Show which engines this machine can run, and why not the others."""
    from deshi.serve.engines.table import platforms as rows

    if as_json:
        typer.echo(json.dumps([{"engine": name, "schemes": schemes, "missing": why} for name, schemes, why in rows()]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("engine", "schemes", "here")
    for name, schemes, why in rows():
        table.add_row(name, ", ".join(schemes), "yes" if why is None else f"no: {why}")
    Console().print(table)
