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
def init(
    data: Annotated[str, typer.Argument(help="rows: .csv, .jsonl, .parquet or .txt")],
    out: Annotated[Path, typer.Option(help="recipe to write")] = Path("recipe.yaml"),
    task: Annotated[str | None, typer.Option(help="classify or generate")] = None,
    text: Annotated[str | None, typer.Option(help="classify: column of the text")] = None,
    label: Annotated[str | None, typer.Option(help="classify: column of the class")] = None,
    format: Annotated[str | None, typer.Option(help="generate: messages, prompt_completion or text")] = None,
    column: Annotated[str | None, typer.Option(help="generate: column; of a pair two, comma between")] = None,
    test: Annotated[str | None, typer.Option(help="file of test rows; else some of the rows are held out")] = None,
    teacher: Annotated[str | None, typer.Option(help="the large model: a folder, or an id on a hub")] = None,
    first: Annotated[str | None, typer.Option(help="what comes first: quality, cost or speed")] = None,
    drop_points: Annotated[float | None, typer.Option(help="allowed drop, 1 point = 0.01")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="with speed first: what users may wait, p95")] = None,
    worst_true: Annotated[str | None, typer.Option(help="the costliest error: its true class")] = None,
    worst_answered: Annotated[str | None, typer.Option(help="and the class that it is taken for")] = None,
    worst_cost: Annotated[float | None, typer.Option(help="what one such error costs")] = None,
    other_cost: Annotated[float | None, typer.Option(help="what one other error costs")] = None,
    error_cost: Annotated[float | None, typer.Option(help="generate: what one wrong answer costs")] = None,
    currency: Annotated[str | None, typer.Option(help="JPY, USD, EUR, ...")] = None,
    threads: Annotated[int | None, typer.Option(help="of the machine that it will run on")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="that it may take there")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="of one such machine")] = None,
    requests_per_month: Annotated[float | None, typer.Option(help="how many requests there are")] = None,
    peak_rps: Annotated[float | None, typer.Option(help="requests a second at the peak")] = None,
    today_per_1000: Annotated[float | None, typer.Option(help="what 1,000 requests cost today")] = None,
    name: Annotated[str | None, typer.Option(help="of the run; default the file's")] = None,
    target: Annotated[str, typer.Option(help="name of the place where it will run")] = "onprem",
    slices: Annotated[str | None, typer.Option(help="columns to report by, comma between")] = None,
    lang: Annotated[Literal["ja", "en"] | None, typer.Option(help="default that of the locale")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="ask nothing: defaults for what is left out")] = False,
    force: Annotated[bool, typer.Option("--force", help="write over what is there")] = False,
) -> None:
    """Ask what must be known and write a commented recipe: what the rows can prove, and the minutes to expect."""
    flags = dict(locals())
    _quiet()
    with _refusals():
        from deshi.jobs.init import Options, language_of
        from deshi.jobs.init import init as write
        from deshi.jobs.init_questions import QUESTIONS

        options = Options(
            name=name,
            target=target,
            slices=tuple(part.strip() for part in (slices or "").split(",") if part.strip()),
            lang=lang or language_of(os.environ),
            yes=yes,
            force=force,
        )
        given = {question.key: flags[question.key] for question in QUESTIONS}
        write(data, out, given, options, ask=_typed if sys.stdin.isatty() else None, say=typer.echo)


def _typed(question: str, default: str) -> str:
    """What a person types; blank for the default."""
    return str(typer.prompt(question, default=default, show_default=bool(default)))


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
    speaks: Annotated[
        Path | None, typer.Option(help="mapping.yaml of an old service, whose path and JSON are spoken too")
    ] = None,
) -> None:
    """Serve a run's winner on this machine: POST /classify, or OpenAI's /v1/chat/completions and /v1/completions."""
    with _refusals():
        from deshi.jobs.run_folder import release_of

        folder = release_of(run)
        if ray:
            from deshi.serve.run import serve_with_ray

            serve_with_ray(folder, target=target, host=host, port=port, despite_verdict=despite_verdict, speaks=speaks)
            return
        from deshi.serve.process import serve_in_process

        serve_in_process(folder, target=target, host=host, port=port, despite_verdict=despite_verdict, speaks=speaks)


