"""What Deshi knows about a model family: where its layers, FFN, word embeddings and head are.

Two tables, one row an architecture (`config.model_type`); a family joins by a row: encoders of sequence
classifiers, and decoders of causal language models in the Llama layout. The layers of each all have the same
shape, so that a pruned model is described by its config alone and stock transformers loads it. Attention
heads are pruned in decoders only: the encoders' configs derive the head size from
`hidden_size / num_attention_heads` and cannot describe a model with fewer heads of the same size.

Paths are attribute paths. `layers`, `embedding` and `final_norm` start at `model.base_model`, `classifier`
(the last linear: of a sequence classifier [labels, features], of a language model [vocabulary, hidden]) at
the model itself, all others at a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row of the table."""

    model_type: str
    layers: str = "encoder.layer"
    ffn_in: tuple[str, ...] = ("intermediate.dense",)  # two where gate and value are two linears
    ffn_out: str = "output.dense"
    ffn_in_parts: int = 1  # 2: gate and value fused in one linear of 2 x ffn rows
    embedding: str = "embeddings.word_embeddings"
    classifier: str = "classifier"
    depth_key: str = "num_hidden_layers"
    ffn_key: str = "intermediate_size"
    per_layer_keys: tuple[str, ...] = ()  # config lists with one entry a layer
    first_layer_stays: bool = False  # layer 0 differs from the others
    positions_count_from_padding: bool = False  # position ids start at pad_token_id + 1

    def layer_list(self, model: PreTrainedModel) -> nn.ModuleList:
        """The layers of `model`, first to last."""
        return _module(model.base_model, self.layers)  # type: ignore[return-value]

    def ffn_out_of(self, layer: nn.Module) -> nn.Linear:
        """The linear [hidden, ffn] that leaves the FFN of a layer."""
        return _module(layer, self.ffn_out)  # type: ignore[return-value]

    def classifier_of(self, model: PreTrainedModel) -> nn.Linear:
        """The last linear [labels, features] of a model."""
        return _module(model, self.classifier)  # type: ignore[return-value]

    def embedding_of(self, model: PreTrainedModel) -> nn.Embedding:
        """The word embeddings [vocabulary, width]."""
        return _module(model.base_model, self.embedding)  # type: ignore[return-value]

    def depth(self, config: PretrainedConfig) -> int:
        """Number of layers."""
        return int(getattr(config, self.depth_key))

    def ffn(self, config: PretrainedConfig) -> int:
        """Width of the FFN, in neurons."""
        return int(getattr(config, self.ffn_key))

    def key_prefix(self, model: PreTrainedModel) -> str:
        """What the base model's names start with in `model`'s state dict; empty for a base model itself."""
        return "" if model.base_model is model else f"{model.base_model_prefix}."


@dataclass(frozen=True, kw_only=True)
class Decoder(Architecture):
    """A row of the second table: pre-norm RMSNorm, rotary grouped-query attention, gated FFN.

    Its config has `head_dim` beside `hidden_size`, so heads and hidden width are pruned apart.
    """

    layers: str = "layers"
    ffn_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    ffn_out: str = "mlp.down_proj"
    embedding: str = "embed_tokens"
    classifier: str = "lm_head"
    query: str = "self_attn.q_proj"
    key_value: tuple[str, ...] = ("self_attn.k_proj", "self_attn.v_proj")
    attention_out: str = "self_attn.o_proj"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    final_norm: str = "norm"
    heads_divide_hidden: bool = False  # the config class refuses a hidden size that the heads do not divide

    def norm_list(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """Every norm of the residual stream by its path from `model.base_model`, in the order of the forward."""
        paths = [f"{self.layers}.{i}.{norm}" for i in range(self.depth(model.config)) for norm in self.norms]
        return {path: _module(model.base_model, path) for path in (*paths, self.final_norm)}

    def attention_out_of(self, layer: nn.Module) -> nn.Linear:
        """The linear [hidden, heads x head_dim] that leaves the attention of a layer."""
        return _module(layer, self.attention_out)  # type: ignore[return-value]


_ROBERTA: Mapping[str, Any] = MappingProxyType(
    {"classifier": "classifier.out_proj", "positions_count_from_padding": True}
)
_ROWS = (
    Architecture(model_type="bert"),
    Architecture(model_type="roberta", **_ROBERTA),
    Architecture(model_type="xlm-roberta", **_ROBERTA),
    Architecture(model_type="camembert", **_ROBERTA),
    Architecture(model_type="mpnet", **_ROBERTA),
    Architecture(model_type="electra", classifier="classifier.out_proj"),
    Architecture(model_type="deberta-v2", first_layer_stays=True),
    Architecture(
        model_type="distilbert",
        layers="transformer.layer",
        ffn_in=("ffn.lin1",),
        ffn_out="ffn.lin2",
        depth_key="n_layers",
        ffn_key="hidden_dim",
    ),
    Architecture(
        model_type="modernbert",
        layers="layers",
        ffn_in=("mlp.Wi",),
        ffn_out="mlp.Wo",
        ffn_in_parts=2,
        embedding="embeddings.tok_embeddings",
        per_layer_keys=("layer_types",),
        first_layer_stays=True,
    ),
)
_DECODERS = (
    Decoder(model_type="llama", heads_divide_hidden=True),
    Decoder(model_type="mistral"),
    Decoder(model_type="qwen2", per_layer_keys=("layer_types",)),
    Decoder(model_type="qwen3", per_layer_keys=("layer_types",)),
)
ARCHITECTURES: dict[str, Architecture] = {row.model_type: row for row in _ROWS}
DECODERS: dict[str, Decoder] = {row.model_type: row for row in _DECODERS}


def architecture_of(config: PretrainedConfig) -> Architecture:
    """The row for a model's config.

    Raises:
        ValueError: if the table has no row for it.
    """
    row = ARCHITECTURES.get(config.model_type)
    if row is None:
        raise ValueError(
            f"model_type {config.model_type!r} cannot be pruned, the table of architectures has no such row; "
            f"take a model of one of {', '.join(ARCHITECTURES)}"
        )
    return row


def decoder_of(config: PretrainedConfig) -> Decoder:
    """The row for a causal language model's config.

    Raises:
        ValueError: if the table has no row for it.
    """
    row = DECODERS.get(config.model_type)
    if row is None:
        raise ValueError(
            f"model_type {config.model_type!r} is no language model of the Llama layout, so it cannot be pruned; "
            f"take a model of one of {', '.join(DECODERS)}"
        )
    return row


def layout_of(config: PretrainedConfig) -> Architecture:
    """The row of either table, for what encoders and decoders have alike."""
    return DECODERS.get(config.model_type) or architecture_of(config)


def _module(root: nn.Module, path: str) -> nn.Module:
    return root.get_submodule(path)
