"""Candidate folders that are real and tiny: two builds that know three words, and a Llama that says one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from deshi.serve.serving import ANY_SHAPE, SHAPE_CLASSES, ServedTarget, Serving

WORDS = ("[UNK]", "who", "where", "when")
LABELS = ("PERSON", "PLACE", "TIME")


def _write_candidate(folder: Path) -> None:
    """Logits: static-fp32 4 times the share of the label's word among the known ones, onnxruntime-fp32 4 a word."""
    model = folder / "model"
    model.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps({"normalize": False}))
    vectors = np.vstack([np.zeros(3), np.eye(3)]).astype(np.float32)
    save_file({"embeddings": vectors}, model / "model.safetensors")
    save_file({"weight": 4 * np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)}, model / "head.safetensors")
    (folder / "engines" / "static-fp32").mkdir(parents=True)
    (folder / "engines" / "static-fp32" / "build.json").write_text("{}")
    _write_onnx(folder / "engines" / "onnxruntime-fp32", 4 * vectors)
    targets = {
        "onprem": ServedTarget(threads=1, builds=dict.fromkeys(SHAPE_CLASSES, "static-fp32")),
        "edge": ServedTarget(threads=1, builds=dict.fromkeys(SHAPE_CLASSES, "onnxruntime-fp32")),
    }
    Serving(name="tiny", labels=LABELS, max_length=8, targets=targets).write(folder)


def _write_onnx(folder: Path, table: np.ndarray) -> None:
    """logits = sum over the tokens of mask * table[id]."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["logits"], keepdims=0),
    ]
    constants = {"table": table, "last": np.array([2]), "tokens": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "model.onnx")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Read-only: copy it before you change it."""
    folder = tmp_path_factory.mktemp("tiny") / "candidate"
    _write_candidate(folder)
    return folder


SAYS = "Hey 😀ü!"  # again and again; its bytes differ, and each is a token
CHAT = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_parrot(folder: Path) -> None:
    """A Llama whose layers add nothing: the next token is looked up in the head by the last one.

    A token of `SAYS` is followed by the next one, "." by the end, any other by "H", with the logit 8; all else has 0.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model_folder = folder / "model"
    model_folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        ["the station is where the train is " * 4],
        trainers.BpeTrainer(
            vocab_size=270, special_tokens=ends, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
        ),
    )
    tokenizer.save(str(model_folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHAT}
    (model_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    size = tokenizer.get_vocab_size()
    cycle = tokenizer.encode(SAYS).ids
    assert len(set(cycle)) == len(cycle) == len(SAYS.encode())
    following = dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    following[tokenizer.token_to_id(".")] = tokenizer.token_to_id("<|im_end|>")
    known = list(following)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, len(known)] = 1
        model.lm_head.weight.zero_()
        model.lm_head.weight[cycle[0], len(known)] = 1  # the norm makes 8 of a lone 1 in 64
        for place, token in enumerate(known):
            model.model.embed_tokens.weight[token] = torch.eye(64)[place]
            model.lm_head.weight[following[token], place] = 1
    model.save_pretrained(model_folder)


@pytest.fixture(scope="session")
def parrot(tmp_path_factory) -> Path:
    """A candidate that writes: llama.cpp with eight slots and with one, PyTorch, and our kernels. Read-only."""
    from deshi.jobs.exporters.gguf import export
    from deshi.jobs.exporters.integers import export_integers

    folder = tmp_path_factory.mktemp("parrot") / "candidate"
    write_parrot(folder)
    for build in ("llamacpp-f16", "torch_generate-fp32"):
        (folder / "engines" / build).mkdir(parents=True)
    export(folder / "model", folder / "engines" / "llamacpp-f16", scheme="f16")
    (folder / "engines" / "torch_generate-fp32" / "build.json").write_text("{}")
    export_integers(folder / "model", folder / "engines" / "triton-w8a16", scheme="w8a16")
    targets = {
        "triton": ServedTarget(threads=1, slots=2, builds={ANY_SHAPE: "triton-w8a16"}),
        "eight": ServedTarget(threads=1, slots=8, builds={ANY_SHAPE: "llamacpp-f16"}),
        "one": ServedTarget(threads=1, slots=1, builds={ANY_SHAPE: "llamacpp-f16"}),
        "torch": ServedTarget(threads=1, slots=2, builds={ANY_SHAPE: "torch_generate-fp32"}),
    }
    Serving(name="parrot", task="generate", max_length=16384, targets=targets).write(folder)
    return folder
