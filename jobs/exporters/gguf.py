"""A model folder becomes `model.gguf`, in f16, q8_0 or q4_0, for llama.cpp.

    f16     every matrix in half precision
    q8_0    blocks of 32 weights along a row: int8 and one f16 scale, 8.5 bits a weight
    q4_0    blocks of 32 weights along a row: 4 bits and one f16 scale, 4.5 bits a weight; the token embeddings
            (and the output matrix, where it is apart) stay q8_0, see EDGES

A matrix whose rows are no multiple of 32 is written in f16, whatever the scheme: a pruned feed-forward width should
be a multiple of 32. Vectors (norms, biases) stay f32. Names and orders are those of `gguf_layout.py`. Llama 3's
scaled rotary frequencies become the tensor `rope_freqs.weight` [d/2], factors by which each frequency is divided.

Tensors are read, quantized and written one at a time, so that memory holds one of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from deshi.jobs.exporters.gguf_layout import LAYOUTS, StoredWeight, config_of, rotary_pairs, shell_of, stored_weights
from deshi.jobs.gguf_tokenizer import ROLES, GgufTokenizer, read_folder

Scheme = Literal["f16", "q8_0", "q4_0"]
MODEL_FILE = "model.gguf"
BLOCK = 32  # weights that share a scale
MATRICES: dict[Scheme, str] = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
EDGES: dict[Scheme, str] = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q8_0"}  # token embeddings, output matrix
FILE_TYPES: dict[Scheme, str] = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


def export(model_folder: Path, out: Path, *, scheme: Scheme) -> None:
    """Writes `out`/model.gguf. The same input gives the same bytes.

    Raises:
        ValueError: in one sentence, for another scheme, or a model or tokenizer that llama.cpp would not run alike.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme {scheme!r} is not made for llama.cpp; use {', '.join(get_args(Scheme))}")
    import gguf

    config = config_of(model_folder)
    rope = _rope(model_folder, config)
    tokenizer = read_folder(model_folder, int(config["vocab_size"]))
    stored = _Stored(model_folder)
    tensors = _weights(model_folder, config, stored)

    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{MODEL_FILE}.part"
    writer = gguf.GGUFWriter(part, LAYOUTS[config["model_type"]].architecture)
    try:
        _write_shape(writer, config, rope, scheme, parameters=sum(math.prod(stored.shape(t.source)) for t in tensors))
        _write_tokenizer(writer, tokenizer)
        if rope.factors is not None:
            writer.add_tensor_info("rope_freqs.weight", rope.factors.shape, rope.factors.dtype, rope.factors.nbytes)
        for tensor in tensors:
            _announce(writer, tensor, stored.shape(tensor.source), scheme)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if rope.factors is not None:
            writer.write_tensor_data(rope.factors)
        for tensor in tensors:
            writer.write_tensor_data(_encoded(tensor, stored.read(tensor.source), scheme))
        writer.close()
        part.replace(out / MODEL_FILE)
    finally:
        writer.close()
        part.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Rope:
    theta: float
    width: int  # of a head
    factors: np.ndarray | None  # [width / 2]


def _rope(folder: Path, config: Mapping[str, Any]) -> _Rope:
    rope, layout = config["rope_parameters"], LAYOUTS[config["model_type"]]
    theta, kind = float(rope["rope_theta"]), rope.get("rope_type", "default")
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    kinds = ("default", "llama3") if layout.rope_factors else ("default",)
    if kind not in kinds or rope.get("partial_rotary_factor", 1.0) != 1.0:
        what = repr(kind) if kind not in kinds else "a partial_rotary_factor"
        raise ValueError(f"{folder} turns its positions by {what}; GGUF is written here for {' and '.join(kinds)}")
    if kind == "default":
        return _Rope(theta=theta, width=width, factors=None)
    # Llama 3.1: wavelengths beyond the old context are stretched by `factor`, short ones stay, with a ramp between.
    wavelengths = 2 * math.pi * theta ** (np.arange(0, width, 2, dtype=np.float64) / width)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    share = np.clip((rope["original_max_position_embeddings"] / wavelengths - low) / (high - low), 0.0, 1.0)
    factors = 1.0 / ((1.0 - share) / float(rope["factor"]) + share)
    return _Rope(theta=theta, width=width, factors=factors.astype(np.float32))


class _Stored:
    """The safetensors of a folder, read one tensor at a time, as f32."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [safe_open(folder / name, framework="pt") for name in names]
        self.file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def shape(self, name: str) -> list[int]:
        return list(self.file_of[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        values: np.ndarray = self.file_of[name].get_tensor(name).float().numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name} holds infinite or undefined weights; the training that made it has failed")
        return values


def _weights(folder: Path, config: Mapping[str, Any], stored: _Stored) -> list[StoredWeight]:
    """All tensors in the file's order; exactly those that the folder holds."""
    from transformers import AutoConfig

    wanted = list(stored_weights(config))
    known = {tensor.source for tensor in wanted}
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    unknown = sorted(name for name in set(stored.file_of) - known - tied if not name.endswith("rotary_emb.inv_freq"))
    if unknown or (missing := sorted(known - set(stored.file_of))):
        what = f"holds {unknown[0]}, which" if unknown else f"lacks {missing[0]}, which"
        rule = "no tensor of its architecture is called" if unknown else "its config announces"
        raise ValueError(f"{folder} {what} {rule}; save the model again with save_pretrained")
    shell = shell_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    shapes = {name: list(value.shape) for name, value in shell.state_dict().items()}
    for weight in wanted:
        if stored.shape(weight.source) != shapes[weight.source]:
            raise ValueError(
                f"{folder} has {weight.source} in shape {stored.shape(weight.source)}, its config asks for "
                f"{shapes[weight.source]}; save the model again with save_pretrained"
            )
    return wanted


def _write_shape(writer: Any, config: Mapping[str, Any], rope: _Rope, scheme: Scheme, *, parameters: int) -> None:
    import gguf

    writer.add_type("model")
    writer.add_name(f"{writer.arch} {parameters / 1e6:.0f}M")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(rope.width)  # pruned heads make it other than embedding / heads
    writer.add_value_length(rope.width)
    writer.add_rope_dimension_count(rope.width)
    writer.add_rope_freq_base(rope.theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[scheme]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tokenizer(writer: Any, tokenizer: GgufTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    for role, index in tokenizer.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{ROLES[role]}_token_id", index)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _kind(tensor: StoredWeight, shape: list[int], scheme: Scheme) -> Any:
    import gguf

    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    name = (EDGES if tensor.edge else MATRICES)[scheme]
    return gguf.GGMLQuantizationType[name if shape[-1] % BLOCK == 0 else "F16"]


def _announce(writer: Any, tensor: StoredWeight, shape: list[int], scheme: Scheme) -> None:
    import gguf

    kind = _kind(tensor, shape, scheme)
    values, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), math.prod(shape) // values * size, raw_dtype=kind)


def _encoded(tensor: StoredWeight, values: np.ndarray, scheme: Scheme) -> np.ndarray:
    from gguf import quants

    if tensor.heads:
        values = rotary_pairs(values, tensor.heads)
    with np.errstate(over="ignore"):  # refused below
        encoded = quants.quantize(np.ascontiguousarray(values), _kind(tensor, list(values.shape), scheme))
    if encoded.dtype == np.float16 and not np.isfinite(encoded).all():
        raise ValueError(f"tensor {tensor.source} has weights beyond 65504, the largest of half precision")
    return encoded
