"""Llamas of random layers that matter. Read with `runpy.run_path`, as plain modules beside tests are."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def spread(model: Any, seed: int, std: float) -> Any:
    """The model with matrices far from the tiny initial ones, so that a wrong number shows."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=std)
    return model


def llama(**changes: Any) -> Any:
    """Two layers, four query heads that share two key-value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 270, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}
    return spread(LlamaForCausalLM(LlamaConfig(**sizes, **heads, **changes)).eval(), 3, 0.2)


def enliven(folder: Path) -> Any:
    """The model of a folder with such layers, written back and given; no token ends it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = spread(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), 1, 0.3)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return model.eval()
