"""The engine of our kernels on their references: a classifier and a language model, from build to release to answer."""

from __future__ import annotations

import asyncio
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig

from deshi.jobs.exporters.integers import export_integers
from deshi.serve import release
from deshi.serve.classifier import Classifier
from deshi.serve.engines import triton, triton_generate
from deshi.serve.engines.engine import TokenBatch
from deshi.serve.engines.generation import GenerationParams
from deshi.serve.kpi import Kpi, Target
from deshi.serve.release import Manifest
from deshi.serve.serving import SHAPE_CLASSES, ServedTarget, Serving

TINY = runpy.run_path(str(Path(__file__).with_name("tiny_llama.py")))
LABELS = ("PERSON", "PLACE", "TIME")


@pytest.fixture
def asked_for(monkeypatch):
    """Where there is no GPU, the references must be asked for."""
    monkeypatch.setenv("DESHI_REFERENCE_KERNELS", "1")


@pytest.fixture(scope="module")
def candidate(tmp_path_factory, tiny):
    """A BERT of random weights in all three schemes, with the words of `tiny`."""
    folder = tmp_path_factory.mktemp("bert") / "candidate"
    (folder / "model").mkdir(parents=True)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = BertConfig(vocab_size=40, max_position_embeddings=32, num_labels=3, initializer_range=0.3, **shape)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "model")
    shutil.copyfile(tiny / "model" / "tokenizer.json", folder / "model" / "tokenizer.json")
    for scheme in ("w4a16", "w8a16", "w8a8"):
        export_integers(folder / "model", folder / "engines" / f"triton-{scheme}", scheme=scheme)
    targets = {"gpu": ServedTarget(threads=1, builds=dict.fromkeys(SHAPE_CLASSES, "triton-w8a8"))}
    Serving(name="tiny", labels=LABELS, max_length=16, targets=targets).write(folder)
    return folder


@pytest.mark.parametrize(("scheme", "moved"), [("w4a16", 1e-4), ("w8a16", 1e-4), ("w8a8", 0.05)])
def test_logits_are_those_of_the_rounded_model(asked_for, candidate, scheme, moved):
    """Stock transformers on the same integers made whole; it does not round activations. Padding changes nothing."""
    engine = triton.KIND.open(candidate / "engines" / f"triton-{scheme}", threads=1)
    ids = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0]])
    batch = TokenBatch(input_ids=ids, attention_mask=(ids > 0).astype(np.int64))
    got = engine.logits(batch)
    assert got.shape == (2, 3) and got.dtype == np.float32
    alone = engine.logits(TokenBatch(input_ids=ids[1:, :3], attention_mask=np.ones((1, 3), np.int64)))
    assert np.allclose(got[1], alone[0], atol=1e-5 if scheme != "w8a8" else 0.02)
    build = candidate / "engines" / f"triton-{scheme}"
    stock = AutoModelForSequenceClassification.from_pretrained(build, dtype=torch.float32).eval()
    with torch.no_grad():
        there = stock(torch.from_numpy(ids), torch.from_numpy(batch.attention_mask)).logits.numpy()
    assert np.abs(got - there).max() < moved * np.abs(there).max()


def test_a_release_of_it_is_verified_and_answers(asked_for, candidate, tmp_path):
    manifest = Manifest(name="tiny", created="2026-11-29T00:00:00Z", decision="ACCEPT", kpi=Kpi(),
                        targets=(Target(name="gpu", threads=1, price_per_hour=1),))  # fmt: skip
    written = release.write(candidate, tmp_path / "release", manifest)
    serving, _ = release.opened(written, despite_verdict=False)
    assert serving.target("gpu").build_ids == ("triton-w8a8",)
    said = np.exp(Classifier.load(written, "gpu").log_probabilities(["who where", "when"]))
    assert said.shape == (2, 3) and np.allclose(said.sum(1), 1, atol=1e-5)
    weights = written / "engines" / "triton-w8a8" / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        release.opened(written, despite_verdict=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_is_refused_in_one_sentence(monkeypatch, candidate):
    monkeypatch.delenv("DESHI_REFERENCE_KERNELS", raising=False)
    with pytest.raises(ValueError, match="engine 'triton' cannot run here: no CUDA device is here"):
        triton.KIND.open(candidate / "engines" / "triton-w8a8", threads=1)


def test_a_folder_that_is_not_quantized_is_refused(asked_for, candidate, tmp_path):
    with pytest.raises(ValueError, match="quant_method of quantization_config is None"):
        triton.KIND.open(candidate / "model", threads=1)
    shutil.copytree(candidate / "engines" / "triton-w8a8", tmp_path / "build")
    config = json.loads((tmp_path / "build" / "config.json").read_text())
    config["quantization_config"]["format"] = "marlin-24"
    (tmp_path / "build" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="marlin-24"):
        triton.KIND.open(tmp_path / "build", threads=1)


@pytest.mark.parametrize("scheme", ["w4a16", "w8a8"])
def test_a_language_model_writes_what_stock_transformers_writes(asked_for, parrot, tmp_path, scheme):
    """Random layers that matter, six requests over three slots, against `generate` on the same integers made whole."""
    shutil.copytree(parrot / "model", tmp_path / "model")
    TINY["enliven"](tmp_path / "model")
    build = tmp_path / "engines" / f"triton-{scheme}"
    export_integers(tmp_path / "model", build, scheme=scheme)
    stock = AutoModelForCausalLM.from_pretrained(build, dtype=torch.float32)
    engine = triton_generate.KIND.open(build, threads=1, slots=3, context_length=96, max_queued=8)
    prompts = [[40, 41, 42], [7], list(range(100, 140)), [200, 3, 9, 9], [50] * 17, [11, 12]]

    async def answer(prompt):
        params = GenerationParams(max_tokens=12, temperature=0, logprobs=5)
        return [step async for step in engine.submit(prompt, params)]

    async def together():
        return await asyncio.gather(*(answer(prompt) for prompt in prompts))

    try:
        told = asyncio.run(together())
    finally:
        engine.close()
    for prompt, steps in zip(prompts, told, strict=True):
        with torch.no_grad():
            first = torch.log_softmax(stock(torch.tensor([prompt])).logits[0, -1], -1)
        best = steps[0].logprobs[0]
        assert len(steps) == 12 and best.logprob == pytest.approx(float(first.max()), abs=0.1)
        assert [one.logprob for one in best.top] == pytest.approx(first.topk(5).values.tolist(), abs=0.2)
