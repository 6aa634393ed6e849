"""One truth about batch size and precision, whoever says it."""

from __future__ import annotations

import json

import pytest

from deshi.jobs.recipe import DeepSpeed
from deshi.jobs.stages.deepspeed_config import deepspeed_config

TOLD = {
    "micro_batch": 8,
    "accumulation": 2,
    "steps": 100,
    "warmup_steps": 10,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "precision": "bf16",
}


def test_a_zero_stage_becomes_a_whole_configuration():
    config = deepspeed_config(DeepSpeed(zero_stage=2), **TOLD)
    assert config["zero_optimization"] == {"stage": 2}
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (8, 2)
    assert config["optimizer"]["params"]["lr"] == 1e-3
    assert config["scheduler"]["params"]["total_num_steps"] == 100
    assert config["bf16"]["enabled"] and not config["fp16"]["enabled"]


def test_auto_values_of_a_users_file_are_filled_and_the_rest_is_kept(tmp_path):
    given = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "zero_optimization": {"stage": 3, "overlap_comm": True},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "weight_decay": 0.1}},
        "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": "auto", "total_num_steps": 500}},
    }
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(given))
    for asked in (str(path), DeepSpeed.model_validate(given)):
        config = deepspeed_config(asked, **TOLD)
        assert config["zero_optimization"] == {"stage": 3, "overlap_comm": True}
        assert config["optimizer"]["params"] == {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.1}
        assert config["scheduler"]["params"]["total_num_steps"] == 500
        assert config["scheduler"]["params"]["warmup_num_steps"] == 10
        assert "auto" not in json.dumps(config)


def test_a_contradiction_is_refused():
    with pytest.raises(ValueError, match=r"train_micro_batch_size_per_gpu = 64 contradicts .* = 8; write 'auto'"):
        deepspeed_config(DeepSpeed.model_validate({"train_micro_batch_size_per_gpu": 64}), **TOLD)


@pytest.mark.parametrize("content", ["[1]", "{", None])
def test_a_file_that_is_no_object_is_refused(tmp_path, content):
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"distill.deepspeed '.*ds.json' (is no readable JSON|holds no JSON object)"):
        deepspeed_config(str(path), **TOLD)
