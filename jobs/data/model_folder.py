"""The door for model folders: a Hugging Face folder is data, never code.

A folder is taken when it holds config.json, tokenizer.json and weights in safetensors, and nothing that could run:
no pickle (by name or by its first bytes), no Python file, no config key that fetches or imports code (`auto_map`,
custom pipelines, attention or kernel implementations from a hub: CVE-2026-4372), no path in index.json that leaves
the folder, and safetensors headers whose tensors cover their file exactly. Each refusal is one sentence.
Nothing here loads weights or imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PICKLES = frozenset((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz"))
CODE = frozenset((".py", ".pyc", ".so", ".dll"))
CODE_KEYS = re.compile(
    r"auto_map|trust_remote_code|custom_(pipelines?|code|generate)|(use_|hub_)?kernels|kernel_(config|mapping)"
)
IMPLEMENTATION_KEYS = re.compile(r"_?(attn|experts)_implementation.*")
IMPLEMENTATIONS = (None, True, False, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_FILES = ("*.safetensors", "*.json", "*.txt")
# What decides how the model answers; a README beside it does not.
DIGESTED = re.compile(
    r".*\.safetensors|.*\.safetensors\.index\.json|config\.json|tokenizer.*\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(json|txt)|merges\.txt|.*\.model"
)
HEADER_MOST = 100_000_000  # bytes, the format's own limit
SIZES = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
         "U16": 16, "U32": 32, "U64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64, "F4": 4}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What config.json and the safetensors headers say. `ffn` and `heads` are None where the config has neither."""

    model_type: str
    parameters: int
    layers: int
    hidden: int | None
    ffn: int | None
    heads: int | None
    vocabulary: int


def check_model_folder(model: str | Path) -> Path:
    """The folder of a model: a local one, or the snapshot of a hub id (local cache first, HF_HUB_OFFLINE respected).

    Raises:
        ValueError: in one sentence, for a folder that is not complete or could run code.
    """
    folder = Path(model).expanduser()
    if folder.is_file():
        raise ValueError(f"model {model} is a file; give the folder with config.json and model.safetensors")
    if not folder.is_dir():
        folder = _from_hub(str(model))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        refuse_runnable(folder, path)
    config = _config(folder)
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"config.json of {folder} names no model_type; save the model with save_pretrained")
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{folder} has no tokenizer.json; save its fast tokenizer there with AutoTokenizer's save_pretrained"
        )
    for path in _weights(folder):
        _header(path)
    return folder


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the config, the weights and the tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and DIGESTED.fullmatch(path.name):
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def describe(folder: Path) -> ModelFacts:
    """Parameters, layers, widths and vocabulary, from the config and the headers alone."""
    config = _config(folder)
    # What is counted is learned: integer buffers such as position ids are not.
    tensors = [tensor for path in _weights(folder) for tensor in _header(path).values()]
    parameters = sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"] not in ("I64", "BOOL"))
    hidden = _first(config, "hidden_size", "d_model", "n_embd", "dim")
    static = next((tensor["shape"] for path in _weights(folder) if (tensor := _header(path).get("embeddings"))), None)
    if static is not None:  # model2vec's folder: one table of vectors, no layers
        return ModelFacts(
            model_type="model2vec",
            parameters=parameters,
            layers=0,
            hidden=static[1],
            ffn=None,
            heads=None,
            vocabulary=static[0],
        )
    return ModelFacts(
        model_type=config["model_type"],
        parameters=parameters,
        layers=_first(config, "num_hidden_layers", "n_layers", "n_layer", "num_layers") or 0,
        hidden=hidden,
        ffn=_first(config, "intermediate_size", "hidden_dim", "n_inner", "ffn_dim", "d_ff"),
        heads=_first(config, "num_attention_heads", "n_heads", "n_head", "num_heads"),
        vocabulary=_first(config, "vocab_size") or 0,
    )


