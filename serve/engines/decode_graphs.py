"""Decode steps as CUDA graphs: a step of a small model is hundreds of short kernels, and launching them takes longer.

A graph repeats what was recorded, on the addresses and the shapes that it was recorded with. So a step of n rows is
filled up to the next power of two, at most all slots, and its inputs are copied to the same place each time:

    ids        [slots, 1]     0 for a row that fills up
    positions  [slots, 1]     -1 for it: the int8 cache then stores nothing and attends to nothing

A graph is recorded when its size is first asked for, after one run that lets kernels be compiled; since the step writes
what it is given where it is told to, to run it twice does no harm. All graphs share one pool of memory, so a step's
logits last until the next step. Without a CUDA device the same step runs as it is, on the same filled-up inputs.
"""

from __future__ import annotations

from typing import Any

import torch

from deshi.serve.engines.int8_cache import Int8Cache

ON_THE_HOST = {"dynamic", "longrope"}  # rotary embeddings that look at the positions' values to choose what to run


class DecodeGraphs:
    """Logits of one new token of each of the first rows; `TorchGenerateEngine` takes the class as its `step`."""

    def __init__(self, model: Any, cache: Int8Cache) -> None:
        """Allocates the inputs; records nothing yet.

        Raises:
            ValueError: if a step of this model or cache cannot be repeated blindly.
        """
        if not isinstance(cache, Int8Cache):
            raise ValueError(f"{type(cache).__name__} takes views as long as its longest row; graphs need an Int8Cache")
        rope = getattr(model.config, "rope_parameters", None) or {}
        kinds = {one.get("rope_type") for one in (rope, *rope.values()) if isinstance(one, dict)}
        if found := kinds & ON_THE_HOST:
            raise ValueError(f"rope_type {found} is computed from the positions on the host; decode without graphs")
        self._model, self._cache = model, cache
        slots = len(cache.layers[0].keys)
        self._ids, self._positions = (torch.zeros(slots, 1, dtype=torch.int64, device=model.device) for _ in range(2))
        self._recorded = model.device.type == "cuda"
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: Any = None

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits [n, 1, vocabulary] of ids [n, 1] at positions [n, 1], good until the next call."""
        rows = len(ids)
        size = self.padded(rows)
        for fixed, given, filler in ((self._ids, ids, 0), (self._positions, positions, -1)):
            fixed[:rows].copy_(given)
            fixed[rows:size].fill_(filler)
        if not self._recorded:
            return self._step(size)[:rows]
        if size not in self._graphs:
            self._graphs[size] = self._record(size)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[:rows]

    def padded(self, rows: int) -> int:
        """The next power of two, at most all slots."""
        return min(1 << (rows - 1).bit_length(), len(self._ids))

    def _step(self, size: int) -> torch.Tensor:
        positions = self._positions[:size]
        mask = self._cache.point(0, positions)
        logits: torch.Tensor = self._model(
            input_ids=self._ids[:size],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        return logits

    def _record(self, size: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step(size)
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # What other threads of the process ask of the device is none of this graph's business.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._step(size)
        return graph, logits
