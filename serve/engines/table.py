"""The table of engines: an engine joins by one row."""

from __future__ import annotations

from collections.abc import Iterator

from deshi.serve.engines import onnxruntime, openvino, static, torch_eager
from deshi.serve.engines.engine import EngineKind

ENGINES: dict[str, EngineKind] = {
    kind.name: kind for kind in (onnxruntime.KIND, openvino.KIND, torch_eager.KIND, static.KIND)
}


def engine(name: str) -> EngineKind:
    """The row of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is not known; use one of {', '.join(ENGINES)}")
    return ENGINES[name]


def platforms() -> Iterator[tuple[str, tuple[str, ...], str | None]]:
    """(engine, its schemes, None or why this machine cannot run it), row by row."""
    for kind in ENGINES.values():
        yield kind.name, kind.schemes, kind.missing()
