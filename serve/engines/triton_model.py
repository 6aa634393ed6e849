"""Opens a build of the engine `triton`: a folder of integers in compressed-tensors' layout, run by our kernels.

The model's classes are stock transformers; its linear layers, norms and activations are those of `deshi.kernels`. On a
CUDA device it computes in bfloat16. Without one the kernels' plain references compute in float32: slow, and the same
numbers, which is how batching, cache and releases are tested on any machine. Since nobody would serve so, it must be
asked for: DESHI_REFERENCE_KERNELS=1.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deshi.serve.engines import torch_eager

SCHEMES = ("w4a16", "w8a16", "w8a8")
ASKED_FOR = "DESHI_REFERENCE_KERNELS"


def open_model(folder: Path, auto_class: Any) -> Any:
    """The model of a build, in evaluation mode on its device; `auto_class` is transformers' class for the task.

    Raises:
        ValueError: if the folder is not quantized as the kernels run it.
    """
    import torch
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    from deshi.kernels.quantized_model import fill

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # or transformers would load the folder its own way
    with no_init_weights():  # all of them are read from the folder
        model = auto_class.from_config(config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False)
    return fill(model.eval(), folder).to(device)


def missing() -> str | None:
    """Why this machine cannot run it, or None."""
    if (absent := torch_eager.missing()) is not None:
        return absent
    if os.environ.get(ASKED_FOR) == "1":
        return None
    import torch

    if not torch.cuda.is_available():
        return f"no CUDA device is here; {ASKED_FOR}=1 runs the kernels' slow references instead"
    return None if find_spec("triton") is not None else "triton is not installed; pip install 'deshi[cuda]'"
