"""The PyTorch engine against transformers' own `generate`, and its slots while requests come and go."""

from __future__ import annotations

import asyncio
import runpy
import time
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM

from deshi.serve import generate_service
from deshi.serve.batching import Full
from deshi.serve.engines import torch_decode, torch_generate
from deshi.serve.engines.generation import GenerationParams, Slots

TINY = runpy.run_path(str(Path(__file__).with_name("tiny_llama.py")))
PROMPTS = [[40, 41, 42], [7], list(range(100, 160)), [200, 3, 9, 9], [50] * 17, [11, 12]]


@pytest.fixture(scope="module")
def lively(parrot, tmp_path_factory):
    """The same Llama with random layers that matter; no token ends it."""
    import shutil

    folder = tmp_path_factory.mktemp("lively")
    shutil.copytree(parrot / "model", folder / "model")
    (folder / "engines" / "torch_generate-fp32").mkdir(parents=True)
    return folder, TINY["enliven"](folder / "model")


@pytest.fixture(scope="module")
def engine(lively):
    """Three slots; a prompt is read 16 tokens at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_decode, "PREFILL_TOKENS", 16)
        opened = torch_generate.KIND.open(
            lively[0] / "engines" / "torch_generate-fp32", threads=1, slots=3, context_length=128, max_queued=64
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run():
    """An engine belongs to one event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


async def answer(engine, prompt, **params):
    return [step async for step in engine.submit(prompt, GenerationParams(**params))]


def tokens(steps):
    return [entry.token for step in steps for entry in step.logprobs]


def reference(model, prompt, count):
    """Greedy ids by transformers, and the log-probabilities of a plain forward pass over the whole."""
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0)[0].tolist()
    with torch.no_grad():
        return ids, torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)


def test_greedy_is_transformers_whoever_else_is_in_the_batch(run, engine, lively, parrot):
    """Six requests of different lengths over three slots: they join and leave at different steps."""
    from tokenizers import Tokenizer

    from deshi.serve.engines.text_stream import token_bytes

    tokenizer = Tokenizer.from_file(str(parrot / "model" / "tokenizer.json"))
    counts = [20, 33, 5, 12, 28, 9]

    async def together():
        asked = zip(PROMPTS, counts, strict=True)
        return await asyncio.gather(
            *(answer(engine, prompt, max_tokens=count, temperature=0, logprobs=2) for prompt, count in asked)
        )

    for prompt, count, steps in zip(PROMPTS, counts, run(together()), strict=True):
        ids, logprobs = reference(lively[1], prompt, count)
        new = ids[len(prompt) :]
        assert tokens(steps) == [token_bytes(tokenizer, token) for token in new]
        assert steps[-1].finish_reason == "length" and steps[-1].completion_tokens == count
        for at, step in enumerate(steps):
            row = logprobs[len(prompt) + at - 1]
            assert step.logprobs[0].logprob == pytest.approx(float(row[new[at]]), abs=1e-4)
            assert step.logprobs[0].top[1].logprob == pytest.approx(float(row.topk(2).values[1]), abs=1e-4)


def test_a_seed_says_the_same_alone_and_in_company(run, engine):
    async def both():
        alone = await answer(engine, PROMPTS[0], max_tokens=25, seed=5, logprobs=0, top_p=0.9)
        mates = [answer(engine, prompt, max_tokens=30, seed=8) for prompt in PROMPTS[1:]]
        crowd = await asyncio.gather(*mates, answer(engine, PROMPTS[0], max_tokens=25, seed=5, logprobs=0, top_p=0.9))
        other = await answer(engine, PROMPTS[0], max_tokens=25, seed=6, logprobs=0, top_p=0.9)
        return tokens(alone), tokens(crowd[-1]), tokens(other)

    alone, crowd, other = run(both())
    assert alone == crowd != other


def test_who_leaves_frees_the_slot(run, engine):
    """In decode, in prefill and in the queue."""

    async def leave():
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
        got = await asyncio.gather(*(answer(engine, [2], max_tokens=3, temperature=0) for _ in range(3)))
        return time.monotonic() - began, {tuple(step.text for step in steps) for steps in got}

    took, texts = run(leave())
    assert took < 1 and len(texts) == 1