def _from_hub(model: str) -> Path:
    if not HUB_ID.fullmatch(model):
        raise ValueError(f"model folder {model} does not exist; check the path (it is relative to the recipe file)")
    from huggingface_hub import snapshot_download

    reason = "HF_HUB_OFFLINE is set"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    for local_only in (True,) if offline else (True, False):
        try:
            found = snapshot_download(
                model,
                allow_patterns=list(HUB_FILES),
                ignore_patterns=["*/*"],
                local_files_only=local_only,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = reason if local_only else type(error).__name__
            continue
        # The cache may hold a part of the model, from another program's use.
        if local_only and not offline and not any(Path(found).glob("*.safetensors")):
            continue
        return Path(found)
    raise ValueError(
        f"model {model!r} is no folder, is not in the local hub cache, and the hub did not give it ({reason}); "
        "name a folder that holds the model"
    )


def refuse_runnable(folder: Path, path: Path) -> None:
    """Raises ValueError for a file of a model folder that is code, a pickle, or a config that fetches code."""
    name = path.relative_to(folder)
    if path.suffix.lower() in CODE:
        raise ValueError(f"{folder} holds the code file {name}; a model's own code is never run: remove it")
    with path.open("rb") as file:
        head = file.read(4)
    pickled = (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or head == b"PK\x03\x04"
    if path.suffix.lower() in PICKLES or (pickled and path.suffix.lower() != ".safetensors"):
        raise ValueError(f"{folder} holds {name}, which can carry a pickle; keep safetensors only and remove it")
    if path.parent == folder and path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json"):
        for key, value in _keys(_json(path)):
            if value in (None, False, [], {}, ""):
                continue
            if CODE_KEYS.fullmatch(key):
                raise ValueError(f"{name} of {folder} has the key {key!r}, which runs foreign code: remove the key")
            plain = value in IMPLEMENTATIONS and "internal" not in key
            if IMPLEMENTATION_KEYS.fullmatch(key) and not plain:
                raise ValueError(f"{name} of {folder} has {key} = {value!r}, which can fetch code: remove the key")


def _keys(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; give the folder that save_pretrained wrote")
    config = _json(path)
    if not isinstance(config, dict):
        raise ValueError(f"config.json of {folder} holds no JSON object; write it again with save_pretrained")
    return config


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({' '.join(str(error).split())}); get the file again") from None


def _weights(folder: Path) -> list[Path]:
    """model.safetensors, or the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise ValueError(f"{folder} has no model.safetensors; save the weights as safetensors")
        return [folder / "model.safetensors"]
    content = _json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} has no weight_map; get the file again")
    shards = sorted(set(map(str, places.values())))
    for shard in shards:
        if Path(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{index} names {shard!r}; a shard is a .safetensors file beside it: mend the index")
        if not (folder / shard).is_file():
            raise ValueError(f"{index} names {shard!r}, which is not there; get the missing file")
    return [folder / shard for shard in shards]


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file (dtype, shape, data_offsets), which must cover the file exactly."""
    bad = f"{path} is not a whole safetensors file"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_MOST, size - 8):
            raise ValueError(f"{bad} (its header claims {length} bytes, the file has {size}); get it again")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_no_key_twice)
        header.pop("__metadata__", None)
        spans = sorted(tuple(tensor["data_offsets"]) for tensor in header.values())
        sizes = [
            (tensor["data_offsets"][1] - tensor["data_offsets"][0]) * 8
            == math.prod(tensor["shape"]) * SIZES[tensor["dtype"]]
            for tensor in header.values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{bad} ({type(error).__name__} in its header: {error}); get it again") from None
    ends = [0, *(end for _, end in spans)]
    if not all(sizes) or [begin for begin, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise ValueError(f"{bad} (its tensors do not cover its bytes exactly); get it again")
    tensors: dict[str, dict[str, Any]] = header
    return tensors


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(f"the key {twice!r} stands twice")
    return dict(pairs)


def _first(config: dict[str, Any], *names: str) -> int | None:
    return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)
