"""Triton where it is installed. Without it kernel files still import, and their references run.

`jit` is `triton.jit`, or leaves the function as it is: nothing calls it then, since only a CUDA device's tensors are
sent to a kernel. With TRITON_INTERPRET=1 in the environment before the first import, kernels run on the CPU, step by
step in numpy: that is how the tests prove them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

jit: Callable[[Any], Any]
try:
    import triton
    import triton.language as tl

    jit = triton.jit
    INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
except ImportError:
    triton = tl = INTERPRETED = None

    def jit(kernel: Any) -> Any:
        """Nothing compiles it here."""
        return kernel


@jit
def exact(dtype: tl.constexpr) -> tl.constexpr:
    """`dtype` on a device. The interpreter computes on the bits of a bfloat16 as on an integer's: there float32, which
    holds the same numbers.
    """
    return tl.float32 if INTERPRETED else dtype


@jit
def dot(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """acc + a b on the tensor cores, of two matrices of 16-bit floats."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc)
