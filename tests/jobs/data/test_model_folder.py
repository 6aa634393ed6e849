"""The door for model folders, on folders that transformers and safetensors wrote."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from deshi.jobs.data.model_folder import check_model_folder, describe, model_digest


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("original") / "model"
    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def _config(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


def test_a_sound_folder_is_taken_and_described(folder):
    from transformers import BertModel

    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "README.md").write_text("hello")
    assert check_model_folder(str(folder)) == folder
    facts = describe(folder)
    assert facts.parameters == sum(p.numel() for p in BertModel.from_pretrained(folder).parameters())
    assert (facts.model_type, facts.layers, facts.hidden, facts.ffn, facts.heads, facts.vocabulary) == (
        "bert", 3, 8, 12, 2, 50,
    )  # fmt: skip


def test_the_digest_follows_weights_config_and_tokenizer_only(folder):
    before = model_digest(folder)
    (folder / "README.md").write_text("other")
    (folder / "model.onnx").write_bytes(b"x")
    assert model_digest(folder) == before
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        data = bytearray((folder / name).read_bytes())
        data[-2] ^= 1
        (folder / name).write_bytes(data)
        assert model_digest(folder) != before
        before = model_digest(folder)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"auto_map": {"AutoModel": "modeling.Model"}}, "'auto_map'"),
        ({"text_config": {"auto_map": {"AutoModel": "m.M"}}}, "'auto_map'"),
        ({"trust_remote_code": True}, "'trust_remote_code'"),
        ({"custom_pipelines": {"x": {"impl": "p.P"}}}, "'custom_pipelines'"),
        ({"_attn_implementation_internal": "someone/kernel"}, "_attn_implementation_internal = 'someone/kernel'"),
        ({"_attn_implementation_internal": "sdpa"}, "_attn_implementation_internal"),
        ({"attn_implementation": "someone/kernel:forward"}, "someone/kernel"),
        ({"_experts_implementation": "someone/kernel"}, "someone/kernel"),
        ({"use_kernels": True}, "'use_kernels'"),
        ({"kernel_config": {"RMSNorm": "someone/kernel"}}, "'kernel_config'"),
        ({"model_type": None}, "names no model_type"),
    ],
)
def test_config_keys_that_run_code_are_refused(folder, keys, match):
    _config(folder, **keys)
    with pytest.raises(ValueError, match=match):
        check_model_folder(folder)


def test_harmless_keys_of_published_models_are_taken(folder):
    _config(folder, attn_implementation="sdpa", _attn_implementation_autoset=True, auto_map=None, conv_kernel=[3])
    assert check_model_folder(folder) == folder


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "training_args.bin", "a.pt", "a.PKL", "a.ckpt", "sub/a.pth", "weights.data"]
)
def test_pickles_are_refused_by_name_and_by_content(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="can carry a pickle"):
        check_model_folder(folder)


def _break(folder, what):
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    if what == "code":
        (folder / "modeling.py").write_text("")
    elif what == "auto_map in the tokenizer":
        (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["t.T", null]}}')
    elif what == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "no config":
        (folder / "config.json").unlink()
    elif what == "no json":
        (folder / "config.json").write_text("{")
    elif what == "no weights":
        weights.unlink()
    elif what == "pickle renamed":
        weights.write_bytes(pickle.dumps({"a": 1}))
    elif what == "cut":
        weights.write_bytes(data[:-1])
    elif what == "longer":
        weights.write_bytes(data + b"\0")
    elif what == "key twice":
        tensor = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
        header = b"{" + tensor + b"," + tensor + b"}"
        weights.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    elif what == "leaves":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    elif what == "shard missing":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("code", "code file modeling.py"),
        ("auto_map in the tokenizer", "tokenizer_config.json of .*'auto_map'"),
        ("no tokenizer", "no tokenizer.json"),
        ("no config", "no config.json"),
        ("no json", "config.json is not JSON"),
        ("no weights", "no model.safetensors"),
        ("pickle renamed", "not a whole safetensors file"),
        ("cut", "do not cover"),
        ("longer", "do not cover"),
        ("key twice", "the key 'a' stands twice"),
        ("leaves", "a shard is a .safetensors file beside it"),
        ("shard missing", "'b.safetensors', which is not there"),
    ],
)
def test_what_is_missing_broken_or_runs_is_refused_in_one_sentence(folder, what, match):
    _break(folder, what)
    with pytest.raises(ValueError, match=match) as caught:
        check_model_folder(folder)
    assert "\n" not in str(caught.value)


def test_shards_and_all_dtypes_that_safetensors_writes(folder):
    import torch
    from safetensors.torch import save_file as save_torch

    (folder / "model.safetensors").unlink()
    save_file({"a": np.zeros((3, 4), np.float32), "ids": np.zeros((7,), np.int64)}, folder / "one.safetensors")
    halves = {str(kind): torch.zeros(5, dtype=kind) for kind in (torch.bfloat16, torch.float16, torch.int8)}
    save_torch(halves | {"none": torch.zeros(0)}, folder / "two.safetensors")
    places = dict.fromkeys(("a", "ids"), "one.safetensors") | dict.fromkeys(halves, "two.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    check_model_folder(folder)
    assert describe(folder).parameters == 12 + 15


def test_what_is_no_folder(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="does not exist"):
        check_model_folder(tmp_path / "none")
    (tmp_path / "file.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        check_model_folder(tmp_path / "file.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"'someone/model' is no folder, .* \(HF_HUB_OFFLINE is set\)"):
        check_model_folder("someone/model")


def test_an_id_is_found_in_the_local_hub_cache(original, tmp_path, monkeypatch):
    import huggingface_hub

    commit = "a" * 40
    repo = tmp_path / "models--someone--model"
    shutil.copytree(original, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = check_model_folder("someone/model")
    assert model_digest(found) == model_digest(original)
