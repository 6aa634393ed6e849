"""The work of each kernel: bytes it must move and operations it must do, for the shapes that reports name.

    product         weight N K bits / 8 + scales 4 N groups + x M K bits / 8 + y 2 M N    2 M N K operations
    norm_quantize   x 2 M K + weight 2 K + y 2 M K + q M K + scales 4 M                   none that count
    kv_int8         keys and values 2 (D + 4) a token and head + query and output         4 D a token and query head
    kd_loss         states and heads once, and their gradients                            2 v (3 d + dt) a token

The loss's operations are those of four products: both models' logits, and the gradient to the states and to the head.
Everything large is read or written once; what a cache serves twice is not counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from deshi.kernels.proof.cards import Card

VOCABULARY, STUDENT, TEACHER = 128256, 2048, 4096  # Llama 3's, and the widths of its models of 1 and 8 billion


@dataclass(frozen=True, kw_only=True)
class Work:
    """A kernel at one shape."""

    kernel: str
    label: str
    bytes_moved: int
    operations: int
    math: str | None  # what the tensor cores multiply, a key of Card.peaks; None: nothing

    def least_seconds(self, card: Card) -> float:
        """By the roofline."""
        return card.seconds(bytes_moved=self.bytes_moved, operations=self.operations, math=self.math)


def product(
    kernel: str, rows: int, columns: int, inner: int, *, bits: int, group: int | None, x_bytes: int, math: str
) -> Work:
    """y [rows, columns] of x [rows, inner] and a weight of so many bits; y is 16-bit."""
    scales = columns * (inner // group if group else 1)
    return Work(
        kernel=kernel,
        label=f"{rows} x {inner} by {inner} x {columns}",
        bytes_moved=columns * inner * bits // 8 + 4 * scales + rows * inner * x_bytes + 2 * rows * columns,
        operations=2 * rows * columns * inner,
        math=math,
    )


PRODUCT_WORK: dict[str, Callable[[int, int, int], Work]] = {
    "w4a16": partial(product, "w4a16", bits=4, group=128, x_bytes=2, math="16-bit"),
    "w8a16": partial(product, "w8a16", bits=8, group=None, x_bytes=2, math="16-bit"),
    "w8a8": partial(product, "w8a8", bits=8, group=None, x_bytes=1, math="int8"),
    "w8a8-fp8": partial(product, "w8a8-fp8", bits=8, group=None, x_bytes=1, math="fp8"),
}


def norm(rows: int, columns: int) -> Work:
    """RMSNorm and int8."""
    moved = 5 * rows * columns + 2 * columns + 4 * rows
    return Work(kernel="norm_quantize", label=f"{rows} x {columns}", bytes_moved=moved, operations=0, math=None)


def decode(rows: int, context: int, *, heads: int = 32, kv_heads: int = 8, size: int = 128) -> Work:
    """One token of attention for each row over an int8 cache."""
    return Work(
        kernel="kv_int8",
        label=f"{rows} rows, {context} tokens, {heads} heads over {kv_heads}",
        bytes_moved=rows * (2 * context * kv_heads * (size + 4) + 4 * heads * size),
        operations=4 * rows * context * heads * size,
        math="16-bit",
    )


def loss(tokens: int) -> Work:
    """The distillation loss from an online teacher, with its gradients, in 16 bits."""
    return Work(
        kernel="kd_loss",
        label=f"{tokens} tokens, v = {VOCABULARY}, d = {STUDENT}, dt = {TEACHER}",
        bytes_moved=2 * (VOCABULARY + tokens) * (2 * STUDENT + TEACHER),
        operations=2 * tokens * VOCABULARY * (3 * STUDENT + TEACHER),
        math="16-bit",
    )


SHAPES = (
    *(made(rows, 8192, 8192) for made in PRODUCT_WORK.values() for rows in (1, 16, 256)),
    *(norm(rows, 8192) for rows in (16, 4096)),
    decode(1, 32768),
    decode(64, 4096),
    loss(8192),
)
