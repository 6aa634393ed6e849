"""Commands about the kernels on the card that is present: `bench kernels` and `tune kernels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deshi.jobs.commands.terminal import refusals

app = typer.Typer()
bench = typer.Typer(no_args_is_help=True, help="Measure on this machine, beside others.")
tune = typer.Typer(no_args_is_help=True, help="Find what is fastest on this machine.")
app.add_typer(bench, name="bench")
app.add_typer(tune, name="tune")

Only = Annotated[str | None, typer.Option(help="one kernel; default: all")]


@bench.command("kernels")
def bench_kernels(only: Only = None) -> None:
    """Time every kernel beside its peers on the present CUDA device, and hold it to the project's bars."""
    with refusals():
        from deshi.kernels.speed.bench import bench

        bench(only)


@tune.command("kernels")
def tune_kernels(
    only: Only = None,
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: the package's own")] = None,
) -> None:
    """Measure tile sizes on the present CUDA device, and write its file of sizes."""
    with refusals():
        from deshi.kernels.speed.tune import tune

        typer.echo(tune(only, out))
