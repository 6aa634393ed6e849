"""Pruning of language models against zeroed parts of the original, hand formulas and stock loading."""

import copy
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from deshi.jobs.stages import importance, prune, prune_lm
from deshi.jobs.stages.architectures import DECODERS, decoder_of
from deshi.jobs.stages.prune_schedule import check_goal, shape_of

VOCABULARY = 300
OWN = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {},
}


def tiny(model_type="llama", seed=0, tied=True):
    """A random model, 4 layers, 6 query heads in 3 groups; weights large enough that a wrong part shows."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=16,
        max_position_embeddings=128,
        rms_norm_eps=1e-9,
        tie_word_embeddings=tied,
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **OWN[model_type]},
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if "norm" in name else 0, 0.2)
    return model


def padded(seed=1):
    ids = torch.randint(2, VOCABULARY, (6, 11), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    for row in range(6):
        mask[row, 4 + row :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def packed(batch):
    """The same sequences one behind the other, without padding."""
    rows = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    return {"input_ids": torch.cat(rows)[None], "position_ids": positions[None]}


def logits_of(model, batch=None):
    batch = batch or padded()
    with torch.no_grad():
        return model(**batch).logits[batch["attention_mask"].bool()]


def assert_close(left, right, atol=1e-5):
    torch.testing.assert_close(left, right, atol=atol, rtol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with a byte-level BPE tokenizer, a chat template and a generation config."""
    place = tmp_path_factory.mktemp("teacher")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the cat sat on the mat, the dog ran to the park"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
    fast.save_pretrained(place)
    tiny().save_pretrained(place)
    GenerationConfig(eos_token_id=[1, 0], max_new_tokens=7).save_pretrained(place)
    return place


@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_dropping_groups_equals_silencing_their_heads(model_type):
    model = tiny(model_type)
    judged = torch.rand(4, 3, generator=torch.Generator().manual_seed(3))
    pruned = prune_lm.prune_groups(model, judged, 2)
    silenced = copy.deepcopy(model)
    for layer, scores in enumerate(judged):
        weakest = int(scores.argmin())
        heads = [head for head in range(6) if head // 2 == weakest]  # a query head reads key-value head q // 2
        with torch.no_grad():
            for head in heads:
                silenced.model.layers[layer].self_attn.o_proj.weight[:, 16 * head : 16 * head + 16] = 0
    assert_close(logits_of(pruned), logits_of(silenced))
    assert (logits_of(pruned) - logits_of(model)).abs().max() > 1e-2
    config = pruned.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 16)


@pytest.mark.parametrize("model_type", sorted(DECODERS))
@pytest.mark.parametrize("tied", [True, False])
def test_dropping_channels_that_are_always_zero_changes_nothing(model_type, tied):
    model = tiny(model_type, tied=tied)
    dead = torch.randperm(96, generator=torch.Generator().manual_seed(4))[:36]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
                parameter[dead] = 0
            if name.endswith("embed_tokens.weight"):
                parameter[:, dead] = 0
    judged = prune_lm.hidden_importance(model, [padded()])
    kept = importance.strongest(judged, 60)
    assert not set(kept.tolist()) & set(dead.tolist())
    pruned = prune_lm.prune_hidden(model, kept)
    assert_close(logits_of(pruned), logits_of(model), atol=1e-4)
    assert pruned.get_input_embeddings().weight.shape == pruned.lm_head.weight.shape == (VOCABULARY, 60)
    others = torch.arange(60)
    assert (logits_of(prune_lm.prune_hidden(model, others)) - logits_of(model)).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_dropping_neurons_equals_silencing_them(model_type):
    model = tiny(model_type)
    judged = torch.rand(4, 128, generator=torch.Generator().manual_seed(2))
    silenced = copy.deepcopy(model)
    for layer, scores in enumerate(judged):
        with torch.no_grad():
            silenced.model.layers[layer].mlp.down_proj.weight[:, scores.argsort()[:64]] = 0
    assert_close(logits_of(prune.prune_ffn(model, judged, 64)), logits_of(silenced))


@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_dropping_a_layer_that_writes_nothing_changes_nothing(model_type):
    model = tiny(model_type)
    with torch.no_grad():
        for name, parameter in model.model.layers[1].named_parameters():
            if name.startswith(("self_attn.o_proj", "mlp.down_proj")):
                parameter.zero_()
    influence = importance.block_influence(model, [padded()])
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert prune.keep_layers(3, 4, influence) == (0, 2, 3)
    pruned = prune.prune_depth(model, (0, 2, 3))
    assert_close(logits_of(pruned), logits_of(model))
    assert [layer.self_attn.layer_idx for layer in pruned.model.layers] == [0, 1, 2]
    if model_type == "qwen2":
        assert pruned.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]


def test_block_influence_by_hand():
    model, batch = tiny(), padded()
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out))) for layer in model.model.layers
    ]
    logits_of(model, batch)
    for hook in hooks:
        hook.remove()
    real = batch["attention_mask"].bool()
    expected = []
    for before, after in seen:
        x, y = before[real].double().numpy(), after[real].double().numpy()
        expected.append(1 - np.mean((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)))
    assert importance.block_influence(model, [batch]) == pytest.approx(expected, abs=1e-5)


