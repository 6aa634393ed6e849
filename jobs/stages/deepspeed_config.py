"""The DeepSpeed configuration of a training run: the user's whole file, or a default made from the recipe.

Keys that the recipe decides may say "auto", as in Hugging Face's integration, and are filled in; a number that
contradicts the recipe is refused, because two truths about the batch size train something nobody asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deshi.jobs.recipe import DeepSpeed


def deepspeed_config(
    asked: DeepSpeed | str,
    *,
    micro_batch: int,
    accumulation: int,
    steps: int,
    warmup_steps: int,
    learning_rate: float,
    weight_decay: float,
    precision: str,
) -> dict[str, Any]:
    """A complete configuration for `deepspeed.initialize`.

    Args:
        asked: the recipe's `distill.deepspeed`: a zero stage, a whole mapping, or the path of a JSON file.
        micro_batch: rows a worker takes at once.
        precision: fp32, bf16 or fp16.

    Raises:
        ValueError: for a file that is no JSON object, or a key that contradicts the recipe.
    """
    config = _read(asked)
    zero_stage = config.pop("zero_stage", None)
    config.setdefault("zero_optimization", {"stage": zero_stage if zero_stage is not None else 1})
    _fill(config, "train_micro_batch_size_per_gpu", micro_batch, "distill.batch_size / (workers x accumulation)")
    _fill(config, "gradient_accumulation_steps", accumulation, "resources.train.gradient_accumulation")
    config.pop("train_batch_size", None)  # DeepSpeed computes it from the two above and the number of workers
    config.setdefault("gradient_clipping", 1.0)
    config.setdefault("steps_per_print", 2**31)

    optimizer = config.setdefault("optimizer", {"type": "AdamW", "params": {"torch_adam": True}})
    params = optimizer.setdefault("params", {})
    _fill(params, "lr", learning_rate, "distill.learning_rate", may_differ=True)
    _fill(params, "weight_decay", weight_decay, "distill.weight_decay", may_differ=True)
    adam: dict[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8}
    params |= {key: value for key, value in adam.items() if params.get(key) == "auto"}

    scheduler = config.setdefault("scheduler", {"type": "WarmupDecayLR", "params": {}})
    if scheduler.get("type") == "WarmupDecayLR":
        schedule = scheduler.setdefault("params", {})
        default: dict[str, Any] = {
            "total_num_steps": steps,
            "warmup_num_steps": max(2, warmup_steps),
            "warmup_min_lr": 0.0,
            "warmup_max_lr": params["lr"],
            "warmup_type": "linear",
        }
        schedule |= {key: value for key, value in default.items() if schedule.get(key, "auto") == "auto"}

    for name in ("bf16", "fp16"):
        section = config.setdefault(name, {})
        if section.get("enabled", "auto") == "auto":
            section["enabled"] = precision == name
    return config


def _read(asked: DeepSpeed | str) -> dict[str, Any]:
    if isinstance(asked, DeepSpeed):
        return asked.model_dump()
    try:
        config = json.loads(Path(asked).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"distill.deepspeed {asked!r} is no readable JSON file ({error}); give its path") from None
    if not isinstance(config, dict):
        raise ValueError(f"distill.deepspeed {asked!r} holds no JSON object; give a DeepSpeed configuration")
    return config


def _fill(section: dict[str, Any], key: str, value: Any, source: str, *, may_differ: bool = False) -> None:
    if section.get(key, "auto") == "auto":
        section[key] = value
    elif section[key] != value and not may_differ:
        raise ValueError(f"deepspeed {key} = {section[key]!r} contradicts {source} = {value}; write 'auto'")
