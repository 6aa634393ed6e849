"""The slots' cache in int8, and the attention of transformers that reads it.

A layer is int8 with a float32 scale for each token and head (`deshi.kernels.kv_int8`): a little over half the memory of
a 16-bit cache, and of what a decode step reads. A model uses it after

    model.set_attn_implementation(ATTENTION)        which importing this file registers with transformers

`update` stores the new tokens and hands the layer itself on, in the place of keys and values; `attention` then has

    one new token a row     decode attention on the integers, each row as long as its position says
    a piece of a prompt     the row's past made whole in the model's type, and PyTorch's own attention with the mask

A decode step reads no number back from the device and takes every shape from the batch's, so a CUDA graph can hold it
(`decode_graphs.py`). A row at position -1 only fills up the batch: it stores nothing and sees nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from deshi.kernels import kv_int8
from deshi.kernels.weight_only import NAMES
from deshi.serve.engines.slot_cache import At, SlotCache, SlotLayer

ATTENTION = "deshi_int8"
UNKNOWN = ("softcap", "s_aux", "position_bias")  # what some models add to attention


class Int8Layer(SlotLayer):
    """One layer: keys and values int8 [slots, heads, context, size], scales [slots, heads, context]."""

    def __init__(self, at: At, shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> None:
        super().__init__(at, shape, torch.int8, device)
        self.key_scale, self.value_scale = (torch.zeros(shape[:3], device=device) for _ in range(2))

    @property
    def stored(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """In the order of the operators' arguments."""
        return self.keys, self.key_scale, self.values, self.value_scale

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Stores [n, heads, new, size]; gives itself for `attention`."""
        kv_int8.write(key_states, value_states, *self.stored, self.at.first, self.at.positions)
        return self, self

    def decode(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of one new token a row, [n, heads, size]."""
        keys, key_scale, values, value_scale = (stored[self.at.first :] for stored in self.stored)
        return kv_int8.decode(query, keys, key_scale, values, value_scale, self.at.lengths, scaling)

    def past(self, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [rows, heads, longest, size] as numbers."""
        at = (slice(self.at.first, self.at.first + rows), slice(None), slice(self.at.longest))
        return (
            kv_int8.dequantized(self.keys[at], self.key_scale[at], dtype),
            kv_int8.dequantized(self.values[at], self.value_scale[at], dtype),
        )


class Int8Cache(SlotCache):
    """The layers of a model whose attention is `ATTENTION`."""

    layer = Int8Layer

    def __init__(self, config: Any, *, slots: int, context_length: int, dtype: torch.dtype, device: str) -> None:
        """Allocates the rows.

        Raises:
            ValueError: if the model attends by other means, or computes in a type that the kernels do not take.
        """
        if config._attn_implementation != ATTENTION:
            raise ValueError(
                f"the model attends by {config._attn_implementation}, which cannot read an int8 cache; call "
                f"model.set_attn_implementation({ATTENTION!r}) first"
            )
        if torch.device(device).type == "cuda" and dtype not in NAMES:
            raise ValueError(f"the model is {dtype}, an int8 cache on a GPU serves bfloat16 or float16; load it so")
        super().__init__(config, slots=slots, context_length=context_length, dtype=dtype, device=device)

    def point(self, first: int, positions: torch.Tensor) -> torch.Tensor | None:
        """As `SlotCache.point`; without a mask if each row has one new token, since its position says all."""
        if positions.shape[1] > 1:
            return super().point(first, positions)
        self.at.first, self.at.positions, self.at.lengths = first, positions, positions[:, 0] + 1
        self.at.longest = self.layers[0].get_max_length()  # of any row: which one it is, the device alone knows
        return None


def attention(
    module: Any,
    query: torch.Tensor,
    key: Any,
    value: Any,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Of query [n, heads, new, size] over an `Int8Layer`: [n, new, heads, size].

    Raises:
        ValueError: if the model's attention is more than a softmax over its past.
    """
    if odd := [name for name in UNKNOWN if kwargs.get(name) is not None]:
        raise ValueError(
            f"the model's attention has {', '.join(odd)}, which the int8 cache has not; use torch_generate"
        )
    if not isinstance(key, Int8Layer):
        raise ValueError(f"{ATTENTION} reads an int8 cache and was given {type(key).__name__}; pass an Int8Cache")
    window = kwargs.get("sliding_window")
    if window is not None and window < key.get_max_length():
        raise ValueError(
            f"the model looks back {window} tokens and no further; serve it with a context of at most as many"
        )
    if query.shape[2] == 1:
        return key.decode(query[:, :, 0], scaling)[:, None], None
    keys, values = key.past(len(query), query.dtype)
    done, _ = sdpa_attention_forward(module, query, keys, values, attention_mask, scaling=scaling, **kwargs)
    return done, None


AttentionInterface.register(ATTENTION, attention)
