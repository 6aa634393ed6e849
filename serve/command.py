"""The command line that both ways to serve have: a release, a target, a port; and what to type once it runs."""

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
    parser.add_argument("--speaks", type=Path, help="a mapping file of an old service, whose JSON is spoken too")
    a = parser.parse_args(arguments)
    speaks = {} if a.speaks is None else {"speaks": a.speaks}
    try:
        serve(a.release, target=a.target, port=a.port, despite_verdict=a.despite_verdict, **speaks)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


def curl(host: str, port: int) -> str:
    """What to type."""
    return (
        f"curl -s http://{host}:{port}/classify -H 'content-type: application/json' "
        """-d '{"input": "Who wrote Hamlet?"}'"""
    )


def refuse_open_host(host: str) -> None:
    """No key is asked for yet, so nobody but this machine may ask.

    Raises:
        ValueError: if `host` is not the loopback interface.
    """
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"host {host!r} would open the endpoint to others without a key; use 127.0.0.1")
