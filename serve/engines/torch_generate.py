"""PyTorch: stock transformers on the model folder itself, decoded in batches by `torch_decode.py`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.generation import GenerationKind
from deshi.serve.engines.torch_decode import TorchGenerateEngine
from deshi.serve.serving import MODEL_FOLDER


def load(folder: Path, *, threads: int, slots: int, context_length: int, max_queued: int) -> TorchGenerateEngine:
    """Opens the model folder beside the builds: `<candidate>/model` for `<candidate>/engines/<build>`."""
    import torch
    from tokenizers import Tokenizer
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
    return TorchGenerateEngine(
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu"),
        Tokenizer.from_file(str(path / "tokenizer.json")),
        threads=threads,
        slots=slots,
        context_length=context_length,
        max_queued=max_queued,
        eos=ends(path),
    )


def ends(model: Path) -> frozenset[int]:
    """The ids that end an answer, by generation_config.json, else by config.json."""
    for name in ("generation_config.json", "config.json"):
        file = model / name
        ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if ids is not None:
            return frozenset(ids if isinstance(ids, list) else [ids])
    return frozenset()


def missing() -> str | None:
    """See `GenerationKind`."""
    absent = [name for name in ("torch", "transformers") if find_spec(name) is None]
    return f"{absent[0]} is not installed; pip install torch transformers" if absent else None


KIND = GenerationKind(name="torch_generate", schemes=("fp32", "bf16"), load=load, missing=missing)
