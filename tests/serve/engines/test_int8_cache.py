"""The int8 cache under the PyTorch engine: what it does to the answers, and its slots while requests come and go."""

from __future__ import annotations

import asyncio
import runpy
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from deshi.serve.engines import torch_decode
from deshi.serve.engines.decode_graphs import DecodeGraphs
from deshi.serve.engines.generation import GenerationParams
from deshi.serve.engines.int8_cache import ATTENTION, Int8Cache, attention
from deshi.serve.engines.slot_cache import SlotCache, SlotLayer
from deshi.serve.engines.text_stream import token_bytes

PROMPTS = [[40, 41, 42], [7], list(range(100, 160)), [200, 3, 9, 9], [50] * 17, [11, 12]]
COUNTS = [20, 33, 5, 12, 28, 9]
llama = runpy.run_path(str(Path(__file__).with_name("tiny_llama.py")))["llama"]


class RoundedLayer(SlotLayer):
    """Floats, rounded by numpy to the numbers that int8 can say: 127 steps either side, the largest is 127."""

    def update(self, key_states, value_states, *args, **kwargs):
        def rounded(states):
            x = states.numpy().astype(np.float64)
            step = np.abs(x).max(axis=-1, keepdims=True) / 127
            return torch.from_numpy((np.rint(x / step) * step).astype(np.float32))

        return super().update(rounded(key_states), rounded(value_states))


class RoundedCache(SlotCache):
    layer = RoundedLayer


@pytest.fixture(scope="module")
def tokenizer(parrot):
    return Tokenizer.from_file(str(parrot / "model" / "tokenizer.json"))


@pytest.fixture(scope="module")
def opened(tokenizer):
    """Opens an engine of three slots that reads a prompt 16 tokens at a time; closes all at the end."""
    engines = []

    def open_engine(cache=None, step=None):
        model = llama()
        model.set_attn_implementation(ATTENTION if cache is Int8Cache else "sdpa")
        engines.append(
            torch_decode.TorchGenerateEngine(
                model, tokenizer, threads=1, slots=3, context_length=128, max_queued=64, eos=frozenset(), cache=cache,
                step=step,
            )
        )  # fmt: skip
        return engines[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_decode, "PREFILL_TOKENS", 16)
        yield open_engine
        for engine in engines:
            engine.close()


@pytest.fixture(scope="module", params=[None, DecodeGraphs], ids=["as it is", "filled up"])
def engine(request, opened):
    """With the int8 cache, and with the steps that CUDA graphs would repeat."""
    return opened(Int8Cache, request.param)


@pytest.fixture(scope="module")
def rounded(opened):
    return opened(RoundedCache)


@pytest.fixture(scope="module")
def ids_of(tokenizer):
    """Bytes -> the id of the token."""
    return {token_bytes(tokenizer, token): token for token in range(270)}


@pytest.fixture(scope="module")
def run():
    """An engine belongs to one event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


async def answer(engine, prompt, **params):
    return [step async for step in engine.submit(prompt, GenerationParams(**params))]


async def crowd(engine):
    """Six requests of different lengths over three slots: they join and leave at different steps."""
    asked = zip(PROMPTS, COUNTS, strict=True)
    return await asyncio.gather(
        *(answer(engine, prompt, max_tokens=count, temperature=0, logprobs=0) for prompt, count in asked)
    )


def told(steps):
    """Tokens and their log-probabilities."""
    entries = [entry for step in steps for entry in step.logprobs]
    return [entry.token for entry in entries], [entry.logprob for entry in entries]


def first_order(model, ids):
    """For each next token: how far its log-probability can move if every key and value moves by half a step, each in
    its worst direction, and how far if a single one moves by a whole step. To first order, |d log p / d k| s / 2.
    """
    moved = []

    def moving(module, query, key, value, mask, **kwargs):
        off = [torch.zeros_like(states, requires_grad=True) for states in (key, value)]
        halves = [states.detach().abs().amax(-1, keepdim=True) / 254 for states in (key, value)]
        moved.extend(zip(off, halves, strict=True))
        return sdpa_attention_forward(module, query, key + off[0], value + off[1], mask, **kwargs)

    AttentionInterface.register("moving", moving)
    model.set_attn_implementation("moving")
    logprobs = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0], -1)
    all_of_them, one = [], []
    for at, token in enumerate(ids[1:]):
        slopes = torch.autograd.grad(logprobs[at, token], [off for off, _ in moved], retain_graph=True)
        moves = [slope.abs() * half for slope, (_, half) in zip(slopes, moved, strict=True)]
        all_of_them.append(sum(float(move.sum()) for move in moves))
        one.append(2 * max(float(move.max()) for move in moves))
    return all_of_them, one


def test_a_crowd_gets_what_each_gets_alone(run, engine, rounded, ids_of):
    """And both what a float cache gives whose numbers are rounded to int8. Nothing else differs; but a number that lies
    on the edge of two steps may fall to either side, as sums are added up in another order.
    """
    together = run(crowd(engine))
    for prompt, count, steps in zip(PROMPTS, COUNTS, together, strict=True):
        alone = run(answer(engine, prompt, max_tokens=count, temperature=0, logprobs=0))
        by_float = run(answer(rounded, prompt, max_tokens=count, temperature=0, logprobs=0))
        tokens, logprobs = told(steps)
        assert told(alone)[0] == told(by_float)[0] == tokens and len(tokens) == count
        _, one = first_order(llama(), prompt + [ids_of[token] for token in tokens])
        for mine, other, edge in zip(logprobs, told(by_float)[1], one[len(prompt) - 1 :], strict=True):
            assert abs(mine - other) <= edge + 2e-4


def test_log_probabilities_move_by_no_more_than_half_steps_explain(run, opened, ids_of):
    """The same engine with a float cache reads what the int8 one read and wrote. The bound is the worst of all signs;
    real errors have both, so that what is beyond the first order does not matter.
    """
    int8, floats = opened(Int8Cache), opened()
    furthest = 0.0
    for prompt in (PROMPTS[0], PROMPTS[4]):
        steps = run(answer(int8, prompt, max_tokens=24, temperature=0, logprobs=0, prompt_logprobs=True))
        tokens, logprobs = told(steps)
        by_int8 = [entry.logprob for entry in steps[0].prompt_logprobs[1:]] + logprobs
        ids = prompt + [ids_of[token] for token in tokens]
        read = run(answer(floats, ids, max_tokens=0, prompt_logprobs=True))
        by_float = [entry.logprob for entry in read[0].prompt_logprobs[1:]]
        for mine, other, bound in zip(by_int8, by_float, first_order(llama(), ids)[0], strict=True):
            assert abs(mine - other) <= bound + 1e-4
            furthest = max(furthest, abs(mine - other))
    assert furthest > 1e-3, "or the cache was no int8"


def test_who_leaves_frees_the_slot(run, engine):
    """In decode, in prefill and in the queue; and what it leaves behind is nobody's past."""

    async def leave():
        before = await answer(engine, [2], max_tokens=3, temperature=0, logprobs=0)
        long = [engine.submit(PROMPTS[2], GenerationParams(max_tokens=60)) for _ in range(3)]
        for steps in long:
            await anext(steps)
        waiting = asyncio.create_task(answer(engine, [1], max_tokens=1))
        await asyncio.sleep(0.01)
        waiting.cancel()
        for steps in long:
            await steps.aclose()
        began = time.monotonic()
        reading = asyncio.create_task(answer(engine, [5] * 120, max_tokens=4))
        await asyncio.sleep(0)
        reading.cancel()
        got = await asyncio.gather(*(answer(engine, [2], max_tokens=3, temperature=0, logprobs=0) for _ in range(3)))
        return time.monotonic() - began, before, got

    took, before, got = run(leave())
    assert took < 2
    assert all(told(steps)[0] == told(before)[0] for steps in got)


