"""What comes out is the model that was in the file, in a folder that stock transformers loads, or nothing at all."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deshi.jobs.exporters.gguf import export
from deshi.jobs.import_gguf import import_gguf

models = runpy.run_path(str(Path(__file__).parent / "exporters" / "gguf_models.py"))
SHAPES = {name: shape for name, shape in models["SHAPES"].items() if name != "llama 3 positions"}
IDS = torch.from_numpy(np.random.default_rng(0).integers(3, 320, (1, 60)))


def logits(folder, **options):
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()(IDS).logits


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_that_was_written_is_read_again(tmp_path, shape):
    """Independent of the writer: the logits of the folder that it was written from, to the precision of f16."""
    folder = models["tiny"](tmp_path / "model", initializer_range=0.1, **SHAPES[shape])
    export(folder, tmp_path / "file", scheme="f16")
    import_gguf(tmp_path / "file" / "model.gguf", tmp_path / "out")
    assert (logits(tmp_path / "out") - logits(folder)).abs().max() < 0.02
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out"))
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "tie_word_embeddings",
                "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rope_parameters",
                "bos_token_id", "eos_token_id", "pad_token_id"):  # fmt: skip
        assert after[key] == before[key], key
    assert after["dtype"] == "float32" and "quantization_config" not in after
    assert after["model_type"] == before["model_type"].replace("mistral", "llama")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model", "out"]
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "out", folder))
    chat = [{"role": "user", "content": "what is 12  old bridges'?"}]
    said = [t.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for t in (ours, theirs)]
    assert said[0] == said[1]


def test_a_quantized_file_gives_what_transformers_reads_from_it(tmp_path):
    folder = models["tiny"](tmp_path / "model")
    export(folder, tmp_path, scheme="q4_0")
    import_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path, gguf_file="model.gguf"))


def test_a_file_it_made_is_made_again(tmp_path):
    """Export, import, export: blocks of a scale and integers are found again, bit for bit."""
    folder = models["tiny"](tmp_path / "model")
    export(folder, tmp_path, scheme="q8_0")
    import_gguf(tmp_path / "model.gguf", tmp_path / "out")
    export(tmp_path / "out", tmp_path / "again", scheme="q8_0")
    first, second = (gguf.GGUFReader(path / "model.gguf") for path in (tmp_path, tmp_path / "again"))
    assert {n: f.contents() for n, f in first.fields.items()} == {n: f.contents() for n, f in second.fields.items()}
    for ours, theirs in zip(first.tensors, second.tensors, strict=True):
        a, b = (gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6, err_msg=ours.name)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    export(models["tiny"](folder / "model"), folder, scheme="f16")
    return gguf.GGUFReader(folder / "model.gguf")


def rewritten(reader, path, metadata, tensors):
    """The file with other metadata (None: without the key) and tensors ({name: array or None})."""
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(path, metadata.get("general.architecture", "llama"))
    for name, value in (fields | metadata).items():
        if name == "general.architecture" or value is None:
            continue
        same = name in fields and type(fields[name]) is type(value)
        kinds = reader.fields[name].types if same else [gguf.GGUFValueType.get_type(value)]
        writer.add_key_value(name, value, kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    for name, values in ({tensor.name: tensor.data for tensor in reader.tensors} | tensors).items():
        if values is not None:
            writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


NAN = np.full((64, 96), np.nan, np.float16)


@pytest.mark.parametrize(
    ("metadata", "tensors", "said"),
    [
        ({"general.architecture": "gptneox"}, {}, "its architecture is 'gptneox'; these are read: llama, qwen2, qwen3"),
        ({"general.architecture": "llama4"}, {}, "its architecture is 'llama4'"),
        ({"split.count": 3}, {}, "it is one of 3 parts"),
        ({"llama.rope.scaling.type": "linear"}, {}, "it scales its positions"),
        ({}, {"rope_freqs.weight": np.ones(8, np.float32)}, "it scales its positions"),
        ({"llama.attention.sliding_window": 64}, {}, "sliding window"),
        ({"llama.rope.dimension_count": 8}, {}, r"16 wide but rope\.dimension_count is 8"),
        ({"llama.attention.value_length": 32}, {}, r"16 wide but attention\.value_length is 32"),
        ({"llama.embedding_length": None}, {}, r"does not tell llama\.embedding_length"),
        ({"llama.attention.head_count": 0}, {}, r"head_count is 0, no count"),
        ({"llama.attention.head_count": "4"}, {}, r"head_count is '4', no count"),
        ({"llama.attention.head_count_kv": [2, 1]}, {}, r"head_count_kv is \[2, 1\], no count"),
        ({"llama.attention.head_count": 5}, {}, "64 is no multiple of its 5 heads"),
        ({"llama.block_count": 2**31 - 1}, {}, "2147483647 layers but has 20 tensors"),
        ({"llama.block_count": 3}, {}, r"lacks blk\.2\.attn_k\.weight"),
        ({"llama.feed_forward_length": 128}, {}, r"blk\.0\.ffn_gate\.weight in shape \(96, 64\) where .* \(128, 64\)"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, {}, "epsilon is nan, no positive number"),
        ({"tokenizer.ggml.model": "llama"}, {}, "tokenizer is of the kind 'llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, {}, "cuts texts by the rule 'tekken'"),
        ({}, {"token_embd.weight": np.ones((300, 64), np.float16)}, r"token_embd\.weight in shape \(300, 64\)"),
        ({}, {"blk.0.ffn_gate_inp.weight": np.ones((4, 64), np.float32)}, r"holds blk\.0\.ffn_gate_inp\.weight"),
        ({}, {"blk.1.attn_q.bias": np.ones(64, np.float32)}, r"holds blk\.1\.attn_q\.bias"),
        ({}, {"blk.1.ffn_norm.weight": None}, r"lacks blk\.1\.ffn_norm\.weight"),
        ({}, {"blk.0.ffn_down.weight": NAN}, r"blk\.0\.ffn_down\.weight holds infinite or undefined"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_is_left(written, tmp_path, metadata, tensors, said):
    source = tmp_path / "bad.gguf"
    rewritten(written, source, metadata, tensors)
    with pytest.raises(ValueError, match=said) as refusal:
        import_gguf(source, tmp_path / "deep" / "out")
    assert str(refusal.value).startswith(f"{source} cannot be imported: ") and "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == [source]


def test_the_unchanged_copy_is_read(written, tmp_path):
    """So the refusals above are for what was changed."""
    rewritten(written, tmp_path / "copy.gguf", {}, {})
    (tmp_path / "out").mkdir()
    import_gguf(tmp_path / "copy.gguf", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_out_in_use_a_missing_and_a_broken_file_are_refused(written, tmp_path):
    rewritten(written, tmp_path / "good.gguf", {}, {})
    content = (tmp_path / "good.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) // 2])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for source, out, said in (
        ("good.gguf", "used", "used exists and is not an empty folder"),
        ("good.gguf", "cut.gguf", r"cut\.gguf exists and is not an empty folder"),
        ("none.gguf", "out", r"none\.gguf does not exist"),
        ("cut.gguf", "out", r"cut\.gguf is broken or cut off"),
        ("used", "out", "is a folder"),
    ):
        with pytest.raises(ValueError, match=said):
            import_gguf(tmp_path / source, tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "cut.gguf").read_bytes() == content[: len(content) // 2]


def test_a_failure_while_writing_leaves_nothing(written, tmp_path, monkeypatch):
    rewritten(written, tmp_path / "good.gguf", {}, {})

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("deshi.jobs.import_gguf.write_folder", full)
    with pytest.raises(OSError, match="No space"):
        import_gguf(tmp_path / "good.gguf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["good.gguf"]
