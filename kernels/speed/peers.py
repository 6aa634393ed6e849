"""What our products are measured beside: ours and, where it is installed, everyone else's, on the same weight.

A contender takes a weight [N, K] in bfloat16, quantizes it as it likes, and gives a function from activations x [M, K]
to the call that is timed. What it cannot do here it says by raising `NotHere`. Each is one small function over a
library's public interface; `bench.py` holds every answer to the float product before it times it.

    deshi                            the kernels of this folder
    torch 16-bit                     x W^T in bfloat16, cuBLAS
    torch int4pack, int8pack         aten::_weight_int4pack_mm, aten::_weight_int8pack_mm
    torch _int_mm, scaled apart      int32 product, then the scales of rows and columns
    torchao, gemlite, bitsandbytes   their linear layers
    vLLM Marlin, vLLM cutlass        vllm._custom_ops

W8A8 contenders multiply x that is quantized already; those marked "with its own x" quantize it in the call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deshi.kernels.int8 import quantize_int8
from deshi.kernels.round_to_nearest import Format, quantize
from deshi.kernels.speed.contest import NotHere, reason
from deshi.kernels.speed.timing import Call

GROUP = 128  # columns that share a scale in every 4-bit contender that lets us choose
Bound = Callable[[Tensor], Call]  # activations to the call that is timed
Prepare = Callable[[Tensor], Bound]  # a weight to that


TORCH_16_BIT, GEMLITE, INT_MM, CUTLASS = "torch 16-bit", "gemlite", "torch _int_mm, scaled apart", "vLLM cutlass"


def library(name: str) -> Any:
    """A module of a peer.

    Raises:
        NotHere: if it is not installed, or does not load.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise NotHere(f"{error.name} is not installed") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise NotHere(f"{name} does not load: {reason(error)}") from error


def _on_cuda(weight: Tensor) -> None:
    if not weight.is_cuda:
        raise NotHere("it needs a CUDA device")


def torch_16_bit(weight: Tensor) -> Bound:
    """cuBLAS on the weight that is not quantized."""
    own = weight.clone()
    return lambda x: partial(functional.linear, x, own)


