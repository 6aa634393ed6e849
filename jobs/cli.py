"""The one command-line entry, `deshi --help`. Imports are lazy.

A refusal is one sentence on standard error and exit code 2; a verdict that is not ACCEPT is a result, exit code 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

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


def _quiet() -> None:
    """We say what we do; the bars and reports of libraries, which read these when imported, would garble it."""
    for name, value in (("TQDM_DISABLE", "1"), ("TRANSFORMERS_VERBOSITY", "error"), ("RAY_AIR_NEW_OUTPUT", "0")):
        os.environ.setdefault(name, value)


@app.command()
def poc(
    recipes: Annotated[list[Path], typer.Argument(help="recipe.yaml; several run side by side under one budget")],
    until: Annotated[str | None, typer.Option(help="stop after this stage: data, teach, answers, search")] = None,
    storage: Annotated[str | None, typer.Option(help="folder or URI to use instead of the recipe's")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="of training, shared by several recipes; default half of what they ask")
    ] = None,
) -> None:
    """Run the main job: from a recipe to one evidenced winner, ready to serve; of several, a page over all of them."""
    _quiet()
    with _refusals():
        if len(recipes) > 1:
            from deshi.jobs import portfolio

            if until is not None:
                raise ValueError(f"--until {until} is for one recipe and {len(recipes)} are given; run them one by one")
            portfolio.run(recipes, minutes=minutes, storage=storage)
            return
        from deshi.jobs import poc as main_job

        if minutes is not None:
            raise ValueError("--minutes is shared by several recipes and one is given; set search.minutes in it")
        main_job.run(recipes[0], until=until, storage=storage)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml")],
    tflops: Annotated[float | None, typer.Option(help="peak TFLOP/s of one GPU, or of a CPU worker's share")] = None,
    utilisation: Annotated[float, typer.Option(help="share of the peak that is reached")] = 0.4,
    price_per_hour: Annotated[float | None, typer.Option(help="of one machine, in business.currency")] = None,
    devices_per_machine: Annotated[int, typer.Option(min=1)] = 8,
    gpu_memory_gb: Annotated[float | None, typer.Option(help="of one device, 10^9 bytes")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="rows of data.train where it is not here")] = None,
    teacher_config: Annotated[Path | None, typer.Option(help="config.json of a teacher that is not here")] = None,
    student_config: Annotated[Path | None, typer.Option(help="config.json of student.model")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Check and cost a recipe without running it: stages, tokens, bytes per rank, hours and money."""
    _quiet()
    with _refusals():
        from deshi.jobs.plan_shown import show
        from deshi.jobs.plan_stages import Cluster

        cluster = Cluster(
            tflops=tflops,
            utilisation=utilisation,
            price_per_hour=price_per_hour,
            devices_per_machine=devices_per_machine,
            gpu_memory_gb=gpu_memory_gb,
            rows=rows,
            teacher_config=teacher_config,
            student_config=student_config,
        )
        if not show(recipe, cluster, as_json=as_json):
            raise typer.Exit(2)


@app.command(name="import-gguf")
def import_gguf(
    source: Annotated[Path, typer.Argument(help="a .gguf file")],
    out: Annotated[Path, typer.Argument(help="model folder to write")],
) -> None:
    """Read a GGUF file into a model folder that stock transformers loads."""
    _quiet()
    with _refusals():
        from deshi.jobs.import_gguf import import_gguf as read

        read(source, out)
        typer.echo(str(out))


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
    """Serve a run's winner on this machine: POST /classify, or OpenAI's /v1/chat/completions and /v1/completions."""
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
def evaluate(
    run: Run,
    tasks: Annotated[Path, typer.Option(help="a task of lm-eval: YAML, with a local JSONL file")],
    target: Annotated[str | None, typer.Option(help="target of the recipe; default the first")] = None,
    build: Annotated[str | None, typer.Option(help="such as torch_generate-fp32, for tasks of log-likelihoods")] = None,
    chat: Annotated[bool, typer.Option(help="through the chat template")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="documents of each task")] = None,
) -> None:
    """Score a language model's release on a task of lm-eval, through its endpoint."""
    _quiet()
    with _refusals():
        from deshi.jobs.evidence.lm_evaluation import evaluate as scored
        from deshi.jobs.run_folder import release_of

        for score in scored(release_of(run), tasks, target=target, build=build, chat=chat, limit=limit):
            error = "" if score.stderr is None else f" +- {score.stderr:.4f}"
            typer.echo(f"{score.task}  {score.metric}  {score.value:.4f}{error}  n {score.n}  {score.build}")


@app.command()
def judge(
    model: Annotated[str, typer.Argument(help="a model folder that others made")],
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml, whose rows, targets and KPIs judge it")],
    against: Annotated[str | None, typer.Option(help="the live run: says replace or keep")] = None,
    storage: Annotated[str | None, typer.Option(help="folder or URI to use instead of the recipe's")] = None,
    name: Annotated[str | None, typer.Option(help="of the run; default <recipe>-<model folder>")] = None,
) -> None:
    """Put a model that others made through the verdict of a recipe."""
    _quiet()
    with _refusals():
        from deshi.jobs.judge import run as judged

        judged(model, recipe, against=against, storage=storage, name=name)


@app.command()
def report(
    run: Run,
    lang: Annotated[Literal["ja", "en"], typer.Option(help="language; the page holds both and shows it first")] = "ja",
    form: Annotated[Literal["html", "md", "json", "xlsx"], typer.Option("--format")] = "html",
    out: Annotated[Path | None, typer.Option(help="file to write; default report.html in the run's folder")] = None,
) -> None:
    """Write the report from a run's evidence.json, which must be as the release was judged by."""
    with _refusals():
        from deshi.jobs.run_folder import write_report

        typer.echo(write_report(run, lang=lang, out=out, form=form))


class _SheetByDefault(TyperGroup):
    """`deshi review RUN` is `deshi review sheet RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["sheet", *args]
        return super().parse_args(ctx, args)


review = typer.Typer(
    cls=_SheetByDefault, no_args_is_help=True, help="Ask the people who do the work what they think of the answers."
)
app.add_typer(review, name="review")


@review.command()
def sheet(
    run: Run,
    rows: Annotated[int, typer.Option(help="items on the sheets")] = 60,
    out: Annotated[Path | None, typer.Option(help="folder for the sheets; default the run's folder")] = None,
) -> None:
    """Write review.html and review.xlsx, blind sheets of teacher and student answers (the default command)."""
    with _refusals():
        from deshi.jobs.review_run import write_sheets

        for path in write_sheets(run, rows=rows, out=out):
            typer.echo(str(path))


@review.command(name="import")
def review_import(
    run: Run, files: Annotated[list[Path], typer.Argument(help="filled sheets of all raters, .xlsx or .csv")]
) -> None:
    """Read filled sheets into review.json and write the report again."""
    with _refusals():
        from deshi.jobs.review_run import import_answers, table, write_page

        typer.echo(table(import_answers(run, files)))
        typer.echo(str(write_page(run)))


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