def test_group_importance_by_hand():
    model, batch = tiny(), padded()
    attention = model.model.layers[2].self_attn
    seen = []
    hook = attention.o_proj.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    logits_of(model, batch)
    hook.remove()
    entering = seen[0][batch["attention_mask"].bool()].double().numpy()
    weight = attention.o_proj.weight.detach().double().numpy()
    expected = []
    for group in range(3):
        written = np.zeros((len(entering), 96))
        for column in range(32 * group, 32 * group + 32):
            written += np.outer(entering[:, column], weight[:, column])
        expected.append(np.sqrt((written**2).sum(1)).mean())
    found = prune_lm.group_importance(model, [batch])
    np.testing.assert_allclose(found[2].numpy(), expected, rtol=1e-5)


def test_hidden_importance_by_hand():
    model, batch = tiny(), padded()
    with torch.no_grad():
        hidden = model.model(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    expected = hidden[-1][real].abs().double().mean(0)  # transformers gives the last one after the final norm
    for layer, entering in zip(model.model.layers, hidden, strict=False):
        x = entering[real].double()
        scaled = x / (x.square().mean(1, keepdim=True) + model.config.rms_norm_eps).sqrt()
        expected += (scaled * layer.input_layernorm.weight).abs().mean(0)
    after = []
    hooks = [
        layer.post_attention_layernorm.register_forward_hook(lambda _, args, out: after.append(out[real]))
        for layer in model.model.layers
    ]
    logits_of(model, batch)
    for hook in hooks:
        hook.remove()
    expected += torch.stack(after).abs().double().mean(1).sum(0)
    assert_close(prune_lm.hidden_importance(model, [batch]), expected.detach(), atol=1e-4)


@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_packed_sequences_are_measured_as_padded_ones(model_type):
    model, batch = tiny(model_type), padded()
    for measure in (
        lambda batches: torch.tensor(importance.block_influence(model, batches)),
        lambda batches: importance.ffn_importance(model, batches),
        lambda batches: prune_lm.group_importance(model, batches),
        lambda batches: prune_lm.hidden_importance(model, batches),
    ):
        assert_close(measure([packed(batch)]), measure([batch]), atol=1e-5)


@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_the_folder_loads_in_stock_transformers_and_generates(model_type, tmp_path):
    tiny(model_type).save_pretrained(tmp_path / "teacher")
    shape = prune_lm.prune_lm(
        tmp_path / "teacher", tmp_path / "out", calibration=[padded()], layers=3, ffn=96, kv_groups=2, hidden=64
    )
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert shape_of(model.config) == shape
    assert (shape.layers, shape.ffn, shape.kv_groups, shape.hidden, shape.head_dim) == (3, 96, 2, 64, 16)
    counted = sum(p.numel() for name, p in model.model.layers.named_parameters() if not name.endswith("bias"))
    own = 2 * 16 * shape.layers if model_type == "qwen3" else 0  # norms of queries and keys
    assert counted == shape.parameters + own
    prompt = padded()["input_ids"][:1]
    with_cache = model.generate(prompt, max_new_tokens=5, do_sample=False, eos_token_id=None)
    for place in range(11, 16):  # each token is the best one of a pass without a cache
        assert with_cache[0, place] == model(with_cache[:, :place]).logits[0, -1].argmax()


def test_what_stands_beside_the_model_is_kept(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batches = importance.calibration_batches(tokenizer, ["the cat sat", "a dog"], max_length=9)
    prune_lm.prune_lm(folder, tmp_path / "out", calibration=batches, layers=(0, 3), kv_groups=1)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_key_value_heads"] == 1
    old, new = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "the cat ☃"}]
    assert new.apply_chat_template(messages, tokenize=False) == "<s>the cat ☃</s>"
    assert new("the cat ☃")["input_ids"] == old("the cat ☃")["input_ids"]
    assert GenerationConfig.from_pretrained(tmp_path / "out").max_new_tokens == 7
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.layers[1].mlp.up_proj.weight
    whole = AutoModelForCausalLM.from_pretrained(folder).model.layers[3].mlp.up_proj.weight
    assert torch.equal(kept, whole)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": 5}, "layers 5 must be a multiple of 1 from 1 to 4"),
        ({"ffn": 40}, "ffn 40 must be a multiple of 32"),
        ({"kv_groups": 0}, "kv_groups 0 must be"),
        ({"hidden": 64}, "hidden 64 must be a multiple of 96"),
        ({"layers": 2, "calibration": []}, "calibration has no tokens"),
    ],
)
def test_shapes_that_cannot_be_are_refused_before_any_work(folder, tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        prune_lm.prune_lm(folder, tmp_path / "out", **{"calibration": [padded()], **asked})
    assert not (tmp_path / "out").exists()


def test_other_refusals():
    with pytest.raises(ValueError, match="importance has shape"):
        prune_lm.prune_groups(tiny(), torch.rand(4, 6), 2)
    with pytest.raises(ValueError, match="hidden 64 is no multiple of the 6 heads"):
        prune_lm.prune_hidden(tiny(), torch.arange(64))
    with pytest.raises(ValueError, match="'gpt2' is no language model of the Llama layout"):
        decoder_of(AutoConfig.for_model("gpt2"))
    shape = shape_of(tiny(seed=5).config)
    check_goal(shape, shape)
