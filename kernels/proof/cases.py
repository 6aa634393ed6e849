"""What is compiled as proof: every kernel as its `run` launches it, with the sizes of tuned/*.json.

A kernel joins in two places: a function that calls its `run` on tensors without memory, and a row of MUST for each
Triton kernel that the call launches. Classes of rows take turns at types, group sizes and shapes, so that each is
compiled and the table stays short. Rows are one fewer than a class serves: a number that no alignment helps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deshi.kernels import (
    divergence_gradient,
    kv_decode,
    kv_write,
    norm_quantize,
    topk_gradient,
    tuning,
    w4a16,
    w8a8,
    w8a16,
)
from deshi.kernels.epilogue import sum_splits_kernel
from deshi.kernels.online_softmax import SIZES
from deshi.kernels.packing import BLOCK, WORDS
from deshi.kernels.proof.cards import SHARED_LIMIT
from deshi.kernels.proof.launches import Launch, launches, require_compiler
from deshi.kernels.tuning import Config
from deshi.kernels.weight_only import NAMES

BF16, FP16, FP32, FP8 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn
INT8, INT32, INT64 = torch.int8, torch.int32, torch.int64
FIRST_FP8 = 89  # the first architecture with 8-bit floats
# Whole products and products in splits: 28672 columns are enough programs, 4096 are not.
WEIGHTS = ((28672, 8192), (4096, 4096))
# Type of x, columns that share a scale (None: a row), zero points; first what `compressed_tensors.scheme_for` writes.
WEIGHT_ONLY = {
    "w4a16": ((BF16, 128, False), (BF16, 32, True), (FP16, None, False)),
    "w8a16": ((BF16, None, False), (BF16, 128, False), (FP16, 32, True)),
}
WIDE, ENOUGH = 16, 8  # bytes of a load
# Up to so many rows memory is the bound, and weights must come in whole 128-bit loads. More rows have the tensor cores
# wait for themselves: there Triton's path to Hopper's own instructions may copy a weight of 8 bits by 8 bytes.
MEMORY_BOUND_ROWS = 64
VOCABULARY = 128256


@dataclass(frozen=True, kw_only=True)
class Must:
    """What must be in the code of a kernel."""

    wide: tuple[str, ...] = ()  # pointers that are read in wide loads
    math: Mapping[str, str] | None = None  # type of what is multiplied -> a key of TENSOR_CORE
    by_bits: bool = False  # integers become 16-bit floats by bit operations, and none by conversion


@dataclass(frozen=True, kw_only=True)
class Case:
    """One launch to compile."""

    kernel: str
    label: str
    launch: Launch
    must: Must
    wide: int = WIDE  # bytes of such a load
    architectures: tuple[int, ...] = tuple(SHARED_LIMIT)

    @property
    def warps(self) -> int:
        """As it is launched."""
        return int(self.launch.keywords.get("num_warps", 4))


HALVES = {"*bf16": "16-bit", "*fp16": "16-bit"}
MUST: dict[Any, Must] = {
    w4a16.w4a16_kernel: Must(wide=("words",), math=HALVES, by_bits=True),
    w4a16.dequantize_kernel: Must(wide=("words",), by_bits=True),
    w8a16.w8a16_kernel: Must(wide=("weight",), math=HALVES, by_bits=True),
    w8a16.dequantize_kernel: Must(wide=("weight",)),
    w8a8.w8a8_kernel: Must(wide=("q", "weight"), math={"*i8": "int8", "*fp8e4nv": "fp8"}),
    sum_splits_kernel: Must(),
    norm_quantize.norm_quantize_kernel: Must(wide=("x",)),
    divergence_gradient.divergence_kernel: Must(wide=("student", "teacher")),
    topk_gradient.topk_kernel: Must(),
    kv_decode.decode_kernel: Must(wide=("keys", "values"), math=HALVES, by_bits=True),
    kv_decode.combine_kernel: Must(),
    kv_write.write_kernel: Must(),
}

Calls = Iterator[tuple[str, Callable[[], object]]]  # what is told of a call, and the call


def empty(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def weight_only(name: str, config: Config, turn: int) -> Calls:
    """A product of 4-bit or 8-bit weights, or the weight made whole."""
    dtype, group, zeros = WEIGHT_ONLY[name][turn % len(WEIGHT_ONLY[name])]
    columns, inner = WEIGHTS[turn % len(WEIGHTS)]
    groups = inner // group if group else 1
    x = empty(dtype, rows_of(config), inner)
    scale = empty(FP32, groups, columns)
    zero = empty(INT8, groups, columns) if zeros else None
    weight = empty(INT32, inner // BLOCK, columns, WORDS) if name == "w4a16" else empty(INT8, columns, inner)
    run = w4a16.run if name == "w4a16" else w8a16.run
    told = f"{NAMES[dtype]}, {f'groups of {group}' if group else 'one group'}{', zeros' if zeros else ''}"
    yield f"{told}, {sizes(config)}", partial(run, x, weight, scale, zero, empty(dtype, columns), "none", config)


def int8_or_fp8(config: Config, turn: int) -> Calls:
    """A product of 8-bit factors."""
    columns, inner = WEIGHTS[turn % len(WEIGHTS)]
    for dtype in (INT8, FP8) if config.rows is None else ((INT8, FP8)[turn % 2],):
        q, weight = empty(dtype, rows_of(config), inner), empty(dtype, columns, inner)
        given = (q, empty(FP32, len(q)), weight, empty(FP32, columns), empty(BF16, columns), "none", BF16, config)
        yield f"{'int8' if dtype == INT8 else 'fp8'}, {sizes(config)}", partial(w8a8.run, *given)


def decode(config: Config, turn: int) -> Calls:
    """Attention of 32 heads over 8, of 128 numbers: one row of a long context, or as many as the class serves."""
    dtype = (BF16, FP16)[turn % 2]
    rows, context = rows_of(config) if config.rows else 63, 8192
    cache = empty(INT8, rows, 8, context, 128), empty(FP32, rows, 8, context)
    given = (empty(dtype, rows, 32, 128), *cache, *cache, empty(INT32, rows), 0.09, config)
    yield f"{NAMES[dtype]}, {sizes(config)}", partial(kv_decode.run, *given)


# The kernels of the tuned files.
TUNED: dict[str, Callable[[Config, int], Calls]] = {
    "w4a16": partial(weight_only, "w4a16"),
    "w8a16": partial(weight_only, "w8a16"),
    "w8a8": int8_or_fp8,
    "kv_int8": decode,
}


def norms() -> Calls:
    """A row as long as a large model's, and the longest that is taken."""
    for columns, format in ((8192, "int8"), (norm_quantize.MAX_COLUMNS["rms"], "float8_e4m3fn")):
        x, weight = empty(BF16, 15, columns), empty(BF16, columns)
        yield f"rms, {format}, {columns} columns", partial(norm_quantize.run, x, weight, None, 1e-6, "rms", format)