def cache_of(model, slots, context):
    return Int8Cache(model.config, slots=slots, context_length=context, dtype=torch.float32, device="cpu")


def forward(model, cache, row, ids, start):
    """Logits of the last token."""
    positions = torch.arange(start, start + len(ids))[None]
    mask = cache.point(row, positions)
    return model(
        input_ids=torch.tensor([ids]), attention_mask=mask, position_ids=positions, past_key_values=cache
    ).logits[0, -1]


@torch.inference_mode()
def test_a_row_moves_with_its_scales():
    model = llama()
    model.set_attn_implementation(ATTENTION)
    cache, other = cache_of(model, 3, 40), cache_of(model, 3, 40)
    for one in (cache, other):
        forward(model, one, 0, list(range(30)), 0)
        forward(model, one, 2, list(range(60, 80)), 0)
    expected = forward(model, other, 2, [7], 20)
    cache.move(2, 0, 20)
    torch.testing.assert_close(forward(model, cache, 0, [7], 20), expected, rtol=0, atol=1e-5)
    for moved, stayed in zip(cache.layers[1].stored, other.layers[1].stored, strict=True):
        assert torch.equal(moved[0, :, 20:30][:, 1:], stayed[0, :, 20:30][:, 1:]), "what lay behind is not touched"


@torch.inference_mode()
def test_a_prompt_may_be_read_in_pieces_of_any_size():
    """One token at a time is decode, several are prefill: the same attention over the same numbers."""
    model = llama()
    model.set_attn_implementation(ATTENTION)
    ids, last = list(range(100, 124)), []
    for size in (1, 2, 5, 24):
        cache = cache_of(model, 2, 24)
        for start in range(0, 24, size):
            logits = forward(model, cache, 1, ids[start : start + size], start)
        last.append(logits)
        assert not cache.layers[0].keys[0].any()
    for logits in last[1:]:
        torch.testing.assert_close(logits, last[0], rtol=0, atol=2e-4)


def test_it_takes_a_little_more_than_half_of_16_bits():
    model = llama(head_dim=128)
    model.set_attn_implementation(ATTENTION)
    bytes_of = sum(one.nbytes for one in cache_of(model, 2, 40).layers[0].stored)
    assert bytes_of / (2 * 2 * 2 * 40 * 128 * 2) == pytest.approx(0.5 * (1 + 4 / 128))


def test_what_cannot_read_it_is_told():
    model = llama()
    with pytest.raises(ValueError, match="set_attn_implementation\\('deshi_int8'\\)"):
        cache_of(model, 1, 8)
    model.set_attn_implementation(ATTENTION)
    with pytest.raises(ValueError, match="load it so"):
        Int8Cache(model.config, slots=1, context_length=8, dtype=torch.float32, device="cuda")
    with pytest.raises(ValueError, match="pass an Int8Cache"):
        model(input_ids=torch.tensor([[1, 2]]))
    layer = cache_of(model, 1, 8).layers[0]
    query = torch.zeros(1, 4, 1, 16)
    for wrong, says in (({"softcap": 30.0}, "has softcap"), ({"sliding_window": 4}, "looks back 4")):
        with pytest.raises(ValueError, match=says):
            attention(None, query, layer, layer, None, 0.25, **wrong)
