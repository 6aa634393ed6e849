"""A static key-value cache whose rows are requests of different ages.

Keys and values of a layer lie in one tensor [slots, key-value heads, context, head size], allocated once. The requests
that run fill the first rows, without a hole, so that a step reads a view and copies nothing:

    rows [0, n) x positions [0, longest)

A request that leaves gives its row to the last one. stock transformers writes through `update` wherever `at` points.
`SlotCache` keeps the model's own type; `int8_cache.py` has the same rows in int8.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class At:
    """Where the next forward pass writes: for rows [first, first + n) the positions [n, new tokens]."""

    first: int
    positions: torch.Tensor
    longest: int
    lengths: torch.Tensor  # [n], if each row has one new token


class SlotLayer(CacheLayerMixin):
    """One layer. `stored` are its tensors, [slots, heads, context, ...] each."""

    is_sliding = False

    def __init__(self, at: At, shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.at = at
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.is_initialized = True

    @property
    def stored(self) -> tuple[torch.Tensor, ...]:
        """What a row is made of."""
        return self.keys, self.values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise AssertionError("the rows are allocated when the engine is loaded")

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """[n, heads, new, size] in; [n, heads, longest, size] out, the new ones among them."""
        at = self.at
        rows = slice(at.first, at.first + len(key_states))
        row = torch.arange(rows.start, rows.stop, device=key_states.device)[:, None]
        self.keys[row, :, at.positions] = key_states.transpose(1, 2)
        self.values[row, :, at.positions] = value_states.transpose(1, 2)
        return self.keys[rows, :, : at.longest], self.values[rows, :, : at.longest]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.at.longest, 0

    def get_seq_length(self) -> int:
        return int(self.at.longest)

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


def heads_of(config: Any) -> tuple[int, int]:
    """Key-value heads, and the numbers of one."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class SlotCache(Cache):
    """The layers of a model with full attention, and where they write."""

    layer: ClassVar[type[SlotLayer]] = SlotLayer

    def __init__(self, config: Any, *, slots: int, context_length: int, dtype: torch.dtype, device: str) -> None:
        """Allocates the rows.

        Raises:
            ValueError: if a layer attends to anything but the whole past.
        """
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(f"layers of {sorted(kinds)} need another cache than this engine has; use llamacpp")
        heads, size = heads_of(config)
        shape = (slots, heads, context_length, size)
        self.at = At()
        super().__init__(layers=[self.layer(self.at, shape, dtype, device) for _ in range(config.num_hidden_layers)])

    def point(self, first: int, positions: torch.Tensor) -> torch.Tensor | None:
        """Sets where the next pass writes; gives its mask [n, 1, new, longest], True where a token may look."""
        self.at.first, self.at.positions = first, positions
        self.at.longest = int(positions.max()) + 1
        past = torch.arange(self.at.longest, device=positions.device)
        return (past <= positions[:, :, None])[:, None]

    def clear(self, row: int) -> None:
        """Writes zeros over a row."""
        for layer in self.layers:
            for stored in layer.stored:
                stored[row].zero_()

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of a row over another row."""
        for layer in self.layers:
            for stored in layer.stored:
                stored[target, :, :length] = stored[source, :, :length]
