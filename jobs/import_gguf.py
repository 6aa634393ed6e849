"""`deshi import-gguf FILE OUT`: a GGUF file of llama.cpp becomes a model folder that stock transformers loads.

    header --checks--> transformers reads and dequantizes (f32) --> config without its quantization entry
        --> the same weights under that config --> OUT: config.json, model.safetensors, generation_config.json, and
        tokenizer.json, tokenizer_config.json, chat_template.jinja written from the file's own metadata

transformers refuses to save what it read from a GGUF file, hence the second model, which takes over the first one's
tensors without a copy. Weights are saved in f32: a dequantized weight is a product of a scale and an integer, which
no half precision holds exactly. What transformers would leave out without a word (biases, scaled positions, experts)
is refused here. OUT appears in one step, or not at all.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from deshi.jobs.data.gguf_header import GgufHeader, read_header
from deshi.jobs.data.model_folder import check_model_folder
from deshi.jobs.gguf_tokenizer import read_metadata, write_folder

LAYER = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip
LAYERS = {"llama": LAYER}  # general.architecture -> the weights of a layer that transformers takes over


def import_gguf(source: Path, out: Path) -> None:
    """Writes the model folder `out` from the file `source`.

    Raises:
        ValueError: in one sentence, before anything is written, for a file that cannot be read or an `out` in use.
    """
    header = read_header(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; name another one or remove it")
    try:
        _check(header)
        tokenizer = read_metadata(header.metadata)
        shape = next(tensor.shape for tensor in header.tensors if tensor.name == "token_embd.weight")
        if len(tokenizer.tokens) != shape[0]:
            raise ValueError(f"it has {len(tokenizer.tokens)} tokens but {shape[0]} rows of token embeddings")
    except ValueError as error:
        raise ValueError(f"{source} cannot be imported: {error}") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        folder = Path(name) / "model"
        model = _read(source)
        model.save_pretrained(folder)
        write_folder(tokenizer, folder, max_length=model.config.max_position_embeddings)
        check_model_folder(folder)
        folder.rename(out)


def _check(header: GgufHeader) -> None:
    """Refuses what transformers does not read, or reads otherwise than llama.cpp does."""
    family, metadata = header.architecture, header.metadata
    if family not in LAYERS:
        raise ValueError(f"its architecture is {family!r}; these are read: {', '.join(LAYERS)}")
    if metadata.get("split.count", 0) > 1:
        raise ValueError(f"it is one of {metadata['split.count']} parts; merge them first with llama-gguf-split")
    scaling = metadata.get(f"{family}.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"it scales its positions ({scaling}), which is not read; take the original folder")
    layers = metadata.get(f"{family}.block_count", 0)
    wanted = {"token_embd.weight", "output_norm.weight"}
    wanted |= {f"blk.{number}.{name}.weight" for number in range(layers) for name in LAYERS[family]}
    found = {tensor.name for tensor in header.tensors} - {"output.weight"}
    if found != wanted:
        name = min(found ^ wanted)
        raise ValueError(f"the tensor {name} is {'not read' if name in found else 'missing'}; take the original folder")


def _read(source: Path) -> Any:
    """The model in f32, under a config that save_pretrained accepts."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        read = AutoModelForCausalLM.from_pretrained(
            source.resolve().parent,
            gguf_file=source.name,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
    except NotImplementedError as error:
        raise ValueError(f"{source} holds a kind of weights that is not read ({error}); use another one") from None
    config = read.config
    for entry in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, entry):
            delattr(config, entry)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model
