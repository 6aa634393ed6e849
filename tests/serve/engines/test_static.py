"""The static engine against model2vec's own StaticModel and its head as a hand formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
from model2vec import StaticModel
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from deshi.serve.encode import Encoder
from deshi.serve.engines.static import load

TEXTS = ["who was the first", "the", "", "zebra zebra", "zebra the unknown who who", "first " * 30]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "was", "the", "first"]


def tokenizer() -> Tokenizer:
    """One that adds [CLS] and [SEP], which a static student must not count."""
    made = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(word, special=True) for word in WORDS[:4]])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["plain", "float16", "weights", "mapping"])
def test_it_is_model2vec_and_a_linear_head(tmp_path, normalize, kind):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(WORDS), 16)).astype(np.float16 if kind == "float16" else np.float32)
    more = {}
    if kind == "weights":
        more = {"weights": np.array([0, 1, 1, 1, 0.0, 0.5, 2.0, 1.0]), "token_mapping": np.arange(len(WORDS))}
    if kind == "mapping":
        more = {"token_mapping": np.array([0, 0, 0, 0, 1, 1, 2, 3])}
        vectors = vectors[:4]
    StaticModel(vectors, tokenizer(), normalize=normalize, **more).save_pretrained(tmp_path / "model")
    head = {"weight": rng.normal(size=(3, 16)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    save_file(head, tmp_path / "model" / "head.safetensors")

    pooled = StaticModel.from_pretrained(tmp_path / "model").encode(TEXTS).astype(np.float64)
    expected = pooled @ head["weight"].T.astype(np.float64) + head["bias"]

    encoder = Encoder(tmp_path / "model" / "tokenizer.json", max_length=64)
    logits = load(tmp_path / "engines" / "static-fp32", threads=1).logits(encoder.pad(encoder.encode(TEXTS)))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=5e-3 if kind == "float16" else 1e-5)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["normalize"] is normalize
