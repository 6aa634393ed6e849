"""A BERT-like classifier whose last layer is computed for the first token only: same logits, less work.

The classification head reads one row of the last hidden state, so of the last layer only that row is
needed; its keys and values then need no projection of all tokens either. With x [tokens, hidden] the
layer's input, per head

    q = W_q x_0 + b_q
    scores = (x W_k^T) q = x (W_k^T q)         W_k^T q is one vector [hidden]; b_k moves all scores alike
    context = sum_s p_s (W_v x_s + b_v) = W_v (sum_s p_s x_s) + b_v         since sum p = 1

so a token costs 2 heads x hidden products in this layer instead of 4 hidden^2 + 2 hidden x ffn: with 384
hidden, 12 heads and 768 ffn it is 9 thousand instead of 1.2 million. It is exact algebra on the same
weights (only the order of the sums changes), and one layer of three is a third of the model. Token types
are always 0 here (one text), so their vector is added to the position table.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

# Families that share BERT's module names and whose head reads the first token of the last hidden state.
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


class FirstTokenLayer(nn.Module):
    """One post-norm encoder layer, evaluated at token 0."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.attention.self
        self.heads: int = attention.num_attention_heads
        self.size: int = attention.attention_head_size
        hidden = attention.key.in_features
        self.query = attention.query
        self.key = nn.Parameter(attention.key.weight.view(self.heads, self.size, hidden) / self.size**0.5)
        self.value = nn.Parameter(attention.value.weight.view(self.heads, self.size, hidden).transpose(1, 2))
        self.value_bias = attention.value.bias
        self.project = layer.attention.output
        self.intermediate = layer.intermediate
        self.output = layer.output

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """x [rows, tokens, hidden], attention_mask [rows, tokens] -> [rows, 1, hidden]."""
        first = x[:, :1]
        query = self.query(first).view(-1, self.heads, self.size)
        key_query = torch.matmul(query.transpose(0, 1), self.key).transpose(0, 1)  # [rows, heads, hidden]
        masked = (attention_mask.to(x.dtype) - 1.0).unsqueeze(1) * torch.finfo(x.dtype).max
        share = (torch.matmul(key_query, x.transpose(1, 2)) + masked).softmax(-1)  # [rows, heads, tokens]
        mixed = torch.matmul(share, x).transpose(0, 1)  # [heads, rows, hidden]
        context = torch.matmul(mixed, self.value).transpose(0, 1).reshape(-1, 1, self.heads * self.size)
        attended = self.project(context + self.value_bias, first)
        return cast(Tensor, self.output(self.intermediate(attended), attended))


class NoTokenType(nn.Module):
    """Stands where the token type table was."""

    def forward(self, token_type_ids: Tensor) -> float:
        """Nothing to add."""
        return 0.0


class FirstTokenClassifier(nn.Module):
    """input_ids, attention_mask [rows, tokens] -> logits [rows, labels]; takes the given model apart."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        base = model.base_model
        layers = base.encoder.layer
        self.last = FirstTokenLayer(layers[-1])
        base.encoder.layer = layers[:-1]
        self.pooler = getattr(base, "pooler", None)
        base.pooler = None
        if hasattr(base.embeddings, "token_type_embeddings"):
            with torch.no_grad():
                base.embeddings.position_embeddings.weight += base.embeddings.token_type_embeddings.weight[0]
            base.embeddings.token_type_embeddings = NoTokenType()
        self.base = base
        self.classifier = model.classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the class."""
        x = self.base(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=input_ids, return_dict=True
        ).last_hidden_state
        first = self.last(x, attention_mask)
        return cast(Tensor, self.classifier(first if self.pooler is None else self.pooler(first)))


class WholeClassifier(nn.Module):
    """input_ids, attention_mask [rows, tokens] -> logits [rows, labels], by the model as it is."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.model(input_ids=input_ids, attention_mask=attention_mask).logits)


def lean(model: Any) -> nn.Module:
    """The model ready for export: with a first-token last layer where its family allows, else as it is."""
    config = model.config
    plain = config.model_type in FAMILIES and not getattr(config, "is_decoder", False)
    if plain and getattr(config, "position_embedding_type", "absolute") in (None, "absolute"):
        return FirstTokenClassifier(model).eval()
    return WholeClassifier(model).eval()
