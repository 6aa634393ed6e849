"""Training the seen pieces alone is training the whole model, compared with a plain AdamW on all of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, DistilBertConfig, RobertaConfig
from transformers import DistilBertForSequenceClassification as DistilBert
from transformers import RobertaForSequenceClassification as Roberta

from deshi.jobs.stages.seen_pieces import SeenEmbedding, keep_to_seen, whole_state

SIZES = {"vocab_size": 50, "num_labels": 3, "pad_token_id": 1}
MODELS = {
    "bert": lambda: BertForSequenceClassification(
        BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **SIZES)
    ),
    "roberta": lambda: Roberta(
        RobertaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **SIZES)
    ),
    "distilbert": lambda: DistilBert(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **SIZES)),
}
IDS = torch.tensor([[3, 7, 7, 49, 1], [3, 12, 20, 1, 1]])


def trained(model, steps=3):
    model.eval()  # no dropout: the two must see the same
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        logits = model(input_ids=IDS, attention_mask=(IDS != 1).long()).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return logits.detach()


@pytest.mark.parametrize("family", MODELS)
def test_the_trained_model_is_that_of_training_everything(family):
    torch.manual_seed(0)
    whole = MODELS[family]()
    start, mine = copy.deepcopy(whole.state_dict()), copy.deepcopy(whole)
    keep_to_seen(mine, np.unique(IDS.numpy()))
    assert sum(weight.numel() for weight in mine.parameters()) < sum(weight.numel() for weight in whole.parameters())
    assert torch.equal(trained(mine), trained(whole))
    state = whole_state(mine)
    assert state.keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(state[name], value), name
    name = next(name for name in state if name.endswith("word_embeddings.weight"))
    moved = (state[name] != start[name]).any(dim=1).nonzero().flatten().tolist()
    assert moved == [3, 7, 12, 20, 49], "padding and unseen pieces stay"


def test_pieces_that_were_not_announced_are_refused():
    embedding = SeenEmbedding(torch.nn.Embedding(9, 4), np.array([2, 5]))
    with pytest.raises(IndexError):
        embedding(torch.tensor([[2, 3]]))
