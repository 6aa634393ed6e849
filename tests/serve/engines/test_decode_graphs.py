"""Decode steps on filled-up batches: the same logits, and nothing of the filling in the cache."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from deshi.serve.engines.decode_graphs import DecodeGraphs
from deshi.serve.engines.int8_cache import ATTENTION, Int8Cache
from deshi.serve.engines.slot_cache import SlotCache

SLOTS, CONTEXT = 6, 32
TINY = runpy.run_path(str(Path(__file__).with_name("tiny_llama.py")))


def llama(device="cpu", dtype=torch.float32, **changes):
    model = TINY["llama"](**changes)
    model.set_attn_implementation(ATTENTION)
    return model.to(device, dtype)


def opened(model):
    """The cache, six rows of different ages, and what steps it."""
    cache = Int8Cache(model.config, slots=SLOTS, context_length=CONTEXT, dtype=model.dtype, device=model.device)
    for row in range(SLOTS):
        plain(model, cache, [list(range(10 * row, 10 * row + 4 + row))], [list(range(4 + row))], first=row)
    return cache, DecodeGraphs(model, cache)


def plain(model, cache, ids, positions, first=0):
    """A pass as the engine makes it."""
    ids, positions = (torch.tensor(one, device=model.device) for one in (ids, positions))
    mask = cache.point(first, positions)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache).logits


def stored(cache):
    return [one.clone() for layer in cache.layers for one in layer.stored]


def step_of(rows):
    """Ids and positions of the next token of the first rows."""
    return torch.arange(200, 200 + rows)[:, None], torch.arange(4, 4 + rows)[:, None]


@torch.inference_mode()
def test_filled_up_rows_change_nothing():
    """Row 3 and on may be a prompt that is being read: not a byte of them is touched."""
    model = llama()
    for rows in (1, 3, 5, 6):
        cache, graphs = opened(model)
        before = stored(cache)
        ids, positions = step_of(rows)
        logits = graphs(ids, positions)
        after = stored(cache)
        assert logits.shape == (rows, 1, 270)
        for was, now in zip(before, after, strict=True):
            assert torch.equal(was[rows:], now[rows:])
            for row in range(rows):
                new = torch.arange(CONTEXT) == 4 + row
                assert torch.equal(was[row][:, ~new], now[row][:, ~new]) and now[row][:, new].any()
        other, _ = opened(model)
        torch.testing.assert_close(logits, plain(model, other, ids.tolist(), positions.tolist()), rtol=0, atol=1e-5)
        for mine, theirs in zip(after, stored(other), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1)  # a number on the edge may round either way


def test_sizes_are_powers_of_two_within_the_slots():
    _, graphs = opened(llama())
    assert [graphs.padded(rows) for rows in range(1, 7)] == [1, 2, 4, 4, 6, 6]


class Repeated:
    """What a graph does, by running: it takes the inputs from where they lie, and leaves its outputs where they lay."""

    def __init__(self, graphs, size):
        self.graphs, self.size, self.out = graphs, size, graphs._step(size).clone()

    def replay(self):
        self.out.copy_(self.graphs._step(self.size))


@torch.inference_mode()
def test_a_graph_is_recorded_once_a_size(monkeypatch):
    cache, graphs = opened(llama())
    other, as_it_is = opened(llama())
    recorded = []

    def record(size):
        recorded.append(size)
        graph = Repeated(graphs, size)
        return graph, graph.out

    monkeypatch.setattr(graphs, "_record", record)
    graphs._recorded = True
    for age, rows in enumerate((3, 4, 1, 6, 3, 1)):
        ids, positions = step_of(rows)
        logits = graphs(ids, positions + age)
        torch.testing.assert_close(logits, as_it_is(ids, positions + age), rtol=0, atol=1e-6)
    assert recorded == [4, 1, 6]
    for mine, theirs in zip(stored(cache), stored(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1)


def test_what_cannot_be_repeated_is_refused():
    model = llama()
    floats = SlotCache(model.config, slots=1, context_length=8, dtype=torch.float32, device="cpu")
    with pytest.raises(ValueError, match="SlotCache takes views"):
        DecodeGraphs(model, floats)
    turned = llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(ValueError, match="'dynamic'"):
        opened(turned)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@torch.inference_mode()
def test_graphs_repeat_what_was_recorded():
    model = llama("cuda", torch.bfloat16)
    cache, graphs = opened(model)
    other, _ = opened(model)
    for age, rows in enumerate((3, 4, 1, 6, 3, 1)):
        ids, positions = step_of(rows)
        logits = graphs(ids, positions + age).clone()
        positions = positions + age
        filled = graphs.padded(rows) - rows
        ids = torch.cat([ids, torch.zeros(filled, 1, dtype=torch.int64)])
        positions = torch.cat([positions, torch.full((filled, 1), -1)])
        expected = plain(model, other, ids.tolist(), positions.tolist())[:rows]
        torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(stored(cache), stored(other), strict=True))
