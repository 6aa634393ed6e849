"""The kernels that a function would launch, without a device: recorded, and compiled for any architecture.

The function gets tensors without memory (`torch.device("meta")`) and runs as it does on a card: it allocates, chooses
splits and calls kernels. Each call is kept in place of being made. Triton's own binder then turns its arguments into
types, constants and alignments as it would at launch, so what is compiled is what is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from torch import Tensor

from deshi.kernels.triton_or_none import triton


@dataclass(frozen=True)
class Launch:
    """One call of a kernel."""

    kernel: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for launches that Triton compiles once: of an integer it asks if it is 1, and if 16 divides it."""
        seen = (
            one.dtype if isinstance(one, Tensor) else (one == 1, one % 16 == 0) if isinstance(one, int) else type(one)
            for one in self.arguments
        )
        return self.kernel, *seen, *sorted(f"{name}={value}" for name, value in self.keywords.items())


@dataclass(frozen=True)
class Binary:
    """What the compiler gave for one architecture."""

    cubin: bytes
    ptx: str
    shared: int  # bytes a block asks for
    types: dict[str, str]  # of the arguments that the program takes, in order: "*bf16", "i32", ...


def require_compiler() -> None:
    """Refuses to go on without one.

    Raises:
        ValueError: if Triton is not installed, or interprets kernels instead of compiling them.
    """
    if triton is None:
        raise ValueError("triton is not installed, so kernels cannot be compiled; pip install 'deshi[cuda]'")
    if triton.knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set, so kernels are not compiled; unset it")


def launches(function: Callable[[], object]) -> list[Launch]:
    """What it launches, in order."""
    with _recording() as seen:
        function()
    return seen


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    from triton.runtime.jit import JITFunction

    seen: list[Launch] = []

    def record(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        seen.append(Launch(kernel, arguments, keywords))

    with patch.object(JITFunction, "run", record):
        yield seen


def compiled(launch: Launch, sm: int) -> Binary:
    """Compiled for compute capability sm / 10, from Triton's cache if it is there.

    Raises:
        triton.errors.TritonError, RuntimeError: if the compiler cannot.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, target = launch.kernel, GPUTarget("cuda", sm, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    # As at a launch, but for the default's notice.
    keywords = {"enable_fp_fusion": True, "debug": kernel.debug} | launch.keywords
    bound, specialization, options = bind(*launch.arguments, **keywords)
    options, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    made = triton.compile(source, target=target, options=options.__dict__)
    types = {name: one for name, one in signature.items() if one != "constexpr"}
    return Binary(made.asm["cubin"], made.asm["ptx"], made.metadata.shared, types)
