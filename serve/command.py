"""The command line that both ways to serve have: a release, a target, a port."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


def run(serve: Callable[..., None], *, prog: str, description: str, arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments and serves; what `serve` refuses with a ValueError ends in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument("release", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--despite-verdict", action="store_true")
    a = parser.parse_args(arguments)
    try:
        serve(a.release, target=a.target, port=a.port, despite_verdict=a.despite_verdict)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
