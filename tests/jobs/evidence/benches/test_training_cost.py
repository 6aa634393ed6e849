"""The arithmetic of a plan against what torch counts, what autograd keeps and what DeepSpeed estimates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, LlamaConfig

from deshi.jobs.evidence.benches import training_cost as costs
from deshi.jobs.evidence.benches.network_size import config_of, narrower, network_of, shallower
from deshi.jobs.stages.candidate import Candidate

ROWS, LENGTH = 2, 32
EXAMPLES = Path(__file__).resolve().parents[4] / "examples"


def llama(**changed):
    fields = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**fields | changed)


def zero(stage, ranks=8, **changed):
    return costs.Zero(**{"stage": stage, "ranks": ranks, "bucket": 0, "buckets": 1, "live": 0} | changed)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_real_model(tied):
    config = llama(tie_word_embeddings=tied)
    real = AutoModelForCausalLM.from_config(config)
    network = network_of(config, task="generate")
    assert network.parameters == sum(weight.numel() for weight in real.parameters())
    assert network.layer_weights == 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96)
    assert network.head_weights == network.largest == 320 * 64


def test_parameters_of_published_models():
    smollm2 = llama(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    assert network_of(smollm2, task="generate").parameters == 134_515_008
    eight = config_of(EXAMPLES / "chat/configs/llama-8b.json", task="generate")
    assert network_of(eight, task="generate").parameters == 8_030_261_248


def test_a_cut_config_has_the_shape_of_the_cut_model(tmp_path):
    from deshi.jobs.stages.prune_lm import prune_lm

    AutoModelForCausalLM.from_config(llama()).save_pretrained(tmp_path / "whole")
    ids = torch.arange(16)[None]
    calibration = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    prune_lm(tmp_path / "whole", tmp_path / "cut", calibration=calibration, layers=2, ffn=64, kv_groups=1, hidden=32)
    told = network_of(
        narrower(shallower(llama(), 2), Candidate(ffn=0.7, kv_groups=1, hidden=32), task="generate"), task="generate"
    )
    assert told == network_of(config_of(tmp_path / "cut", task="generate"), task="generate")


@pytest.mark.parametrize(("recomputed", "tolerance"), [(False, 0), (True, 0.05)])
def test_operations_of_a_language_model_are_those_that_torch_counts(recomputed, tolerance):
    model = AutoModelForCausalLM.from_config(llama(), attn_implementation="eager").train()
    if recomputed:
        model.gradient_checkpointing_enable()
    network, targets = network_of(llama(), task="generate"), 40
    work = costs.Work(tokens=ROWS * LENGTH, targets=targets, row_length=LENGTH)
    ids = torch.randint(0, 320, (ROWS, LENGTH))

    def loss():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.reshape(-1, 64)[:targets]
        return model.lm_head(hidden).sum()

    with FlopCounterMode(display=False) as forward, torch.no_grad():
        loss()
    assert forward.get_total_flops() == costs.forward_flops(network, work)
    with FlopCounterMode(display=False) as both:
        loss().backward()
    # recomputation stops at the last number that is needed, a product before the layer's end
    expected = costs.training_flops(network, work, recomputed=recomputed)
    assert both.get_total_flops() == pytest.approx(expected, rel=tolerance)


def test_operations_of_a_classifier():
    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
    )
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    work = costs.Work(tokens=ROWS * LENGTH, targets=ROWS, row_length=LENGTH)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.zeros(ROWS, LENGTH, dtype=torch.long))
    assert counted.get_total_flops() == costs.forward_flops(network_of(config, task="classify"), work)


def saved_bytes(model, ids):
    """What autograd keeps of a decoder's forward pass, its own weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen, kept = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # else its address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, use_cache=False)
    return sum(seen.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_of_a_layer_are_what_autograd_keeps(checkpointing):
    ids = torch.randint(0, 320, (ROWS, 128))
    kept = []
    for layers in (2, 5):
        model = AutoModelForCausalLM.from_config(llama(num_hidden_layers=layers), attn_implementation="sdpa").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        kept.append(saved_bytes(model.get_decoder(), ids))
    work = costs.Work(tokens=ROWS * 128, targets=0, row_length=128)
    told = [
        costs.activation_bytes(
            network_of(llama(num_hidden_layers=layers), task="generate"),
            work,
            width=4,
            checkpointing=checkpointing,
            scores_kept=False,
        )
        for layers in (2, 5)
    ]
    assert told[1] - told[0] == pytest.approx(kept[1] - kept[0], rel=0.05)


def test_activations_of_a_plain_feed_forward_are_the_paper_s():
    hidden, heads, length, layers, rows = 64, 4, 128, 6, 3
    network = costs.Network(
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_dim=16,
        ffn=4 * hidden,
        gated=False,
        vocabulary=9,
        parameters=1,
        layer_weights=1,
        head_weights=1,
        largest=1,
    )
    work = costs.Work(tokens=rows * length, targets=0, row_length=length)
    told = costs.activation_bytes(network, work, width=2, checkpointing=False, scores_kept=True)
    assert told == layers * length * rows * hidden * (34 + 5 * heads * length / hidden)


@pytest.mark.parametrize("nodes", [1, 2])
def test_states_are_deepspeed_s_estimate_less_what_it_adds(nodes):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    parameters, largest, each = 3_000_000, 400_000, 4
    ranks = nodes * each
    _, two = estimate_zero2_model_states_mem_needs(parameters, each, nodes, cpu_offload=False)
    assert sum(costs.states(parameters, "bf16", zero(2, ranks))) == two - 4 * parameters / ranks
    _, three, _ = estimate_zero3_model_states_mem_needs(parameters, largest, each, nodes, cpu_offload=False)
    network = costs.Network(
        **dict.fromkeys(("layers", "hidden", "heads", "head_dim", "ffn", "vocabulary"), 1),
        gated=False,
        parameters=parameters,
        layer_weights=1,
        head_weights=1,
        largest=largest,
    )
    memory = costs.rank_memory(
        network,
        zero(3, ranks),
        precision="bf16",
        micro_batch=costs.Work(tokens=0, targets=0, row_length=1),
        checkpointing=False,
        scores_kept=False,
        chunk=0,
        teacher=None,
    )
    assert memory.total == three - 2 * parameters / ranks


@pytest.mark.parametrize(
    ("precision", "stage", "bytes_each"),
    [("bf16", 0, 16), ("bf16", 1, 5.5), ("bf16", 3, 2), ("fp32", 0, 16), ("fp32", 1, 9.5), ("fp32", 3, 2.5)],
)
def test_states_by_hand(precision, stage, bytes_each):
    assert sum(costs.states(1000, precision, zero(stage, 8))) == 1000 * bytes_each


def test_hours_by_hand():
    # 7.2e18 operations on 4 devices of 100 TFLOP/s, half reached: 2e14 a second
    assert costs.hours(7.2e18, devices=4, tflops=100, utilisation=0.5) == 10
    assert [costs.machines(count, per_machine=8) for count in (1, 8, 9, 0.5)] == [1, 1, 2, 1]


@pytest.mark.parametrize(("tflops", "utilisation"), [(0, 0.4), (-1, 0.4), (100, 0), (100, 1.2), (float("nan"), 0.4)])
def test_a_speed_that_no_device_has_is_refused(tflops, utilisation):
    with pytest.raises(ValueError, match="must be above 0"):
        costs.hours(1.0, devices=1, tflops=tflops, utilisation=utilisation)


def test_a_config_that_runs_code_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}')
    with pytest.raises(ValueError, match="runs foreign code"):
        config_of(tmp_path / "other.json", task="generate")
    with pytest.raises(ValueError, match="does not exist"):
        config_of(tmp_path / "none.json", task="generate")
    (tmp_path / "bert.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="no row in the table"):
        config_of(tmp_path / "bert.json", task="generate")
