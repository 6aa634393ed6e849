"""A model folder becomes the same model with integers for weights, in compressed-tensors' layout.

As a build it is what our kernels serve (`engines/triton-<scheme>/`); as a folder of its own, with its tokenizer, it is
what stock transformers, vLLM and SGLang load.
"""

from __future__ import annotations

import json
from pathlib import Path

from deshi.serve.durable import folder_in_one_step


def export_integers(model_folder: Path, out_folder: Path, *, scheme: str) -> None:
    """Writes `out_folder`/config.json and model.safetensors; scheme w4a16, w8a16 or w8a8, rounded to nearest.

    Raises:
        ValueError: for another scheme, or a model that integers cannot express.
    """
    from deshi.jobs.stages.prune import load_classifier
    from deshi.jobs.stages.prune_lm import load_language_model
    from deshi.jobs.stages.quantize import quantize

    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method")
        raise ValueError(f"{model_folder} is quantized already ({method}); give the folder that it was made from")
    writes = any(name.endswith("ForCausalLM") for name in config.get("architectures") or ())
    quantize(model_folder, out_folder, scheme=scheme, load=load_language_model if writes else load_classifier)


def quantize_folder(model: str, out: Path, *, scheme: str) -> None:
    """Writes the new folder `out`, all of it or nothing: the model in integers and its tokenizer.

    Raises:
        ValueError: in one sentence, before anything is written, for a model that cannot be read or an `out` in use.
    """
    from deshi.jobs.data.model_folder import check_model_folder
    from deshi.jobs.stages.prune import copy_tokenizer

    source = check_model_folder(model)
    with folder_in_one_step(out) as folder:
        export_integers(source, folder, scheme=scheme)
        copy_tokenizer(source, folder)
