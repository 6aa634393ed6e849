"""Activations to 8 bits at run time, a scale a row (token), alone or within the norm that comes before.

    rms      y = x / sqrt(mean(x^2) + eps) * weight (+ bias)            Zhang & Sennrich 2019, arXiv 1910.07467
    layer    y = (x - mean x) / sqrt(var x + eps) * weight + bias       Ba et al. 2016, arXiv 1607.06450
    none     y = x

    a = max_k |y_k|;  scale = a / L;  q_k = round(y_k (L / a))          L = 127 for int8, 448 for float8_e4m3fn

x [M, K] bfloat16, float16 or float32; q [M, 16 ceil(K / 16)], filled up with 0 as `packing.fill_rows` fills weights, so
that `w8a8.py` reads whole 128-bit words; scale float32 [M]; y in the type of x. y is computed in float32, and q is made
of that y, before it is rounded to the type of x. Halves are rounded to even. With u = 2^-24 and s the scale,

    int8    |y - q s| <= s (1/2 + 508 u)            fp8    |y - q s| <= 2^-4 |y| + 2^-10 s + 4 u |y|

    |y - exact| <= (K + 12) u |y - bias| + 2 u (|y| + |bias|)
                   and for layer, of the mean, + (K + 2) u mean |x| |weight| / sqrt(var + eps)

|y_k| (L / a) is at most L (1 + u)^2, which rounds to L: nothing is clamped. a is at least L 2^-126, so a row of zeros
gets the smallest normal scale, and zeros. A row that holds NaN or infinity, or whose squares overflow float32, gets the
scale NaN, so that all of its outputs are NaN, and q = 0.

One program holds one row in registers, and reads it once: K is at most 16384 with a norm and 32768 without.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deshi.kernels.packing import BYTES
from deshi.kernels.triton_or_none import INTERPRETED, jit, tl, triton

LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
FORMATS = {"int8": torch.int8, "float8_e4m3fn": torch.float8_e4m3fn}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_COLUMNS = {"rms": 16384, "layer": 16384, "none": 32768}  # what 512 threads hold in registers
TINY = 2.0**-126  # the smallest normal float32


@jit
def rounded(v: tl.tensor, FP8: tl.constexpr) -> tl.tensor:
    """v to int8 or float8_e4m3fn, halves to even, for |v| within the format's range.

    The sum of v and 1.5 * 2^23 has the integer in its low bits: no conversion, of which a processor makes few a cycle.
    """
    if FP8:
        if INTERPRETED:  # its conversion cuts off: made whole before. e4m3 has three bits below 2^e, and 2^-9 at least
            power = (v.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
            magic = tl.maximum(power, 0.015625) * 1572864.0
            v = (v + magic) - magic
        return v.to(tl.float8e4nv)
    else:
        return (v + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)


@jit
def norm_quantize_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    q: tl.tensor,
    scale: tl.tensor,
    normed: tl.tensor,
    K: tl.tensor,
    x_stride: tl.tensor,
    eps: tl.tensor,
    KIND: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One row. KIND "none" rounds x as it is, and writes no `normed`."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    y = tl.load(x + row * x_stride + k, mask=k < K, other=0.0).to(tl.float32)
    # Asked for before the sums, which all wait for.
    if weight is not None:
        w = tl.load(weight + k, mask=k < K, other=0.0)
    if bias is not None:
        b = tl.load(bias + k, mask=k < K, other=0.0)
    if KIND != "none":
        count = tl.cast(K, tl.float32)
        if KIND == "layer":
            y = tl.where(k < K, y - tl.div_rn(tl.sum(y, axis=0), count), 0.0)
        square = tl.div_rn(tl.sum(y * y, axis=0), count)
        # Beyond float32 the root's inverse would be 0, and the row zeros: it is NaN instead.
        inverse = tl.where(square < float("inf"), tl.div_rn(1.0, tl.sqrt_rn(square + eps)), float("nan"))
        y *= inverse
        if weight is not None:
            y *= w.to(tl.float32)
        if bias is not None:
            y += b.to(tl.float32)
        tl.store(normed + row * K + k, y.to(normed.dtype.element_ty), mask=k < K)
        y = tl.where(k < K, y, 0.0)
    # As integers, the bits of |y| are in the order of |y|, infinity above all numbers, and NaN above infinity.
    most = tl.max(y.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0)
    finite = most < 0x7F800000
    LARGEST: tl.constexpr = 448.0 if FP8 else 127.0
    a = tl.maximum(tl.where(finite, most, 0).to(tl.float32, bitcast=True), LARGEST * 2.0**-126)
    tl.store(scale + row, tl.where(finite, tl.div_rn(a, LARGEST), float("nan")))
    v = tl.where(finite, y * tl.div_rn(LARGEST, a), 0.0)
    filled = tl.cdiv(K, 16) * 16
    tl.store(q + row * filled + k, rounded(v, FP8), mask=k < filled)


def quantize_rows(x: Tensor, format: str = "int8") -> tuple[Tensor, Tensor]:
    """(q [M, 16 ceil(K / 16)], scale float32 [M]) of x [M, K]: each row by its largest element.

    Raises:
        ValueError: for an x or a format that is not taken.
    """
    _check(x, "none", format)
    return _quantize_rows(x, format)


def norm_quantize(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    kind: str,
    format: str = "int8",
) -> tuple[Tensor, Tensor, Tensor]:
    """(q, scale, y [M, K] in the type of x); of kind "none", y is x itself.

    Raises:
        ValueError: for shapes, types or devices that do not belong together.
    """
    _check(x, kind, format)
    for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if tensor is None:
            continue
        if kind == "none":
            raise ValueError(f"{name} is given and kind is 'none', which has no norm; leave it None")
        if not (tensor.shape == x.shape[1:] and tensor.is_floating_point() and tensor.is_contiguous()):
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}; give floats [{x.shape[1]}], one a column of x"
            )
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} and x on {x.device}; move them together")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps = {eps}; give a number of 0 or more")
    if kind == "none":
        return *_quantize_rows(x, format), x
    return _norm_quantize(x, norm_weight, norm_bias, eps, kind, format)


def _check(x: Tensor, kind: str, format: str) -> None:
    if kind not in MAX_COLUMNS:
        raise ValueError(f"kind {kind!r} is not known; use one of {', '.join(MAX_COLUMNS)}")
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"x is {list(x.shape)}; give a batch [rows, in] that is not empty")
    if x.dtype not in DTYPES:
        raise ValueError(f"x is {x.dtype}; give bfloat16, float16 or float32")
    if x.stride(1) != 1:
        raise ValueError(f"x has strides {x.stride()}; its rows must lie in one piece: call contiguous()")
    if x.shape[1] > MAX_COLUMNS[kind]:
        raise ValueError(
            f"x has {x.shape[1]} columns; a program of kind {kind!r} holds at most {MAX_COLUMNS[kind]}: use "
            "quantize_rows after another norm, or leave the layer in 16 bits"
        )
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; use one of {', '.join(FORMATS)}")
    if format != "int8" and x.is_cuda:
        require_fp8(torch.cuda.get_device_capability(x.device))


def require_fp8(capability: tuple[int, int]) -> None:
    """Refuses cards whose tensor cores have no 8-bit floats."""
    if capability < (8, 9):
        raise ValueError(
            f"float8_e4m3fn needs compute capability 8.9 and this card has {capability[0]}.{capability[1]}; use int8"
        )


def run(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kind: str, format: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel; of kind "none", the third is an empty tensor."""
    rows, columns = x.shape
    q = x.new_empty(rows, columns + -columns % BYTES, dtype=FORMATS[format])
    scale = x.new_empty(rows, dtype=torch.float32)
    normed = x.new_empty((0,) if kind == "none" else (rows, columns))
    block = max(triton.next_power_of_2(columns), 64)
    norm_quantize_kernel[(rows,)](
        x,
        weight,
        bias,
        q,
        scale,
        normed,
        columns,
        x.stride(0),
        eps,
        KIND=kind,
        FP8=format != "int8",
        BLOCK=block,
        num_warps=min(max(block // 512, 1), 16),
        enable_fp_fusion=False,  # a fused y (L / a) + 1.5 * 2^23 would be rounded once, and q not what the formula says
    )
    return q, scale, normed


def reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kind: str, format: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The same operations in plain PyTorch; sums may be taken in another order."""
    y = x.to(torch.float32)
    if kind == "layer":
        y = y - y.mean(dim=1, keepdim=True)
    if kind != "none":
        square = (y * y).mean(dim=1, keepdim=True)
        y = y * torch.where(square < float("inf"), 1 / torch.sqrt(square + eps), float("nan"))
        y = y if weight is None else y * weight.float()
        y = y if bias is None else y + bias.float()
    largest = LARGEST[format]
    a = y.abs().amax(dim=1, keepdim=True)
    finite = torch.isfinite(a)
    a = torch.where(finite, a, 0).clamp(min=largest * TINY)
    # A number by a tensor would be the number times an inverse, and rounded twice.
    v = torch.where(finite, y * (torch.full_like(a, largest) / a), 0)
    filled = functional.pad(torch.round(v) if format == "int8" else v, (0, -y.shape[1] % BYTES))
    scale = torch.where(finite, a / largest, float("nan")).reshape(-1)
    return filled.to(FORMATS[format]), scale, y.to(x.dtype)


@torch.library.custom_op("deshi::quantize_rows", mutates_args=(), device_types="cpu")
def _quantize_rows(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    return reference(x, None, None, 0.0, "none", format)[:2]


@_quantize_rows.register_kernel("cuda")
def _(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    return run(x, None, None, 0.0, "none", format)[:2]


@_quantize_rows.register_fake
def _fake_rows(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    q = x.new_empty(rows, columns + -columns % BYTES, dtype=FORMATS[format])
    return q, x.new_empty(rows, dtype=torch.float32)


_norm_quantize = torch.library.custom_op("deshi::norm_quantize", reference, mutates_args=(), device_types="cpu")
_norm_quantize.register_kernel("cuda")(run)


@_norm_quantize.register_fake
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kind: str, format: str) -> tuple[Tensor, ...]:
    return *_fake_rows(x, format), x.new_empty(x.shape)
