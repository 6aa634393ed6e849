"""A model folder becomes `model.gguf`, in f16, q8_0 or q4_0, for llama.cpp.

    f16     every matrix in half precision
    q8_0    blocks of 32 weights along a row: int8 and one f16 scale, 8.5 bits a weight
    q4_0    blocks of 32 weights along a row: 4 bits and one f16 scale, 4.5 bits a weight; the token embeddings
            (and the output matrix, where it is apart) stay q8_0, see EDGES

A matrix whose rows are no multiple of 32 is written in f16, whatever the scheme: a pruned feed-forward width should
be a multiple of 32. Vectors (norms, biases) stay f32. Tied embeddings are written once. Sizes are read from the
config, so pruned layers, feed-forward width, heads, key-value heads and vocabulary need nothing of their own.

Llama's query and key rows are stored in llama.cpp's rotary order: transformers rotates the pairs (i, i + d/2) of a
head of width d, llama.cpp for this architecture (2i, 2i + 1). Llama 3's scaled rotary frequencies become the tensor
`rope_freqs.weight` [d/2], factors by which each frequency is divided.

Tensors are read, quantized and written one at a time, so that memory holds one of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from deshi.jobs.gguf_tokenizer import ROLES, GgufTokenizer, read_folder

Scheme = Literal["f16", "q8_0", "q4_0"]
MODEL_FILE = "model.gguf"
BLOCK = 32  # weights that share a scale
MATRICES: dict[Scheme, str] = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
EDGES: dict[Scheme, str] = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q8_0"}  # token embeddings, output matrix
FILE_TYPES: dict[Scheme, str] = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One architecture: transformers' module names of a layer -> GGUF's, and what is stored otherwise than there."""

    architecture: str
    layer: Mapping[str, str]
    rotary_pairs: Mapping[str, str] = field(default_factory=dict)  # GGUF name -> config key with its number of heads
    biases: Callable[[Mapping[str, Any]], set[str]]  # GGUF names of a layer that have a bias


ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
GATED = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def _llama_biases(config: Mapping[str, Any]) -> set[str]:
    attention = set(ATTENTION.values()) if config.get("attention_bias") else set()
    return attention | (set(GATED.values()) if config.get("mlp_bias") else set())


LAYOUTS = {
    "llama": Layout(
        architecture="llama",
        layer={**NORMS, **ATTENTION, **GATED},
        rotary_pairs={"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"},
        biases=_llama_biases,
    ),
}


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """`source` is the name in safetensors, `heads` the number of heads whose rows change order (0: none)."""

    source: str
    name: str
    heads: int = 0
    edge: bool = False


def export(model_folder: Path, out: Path, *, scheme: Scheme) -> None:
    """Writes `out`/model.gguf. The same input gives the same bytes.

    Raises:
        ValueError: in one sentence, for another scheme, or a model or tokenizer that llama.cpp would not run alike.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme {scheme!r} is not made for llama.cpp; use {', '.join(get_args(Scheme))}")
    import gguf

    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    layout = _layout_of(model_folder, config)
    rope = _rope(model_folder, config)
    tokenizer = read_folder(model_folder, int(config["vocab_size"]))
    stored = _Stored(model_folder)
    tensors = _tensors(model_folder, config, layout, stored)

    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{MODEL_FILE}.part"
    writer = gguf.GGUFWriter(part, layout.architecture)
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


def _layout_of(folder: Path, config: Mapping[str, Any]) -> Layout:
    family = config.get("model_type")
    if family not in LAYOUTS:
        raise ValueError(f"{folder} is of the family {family!r}; GGUF is written for {', '.join(LAYOUTS)}")
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{folder} has hidden_act {config['hidden_act']!r}; llama.cpp runs this family with silu only")
    return LAYOUTS[family]


@dataclass(frozen=True, kw_only=True)
class _Rope:
    theta: float
    width: int  # of a head
    factors: np.ndarray | None  # [width / 2]


def _rope(folder: Path, config: Mapping[str, Any]) -> _Rope:
    """transformers 5 keeps all in `rope_parameters`; older folders have `rope_theta` and `rope_scaling`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "llama3"):
        raise ValueError(f"{folder} scales its positions by {kind!r}; GGUF is written for the kinds default and llama3")
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


def _tensors(folder: Path, config: Mapping[str, Any], layout: Layout, stored: _Stored) -> list[_Tensor]:
    """All tensors in the file's order; exactly those that the folder holds."""
    wanted = list(_expected(config, layout))
    known = {tensor.source for tensor in wanted}
    tied = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
    unknown = sorted(name for name in set(stored.file_of) - known - tied if not name.endswith("rotary_emb.inv_freq"))
    if unknown or (missing := sorted(known - set(stored.file_of))):
        what = f"holds {unknown[0]}, which" if unknown else f"lacks {missing[0]}, which"
        rule = "no tensor of its architecture is called" if unknown else "its config announces"
        raise ValueError(f"{folder} {what} {rule}; save the model again with save_pretrained")
    return wanted


def _expected(config: Mapping[str, Any], layout: Layout) -> Iterator[_Tensor]:
    yield _Tensor(source="model.embed_tokens.weight", name="token_embd.weight", edge=True)
    biased = layout.biases(config)
    for number in range(config["num_hidden_layers"]):
        for module, name in layout.layer.items():
            # A config of before grouped attention has no num_key_value_heads.
            key = layout.rotary_pairs.get(name)
            heads = 0 if key is None else config.get(key) or config["num_attention_heads"]
            for kind in ("weight", "bias") if name in biased else ("weight",):
                yield _Tensor(
                    source=f"model.layers.{number}.{module}.{kind}", name=f"blk.{number}.{name}.{kind}", heads=heads
                )
    yield _Tensor(source="model.norm.weight", name="output_norm.weight")
    if not config.get("tie_word_embeddings"):
        yield _Tensor(source="lm_head.weight", name="output.weight", edge=True)


def _write_shape(writer: Any, config: Mapping[str, Any], rope: _Rope, scheme: Scheme, *, parameters: int) -> None:
    import gguf

    writer.add_type("model")
    writer.add_name(f"{writer.arch} {parameters / 1e6:.0f}M")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
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


def _kind(tensor: _Tensor, shape: list[int], scheme: Scheme) -> Any:
    import gguf

    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    name = (EDGES if tensor.edge else MATRICES)[scheme]
    return gguf.GGMLQuantizationType[name if shape[-1] % BLOCK == 0 else "F16"]


def _announce(writer: Any, tensor: _Tensor, shape: list[int], scheme: Scheme) -> None:
    import gguf

    kind = _kind(tensor, shape, scheme)
    values, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), math.prod(shape) // values * size, raw_dtype=kind)


def _encoded(tensor: _Tensor, values: np.ndarray, scheme: Scheme) -> np.ndarray:
    from gguf import quants

    if tensor.heads:
        values = rotary_pairs(values, tensor.heads)
    encoded = quants.quantize(np.ascontiguousarray(values), _kind(tensor, list(values.shape), scheme))
    if encoded.dtype == np.float16 and not np.isfinite(encoded).all():
        raise ValueError(f"tensor {tensor.source} has weights beyond 65504, the largest of half precision")
    return encoded


def rotary_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * d, ...] from the order (0 .. d/2 - 1, d/2 .. d - 1) of a head to (0, d/2, 1, d/2 + 1, ...)."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
