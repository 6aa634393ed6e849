"""Our Triton kernels under a transformers language model: integers for weights, an int8 cache, decode steps as graphs.

Requests are batched by `torch_decode.py`, as those of the plain PyTorch engine are; keys and values lie in int8
(`int8_cache.py`), and on a CUDA device a decode step is one graph (`decode_graphs.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deshi.serve.engines.generation import GenerationKind
from deshi.serve.engines.torch_decode import TorchGenerateEngine
from deshi.serve.engines.torch_generate import started
from deshi.serve.engines.triton_model import SCHEMES, missing, open_model
from deshi.serve.serving import MODEL_FOLDER


def load(folder: Path, **settings: Any) -> TorchGenerateEngine:
    """Opens `engines/triton-<scheme>/`; the tokenizer is that of the model folder beside the builds.

    Raises:
        ValueError: if the build is not quantized as the kernels run it, or the model's attention cannot use the cache.
    """
    from transformers import AutoModelForCausalLM

    from deshi.serve.engines.decode_graphs import DecodeGraphs
    from deshi.serve.engines.int8_cache import ATTENTION, Int8Cache

    model = open_model(folder, AutoModelForCausalLM)
    model.set_attn_implementation(ATTENTION)
    return started(model, folder.parent.parent / MODEL_FOLDER, cache=Int8Cache, step=DecodeGraphs, **settings)


KIND = GenerationKind(name="triton", schemes=SCHEMES, load=load, missing=missing)