@app.command()
def predict(
    run: Run,
    rows: Annotated[str, typer.Argument(help="a .parquet, .jsonl or .csv, or a folder of one kind; a path or URI")],
    out: Annotated[str, typer.Option("--out", "-o", help="folder to write Parquet to; a path or URI")],
    column: Annotated[str | None, typer.Option(help="what is answered; default the recipe's text")] = None,
    target: Annotated[str | None, typer.Option(help="target of the recipe; default the first")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="of a language model's completion")] = 256,
    despite_verdict: Annotated[bool, typer.Option(help="use a release whose verdict is not ACCEPT")] = False,
) -> None:
    """Answer a file or folder of rows with a run's winner, by Ray Data: the batch path beside `serve`."""
    _quiet()
    with _refusals():
        from deshi.jobs.predict import predict as answered

        made = answered(
            run,
            rows,
            out,
            column=column,
            target=target,
            max_tokens=max_tokens,
            despite_verdict=despite_verdict,
        )
        typer.echo(f"{made.place}: {made.rows:,} rows, {made.unanswered:,} of them without an answer")


@app.command()
def diff(
    url: Annotated[str, typer.Argument(help="of the old service: http(s)://host, or with the path of its requests")],
    run: Run,
    requests: Annotated[Path, typer.Option(help=".jsonl, an old request a line; or {path, body} a line")],
    mapping: Annotated[Path | None, typer.Option(help="mapping.yaml; without it requests are ours already")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'name: value' for the old service; several times")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="key that may differ, e.g. result.score; several")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="by which numbers may differ")] = 0,
    rate: Annotated[float | None, typer.Option(min=0.001, help="most requests a second; default one by one")] = None,
    target: Annotated[str | None, typer.Option(help="target of the recipe; default the first")] = None,
    out: Annotated[Path | None, typer.Option(help=".jsonl to write; default diff.jsonl in the run's folder")] = None,
    show: Annotated[bool, typer.Option(help="show values that differ, which may hold customer text")] = False,
    unmasked: Annotated[bool, typer.Option(help="leave personal data as it stands")] = False,
) -> None:
    """Send a file of requests to an old service and to a run's release, and tell how the replies differ."""
    with _refusals():
        from deshi.jobs import diff as migration

        migration.run(
            url,
            run,
            requests,
            mapping=mapping,
            headers=header or [],
            ignore=ignore or [],
            tolerance=tolerance,
            rate=rate,
            target=target,
            out=out,
            show=show,
            unmasked=unmasked,
        )


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


@app.command()
def changes(
    run: Run,
    unmasked: Annotated[bool, typer.Option(help="leave personal data as it stands")] = False,
    lang: Annotated[Literal["ja", "en"], typer.Option(help="language of the page")] = "en",
) -> None:
    """Write the test rows that are answered otherwise than by the teacher, personal data masked."""
    with _refusals():
        from deshi.jobs.evidence.changes import write_changes

        typer.echo(write_changes(run, unmasked=unmasked, lang=lang))


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
def trace(
    run: Run, pointer: Annotated[str, typer.Argument(help="data-evidence of a number on the page: /models/0/...")]
) -> None:
    """Follow a number of the report to its entry, its rows and how it came about, and compute it once more."""
    with _refusals():
        from deshi.jobs.run_folder import traced

        told = traced(run, pointer)
        typer.echo(json.dumps(told.entry, ensure_ascii=False, indent=2))
        typer.echo(f"rows   {told.rows}")
        if told.agrees is not None:
            typer.echo(f"again  {told.again}: {'the same' if told.agrees else 'DIFFERS'}")
            raise typer.Exit(0 if told.agrees else 1)


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
