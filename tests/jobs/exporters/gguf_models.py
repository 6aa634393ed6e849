"""Tiny language models of the shapes that a GGUF file must carry; read with `runpy.run_path`."""

from __future__ import annotations

import runpy
from pathlib import Path

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))

SHAPES = {
    "grouped attention": {},
    "own head size": {"head_dim": 24, "num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "pruned ffn": {"intermediate_size": 72},
    "pruned hidden": {"hidden_size": 80, "head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama 3 positions": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 24},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 24, "tie_word_embeddings": False},
}


def tiny(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """A model of two layers, vocabulary 320, every weight and bias random, with a byte-level tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    lm["tiny_tokenizer"](folder)
    settings = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**({"model_type": "llama"} | settings | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms are made as ones and biases as zeros
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
