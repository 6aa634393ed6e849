"""The lean classifier against the stock transformers model it was made from."""

from __future__ import annotations

import pytest
import torch

from deshi.jobs.exporters.first_token import FirstTokenClassifier, WholeClassifier, lean


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 9), (5, 17)])
def test_the_logits_are_the_stock_models(random_model, padded, family, rows, tokens):
    batch = padded(rows, tokens)
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    with torch.no_grad():
        expected = random_model(family)(input_ids=ids, attention_mask=mask).logits
        module = lean(random_model(family))
        actual = module(ids, mask)
    assert isinstance(module, FirstTokenClassifier)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_a_family_it_does_not_know_stays_whole(random_model, padded):
    batch = padded(3, 7)
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    module = lean(random_model("distilbert"))
    assert isinstance(module, WholeClassifier)
    with torch.no_grad():
        expected = random_model("distilbert")(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(module(ids, mask), expected)