def writes() -> Calls:
    """A prompt's keys and values into the cache."""
    cache, scale, tokens = empty(INT8, 7, 8, 4096, 128), empty(FP32, 7, 8, 4096), empty(BF16, 7, 8, 1023, 128)
    positions = empty(INT64, 7, 1023)
    yield "bf16, a prompt", partial(kv_write.run, tokens, tokens, cache, scale, cache, scale, 0, positions)


def losses() -> Calls:
    """The judges of the distillation loss over Llama 3's vocabulary."""
    student, labels = empty(BF16, 511, VOCABULARY), empty(INT64, 511)
    run = partial(divergence_gradient.run_divergence, student, empty(BF16, *student.shape))
    yield "jsd, bf16", partial(run, labels, "jsd", 2.0, 0.5, 0.5, 0.5, SIZES)
    ids, log_probs, log_tail = empty(INT32, 511, 24), empty(FP16, 511, 24), empty(FP16, 511)
    top = partial(topk_gradient.run_topk, student, ids, log_probs, log_tail)
    yield "top-24, bf16", partial(top, labels, "forward_kl", 2.0, 0.5, 0.5, 0.5, SIZES)


# The kernels whose sizes are their own.
FIXED: dict[str, Callable[[], Calls]] = {"norm_quantize": norms, "kd_loss": losses, "kv_int8": writes}


def cases() -> Iterator[Case]:
    """All of them, each launch once."""
    require_compiler()
    seen: set[tuple[object, ...]] = set()
    fixed = (case for kernel, calls in FIXED.items() for case in recorded(kernel, calls()))
    for case in chain(fixed, *map(of_file, tuning.tuned_files())):
        key = (*case.launch.key, case.architectures)
        if key not in seen:
            seen.add(key)
            yield case


def of_file(path: Path) -> Iterator[Case]:
    """Every class of rows of every kernel in one file; a card's own sizes are for its architecture alone.

    Raises:
        ValueError: if a kernel of the file is not known here.
    """
    sm = json.loads(path.read_text(encoding="utf-8")).get("sm")
    for kernel, classes in tuning.read(path).items():
        if kernel not in TUNED:
            raise ValueError(f"{path.name} has sizes for {kernel}, which is not compiled; add it to TUNED in cases.py")
        for turn, config in enumerate(classes):
            few = config.rows is not None and config.rows <= MEMORY_BOUND_ROWS
            wide = WIDE if few or kernel != "w8a16" or config.dequantize else ENOUGH
            architectures = tuple(SHARED_LIMIT) if sm is None else (sm,)
            yield from recorded(kernel, TUNED[kernel](config, turn), architectures, wide)


def recorded(
    kernel: str, calls: Calls, architectures: tuple[int, ...] = tuple(SHARED_LIMIT), wide: int = WIDE
) -> Iterator[Case]:
    """A case for each launch of each call."""
    for label, call in calls:
        for launch in launches(call):
            fp8 = any(isinstance(one, Tensor) and one.dtype == FP8 for one in launch.arguments)
            yield Case(
                kernel=kernel,
                label=f"{launch.kernel.__name__.removesuffix('_kernel')}, {label}",
                launch=launch,
                must=MUST[launch.kernel],
                wide=wide,
                architectures=tuple(sm for sm in architectures if sm >= FIRST_FP8 or not fp8),
            )


def rows_of(config: Config) -> int:
    """Rows of a product in the config's class."""
    return 4095 if config.rows is None else max(config.rows - 1, 1)


def sizes(config: Config) -> str:
    """A config in a few characters."""
    tile = "x".join(str(size) for size in (config.block_m, config.block_n, config.block_k) if size)
    return f"{tile}, {config.warps} warps, {config.stages} stages"
