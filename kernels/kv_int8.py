"""An int8 key-value cache: half the memory of a 16-bit one, and half of what a decode step reads.

Cache of one layer: keys and values int8 [slots, kv_heads, context, D], 16 <= D <= 256, their scales float32 [slots,
kv_heads, context]: symmetric, one scale for each token and head (as KIVI's values, Liu et al. 2024, arXiv 2402.02750),
so that a token is written once, from itself alone, and never touched again.

    write     s = max |k| / 127,  q = round(k / s)                    k' = q s,  |k - k'| <= s / 2 (1 + 2^-15)
    decode    y = sum_i softmax_i(scaling k'_i . q) v'_i              over the tokens i < lengths[row]

float16 scales would save 2 of D + 4 bytes, but end at 65504 and lose bits below 6e-5; float32 holds the scale of
anything that bfloat16 can say. A head of a token that is all 0 gets the smallest normal scale.

Scales multiply the logits and the probabilities, so tensor cores see integers, which are exact in 16 bits. With u =
2^-24, A = max_i scaling s_i sum_d |q_d k_id| and W = sum_i p_i |v'_i|, decode is within

    (2^-8 + 8 (D + 8) u A + 4 (n + 32) u) W + eps |y|

of the exact attention over the dequantized cache of n tokens: 2^-8 is the rounding of p_i s_i to bfloat16, about what
the cache itself has lost of v_i; 8 (D + 8) u A what float32 logits make of softmax, above and below the line; eps the
rounding of y. The references compute in float32 throughout (float64 for float64) and lack the first term.

NaN or infinity in a token makes its scale not finite: it reaches the outputs of that row and head while the token is
within the row's length, and nothing else. A position outside [0, context) is not stored, and a row of length 0 gets 0;
so a position of -1 stands for a row that only fills up a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deshi.kernels import kv_decode, kv_write, tuning
from deshi.kernels.int8 import INT8_MAX
from deshi.kernels.weight_only import NAMES

LEAST, MOST = 16, 256  # numbers of a head
MOST_SHARING = 128  # query heads of a key-value head


def write(
    keys_new: Tensor,
    values_new: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    first_row: int,
    positions: Tensor,
) -> None:
    """Stores keys and values [n, kv_heads, new, D] in rows [first_row, first_row + n), each at its position [n, new].

    Raises:
        ValueError: for shapes, types or devices that do not belong together.
    """
    _check_cache(keys, key_scale, values, value_scale)
    if positions.ndim != 2:
        raise ValueError(f"positions are {list(positions.shape)}; give one a token, [n, new]")
    n, new = positions.shape
    shape = (n, keys.shape[1], new, keys.shape[3])
    for name, tensor in (("keys_new", keys_new), ("values_new", values_new)):
        if not (tensor.shape == shape and tensor.stride(3) == 1 and n * new > 0):
            raise ValueError(
                f"{name} is {list(tensor.shape)} with strides {tensor.stride()}; the cache and the positions "
                f"{list(positions.shape)} ask for [n, kv_heads, new, D] = {list(shape)}, not empty, a head in one piece"
            )
        _check_type(name, tensor, keys)
    if keys_new.dtype != values_new.dtype:
        raise ValueError(f"keys are {keys_new.dtype}, values {values_new.dtype}; cast one")
    _check_indices("positions", positions, keys)
    if not 0 <= first_row <= len(keys) - n:
        raise ValueError(
            f"rows [{first_row}, {first_row + n}) are not within the cache's {len(keys)}; give it more slots"
        )
    _write(keys_new, values_new, keys, key_scale, values, value_scale, first_row, positions)


def decode(
    query: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    lengths: Tensor,
    scaling: float,
) -> Tensor:
    """Attention of one token of each of the rows [0, n): query [n, heads, D] to [n, heads, D] in its type.

    Of row i the first `lengths[i]` positions are seen. Neighbouring query heads share a key-value head.

    Raises:
        ValueError: for shapes, types or devices that do not belong together.
    """
    _check_cache(keys, key_scale, values, value_scale)
    slots, kv_heads, _, size = keys.shape
    if not (query.ndim == 3 and 0 < len(query) <= slots and query.shape[2] == size and query.stride(2) == 1):
        raise ValueError(
            f"query is {list(query.shape)} with strides {query.stride()}; give [n, heads, {size}], n from 1 to the "
            f"cache's {slots} slots, a head in one piece"
        )
    heads = query.shape[1]
    if heads == 0 or heads % kv_heads or heads // kv_heads > MOST_SHARING:
        raise ValueError(
            f"{heads} query heads do not share {kv_heads} key-value heads equally, at most {MOST_SHARING} each"
        )
    _check_type("query", query, keys)
    if lengths.shape != query.shape[:1]:
        raise ValueError(f"lengths are {list(lengths.shape)}; give one a row, [{len(query)}]")
    _check_indices("lengths", lengths, keys)
    return _decode(query, keys, key_scale, values, value_scale, lengths, scaling)


def _check_cache(keys: Tensor, key_scale: Tensor, values: Tensor, value_scale: Tensor) -> None:
    for name, tensor, scale in (("keys", keys, key_scale), ("values", values, value_scale)):
        if not (tensor.dtype == torch.int8 and tensor.ndim == 4 and tensor.is_contiguous()):
            raise ValueError(
                f"{name} are {tensor.dtype} {list(tensor.shape)}; give int8 [slots, kv_heads, context, D] in one piece"
            )
        if not (scale.dtype == torch.float32 and scale.shape == tensor.shape[:3] and scale.is_contiguous()):
            raise ValueError(
                f"scales of {name} are {scale.dtype} {list(scale.shape)}; give float32 {list(keys.shape[:3])} in one "
                "piece"
            )
        if not (tensor.device == scale.device == keys.device):
            raise ValueError(f"{name} and scales are on several devices; move them")
    if keys.shape != values.shape:
        raise ValueError(f"keys are {list(keys.shape)}, values {list(values.shape)}; make them alike")
    if not LEAST <= keys.shape[3] <= MOST:
        raise ValueError(f"heads of {keys.shape[3]} are not taken; {LEAST} to {MOST} numbers are")


def _check_type(name: str, tensor: Tensor, keys: Tensor) -> None:
    if not (tensor.dtype in NAMES or (tensor.dtype in (torch.float32, torch.float64) and not tensor.is_cuda)):
        raise ValueError(
            f"{name} is {tensor.dtype}; the kernels take bfloat16 or float16, the references float32 too: cast it"
        )
    if tensor.device != keys.device:
        raise ValueError(f"{name} is on {tensor.device}, the cache on {keys.device}; move them together")


def _check_indices(name: str, tensor: Tensor, keys: Tensor) -> None:
    if not (tensor.dtype in (torch.int32, torch.int64) and tensor.is_contiguous() and tensor.device == keys.device):
        raise ValueError(
            f"{name} are {tensor.dtype} on {tensor.device}; give int32 or int64 in one piece on {keys.device}"
        )


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [.., D] and float32 scales [..] of [.., D], in plain PyTorch."""
    wide = x.float()
    scale = wide.abs().amax(-1) / INT8_MAX
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    q = torch.round(wide / scale[..., None])
    return torch.where(q.abs() <= INT8_MAX, q, 0).to(torch.int8), scale  # 0 also where q is NaN: the scale tells


