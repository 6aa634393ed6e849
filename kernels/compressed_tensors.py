"""Quantized layers as compressed-tensors stores them: what a layer's tensors are called, and what config.json says.

    scheme     format            tensors of a layer beside its bias
    w4a16      pack-quantized    weight_packed int32 [out, ceil(in / 8)], weight_scale [out, groups], weight_shape [2]
    w8a16      pack-quantized    weight_packed int32 [out, ceil(in / 4)], weight_scale [out, groups], weight_shape [2]
    w8a8       int-quantized     weight int8 [out, in], weight_scale [out, 1]; x is rounded at run time, a scale a token

An asymmetric one has weight_zero_point too, packed down the rows (`packing.py`). Scales lie in the model's own type,
and integers are rounded against them as they lie there. vLLM, SGLang and transformers (with the compressed-tensors
package) read such folders; this file reads theirs back, and refuses what the kernels cannot run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deshi.kernels.packing import pack, unpack
from deshi.kernels.round_to_nearest import GROUP_SIZES, Format, Quantized, quantize

VERSION = "0.20.1"  # of the package whose layout this is
INT8 = Format(bits=8)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How the linear layers of a model are stored; `int8_activations`: x is rounded too."""

    weights: Format
    int8_activations: bool = False

    @property
    def name(self) -> str:
        """w4a16, w8a16 or w8a8."""
        return f"w{self.weights.bits}a{8 if self.int8_activations else 16}"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of a layer's tensors, but for its bias."""
        if self.int8_activations:
            return "weight", "weight_scale"
        return (
            "weight_packed",
            "weight_scale",
            "weight_shape",
            *(() if self.weights.symmetric else ("weight_zero_point",)),
        )


def scheme_for(name: str, widths: Sequence[int]) -> Scheme:
    """The scheme of that name for layers of these input widths.

    4 bits take the largest group that divides them all, 8 bits one scale an output channel.

    Raises:
        ValueError: if there is no scheme of that name.
    """
    if name == "w4a16":
        sizes = [size for size in reversed(GROUP_SIZES) if not any(width % size for width in widths)]
        return Scheme(weights=Format(bits=4, group_size=next(iter(sizes), None)))
    if name not in ("w8a16", "w8a8"):
        raise ValueError(f"scheme {name!r} is not known; use w4a16, w8a16 or w8a8")
    return Scheme(weights=INT8, int8_activations=name == "w8a8")


def compress(weight: Tensor, scheme: Scheme, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of one layer, by name, of its weight [out, in]; scales in `dtype`.

    Raises:
        ValueError: see `round_to_nearest.quantize`.
    """
    quantized = quantize(weight, scheme.weights, scale_dtype=dtype)
    if scheme.int8_activations:
        return {"weight": quantized.values, "weight_scale": quantized.scale}
    bits = scheme.weights.bits
    tensors = {
        "weight_packed": pack(quantized.values, bits),
        "weight_scale": quantized.scale,
        "weight_shape": torch.tensor(weight.shape),
    }
    if quantized.zero_point is not None:
        tensors["weight_zero_point"] = pack(quantized.zero_point.t(), bits).t().contiguous()
    return tensors


def decompress(tensors: Mapping[str, Tensor], scheme: Scheme) -> Quantized:
    """The integers, scales and zero points of one layer.

    Raises:
        ValueError: if a tensor is missing, or of another shape than the others say.
    """
    if missing := [name for name in scheme.tensors if name not in tensors]:
        raise ValueError(
            f"a layer stored as {scheme.name} lacks {missing[0]!r}; it has {', '.join(sorted(tensors)) or 'nothing'}"
        )
    scale = tensors["weight_scale"]
    if scheme.int8_activations:
        return Quantized(values=tensors["weight"], scale=scale)
    rows, columns = tensors["weight_shape"].tolist()
    values = unpack(tensors["weight_packed"], scheme.weights.bits, columns)
    if values.shape[0] != rows or scale.shape != (rows, scheme.weights.groups(columns)):
        raise ValueError(
            f"weight_scale is {list(scale.shape)} and weight_packed {list(tensors['weight_packed'].shape)}; "
            f"a weight of [{rows}, {columns}] has {scheme.weights.groups(columns)} scales a row"
        )
    zero = None
    if not scheme.weights.symmetric:
        packed = tensors["weight_zero_point"].t().contiguous()
        zero = unpack(packed, scheme.weights.bits, rows).t().contiguous()
    return Quantized(values=values, scale=scale, zero_point=zero)


def config_of(scheme: Scheme, ignore: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config` of config.json; `ignore` names the linear layers that stay as they are."""
    group, symmetric = scheme.weights.group_size, scheme.weights.symmetric
    weights = {
        "num_bits": scheme.weights.bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group is None else "group",
        "group_size": group,
        "dynamic": False,
    }
    tokens = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": "int-quantized" if scheme.int8_activations else "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(ignore),
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": tokens if scheme.int8_activations else None,
                "output_activations": None,
            }
        },
    }


def read_config(config: Mapping[str, Any]) -> tuple[Scheme, tuple[str, ...]]:
    """The scheme and the `ignore` patterns of a `quantization_config`.

    Raises:
        ValueError: for another method, several groups, or a scheme that the kernels do not run.
    """
    _require(config.get("quant_method") == "compressed-tensors", "quant_method", config.get("quant_method"))
    groups = list(config.get("config_groups", {}).values())
    _require(len(groups) == 1, "number of config_groups", len(groups))
    group = groups[0]
    _require(group.get("targets") == ["Linear"], "targets", group.get("targets"))
    weights, inputs = group["weights"], group.get("input_activations")
    _require(not weights.get("actorder"), "actorder", weights.get("actorder"))
    _require(weights.get("type") == "int", "type of weights", weights.get("type"))
    _require(weights.get("strategy") in ("group", "channel"), "strategy", weights.get("strategy"))
    _require(weights.get("num_bits") in (4, 8), "num_bits", weights.get("num_bits"))
    format = Format(
        bits=weights["num_bits"],
        group_size=weights.get("group_size") if weights["strategy"] == "group" else None,
        symmetric=bool(weights.get("symmetric", True)),
    )
    if inputs is not None:
        dynamic = (inputs.get("type"), inputs.get("num_bits"), inputs.get("strategy"), bool(inputs.get("dynamic")))
        _require(dynamic == ("int", 8, "token", True) and format == INT8, "input_activations", dynamic)
    wanted = "int-quantized" if inputs is not None else "pack-quantized"
    _require(config.get("format") == wanted, "format", config.get("format"))
    return Scheme(weights=format, int8_activations=inputs is not None), tuple(config.get("ignore") or ())


def is_ignored(name: str, ignore: Sequence[str]) -> bool:
    """Whether a layer stays as it is: named, or matched by a pattern `re:...`."""
    return any(
        re.match(one.removeprefix("re:"), name) is not None if one.startswith("re:") else one == name for one in ignore
    )


def _require(holds: bool, what: str, value: object) -> None:
    if not holds:
        raise ValueError(
            f"{what} of quantization_config is {value!r}, which the kernels do not run; they take one group of "
            "compressed-tensors: weights of 4 or 8 bits by group or channel without actorder, activations in 16 bits "
            "or in dynamic int8 by token"
        )
