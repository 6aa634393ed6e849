"""A transformers model whose linear layers are integers: from a compressed-tensors folder into a model built beside it.

    config.json         which scheme, which layers stay as they are
    *.safetensors       the tensors; nothing else is read

What the kernels do at once is taken out of the model's own code, where its shape is known by attributes:

    activation    a module that holds a linear layer and the activation of its result gives that to the layer
    norm          a norm before int8 layers rounds its result in the same pass, and leaves the integers for them

The model's classes are stock ones; only leaves are replaced, so attention, caches and heads are transformers' own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deshi.kernels.compressed_tensors import Scheme, is_ignored, read_config
from deshi.kernels.norm_quantize import norm_quantize
from deshi.kernels.quantized_linear import QuantizedLinear, Rounded

# (the linear layer, the activation of its result) as attributes of one module: BERT's and its kin, gated feed-forward
# networks of the Llama kind, DistilBERT, OPT and the CLIP kind.
FUSED = (("dense", "intermediate_act_fn"), ("gate_proj", "act_fn"), ("lin1", "activation"), ("fc1", "activation_fn"))
ACTIVATIONS = {nn.SiLU: "silu", nn.GELU: "gelu", nn.ReLU: "relu"}
NAMED = {"SiLUActivation": "silu", "GELUActivation": "gelu"}  # transformers' own classes


def fill(model: nn.Module, folder: Path) -> nn.Module:
    """Puts the folder's tensors into a model made from its config; linear layers that are integers are replaced.

    Raises:
        ValueError: if the folder is not quantized as the kernels run it, or does not hold this model's tensors.
    """
    scheme, ignore = read_config(json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config", {}))
    rounded = Rounded()
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    rest: dict[str, Tensor] = {}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    linear = {name for name in linear if not is_ignored(name, ignore)}
    for name, tensor in _tensors(folder):
        layer, _, last = name.rpartition(".")
        if layer in linear:
            layers[layer][last] = tensor
        else:
            rest[name] = tensor
    if absent := sorted(name for name in linear if name not in layers):
        raise ValueError(f"{folder} holds no tensors of {absent[0]} and {len(absent) - 1} others; is it this model's?")
    dtype = next(model.parameters()).dtype
    for name, tensors in layers.items():
        bias = tensors.pop("bias", None)
        made = QuantizedLinear(tensors, scheme, None if bias is None else bias.to(dtype), rounded=rounded)
        model.set_submodule(name, made)
    told = model.load_state_dict(rest, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    known = {f"{name}.{key}" for name in layers for key in ("weight", "scale", "zero", "bias")}
    if missing := sorted(set(told.missing_keys) - tied - known):
        raise ValueError(f"{folder} lacks {missing[0]} and {len(missing) - 1} other tensors; write it again")
    if told.unexpected_keys:
        raise ValueError(f"{folder} holds {told.unexpected_keys[0]}, which the model does not have; write it again")
    if tie := getattr(model, "tie_weights", None):
        tie()
    fuse(model, scheme, rounded)
    return model


def fuse(model: nn.Module, scheme: Scheme, rounded: Rounded) -> None:
    """Lets layers apply the activation of their result, and norms round theirs for int8 layers."""
    for module in list(model.modules()):
        for linear, activation in FUSED:
            layer, after = getattr(module, linear, None), getattr(module, activation, None)
            name = _activation(after)
            if isinstance(layer, QuantizedLinear) and name is not None:
                layer.activation = name
                setattr(module, activation, nn.Identity())
    if not scheme.int8_activations:
        return
    widths = {layer.in_features for layer in model.modules() if isinstance(layer, QuantizedLinear)}
    for name, module in list(model.named_modules()):
        if kind := _norm(module, widths):
            model.set_submodule(name, RoundingNorm(module, kind, rounded))


class RoundingNorm(nn.Module):
    """A norm that also rounds its result to int8 and leaves the integers in `rounded`."""

    def __init__(self, norm: nn.Module, kind: str, rounded: Rounded) -> None:
        super().__init__()
        self.weight: Tensor = norm.weight  # type: ignore[assignment]
        self.bias: Tensor | None = getattr(norm, "bias", None)
        self.eps = float(norm.variance_epsilon if kind == "rms" else norm.eps)  # type: ignore[arg-type]
        self.kind, self._rounded = kind, rounded

    def forward(self, x: Tensor) -> Tensor:
        """The norm of x, of its shape and type."""
        rows = x.reshape(-1, x.shape[-1])
        values, scale, normed = norm_quantize(rows, self.weight, self.bias, self.eps, self.kind)
        out = normed.reshape(x.shape)
        self._rounded.keep(out, values, scale)
        return out


def _activation(module: Any) -> str | None:
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    return ACTIVATIONS.get(type(module)) or NAMED.get(type(module).__name__)


def _norm(module: nn.Module, widths: set[int]) -> str | None:
    """rms, layer, or None for what is no norm before a layer of these widths."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim != 1 or len(weight) not in widths:
        return None
    if isinstance(module, nn.LayerNorm):
        return "layer"
    # x / rms(x) * weight; norms that add 1 to their weight (Gemma's) have another name for eps.
    return "rms" if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") else None


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors; give the folder of a quantized model")
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_tensor(name)
