"""Token ids against stock AutoTokenizer."""

from __future__ import annotations

import json
from string import ascii_lowercase

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deshi.serve.encode import Encoder

TEXTS = ["Who was the first ?", "", "zzz " * 40, "日本 の city", "what\n\tis [SEP] it [PAD]?"]
PIECES = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "was", "the", "first", "city", "?", *ascii_lowercase, "[PAD]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer whose file has another truncation and padding baked in, as sentence-transformers' files do."""
    path = tmp_path_factory.mktemp("tokenizer")
    pieces = {piece: id for id, piece in enumerate([*PIECES, *(f"##{letter}" for letter in ascii_lowercase)])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", pieces["[CLS]"]), ("[SEP]", pieces["[SEP]"])]
    )
    names = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)
    content = json.loads((path / "tokenizer.json").read_text())
    content["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["padding"] = {
        "strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": pieces["[PAD]"], "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("max_length", [8, 64])
def test_the_ids_are_those_of_auto_tokenizer(folder, max_length):
    stock = AutoTokenizer.from_pretrained(folder)
    expected = stock(TEXTS, truncation=True, max_length=max_length, padding=False)["input_ids"]
    assert Encoder(folder / "tokenizer.json", max_length=max_length).encode(TEXTS) == expected


def test_the_batch_is_that_of_auto_tokenizer(folder):
    stock = AutoTokenizer.from_pretrained(folder)
    expected = stock(TEXTS, truncation=True, max_length=16, padding=True, return_tensors="np")
    encoder = Encoder(folder / "tokenizer.json", max_length=16)
    batch = encoder.pad(encoder.encode(TEXTS))
    np.testing.assert_array_equal(batch.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(batch.attention_mask, expected["attention_mask"])
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
    assert encoder.pad_id == PIECES.index("[PAD]")


def test_texts_that_are_cut_are_counted(folder):
    stock = AutoTokenizer.from_pretrained(folder)
    lengths = [len(row) for row in stock(TEXTS, truncation=False)["input_ids"]]
    for max_length in (6, 7, 14, 200):
        encoder = Encoder(folder / "tokenizer.json", max_length=max_length)
        assert encoder.truncated(TEXTS) == sum(length > max_length for length in lengths)


def test_no_rows_make_an_empty_batch(folder):
    encoder = Encoder(folder / "tokenizer.json", max_length=16)
    assert encoder.encode([]) == []
    assert encoder.pad([]).input_ids.shape == (0, 1)
    assert encoder.pad([[]]).attention_mask.tolist() == [[0]]


def test_refusals(folder, tmp_path):
    with pytest.raises(ValueError, match="does not exist; save the fast tokenizer there"):
        Encoder(tmp_path / "tokenizer.json", max_length=16)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json"):
        Encoder(tmp_path / "tokenizer.json", max_length=16)
    with pytest.raises(ValueError, match="max_length 2 leaves no room beside 2 special tokens"):
        Encoder(folder / "tokenizer.json", max_length=2)