def test_a_request_that_is_no_number_fails_alone_and_leaves_nothing_behind(run, lively, tmp_path):
    """One token's embedding is NaN: who asks with it gets an error, who gets its slot afterwards an answer."""
    import shutil

    shutil.copytree(lively[0], tmp_path / "poisoned")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "poisoned" / "model", dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[99] = float("nan")
        model.lm_head.weight[99] = 0  # never the likeliest, so nobody else writes it
    model.save_pretrained(tmp_path / "poisoned" / "model")
    engine = torch_generate.KIND.open(
        tmp_path / "poisoned" / "engines" / "torch_generate-fp32",
        threads=1,
        slots=2,
        context_length=128,
        max_queued=8,
    )

    async def asked():
        # A longer one beside them, so that what a row holds behind its end is looked at, and hidden by the mask.
        beside = asyncio.create_task(answer(engine, PROMPTS[2], max_tokens=60, temperature=0, logprobs=0))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="not a number"):
            await answer(engine, [7] * 40 + [99, 8], max_tokens=4, temperature=0)
        after = [await answer(engine, PROMPTS[0], max_tokens=6, temperature=0, logprobs=0) for _ in range(2)]
        assert not beside.done()
        return await beside, after, await answer(engine, PROMPTS[0], max_tokens=6, temperature=0, logprobs=0)

    try:
        beside, after, alone = run(asked())
    finally:
        engine.close()
    assert len(beside) == 60 and all(tokens(one) == tokens(alone) for one in after)


def test_draw_follows_the_distribution():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)

    def shares(**params):
        drawn = [torch_decode.draw(logits, GenerationParams(max_tokens=1, **params), generator) for _ in range(4000)]
        return [drawn.count(token) / 4000 for token in range(4)]

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    flat = (logits / 2).softmax(-1).tolist()
    assert shares(temperature=2.0) == pytest.approx(flat, abs=0.03)
    assert shares(top_p=0.6) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03), "the one that crosses 0.6 stays"
    assert shares(temperature=0) == [1, 0, 0, 0]


def test_slots_refuse_when_the_queue_is_full():
    async def crowd():
        slots = Slots(1, max_queued=1)
        taken = await slots.take()
        waiting = asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        with pytest.raises(Full) as full:
            await slots.take()
        slots.give(taken - 2.5)  # it took 2.5 s
        await waiting
        second = asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        with pytest.raises(Full) as later:
            await slots.take()
        second.cancel()
        return full.value.retry_after_s, later.value.retry_after_s

    assert asyncio.run(crowd()) == (1, 3)


def test_the_prompts_logprobs_through_the_endpoint(parrot):
    """As an evaluator of likelihoods asks: ids, echo, one token. By hand: a logit of 8 or of 0 among 270."""
    import math

    best = -math.log1p(269 * math.exp(-8))
    service = generate_service.opened(parrot, target="torch")
    ids = service.prompts.of_text("Hez")
    with TestClient(service.application()) as client:
        body = {"prompt": [ids, ids], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1}
        reply = client.post("/v1/completions", json=body).json()
        none = client.post("/v1/completions", json=body | {"prompt": ids, "max_tokens": 0}).json()["choices"][0]
        stream = client.post("/v1/completions", json=body | {"prompt": ids, "stream": True})
        chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 11, "temperature": 0, "stop": "!"}
        said = client.post("/v1/chat/completions", json=chat).json()["choices"][0]
        ended = client.post("/v1/completions", json={"prompt": ".", "temperature": 0}).json()["choices"][0]
    service.engine.close()
    assert [choice["text"] for choice in reply["choices"]] == ["HezH", "HezH"]
    logprobs = reply["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["H", "e", "z", "H"] and logprobs["text_offset"] == [0, 1, 2, 3]
    # The norm's epsilon takes 2e-4 of the logit.
    assert logprobs["token_logprobs"] == [None, *(pytest.approx(value, abs=1e-3) for value in (best, best - 8, best))]
    assert logprobs["top_logprobs"][0] is None and logprobs["top_logprobs"][2].keys() == {"y", "z"}
    assert none["text"] == "Hez" and len(none["logprobs"]["tokens"]) == 3 and none["finish_reason"] == "length"
    assert [json_of(line)["choices"][0]["text"] for line in stream.text.split("\n\n")[:2]] == ["Hez", "H"]
    assert (said["message"]["content"], said["finish_reason"]) == ("Hey 😀ü", "stop")
    assert (ended["text"], ended["finish_reason"]) == ("", "stop")


def json_of(line):
    import json

    return json.loads(line.removeprefix("data: "))
