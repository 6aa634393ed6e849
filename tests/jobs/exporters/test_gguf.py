"""What is written is each weight under llama.cpp's name, in its order, rounded by the format's own rule, or nothing."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deshi.jobs.exporters.gguf import export

models = runpy.run_path(str(Path(__file__).parent / "gguf_models.py"))
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}


def rounded(values, kind):
    """ggml's reference rules, spelled out: f16; q8_0: 127 steps up to a block's largest; q4_0: -8 is the largest."""
    if kind == "F32":
        return values
    if kind == "F16":
        return values.astype(np.float16).astype(np.float32)
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    blocks = np.where(np.abs(blocks).max(-1, keepdims=True) == 0, 1e-30, blocks)  # a block of zeros has no scale
    if kind == "Q8_0":
        scale = np.abs(blocks).max(-1, keepdims=True) / 127
        steps = np.floor(np.abs(blocks / scale) + 0.5) * np.sign(blocks)
    else:
        scale = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1) / -8
        steps = np.clip(np.trunc(blocks / scale + 8.5), 0, 15) - 8
    return (steps * scale.astype(np.float16).astype(np.float32)).reshape(values.shape)


def in_pairs(values, heads):
    """Row 2i of a head is the old row i, row 2i + 1 the old row i + d/2."""
    width = len(values) // heads
    order = [
        head * width + i + half * width // 2 for head in range(heads) for i in range(width // 2) for half in (0, 1)
    ]
    return values[order]


def expected(folder, scheme):
    """{GGUF name: (kind, values)} of all weights."""
    config = json.loads((folder / "config.json").read_text())
    edge, matrix = {"f16": ("F16", "F16"), "q8_0": ("Q8_0", "Q8_0"), "q4_0": ("Q8_0", "Q4_0")}[scheme]
    made = {}
    for source, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.numpy()
        if source.startswith("model.layers."):
            _, _, number, rest = source.split(".", 3)
            module, _, part = rest.rpartition(".")
            name = f"blk.{number}.{NAMES[module]}.{part}"
            heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
            if NAMES[module] in heads and config["model_type"] in ("llama", "mistral"):
                values = in_pairs(values, heads[NAMES[module]])
            kind = matrix
        else:
            name = {
                "model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight",
            }[source]
            kind = edge
        kind = "F32" if values.ndim == 1 else kind if values.shape[-1] % 32 == 0 else "F16"
        made[name] = kind, rounded(values, kind)
    return made


@pytest.mark.parametrize("scheme", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("shape", models["SHAPES"])
def test_each_weight_is_there_rounded_by_its_rule(tmp_path, shape, scheme):
    folder = models["tiny"](tmp_path / "model", **models["SHAPES"][shape])
    export(folder, tmp_path / "out", scheme=scheme)
    want = expected(folder, scheme)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    factors = found.pop("rope_freqs.weight", None)
    assert (factors is not None) == (shape == "llama 3 positions")
    assert found.keys() == want.keys()
    for name, (kind, values) in want.items():
        assert found[name].tensor_type.name == kind, name
        read = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        np.testing.assert_array_equal(read, values, err_msg=name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]


def test_llama_3s_frequencies_are_transformers_own(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = models["tiny"](tmp_path / "model", **models["SHAPES"]["llama 3 positions"])
    export(folder, tmp_path, scheme="f16")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    plain = 500000.0 ** -(np.arange(0, 16, 2) / 16)
    scaled = AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(plain / found["rope_freqs.weight"], scaled, rtol=1e-6)
    assert not np.allclose(plain, scaled)


def test_parts_and_half_precision_are_read_and_the_bytes_repeat(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = models["tiny"](tmp_path / "model")
    export(folder, tmp_path / "whole", scheme="f16")
    model = AutoModelForCausalLM.from_pretrained(folder).half()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    for name in ("parts", "again"):
        export(folder, tmp_path / name, scheme="f16")
    written = [(tmp_path / name / "model.gguf").read_bytes() for name in ("whole", "parts", "again")]
    assert written[1] == written[2]
    data = [gguf.GGUFReader(tmp_path / name / "model.gguf").tensors for name in ("whole", "parts")]
    matrices = [{t.name: t.data for t in tensors if t.tensor_type.name == "F16"} for tensors in data]
    for name, values in matrices[0].items():
        np.testing.assert_array_equal(values, matrices[1][name], err_msg=name)


def _config(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _weights(edit):
    def change(folder):
        state = load_file(folder / "model.safetensors")
        edit(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_config(model_type="gpt_neox"), "family 'gpt_neox'; GGUF is written for llama, mistral"),
        (_config(hidden_act="gelu"), "hidden_act 'gelu'"),
        (
            _config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
            "turns its positions by 'yarn'",
        ),
        (_config(model_type="mistral", sliding_window=64), "has a sliding window, which llama.cpp does not run"),
        (_config(model_type="qwen3", attention_bias=True), "has attention_bias, which llama.cpp does not run"),
        (
            _config(model_type="qwen2", rope_parameters=models["SHAPES"]["llama 3 positions"]["rope_parameters"]),
            "turns its positions by 'llama3'; GGUF is written here for default",
        ),
        (
            _config(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
            "positions by a partial_rotary_factor",
        ),
        (_config(num_hidden_layers=3), "lacks model.layers.2.input_layernorm.weight"),
        (_config(num_hidden_layers=1), "holds model.layers.1.input_layernorm.weight"),
        (_config(intermediate_size=64), r"mlp.gate_proj.weight in shape \[96, 64\].*asks for \[64, 64\]"),
        (_weights(lambda state: state.pop("model.norm.weight")), "lacks model.norm.weight"),
        (
            _weights(lambda state: state["model.layers.1.mlp.up_proj.weight"][3, 5:6].fill_(torch.nan)),
            "model.layers.1.mlp.up_proj.weight holds infinite or undefined",
        ),
        (
            _weights(lambda state: state["model.layers.1.self_attn.o_proj.weight"][3, 5:6].fill_(1e5)),
            "model.layers.1.self_attn.o_proj.weight has weights beyond 65504",
        ),
    ],
)
def test_what_llama_cpp_would_not_run_alike_is_refused_and_nothing_is_left(tmp_path, change, said):
    folder = models["tiny"](tmp_path / "model")
    change(folder)
    with pytest.raises(ValueError, match=said) as refusal:
        export(folder, tmp_path / "out", scheme="f16")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_unknown_scheme_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'q3_k' is not made for llama\.cpp; use f16, q8_0, q4_0"):
        export(tmp_path, tmp_path, scheme="q3_k")


def test_a_failed_export_keeps_the_file_that_was_there(tmp_path):
    folder = models["tiny"](tmp_path / "model")
    export(folder, tmp_path / "out", scheme="q8_0")
    before = (tmp_path / "out" / "model.gguf").read_bytes()
    _weights(lambda state: state["model.norm.weight"].fill_(torch.inf))(folder)
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        export(folder, tmp_path / "out", scheme="q8_0")
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [before]
