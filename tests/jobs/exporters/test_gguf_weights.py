"""The weights read back are those of transformers' own reader, and llama.cpp computes with them what PyTorch does."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from deshi.jobs.exporters.gguf import export
from deshi.jobs.exporters.gguf_weights import dequantized

here = Path(__file__).parent
models = runpy.run_path(str(here / "gguf_models.py"))
log_probs = runpy.run_path(str(here / "llamacpp_reading.py"))["llamacpp_log_probs"]
SCHEMES = ["f16", "q8_0", "q4_0"]


def said_by(model, ids):
    """ln p(ids[i] | ids[:i]), i >= 1."""
    with torch.inference_mode():
        said = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return said[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "shape", [name for name in models["SHAPES"] if name not in ("biases", "llama 3 positions", "qwen3")]
)
def test_the_weights_are_those_that_transformers_reads(tmp_path, shape, scheme):
    """Of the shapes that its own reader of GGUF files knows."""
    from transformers import AutoModelForCausalLM

    folder = models["tiny"](tmp_path / "model", **models["SHAPES"][shape])
    export(folder, tmp_path, scheme=scheme)
    ours = dequantized(folder, tmp_path / "model.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    want = theirs.state_dict()
    assert ours.state_dict().keys() == want.keys()
    for name, values in ours.state_dict().items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, want[name], rtol=0, atol=0, msg=name)
    assert not ours.training
    tied = models["SHAPES"][shape].get("tie_word_embeddings", True)
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", models["SHAPES"])
def test_llama_cpp_says_what_pytorch_says_with_the_same_weights(tmp_path, shape, scheme):
    """Perplexity within 1%, and each log-probability near: llama.cpp rounds activations and its cache, not weights."""
    folder = models["tiny"](tmp_path / "model", initializer_range=0.1, **models["SHAPES"][shape])
    export(folder, tmp_path, scheme=scheme)
    ids = np.random.default_rng(1).integers(3, 320, 240).tolist()
    by_torch = said_by(dequantized(folder, tmp_path / "model.gguf"), ids)
    by_llama = np.array(log_probs(tmp_path / "model.gguf", ids))
    assert abs(np.exp(by_torch.mean() - by_llama.mean()) - 1) < 0.01
    assert np.abs(by_torch - by_llama).max() < (0.02 if scheme == "f16" else 0.2)
    assert by_torch.std() > 0.7  # so that agreement means something


def test_the_measure_sees_the_models_own_distribution(tmp_path):
    """In f16 the same numbers come from the unquantized folder, special tokens and half characters included."""
    from transformers import AutoModelForCausalLM

    folder = models["tiny"](tmp_path / "model")
    export(folder, tmp_path, scheme="f16")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    pieces = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    half = pieces["ã"]  # byte E3, the first of three of a Japanese character
    ids = [1, 40, half, 2, 50, 0, half, half, 60, 1]
    np.testing.assert_allclose(log_probs(tmp_path / "model.gguf", ids), said_by(model, ids), atol=0.05)


def test_another_models_file_and_a_broken_one_are_refused(tmp_path):
    folder = models["tiny"](tmp_path / "model")
    deeper = models["tiny"](tmp_path / "deeper", num_hidden_layers=3)
    wider = models["tiny"](tmp_path / "wider", intermediate_size=128)
    export(folder, tmp_path, scheme="q8_0")
    with pytest.raises(ValueError, match=r"model\.gguf is no export of .*deeper: it lacks blk\.2\.attn_k\.weight"):
        dequantized(deeper, tmp_path / "model.gguf")
    with pytest.raises(ValueError, match=r"blk\.0\.ffn_gate\.weight in shape \(96, 64\) .* ask for \(128, 64\)"):
        dequantized(wider, tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"cut\.gguf is broken or cut off"):
        dequantized(folder, tmp_path / "cut.gguf")
