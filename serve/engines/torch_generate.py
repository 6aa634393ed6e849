"""PyTorch: stock transformers on the model folder itself, decoded in batches by `torch_decode.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deshi.serve.engines import torch_eager
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.generation import GenerationKind
from deshi.serve.engines.torch_decode import TorchGenerateEngine
from deshi.serve.serving import MODEL_FOLDER


def load(folder: Path, **settings: Any) -> TorchGenerateEngine:
    """Opens the model folder beside the builds: `<candidate>/model` for `<candidate>/engines/<build>`."""
    import torch
    from transformers import AutoModelForCausalLM

    path = folder.parent.parent / MODEL_FOLDER
    scheme = folder.name.removeprefix(engine_of(folder.name) + "-")
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[scheme],
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    return started(model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), path, **settings)


def started(model: Any, folder: Path, **settings: Any) -> TorchGenerateEngine:
    """An engine of this model with the tokenizer and the ends of a model folder; see `TorchGenerateEngine`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return TorchGenerateEngine(model, tokenizer, eos=ends(folder), **settings)


def ends(model: Path) -> frozenset[int]:
    """The ids that end an answer, by generation_config.json, else by config.json."""
    for name in ("generation_config.json", "config.json"):
        file = model / name
        ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if ids is not None:
            return frozenset(ids if isinstance(ids, list) else [ids])
    return frozenset()


KIND = GenerationKind(name="torch_generate", schemes=("fp32", "bf16"), load=load, missing=torch_eager.missing)
