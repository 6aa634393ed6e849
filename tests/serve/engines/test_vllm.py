"""What we ask of vLLM and read of its answers, as far as that can be seen without it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig

from deshi.serve.engines import vllm
from deshi.serve.engines.generation import GenerationParams


@dataclass
class Logprob:
    """As vLLM tells it."""

    logprob: float


def test_only_what_was_asked_for_is_sampled():
    params = GenerationParams(max_tokens=7, temperature=0.0, stop=("x",), seed=3, logprobs=2, ignore_eos=True)
    assert vllm.sampling(params) == {
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 1.0,
        "stop": ["x"],
        "seed": 3,
        "ignore_eos": True,
        "logprobs": 2,
    }


def test_the_token_that_came_is_told_with_the_likeliest_best_first():
    told = vllm.logprob_of(
        Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a")),
        2,
        {2: Logprob(-3.0), 0: Logprob(-0.5), 1: Logprob(-0.1)},
        2,
    )
    assert (told.token, told.logprob) == (b"c", -3.0)
    assert [(one.token, one.logprob) for one in told.top] == [(b"b", -0.1), (b"a", -0.5)]


def test_the_cache_has_room_for_twice_the_tokens(tmp_path):
    """Two layers of keys and values, 4 heads of 8 numbers, 2 bytes each: 256 bytes a token."""
    shape = {"num_hidden_layers": 2, "num_key_value_heads": 4, "num_attention_heads": 8, "hidden_size": 64}
    LlamaConfig(**shape).save_pretrained(tmp_path)
    assert vllm.cache_bytes(tmp_path, 1000) == 2 * 256 * 1000


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_an_absent_vllm_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="engine 'vllm' cannot run here: vllm is not installed; pip install vllm"):
        vllm.KIND.open(tmp_path, threads=1, slots=1, context_length=8, max_queued=1)
