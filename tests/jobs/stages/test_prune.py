"""Pruning against what it must equal: masks in the original, layers skipped by hand, scikit-learn, numpy."""

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from deshi.jobs.stages import importance
from deshi.jobs.stages import prune as pruning
from deshi.jobs.stages.architectures import ARCHITECTURES, architecture_of
from deshi.jobs.stages.quantize import fake_quantize
from deshi.kernels.int8 import dequantize_int8, quantize_int8

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
SMALL = {"vocab_size": len(WORDS), "num_labels": 3, "pad_token_id": 0, "max_position_embeddings": 64}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
OWN = {
    "distilbert": {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48},
    "electra": {**SHAPE, "embedding_size": 16},
    "modernbert": {
        **SHAPE,
        **{f"{name}_token_id": 2 for name in ("bos", "cls")},
        **{f"{name}_token_id": 3 for name in ("eos", "sep")},
    },
    "mpnet": {**SHAPE, "pad_token_id": 1},
    "deberta-v2": {
        **SHAPE,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": 16,
    },
}


def tiny(model_type="bert", seed=0):
    """A random classifier; weights far from the tiny initial ones, so that a wrong neuron shows."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**SMALL, **OWN.get(model_type, SHAPE)})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(0, 0.2)
    return model


def some_batches(rows=12, seed=1):
    """Two batches with padding on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, len(WORDS), (rows, 9), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, 3 + row % 7 :] = 0
    ids = ids * mask + (1 - mask)  # padding is token 1 here: importance must go by the mask, not by the id
    half = rows // 2
    return [{"input_ids": ids[part], "attention_mask": mask[part]} for part in (slice(0, half), slice(half, None))]


def logits_of(model, batches):
    with torch.no_grad():
        return torch.cat([model(**batch).logits for batch in batches])


