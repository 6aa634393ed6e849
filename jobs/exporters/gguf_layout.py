"""Which weights of a model folder a GGUF file holds, under which name and in which order of rows.

    model.layers.3.self_attn.q_proj.weight  <->  blk.3.attn_q.weight

Query and key rows of llama.cpp's architecture "llama" are stored in its rotary order: transformers rotates the pairs
(i, i + d/2) of a head of width d, llama.cpp there (2i, 2i + 1). Sizes come from the config, so pruned layers, heads
and widths need nothing of their own; tied embeddings are stored once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One family of transformers: its module names of a layer -> GGUF's, and what is otherwise than there."""

    architecture: str  # llama.cpp's name
    layer: Mapping[str, str]
    biases: Callable[[Config], set[str]]  # GGUF names of a layer that have a bias
    rotary_pairs: Mapping[str, str] = field(default_factory=dict)  # GGUF name -> config key with its number of heads
    rope_factors: bool = False  # llama.cpp reads scaled rotary frequencies
    not_run: Callable[[Config], str | None] = lambda config: None  # what of a config llama.cpp does not run


ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
GATED = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
BLOCK = {**NORMS, **ATTENTION, **GATED}
PAIRS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}


def _llama_biases(config: Config) -> set[str]:
    return {
        name
        for part, key in ((ATTENTION, "attention_bias"), (GATED, "mlp_bias"))
        for name in part.values()
        if config.get(key)
    }


def _windows(config: Config) -> str | None:
    kinds = config.get("layer_types") or ()
    sliding = config.get("sliding_window") and config.get("use_sliding_window", True)
    return "a sliding window" if sliding or any(kind != "full_attention" for kind in kinds) else None


LAYOUTS = {
    "llama": Layout(architecture="llama", layer=BLOCK, biases=_llama_biases, rotary_pairs=PAIRS, rope_factors=True),
    "mistral": Layout(architecture="llama", layer=BLOCK, biases=lambda _: set(), rotary_pairs=PAIRS, not_run=_windows),
    "qwen2": Layout(
        architecture="qwen2", layer=BLOCK, biases=lambda _: {"attn_q", "attn_k", "attn_v"}, not_run=_windows
    ),
    "qwen3": Layout(
        architecture="qwen3",
        layer={**BLOCK, "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
        biases=lambda _: set(),
        not_run=lambda config: "attention_bias" if config.get("attention_bias") else _windows(config),
    ),
}


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A weight by both names. `edge`: the token embeddings or the output matrix."""

    source: str  # in safetensors
    name: str  # in GGUF
    heads: int = 0  # whose rows change order; 0: none does
    edge: bool = False


def config_of(folder: Path) -> dict[str, Any]:
    """The config of a model folder with what its config.json leaves out.

    Raises:
        ValueError: for a model that llama.cpp does not run, or that GGUF is not written for here.
    """
    family = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if family not in LAYOUTS:
        raise ValueError(f"{folder} is of the family {family!r}; GGUF is written for {', '.join(LAYOUTS)}")
    from transformers import AutoConfig

    config: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    if config["hidden_act"] != "silu":
        raise ValueError(f"{folder} has hidden_act {config['hidden_act']!r}; llama.cpp runs this family with silu only")
    if (what := LAYOUTS[family].not_run(config)) is not None:
        raise ValueError(f"{folder} has {what}, which llama.cpp does not run for this family; use an engine of PyTorch")
    return config


def shell_of(config: Any) -> Any:
    """The causal language model of a transformers config, f32, on the device "meta": shapes without values."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def stored_weights(config: Config) -> Iterator[StoredWeight]:
    """All weights of that config, in the file's order."""
    layout = LAYOUTS[config["model_type"]]
    yield StoredWeight(source="model.embed_tokens.weight", name="token_embd.weight", edge=True)
    biased = layout.biases(config)
    for number in range(config["num_hidden_layers"]):
        for module, name in layout.layer.items():
            heads = config[layout.rotary_pairs[name]] if name in layout.rotary_pairs else 0
            for kind in ("weight", "bias") if name in biased else ("weight",):
                yield StoredWeight(
                    source=f"model.layers.{number}.{module}.{kind}", name=f"blk.{number}.{name}.{kind}", heads=heads
                )
    yield StoredWeight(source="model.norm.weight", name="output_norm.weight")
    if not config["tie_word_embeddings"]:
        yield StoredWeight(source="lm_head.weight", name="output.weight", edge=True)


def rotary_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * d, ...] from the order (0 .. d/2 - 1, d/2 .. d - 1) of a head to (0, d/2, 1, d/2 + 1, ...)."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def rotary_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Undoes `rotary_pairs`."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
