"""The table of engines: an engine joins by one row."""

from __future__ import annotations

from collections.abc import Iterator

from deshi.serve.engines import (
    llamacpp,
    onnxruntime,
    openvino,
    static,
    torch_eager,
    torch_generate,
    triton,
    triton_generate,
    vllm,
)
from deshi.serve.engines.engine import EngineKind
from deshi.serve.engines.generation import GenerationKind

ENGINES: dict[str, EngineKind] = {
    kind.name: kind for kind in (onnxruntime.KIND, openvino.KIND, triton.KIND, torch_eager.KIND, static.KIND)
}
GENERATION_ENGINES: dict[str, GenerationKind] = {
    kind.name: kind for kind in (llamacpp.KIND, triton_generate.KIND, vllm.KIND, torch_generate.KIND)
}


def engine(name: str) -> EngineKind:
    """The row of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is not known; use one of {', '.join(ENGINES)}")
    return ENGINES[name]


def generation_engine(name: str) -> GenerationKind:
    """The row of that name among the engines that write.

    Raises:
        ValueError: if there is none.
    """
    if name not in GENERATION_ENGINES:
        raise ValueError(f"engine {name!r} does not write text; use one of {', '.join(GENERATION_ENGINES)}")
    return GENERATION_ENGINES[name]


def platforms() -> Iterator[tuple[str, tuple[str, ...], str | None]]:
    """(engine, its schemes, None or why this machine cannot run it), row by row."""
    kinds: dict[str, EngineKind | GenerationKind] = {**GENERATION_ENGINES, **ENGINES}  # `triton` does both tasks
    for kind in kinds.values():
        yield kind.name, kind.schemes, kind.missing()