@pytest.fixture
def folder(tmp_path):
    """A saved teacher with a tokenizer of letters."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(tmp_path / "teacher")
    tiny().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_ffn_pruning_equals_zeroing_the_neurons(model_type):
    model, batches = tiny(model_type), some_batches()
    row = architecture_of(model.config)
    judged = torch.rand(4, 48, generator=torch.Generator().manual_seed(2))
    pruned = pruning.prune_ffn(model, judged, 16)

    masked = copy.deepcopy(model)
    for layer, scores in zip(row.layer_list(masked), judged, strict=True):
        weakest = scores.argsort()[: 48 - 16]
        with torch.no_grad():
            row.ffn_out_of(layer).weight[:, weakest] = 0  # a neuron whose outgoing weights are zero is not there
    torch.testing.assert_close(logits_of(pruned, batches), logits_of(masked, batches), atol=1e-5, rtol=1e-5)
    assert (logits_of(pruned, batches) - logits_of(model, batches)).abs().max() > 1e-3
    assert row.ffn(pruned.config) == 16
    assert pruned.num_parameters() < model.num_parameters()


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_depth_pruning_equals_skipping_the_layers(model_type):
    model, batches = tiny(model_type), some_batches()
    row = architecture_of(model.config)
    pruned = pruning.prune_depth(model, (0, 2, 3))
    assert row.depth(pruned.config) == len(row.layer_list(pruned)) == 3

    class Skip(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.attention_type = getattr(layer, "attention_type", None)

        def forward(self, hidden, *args, **kwargs):
            return (hidden, None) if model_type in ("mpnet", "deberta-v2") else hidden

    skipping = copy.deepcopy(model)
    layers = row.layer_list(skipping)
    layers[1] = Skip(layers[1])
    torch.testing.assert_close(logits_of(pruned, batches), logits_of(skipping, batches), atol=1e-5, rtol=1e-5)


def test_depth_pruning_equals_a_loop_written_by_hand():
    model, (batch, _) = tiny(), some_batches()
    encoder = model.bert
    allowed = batch["attention_mask"].bool()[:, None, None, :]
    with torch.no_grad():
        hidden = encoder.embeddings(input_ids=batch["input_ids"])
        for layer in (1, 3):
            hidden = encoder.encoder.layer[layer](hidden, allowed)
        by_hand = model.classifier(encoder.pooler(hidden))
        pruned = pruning.prune_depth(model, (1, 3))(**batch).logits
    torch.testing.assert_close(pruned, by_hand, atol=1e-5, rtol=1e-5)


def test_block_influence_is_one_minus_the_mean_cosine_over_real_tokens():
    model, batches = tiny(), some_batches()
    found = importance.block_influence(model, batches)
    cosines = [[] for _ in range(4)]
    for batch in batches:
        with torch.no_grad():
            hidden = model.bert(**batch, output_hidden_states=True).hidden_states
        for layer in range(4):
            before, after = (hidden[layer + step][batch["attention_mask"] == 1].numpy() for step in (0, 1))
            norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
            cosines[layer].extend((before * after).sum(axis=1) / norms)
    assert found == pytest.approx([1 - np.mean(values) for values in cosines], abs=1e-5)


def test_ffn_importance_by_hand_and_padding_does_not_count():
    model, batches = tiny(), some_batches()
    found = importance.ffn_importance(model, batches)
    row = architecture_of(model.config)
    for layer in range(4):
        values = []
        for batch in batches:
            seen = []
            intermediate = row.layer_list(model)[layer].intermediate
            hook = intermediate.register_forward_hook(lambda _, args, out, seen=seen: seen.append(out.detach()))
            logits_of(model, [batch])
            hook.remove()
            values.append(seen[0][batch["attention_mask"] == 1].abs().numpy())
        norm = np.sqrt((row.ffn_out_of(row.layer_list(model)[layer]).weight.detach().numpy() ** 2).sum(axis=0))
        np.testing.assert_allclose(found[layer].numpy(), np.concatenate(values).mean(axis=0) * norm, rtol=1e-4)

    longer = [{k: torch.nn.functional.pad(v, (0, 5), value=k == "input_ids") for k, v in b.items()} for b in batches]
    torch.testing.assert_close(found, importance.ffn_importance(model, longer), atol=1e-6, rtol=1e-4)


def test_refit_head_equals_scikit_learn():
    model, batches = tiny(), some_batches(40)
    teacher = torch.randn(40, 3, generator=torch.Generator().manual_seed(5)) * 4 + 7
    refitted = pruning.refit_head(model, batches, teacher.numpy(), ridge=0.05)

    x = pruning.head_features(model, batches).numpy()
    y = teacher.double().numpy()
    y -= y.mean(axis=1, keepdims=True)
    alpha = 0.05 * np.square(x - x.mean(axis=0)).sum() / x.shape[1]
    reference = Ridge(alpha=alpha).fit(x, y)
    np.testing.assert_allclose(refitted.classifier.weight.detach().numpy(), reference.coef_, atol=1e-5)
    np.testing.assert_allclose(refitted.classifier.bias.detach().numpy(), reference.intercept_, atol=1e-5)
    assert not torch.equal(model.classifier.weight, refitted.classifier.weight)


def test_ridge_without_shrinking_is_least_squares():
    generator = torch.Generator().manual_seed(6)
    x, y = torch.randn(50, 5, generator=generator).double(), torch.randn(50, 3, generator=generator).double()
    weight, bias = pruning.ridge_head(x, y, 0.0)
    design = np.hstack([x.numpy(), np.ones((50, 1))])
    reference, *_ = np.linalg.lstsq(design, y.numpy() - y.numpy().mean(axis=1, keepdims=True), rcond=None)
    np.testing.assert_allclose(np.hstack([weight.numpy(), bias.numpy()[:, None]]), reference.T, atol=1e-10)


def test_keep_layers():
    assert pruning.keep_layers(3, 6) == (0, 3, 5)
    assert pruning.keep_layers(6, 6) == tuple(range(6))
    assert pruning.keep_layers(1, 6) == (0,)
    assert pruning.keep_layers(2, 4, [0.1, 0.4, 0.2, 0.3]) == (1, 3)
    with pytest.raises(ValueError, match="from 1 to 6"):
        pruning.keep_layers(7, 6)


def test_the_folder_loads_in_stock_transformers(folder, tmp_path):
    texts = ["a b c", "d e f g h", "z", "q w e r t y"] * 5
    model = pruning.load_classifier(folder)
    batches = importance.calibration_batches(AutoTokenizer.from_pretrained(folder), texts, max_length=6)
    teacher = logits_of(model, batches).numpy()
    out = tmp_path / "pruned"
    pruning.prune(
        folder,
        out,
        layers=(0, 3),
        ffn=16,
        calibration=texts,
        teacher_logits=teacher,
        max_length=6,
        ridge=0.01,
    )
    shallow = pruning.prune_depth(model, (0, 3))
    expected = pruning.prune_ffn(shallow, importance.ffn_importance(shallow, batches), 16)
    expected = pruning.refit_head(expected, batches, teacher, 0.01)

    reloaded = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert (reloaded.config.num_hidden_layers, reloaded.config.intermediate_size) == (2, 16)
    encoded = AutoTokenizer.from_pretrained(out)(texts[:4], padding=True, return_tensors="pt")
    torch.testing.assert_close(logits_of(reloaded, [encoded]), logits_of(expected, [encoded]), atol=1e-6, rtol=1e-6)
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    assert not [path.name for path in out.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_importance_can_come_from_the_quantized_form(folder, tmp_path):
    texts = ["a b c", "d e f g h", "z", "q w e r t y"] * 5
    fake_quantize(folder, tmp_path / "int8", load=pruning.load_classifier)
    parent, form = (pruning.load_classifier(place) for place in (folder, tmp_path / "int8"))
    weight = parent.bert.encoder.layer[1].output.dense.weight
    rounded = form.bert.encoder.layer[1].output.dense.weight
    torch.testing.assert_close(rounded, dequantize_int8(*quantize_int8(weight)), atol=0, rtol=0)
    assert not torch.equal(weight, rounded)

    options = {"layers": (0, 1, 2, 3), "ffn": 24, "calibration": texts, "max_length": 6}
    teacher = np.zeros((20, 3), np.float32)
    out = tmp_path / "out"
    pruning.prune(folder, out, teacher_logits=teacher, importance_folder=tmp_path / "int8", **options)
    batches = importance.calibration_batches(AutoTokenizer.from_pretrained(folder), texts, max_length=6)
    kept = importance.ffn_importance(form, batches)[1].topk(24).indices.sort().values
    cut = pruning.load_classifier(out).bert.encoder.layer[1].output.dense.weight
    torch.testing.assert_close(cut, weight[:, kept], atol=0, rtol=0)  # the parent's weights, the form's choice


@pytest.mark.parametrize("width", [0, -8, 12, 56])
def test_a_width_that_cannot_be_is_refused(width):
    model = tiny()
    with pytest.raises(ValueError, match=f"ffn {width} must be a multiple of 8 from 8 to 48"):
        pruning.prune_ffn(model, torch.rand(4, 48), width)


@pytest.mark.parametrize("kept", [(), (0, 4), (-1, 2), (2, 1), (1, 1)])
def test_layers_that_are_not_there_are_refused(kept):
    with pytest.raises(ValueError, match="from 0 to 3"):
        pruning.prune_depth(tiny(), kept)


def test_other_refusals():
    with pytest.raises(ValueError, match="keep layer 0"):
        pruning.prune_depth(tiny("modernbert"), (1, 2))
    with pytest.raises(ValueError, match="importance has shape"):
        pruning.prune_ffn(tiny(), torch.rand(3, 48), 16)
    with pytest.raises(ValueError, match="teacher_logits has shape"):
        pruning.refit_head(tiny(), some_batches(), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"model_type 'llama' .* bert, roberta"):
        architecture_of(AutoConfig.for_model("llama"))


def test_pruning_draws_nothing_from_the_seed():
    model = tiny()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pruning.prune_depth(model, (0, 1))
    assert torch.equal(torch.rand(1), expected)
