"""How every command meets its user: the run it is given, a refusal in one sentence, libraries that keep quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="a run's folder, <storage>/<name>, or its release/ folder")]


@contextmanager
def refusals() -> Iterator[None]:
    """A ValueError is one sentence on standard error and exit code 2."""
    try:
        yield
    except ValueError as error:
        typer.echo(f"deshi: {error}", err=True)
        raise typer.Exit(2) from None


def quiet() -> None:
    """We say what we do; the bars and reports of libraries, which read these when imported, would garble it."""
    for name, value in (("TQDM_DISABLE", "1"), ("TRANSFORMERS_VERBOSITY", "error"), ("RAY_AIR_NEW_OUTPUT", "0")):
        os.environ.setdefault(name, value)
