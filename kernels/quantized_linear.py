"""`nn.Linear` over integers: the tensors as a kernel reads them, and the call of the kernel that reads them.

    w4a16, w8a16    y = act(x W'^T + bias)                       `weight_only.py`
    w8a8            y = act((q_x s_x) (q_W s_W)^T + bias)        `norm_quantize.py`, `w8a8.py`

On the CPU the operators run their plain references, so a model with such layers is tested there without a GPU. Layers
of one model that read the same x share its rounding: the norm that made x has left the integers in `Rounded`
(`quantized_model.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deshi.kernels.compressed_tensors import Scheme, decompress
from deshi.kernels.norm_quantize import quantize_rows
from deshi.kernels.packing import fill_rows, interleave
from deshi.kernels.w4a16 import w4a16
from deshi.kernels.w8a8 import w8a8
from deshi.kernels.w8a16 import w8a16


class Rounded:
    """The newest x that was rounded, with its integers. Whoever is handed the very same tensor need not round again."""

    def __init__(self) -> None:
        self.x: Tensor | None = None
        self.values = self.scale = torch.empty(0)

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """int8 [rows, in] and float32 scales [rows] of x [.., in]."""
        if self.x is not x:
            self.keep(x, *quantize_rows(x.reshape(-1, x.shape[-1])))
        return self.values, self.scale

    def keep(self, x: Tensor, values: Tensor, scale: Tensor) -> None:
        """Remembers what x was rounded to."""
        self.x, self.values, self.scale = x, values, scale


class QuantizedLinear(nn.Module):
    """A linear layer [in_features -> out_features] whose weight is integers.

    `activation` (none, gelu, silu, relu) is applied where the kernel writes its result.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        scheme: Scheme,
        bias: Tensor | None = None,
        *,
        activation: str = "none",
        rounded: Rounded | None = None,
    ) -> None:
        """Takes a layer's tensors as compressed-tensors stores them.

        Raises:
            ValueError: if they do not belong together.
        """
        super().__init__()
        quantized = decompress(tensors, scheme)
        self.out_features, self.in_features = quantized.values.shape
        self.scheme, self.activation = scheme, activation
        self._rounded = rounded or Rounded()
        lay = interleave if scheme.weights.bits == 4 else fill_rows
        scale = quantized.scale.float().t().contiguous()
        zero = None if quantized.zero_point is None else quantized.zero_point.t().contiguous()
        self.register_buffer("weight", lay(quantized.values))
        self.register_buffer("scale", scale.reshape(-1) if scheme.int8_activations else scale)
        self.register_buffer("zero", zero)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[.., in] to [.., out], in the type of x."""
        if self.scheme.int8_activations:
            values, scale = self._rounded.of(x)
            out = w8a8(values, scale, self.weight, self.scale, self.bias, self.activation, x.dtype)
        else:
            product = w4a16 if self.scheme.weights.bits == 4 else w8a16
            rows = x.reshape(-1, self.in_features)
            out = product(rows, self.weight, self.scale, self.zero, self.bias, self.activation)
        return out.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{self.in_features}, {self.out_features}, {self.scheme.name}, activation={self.activation}"

    def _apply(self, fn: object, recurse: bool = True) -> QuantizedLinear:
        """Moves to another device; `to(dtype)` changes the bias alone, since scales are read as float32."""
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)
        return self
