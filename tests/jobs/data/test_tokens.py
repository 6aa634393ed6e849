"""Batches against brute force, token ids against transformers' own tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deshi.jobs.data.tokens import batch_rows, collate, rank_share, tokenise, truncated_share


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [f"word{at} もの{at}" for at in range(200)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(5)  # published tokenizers carry settings of their own: they must not count
    tokenizer.enable_padding(length=9)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(path)
    BertConfig(pad_token_id=0).save_pretrained(path)
    return path


def _texts() -> list[str]:
    rng = np.random.default_rng(0)
    lengths = [1, 3, 40, 2000]
    return [" ".join(f"word{at}もの" for at in rng.integers(0, 300, n)) for n in lengths] + [" " * 3000 + "word1", ""]


@pytest.mark.parametrize("max_length", [8, 64])
def test_ids_are_those_of_transformers(folder, max_length):
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder)
    expected = reference(_texts(), truncation=True, max_length=max_length, padding=False)["input_ids"]
    tokens, pad_id = tokenise(folder, _texts(), max_length=max_length)
    assert [row.tolist() for row in tokens] == expected
    assert pad_id == 0
    whole = reference(_texts(), truncation=False)["input_ids"]
    share = sum(len(row) > max_length for row in whole) / len(whole)
    assert truncated_share(folder, _texts(), max_length=max_length) == share > 0


def test_every_row_comes_once_an_epoch_and_any_step_can_be_asked_for():
    rows, size = 103, 10
    stream = np.concatenate([batch_rows(step, rows=rows, batch_size=size, seed=4) for step in range(31)])
    for epoch in range(3):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert not np.array_equal(stream[:rows], stream[rows : 2 * rows])
    np.testing.assert_array_equal(batch_rows(17, rows=rows, batch_size=size, seed=4), stream[170:180])
    assert not np.array_equal(batch_rows(0, rows=rows, batch_size=size, seed=5), stream[:size])
    few = batch_rows(3, rows=3, batch_size=8, seed=0)  # a batch longer than the file
    assert len(few) == 8 and set(few) == {0, 1, 2}


def test_workers_share_a_batch_without_overlap():
    batch = batch_rows(0, rows=50, batch_size=12, seed=0)
    shares = [rank_share(batch, rank, 3) for rank in range(3)]
    assert {len(share) for share in shares} == {4}
    assert sorted(np.concatenate(shares)) == sorted(batch)
    with pytest.raises(ValueError, match="12 rows does not share evenly over 5"):
        rank_share(batch, 0, 5)


def test_collate_pads_to_a_multiple_of_eight():
    rows = [np.arange(1, 4, dtype=np.int32), np.arange(1, 10, dtype=np.int32)]
    batch = collate(rows, pad_id=7)
    assert batch["input_ids"].shape == (2, 16) and batch["input_ids"].dtype == torch.int64
    assert batch["input_ids"][0].tolist() == [1, 2, 3] + [7] * 13
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 9]
    assert collate([np.arange(8, dtype=np.int32)], pad_id=0)["input_ids"].shape == (1, 8)
