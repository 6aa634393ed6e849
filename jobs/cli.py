"""The one command-line entry, `deshi --help`. Imports are lazy: what a command needs is imported when it runs.

A refusal is one sentence on standard error and exit code 2; a verdict that is not ACCEPT is a result, exit code 0.
"""

from __future__ import annotations

import sys

import typer

from deshi.jobs.commands import answering, kernels, making, review, telling

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Deshi makes a large model small enough to run where it is needed, with the evidence, and serves it.",
)
for commands in (making, answering, telling, kernels):
    app.add_typer(commands.app)
app.add_typer(review.app, name="review")


def main() -> None:
    """For `python -m deshi.jobs.cli`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
