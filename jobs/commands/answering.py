"""Commands that let a release answer: `serve`, `predict`, `diff`, `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deshi.jobs.commands.terminal import Run, quiet, refusals

app = typer.Typer()


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
    with refusals():
        from deshi.jobs.finished_run import release_of

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
    quiet()
    with refusals():
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
    with refusals():
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
    quiet()
    with refusals():
        from deshi.jobs.evidence.text.lm_evaluation import evaluate as scored
        from deshi.jobs.finished_run import release_of

        for score in scored(release_of(run), tasks, target=target, build=build, chat=chat, limit=limit):
            error = "" if score.stderr is None else f" +- {score.stderr:.4f}"
            typer.echo(f"{score.task}  {score.metric}  {score.value:.4f}{error}  n {score.n}  {score.build}")
