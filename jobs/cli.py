"""The one command-line entry: `deshi poc | schema | platforms | serve | report | verify`. Imports are lazy.

A refusal is one sentence on standard error and exit code 2; a verdict that is not ACCEPT is a result, exit code 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Deshi makes a large model small enough to run where it is needed, with the evidence, and serves it.",
)

Run = Annotated[str, typer.Argument(help="a run's folder, <storage>/<name>, or its release/ folder")]


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        typer.echo(f"deshi: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def poc(
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml")],
    until: Annotated[str | None, typer.Option(help="stop after this stage: data, teach, answers, search")] = None,
    storage: Annotated[str | None, typer.Option(help="folder or URI to use instead of the recipe's")] = None,
) -> None:
    """Run the main job: from a recipe to one evidenced winner, ready to serve."""
    # The run says what it does; the bars and reports of libraries, which read these when imported, would garble it.
    for name, value in (("TQDM_DISABLE", "1"), ("TRANSFORMERS_VERBOSITY", "error"), ("RAY_AIR_NEW_OUTPUT", "0")):
        os.environ.setdefault(name, value)
    with _refusals():
        from deshi.jobs import poc as main_job

        main_job.run(recipe, until=until, storage=storage)


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


@app.command()
def serve(
    run: Run,
    target: Annotated[str | None, typer.Option(help="target of the recipe; default the first")] = None,
    host: Annotated[str, typer.Option(help="loopback only, until access control exists")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Ray Serve, or one small process")] = True,
    despite_verdict: Annotated[bool, typer.Option(help="serve a release whose verdict is not ACCEPT")] = False,
) -> None:
    """Serve a run's winner on this machine: POST /classify, GET /v1/models, GET /healthz."""
    with _refusals():
        from deshi.jobs.run_folder import release_of

        folder = release_of(run)
        if ray:
            from deshi.serve.run import serve_with_ray

            serve_with_ray(folder, target=target, host=host, port=port, despite_verdict=despite_verdict)
            return
        from deshi.serve.process import serve_in_process

        serve_in_process(folder, target=target, host=host, port=port, despite_verdict=despite_verdict)


@app.command()
def report(
    run: Run,
    lang: Annotated[Literal["ja", "en"], typer.Option(help="language of the page")] = "en",
    out: Annotated[Path | None, typer.Option(help="file to write; default report.html in the run's folder")] = None,
) -> None:
    """Write report.html from a run's evidence.json."""
    with _refusals():
        from deshi.jobs.run_folder import write_report

        typer.echo(write_report(run, lang=lang, out=out))


@app.command()
def verify(run: Run) -> None:
    """Recompute every digest of a run's release and name the first file that differs."""
    with _refusals():
        from deshi.jobs.run_folder import verify as check

        typer.echo(check(run))


def main() -> None:
    """For `python -m deshi.jobs.cli`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
