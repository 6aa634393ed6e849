"""The weights of a GGUF file as llama.cpp computes with them, in the stock transformers model: quality as served.

    model.gguf --header checked--> blocks --gguf.quants.dequantize--> f32 --names and row order undone--> model

Rounding of activations is llama.cpp's own (it quantizes them to 8 bits beside quantized weights) and is not imitated;
the two agree within 1% in perplexity (tests/jobs/exporters/test_gguf_weights.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deshi.jobs.data.gguf_header import GgufHeader, GgufTensor, read_header, stored_bytes
from deshi.jobs.exporters.gguf_layout import config_of, rotary_halves, shell_of, stored_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ROPE_FACTORS = "rope_freqs.weight"  # no weight of the model: its config says the same


def dequantized(model_folder: Path, gguf_file: Path) -> PreTrainedModel:
    """The causal language model of `model_folder`'s config, f32, in eval mode, with the weights of `gguf_file`.

    Raises:
        ValueError: in one sentence, for a broken file, or one of another model.
    """
    from transformers import AutoConfig

    config_of(model_folder)
    header = read_header(gguf_file)
    config = AutoConfig.from_pretrained(model_folder, trust_remote_code=False)
    try:
        return filled(config, gguf_file, header)
    except ValueError as error:
        raise ValueError(f"{gguf_file} is no export of {model_folder}: {error}") from None


def filled(config: PretrainedConfig, gguf_file: Path, header: GgufHeader) -> PreTrainedModel:
    """The same for a config at hand.

    Raises:
        ValueError: in half a sentence about the file, where the config does not describe it.
    """
    import torch

    wanted = {weight.name: weight for weight in stored_weights(config.to_dict())}
    found = {tensor.name: tensor for tensor in header.tensors if tensor.name != ROPE_FACTORS}
    if found.keys() != wanted.keys():
        name = min(found.keys() ^ wanted.keys())
        rule = "no tensor of its architecture is called" if name in found else "its architecture has"
        raise ValueError(f"it {'holds' if name in found else 'lacks'} {name}, which {rule}; take another file")
    shell = shell_of(config)
    shapes = {name: tuple(value.shape) for name, value in shell.state_dict().items()}
    state = {}
    with gguf_file.open("rb") as file:
        for name, tensor in found.items():
            weight = wanted[name]
            if tensor.shape != shapes[weight.source]:
                raise ValueError(
                    f"it has {name} in shape {tensor.shape} where its sizes ask for {shapes[weight.source]}; "
                    "take another file"
                )
            file.seek(header.data + tensor.offset)
            values = _decoded(tensor, file.read(stored_bytes(tensor)))
            if not np.isfinite(values).all():
                raise ValueError(f"its tensor {name} holds infinite or undefined weights; take another file")
            values = rotary_halves(values, weight.heads) if weight.heads else values
            state[weight.source] = torch.from_numpy(np.array(values))
    model: PreTrainedModel = type(shell).from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)
    return model.eval()


def _decoded(tensor: GgufTensor, content: bytes) -> np.ndarray:
    """f32, in the tensor's shape."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType(tensor.type)
    stored = np.frombuffer(content, dtype=np.uint8).reshape(*tensor.shape[:-1], -1)
    try:
        values: np.ndarray = quants.dequantize(stored, kind)
    except NotImplementedError:
        raise ValueError(
            f"its tensor {tensor.name} is of the type {kind.name}, which is not read; take another file"
        ) from None
    return values