def torch_int4pack(weight: Tensor) -> Bound:
    """Groups of 128, w = (u - 8) scale + zero with zero 0."""
    _on_cuda(weight)
    quantized = quantize(weight, Format(bits=4, group_size=GROUP))
    unsigned = (quantized.values + 8).to(torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack(unsigned[:, ::2] << 4 | unsigned[:, 1::2], 8)
    scale = quantized.scale.t().to(torch.bfloat16)
    scale_and_zero = torch.stack([scale, torch.zeros_like(scale)], dim=2).contiguous()
    return lambda x: partial(torch.ops.aten._weight_int4pack_mm, x, packed, GROUP, scale_and_zero)


def torch_int8pack(weight: Tensor) -> Bound:
    """One scale a row, in bfloat16."""
    _on_cuda(weight)
    values, scale = quantize_int8(weight)
    scale = scale.flatten().to(torch.bfloat16)
    return lambda x: partial(torch.ops.aten._weight_int8pack_mm, x, values, scale)


def torch_int_mm(weight: Tensor) -> Bound:
    """cuBLAS in int32, then both scales in one compiled pass over the result."""
    values, scale = quantize_int8(weight)
    scaled = torch.compile(_scaled, dynamic=True) if weight.is_cuda else _scaled

    def bind(x: Tensor) -> Call:
        if len(x) <= 16:
            raise NotHere("torch._int_mm takes more than 16 rows")
        x_values, x_scale = quantize_int8(x)
        return lambda: scaled(torch._int_mm(x_values, values.t()), x_scale, scale.t(), x.dtype)

    return bind


def _scaled(product: Tensor, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    return (product.to(torch.float32) * rows * columns).to(dtype)


def torch_scaled_mm(weight: Tensor) -> Bound:
    """float8 e4m3 with a scale a row of x and a row of the weight."""
    _on_cuda(weight)
    values, scale = _float8(weight)

    def bind(x: Tensor) -> Call:
        x_values, x_scale = _float8(x)
        return lambda: torch._scaled_mm(
            x_values, values.t(), scale_a=x_scale, scale_b=scale.t(), out_dtype=x.dtype, use_fast_accum=True
        )

    return bind


def torchao_int4(weight: Tensor) -> Bound:
    """Int4WeightOnlyConfig in the layout that needs no further library."""
    api = library("torchao.quantization")
    return _torchao(weight, api.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d"))


def torchao_int8(weight: Tensor) -> Bound:
    """Int8WeightOnlyConfig, compiled."""
    return _torchao(weight, library("torchao.quantization").Int8WeightOnlyConfig(), compile_it=True)


def torchao_int8_dynamic(weight: Tensor) -> Bound:
    """Int8DynamicActivationInt8WeightConfig, compiled."""
    config = library("torchao.quantization").Int8DynamicActivationInt8WeightConfig()
    return _torchao(weight, config, compile_it=True)


def _torchao(weight: Tensor, config: Any, *, compile_it: bool = False) -> Bound:
    _on_cuda(weight)
    linear = _linear(weight)
    library("torchao.quantization").quantize_(linear, config)
    if not compile_it:
        return lambda x: partial(linear, x)
    torch._dynamo.reset()  # its limit of compiled shapes is for one program's shapes, not for a table's
    product = torch.compile(functional.linear, dynamic=False)
    return lambda x: partial(product, x, linear.weight)


def gemlite_int4(weight: Tensor) -> Bound:
    """A16W4_HQQ_INT on our integers: w = (u - 8) scale."""
    helper = library("gemlite.helper")
    _on_cuda(weight)
    quantized = quantize(weight, Format(bits=4, group_size=GROUP))
    scale = quantized.scale.to(weight.dtype).reshape(-1, 1)
    layer = helper.A16W4_HQQ_INT(device=weight.device, dtype=weight.dtype).from_weights(
        (quantized.values + 8).to(torch.uint8), scale, torch.full_like(scale, 8.0)
    )
    return lambda x: partial(layer, x)


def gemlite_int8(weight: Tensor) -> Bound:
    """A16W8_INT8."""
    helper = library("gemlite.helper")
    _on_cuda(weight)
    layer = helper.A16W8_INT8(device=weight.device, dtype=weight.dtype).from_weights(weight.clone())
    return lambda x: partial(layer, x)


def gemlite_int8_dynamic(weight: Tensor) -> Bound:
    """A8W8_INT8_dynamic."""
    helper = library("gemlite.helper")
    _on_cuda(weight)
    layer = helper.A8W8_INT8_dynamic(device=weight.device, dtype=weight.dtype).from_weights(weight.clone())
    return lambda x: partial(layer, x)


def bitsandbytes_nf4(weight: Tensor) -> Bound:
    """NF4 in blocks of 64."""
    bnb = library("bitsandbytes")
    _on_cuda(weight)
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    return lambda x: partial(bnb.matmul_4bit, x, packed.t(), quant_state=state)


def bitsandbytes_int8(weight: Tensor) -> Bound:
    """LLM.int8() without outliers; it computes in float16."""
    bnb = library("bitsandbytes")
    _on_cuda(weight)
    layer = bnb.nn.Linear8bitLt(weight.shape[1], weight.shape[0], bias=False, has_fp16_weights=False, threshold=0.0)
    layer.load_state_dict({"weight": weight.half().cpu()})
    layer = layer.to(weight.device)
    return lambda x: partial(layer, x.half())


def vllm_marlin(weight: Tensor) -> Bound:
    """Marlin, groups of 128, symmetric."""
    ops, types = library("vllm._custom_ops"), library("vllm.scalar_type").scalar_types
    folder = "vllm.model_executor.layers.quantization.utils"
    utils, made = library(f"{folder}.marlin_utils"), library(f"{folder}.marlin_utils_test")
    _on_cuda(weight)
    _, words, scale, order, sort, _ = made.marlin_quantize(weight.t().contiguous(), types.uint4b8, GROUP, False)
    workspace = utils.marlin_make_workspace_new(weight.device)
    columns, inner = weight.shape

    def bind(x: Tensor) -> Call:
        return lambda: ops.marlin_gemm(
            a=x, c=None, b_q_weight=words, b_bias=None, b_scales=scale, a_scales=None, global_scale=None, b_zeros=None,
            g_idx=order, perm=sort, workspace=workspace, b_q_type=types.uint4b8, size_m=len(x), size_n=columns,
            size_k=inner, use_fp32_reduce=True,
        )  # fmt: skip

    return bind


def vllm_cutlass(weight: Tensor) -> Bound:
    """int8 with both scales in the product."""
    ops = library("vllm._custom_ops")
    _on_cuda(weight)
    values, scale = quantize_int8(weight)

    def bind(x: Tensor) -> Call:
        x_values, x_scale = quantize_int8(x)
        return lambda: ops.cutlass_scaled_mm(x_values, values.t(), x_scale, scale.t().contiguous(), x.dtype)

    return bind


def _linear(weight: Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return linear


def _float8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """float8 e4m3 and one float32 scale a row."""
    scale = matrix.abs().amax(dim=1, keepdim=True).to(torch.float32) / torch.finfo(torch.float8_e4m3fn).max
    return (matrix / scale).to(torch.float8_e4m3fn), scale
