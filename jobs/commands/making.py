"""Commands that make something of a recipe or a model: `init`, `plan`, `poc`, `judge`, `import-gguf`, `quantize`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from deshi.jobs.commands.terminal import quiet, refusals

app = typer.Typer()


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
    quiet()
    with refusals():
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
    quiet()
    with refusals():
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
    quiet()
    with refusals():
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
def judge(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_URL", help="a folder that others made, or an OpenAI-compatible base URL")
    ],
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml, whose rows, targets and KPIs judge it")],
    called: Annotated[str | None, typer.Option("--model", help="of a URL: the model's name there")] = None,
    price_per_1000: Annotated[
        float | None, typer.Option(help="of a URL: the vendor's price of 1,000 requests, in the recipe's currency")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option(help="of a URL: environment variable that holds the vendor's key")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="of a URL: requests at a time")] = 4,
    against: Annotated[str | None, typer.Option(help="the live run: says replace or keep")] = None,
    storage: Annotated[str | None, typer.Option(help="folder or URI to use instead of the recipe's")] = None,
    name: Annotated[str | None, typer.Option(help="of the run; default <recipe>-<model>")] = None,
) -> None:
    """Put a model that others made, a folder or a vendor's URL, through the verdict of a recipe."""
    quiet()
    with refusals():
        if "://" in model:
            from deshi.jobs.judge_url import run as judged_url

            judged_url(
                model,
                recipe,
                model=called,
                price_per_1000=price_per_1000,
                key_variable=key_variable,
                at_once=concurrency,
                against=against,
                storage=storage,
                name=name,
            )
            return
        of_url = {"--model": called, "--price-per-1000": price_per_1000, "--key-variable": key_variable}
        if given := [option for option, value in of_url.items() if value is not None]:
            raise ValueError(f"{given[0]} is of a URL and {model} is none; leave it out")
        from deshi.jobs.judge import run as judged

        judged(model, recipe, against=against, storage=storage, name=name)


@app.command(name="import-gguf")
def import_gguf(
    source: Annotated[Path, typer.Argument(help="a .gguf file")],
    out: Annotated[Path, typer.Argument(help="model folder to write")],
) -> None:
    """Read a GGUF file into a model folder that stock transformers loads."""
    quiet()
    with refusals():
        from deshi.jobs.import_gguf import import_gguf as read

        read(source, out)
        typer.echo(str(out))


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="model folder, or an id on a hub")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    scheme: Annotated[Literal["w4a16", "w8a16", "w8a8"], typer.Option(help="bits of weights and of activations")],
) -> None:
    """Round a model's weights to integers: a folder that transformers, vLLM and our kernels load."""
    quiet()
    with refusals():
        from deshi.jobs.exporters.integers import quantize_folder

        quantize_folder(model, out, scheme=scheme)
        typer.echo(str(out))
