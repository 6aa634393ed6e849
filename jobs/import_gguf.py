"""`deshi import-gguf FILE OUT`: a GGUF file of llama.cpp becomes a model folder that stock transformers loads.

    header --checked--> config --exporters/gguf_weights.py--> model in f32 --> OUT: config.json, model.safetensors,
        generation_config.json, and tokenizer.json, tokenizer_config.json, chat_template.jinja

Everything is read from the file itself. Weights are saved in f32: a dequantized weight is a product of a scale and an
integer, which no half precision holds exactly. What a config could not say, or would say otherwise than llama.cpp
runs it (scaled positions, experts), is refused. OUT appears in one step, or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deshi.jobs.data.gguf_header import GgufHeader, read_header
from deshi.jobs.data.model_folder import check_model_folder
from deshi.jobs.exporters.gguf_layout import LAYOUTS
from deshi.jobs.exporters.gguf_weights import filled
from deshi.jobs.gguf_tokenizer import GgufTokenizer, read_metadata, write_folder
from deshi.serve.durable import folder_in_one_step, refuse_in_use

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# transformers' family for an architecture of llama.cpp: the first in the table, "llama" for mistral's files too.
FAMILIES = {layout.architecture: family for family, layout in reversed(LAYOUTS.items())}


def import_gguf(source: Path, out: Path) -> None:
    """Writes the model folder `out` from the file `source`.

    Raises:
        ValueError: in one sentence, before anything is written, for a file that cannot be read or an `out` in use.
    """
    header = read_header(source)
    refuse_in_use(out)
    try:
        config, tokenizer = _read(header)
        model = filled(config, source, header)
    except ValueError as error:
        raise ValueError(f"{source} cannot be imported: {error}") from None
    with folder_in_one_step(out) as folder:
        model.save_pretrained(folder)
        write_folder(tokenizer, folder, max_length=config.max_position_embeddings)
        check_model_folder(folder)


def _read(header: GgufHeader) -> tuple[PretrainedConfig, GgufTokenizer]:
    from transformers import AutoConfig

    architecture, metadata = header.architecture, header.metadata
    if architecture not in FAMILIES:
        raise ValueError(f"its architecture is {architecture!r}; these are read: {', '.join(sorted(FAMILIES))}")
    if metadata.get("split.count", 1) != 1:
        raise ValueError(f"it is one of {metadata['split.count']} parts; merge them first with llama-gguf-split")
    names = {tensor.name for tensor in header.tensors}
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in names:
        raise ValueError("it scales its positions, by a rule that it does not tell; take the original folder")
    if metadata.get(f"{architecture}.attention.sliding_window"):
        raise ValueError("it has a sliding window, which is not read; take the original folder")

    tokenizer = read_metadata(metadata)
    hidden, heads = _count(header, "embedding_length"), _count(header, "attention.head_count")
    width = _count(header, "attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := _count(header, key, width)) != width:
            raise ValueError(f"its heads are {width} wide but {key} is {other}, which is not read; take another file")
    layers = _count(header, "block_count")
    if layers > len(names):
        raise ValueError(f"it tells of {layers} layers but has {len(names)} tensors; make the file again")
    if hidden % heads:
        raise ValueError(f"its width of {hidden} is no multiple of its {heads} heads, which transformers refuses")
    biases = {"attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_up.bias" in names}
    config = AutoConfig.for_model(
        FAMILIES[architecture],
        vocab_size=len(tokenizer.tokens),
        hidden_size=hidden,
        intermediate_size=_count(header, "feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_count(header, "attention.head_count_kv", heads),
        head_dim=width,
        max_position_embeddings=_count(header, "context_length"),
        rms_norm_eps=_number(header, "attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": _number(header, "rope.freq_base", 10_000.0)},
        tie_word_embeddings="output.weight" not in names,
        **{f"{role}_token_id": tokenizer.ids.get(role) for role in ("bos", "eos", "pad")},
        **(biases if architecture == "llama" else {}),
    )
    return config, tokenizer


def _count(header: GgufHeader, key: str, default: int | None = None) -> int:
    value = _value(header, key, default)
    if not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"its {header.architecture}.{key} is {value!r}, no count; make the file again")
    return value


def _number(header: GgufHeader, key: str, default: float | None = None) -> float:
    value = _value(header, key, default)
    if not isinstance(value, float) or not 0 < value < float("inf"):
        raise ValueError(f"its {header.architecture}.{key} is {value!r}, no positive number; make the file again")
    return value


def _value(header: GgufHeader, key: str, default: Any) -> Any:
    name = f"{header.architecture}.{key}"
    if name not in header.metadata and default is None:
        raise ValueError(f"it does not tell {name}; make the file again")
    return header.metadata.get(name, default)
