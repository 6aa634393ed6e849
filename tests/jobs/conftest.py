"""Small real things: rows with a rule that a model can learn, and a tiny BERT with a real WordPiece tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

ASKED = {
    "PERSON": ("who wrote the {}", "who found the {}", "which person owns the {}"),
    "PLACE": ("where is the {}", "which town has the {}", "where can one see the {}"),
    "TIME": ("when was the {} made", "what year did the {} open", "when does the {} close"),
}
NOUNS = "castle book river engine garden bridge song market tower museum ship letter wall road church mill"
ADJECTIVES = "old red small famous broken quiet golden first royal hidden northern empty"


@pytest.fixture(scope="session")
def tiny_rows() -> Callable[..., pa.Table]:
    """`tiny_rows(n, seed=, unlabelled=)`: distinct questions of three classes, as `read_rows` gives them."""

    def make(n: int, *, seed: int, unlabelled: int = 0) -> pa.Table:
        rng = random.Random(seed)
        nouns, adjectives = NOUNS.split(), ADJECTIVES.split()
        rows: dict[str, str | None] = {}
        while len(rows) < n + unlabelled:
            label = rng.choice(sorted(ASKED))
            first, second, noun, other = (rng.choice(words) for words in (adjectives, adjectives, nouns, nouns))
            thing = f"{first} {second} {noun} of {seed} {other}s"
            rows.setdefault(rng.choice(ASKED[label]).format(thing), label if len(rows) < n else None)
        return pa.table(
            {
                "row": pa.array(range(1, len(rows) + 1), pa.int64()),
                "text": pa.array(list(rows), pa.string()),
                "label": pa.array(list(rows.values()), pa.string()),
            }
        )

    return make


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., None]:
    """`tiny_model(folder, labels=, layers=)`: a 4-layer BERT of width 32 with the words above, random weights."""

    def make(folder: Path, *, labels: int, layers: int = 4) -> None:
        import torch
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

        questions = " ".join(part for asked in ASKED.values() for part in asked).replace("{}", "")
        words = sorted({*questions.split(), *NOUNS.split(), *ADJECTIVES.split(), "of", "##s"})
        characters = [chr(code) for code in range(33, 127)]
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *characters, *(f"##{c}" for c in characters)]
        vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        folder.mkdir(parents=True, exist_ok=True)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
        ).save_pretrained(folder)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            num_labels=labels,
            id2label=dict(enumerate(sorted(ASKED))) if labels == 3 else None,
            hidden_dropout_prob=0.1,
        )
        BertForSequenceClassification(config).save_pretrained(folder)

    return make