def dequantized(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[.., D] in float32 (float64 for float64), then in that type."""
    wide = torch.promote_types(dtype, torch.float32)
    return (q.to(wide) * scale.to(wide)[..., None]).to(dtype)


@torch.library.custom_op(
    "deshi::kv_write", mutates_args=("keys", "key_scale", "values", "value_scale"), device_types="cpu"
)
def _write(
    keys_new: Tensor,
    values_new: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    first_row: int,
    positions: Tensor,
) -> None:
    row, token = torch.nonzero((positions >= 0) & (positions < keys.shape[2]), as_tuple=True)
    at = positions[row, token]
    for new, stored, scales in ((keys_new, keys, key_scale), (values_new, values, value_scale)):
        q, scale = quantized(new)
        stored[first_row + row, :, at] = q[row, :, token]
        scales[first_row + row, :, at] = scale[row, :, token]


_write.register_kernel("cuda")(kv_write.run)


@_write.register_fake
def _(*tensors: Any) -> None:
    return None


@torch.library.custom_op("deshi::kv_decode", mutates_args=(), device_types="cpu")
def _decode(
    query: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    lengths: Tensor,
    scaling: float,
) -> Tensor:
    n, _, size = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    past = torch.arange(min(int(lengths.max()), keys.shape[2]))
    seen = (past < lengths[:, None])[:, None]  # [n, 1, past]
    k, v = (
        dequantized(q[:n, :, : len(past)], torch.where(seen, scale[:n, :, : len(past)], 0), wide)
        for q, scale in ((keys, key_scale), (values, value_scale))
    )
    logits = query.to(wide).reshape(n, k.shape[1], -1, size) @ k.transpose(2, 3) * scaling
    p = torch.softmax(logits.masked_fill(~seen[:, :, None], -torch.inf), -1)
    y = torch.where((lengths > 0)[:, None, None, None], p @ v, 0)
    return y.to(query.dtype).reshape(query.shape)


@_decode.register_kernel("cuda")
def _(query: Tensor, *given: Any) -> Tensor:
    return kv_decode.run(*(query, *given, tuning.choose("kv_int8", len(query), query.device)))


@_decode.register_fake
def _(query: Tensor, *cache: Any) -> Tensor:
    return query.new_empty(query.shape)
