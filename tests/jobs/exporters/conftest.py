"""Candidate folders with a small random encoder of several families, and a WordPiece tokenizer of its own."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from deshi.jobs.exporters.table import export
from deshi.serve.engines.engine import TokenBatch

WORDS = [
    "who",
    "where",
    "when",
    "what",
    "is",
    "the",
    "a",
    "of",
    "in",
    "to",
    "did",
    "how",
    "many",
    "people",
    "city",
    "first",
    "was",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = 300
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
CONFIGS = {
    "bert": BertConfig(**SHAPE, intermediate_size=96, pad_token_id=0, num_labels=5),
    "roberta": RobertaConfig(**SHAPE, intermediate_size=96, pad_token_id=0, max_position_embeddings=130, num_labels=5),
    "electra": ElectraConfig(**SHAPE, intermediate_size=96, embedding_size=32, pad_token_id=0, num_labels=5),
    "distilbert": DistilBertConfig(vocab_size=VOCABULARY, dim=64, n_heads=4, n_layers=2, hidden_dim=96, num_labels=5),
}


def _random_model(family: str) -> torch.nn.Module:
    """Weights twice as wide as at the start of a training, so that attention and GELU are not nearly linear."""
    torch.manual_seed(7)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[family]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _write_tokenizer(folder: Path) -> None:
    """A lower-casing WordPiece tokenizer with [CLS] and [SEP], as BERT's."""
    pieces = [*SPECIAL, *WORDS, "?", *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    tokenizer = Tokenizer(models.WordPiece({piece: id for id, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def _write_candidate(folder: Path, family: str) -> Path:
    """<folder>/model."""
    _random_model(family).save_pretrained(folder / "model")
    _write_tokenizer(folder / "model")
    return folder


def _padded(rows: int, tokens: int, *, seed: int = 0) -> TokenBatch:
    """A batch whose rows differ in length, the first one full."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, tokens + 1, rows)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return TokenBatch(input_ids=rng.integers(5, VOCABULARY, (rows, tokens)) * mask, attention_mask=mask)


@pytest.fixture(scope="session")
def random_model():
    """family -> model."""
    return _random_model


@pytest.fixture(scope="session")
def padded():
    """(rows, tokens) -> a batch with padding."""
    return _padded


@pytest.fixture(scope="session")
def candidate_of():
    """(folder, family) -> a candidate folder without builds."""
    return _write_candidate


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    """Read-only: a candidate folder with these builds: onnxruntime-fp32 and -w8a8."""
    folder = _write_candidate(tmp_path_factory.mktemp("bert") / "candidate", "bert")
    for build in ("onnxruntime-fp32", "onnxruntime-w8a8", "torch_eager-fp32"):
        export(build, folder)
    return folder
