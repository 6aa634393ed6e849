"""The kernels that memory bounds, beside what torch has for the same: the norm that quantizes, and the int8 cache.

    norm_quantize   RMSNorm and symmetric int8 a row          torch, operation by operation and compiled; vLLM's kernel
    kv_int8         one token of attention over an int8 cache  torch's attention over the 16-bit cache, twice the bytes

Each function gives the contenders and the exact answer in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from deshi.kernels import kv_decode, kv_int8
from deshi.kernels.norm_quantize import norm_quantize
from deshi.kernels.speed.contest import OURS, Contender, Entry, as_tensor
from deshi.kernels.speed.peers import library
from deshi.kernels.tuning import Config

EPS = 1e-6


def norms(rows: int, columns: int, copies: int, device: torch.device) -> tuple[dict[str, Contender], Tensor]:
    """RMSNorm and int8, on several x."""
    each = [torch.randn(rows, columns, device=device).to(torch.bfloat16) for _ in range(copies)]
    weight = torch.ones(columns, device=device, dtype=torch.bfloat16)

    def ours() -> Entry:
        calls = [partial(norm_quantize, x, weight, None, EPS, "rms", "int8") for x in each]
        return Entry(calls, lambda told: dequantized(told[0][:, :columns], told[1]))  # type: ignore[index]

    def plain(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = functional.rms_norm(x.float(), (columns,), weight.float(), EPS)
        scale = y.abs().amax(dim=1, keepdim=True) / 127
        return torch.round(y / scale).to(torch.int8), scale, y.to(x.dtype)

    def by_torch(function: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> Entry:
        return Entry([partial(function, x) for x in each], lambda told: dequantized(told[0], told[1]))  # type: ignore[index]

    def by_vllm() -> Entry:
        ops = library("vllm._custom_ops")
        calls = [partial(ops.rms_norm_dynamic_per_token_quant, x, weight, EPS, torch.int8) for x in each]
        return Entry(calls, lambda told: dequantized(told[0], told[1]))  # type: ignore[index]

    contenders: dict[str, Contender] = {
        OURS: ours,
        "torch, operation by operation": lambda: by_torch(plain),
        "torch, compiled": lambda: by_torch(torch.compile(plain, dynamic=False)),
        "vLLM, without y": by_vllm,
    }
    return contenders, functional.rms_norm(each[0].float(), (columns,), weight.float(), EPS)


def decodes(
    rows: int, context: int, copies: int, device: torch.device, config: Config | None = None
) -> tuple[dict[str, Contender], Tensor]:
    """32 heads over 8 of 128 numbers, on copies of the cache; ours at the sizes of a config."""
    heads, kv_heads, size = 32, 8, 128
    query = torch.randn(rows, heads, size, device=device).to(torch.bfloat16)
    keys = torch.randn(rows, kv_heads, context, size, device=device).to(torch.bfloat16)
    values = torch.randn(rows, kv_heads, context, size, device=device).to(torch.bfloat16)
    scaling = size**-0.5

    def ours() -> Entry:
        lengths = torch.full((rows,), context, device=device, dtype=torch.int32)
        calls = []
        for _ in range(copies):
            (k, k_scale), (v, v_scale) = kv_int8.quantized(keys), kv_int8.quantized(values)
            given = (query, k, k_scale, v, v_scale, lengths, scaling)
            calls.append(partial(kv_int8.decode, *given) if config is None else partial(kv_decode.run, *given, config))
        return Entry(calls, as_tensor)

    def by_torch() -> Entry:
        attend = partial(functional.scaled_dot_product_attention, scale=scaling, enable_gqa=True)
        calls = [partial(attend, query[:, :, None], keys.clone(), values.clone()) for _ in range(copies)]
        return Entry(calls, lambda told: as_tensor(told).squeeze(2))

    def by_flash_attention() -> Entry:
        attend = library("flash_attn").flash_attn_with_kvcache
        q = query[:, None]
        copied = [(keys.transpose(1, 2).contiguous(), values.transpose(1, 2).contiguous()) for _ in range(copies)]
        calls = [partial(attend, q, k, v, softmax_scale=scaling) for k, v in copied]
        return Entry(calls, lambda told: as_tensor(told).squeeze(1))

    contenders: dict[str, Contender] = {
        OURS: ours,
        "torch, 16-bit cache": by_torch,
        "flash-attn, 16-bit cache": by_flash_attention,
    }
    logits = query.float().reshape(rows, kv_heads, -1, size) @ keys.float().transpose(2, 3) * scaling
    return contenders, (torch.softmax(logits, -1) @ values.float()).reshape(rows, heads, size)


def dequantized(q: Tensor, scale: Tensor) -> Tensor:
    """q times its row's scale."""
    return q.float() * scale.float().reshape(-1, 1)
