"""What of a model's config decides its cost, counted without weights.

Stock transformers builds the network on the "meta" device, where tensors have a shape and no bytes, so that every
architecture of the tables is counted as it is and a model of eight billion parameters takes a tenth of a second.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deshi.jobs.data.model_folder import refuse_runnable
from deshi.jobs.evidence.benches.training_cost import Network
from deshi.jobs.stages.architectures import ARCHITECTURES, DECODERS, layout_of
from deshi.jobs.stages.candidate import Candidate

if TYPE_CHECKING:
    from transformers import PretrainedConfig

KNOWN = {"classify": tuple(ARCHITECTURES), "generate": tuple(DECODERS)}


def config_of(path: Path, *, task: str) -> PretrainedConfig:
    """The config in a model folder, or in a config.json of any name.

    Raises:
        ValueError: in one sentence, for a config that is not there, could run code, or is of no known architecture.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give the config.json of the model, weights are not needed")
    refuse_runnable(file.parent, file)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(file, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} is no config that transformers reads ({reason}); get the file again") from None
    if config.model_type not in KNOWN[task]:
        raise ValueError(
            f"{file} has model_type {config.model_type!r}, which has no row in the table of architectures of task: "
            f"{task}; use one of {', '.join(KNOWN[task])}"
        )
    return config


def network_of(config: PretrainedConfig, *, task: str) -> Network:
    """Counts the network that a config describes; tied weights count once as parameters, twice as matrices' work."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForCausalLM if task == "generate" else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = kind.from_config(config, attn_implementation="eager", trust_remote_code=False)
    row = layout_of(config)

    def matrices(module: torch.nn.Module) -> int:
        return sum(part.weight.numel() for part in module.modules() if isinstance(part, torch.nn.Linear))

    in_layers = matrices(row.layer_list(model))
    return Network(
        layers=row.depth(config),
        hidden=int(config.hidden_size),
        heads=int(config.num_attention_heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads),
        ffn=row.ffn(config),
        gated=len(row.ffn_in) == 2 or row.ffn_in_parts == 2,
        vocabulary=int(config.vocab_size),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layer_weights=in_layers,
        head_weights=matrices(model) - in_layers,
        largest=max(sum(own.numel() for own in part.parameters(recurse=False)) for part in model.modules()),
    )


def shallower(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The config with fewer layers."""
    row, smaller = layout_of(config), copy.deepcopy(config)
    for key in row.per_layer_keys:
        setattr(smaller, key, list(getattr(config, key))[:layers])
    setattr(smaller, row.depth_key, layers)
    return smaller


def narrower(config: PretrainedConfig, candidate: Candidate, *, task: str) -> PretrainedConfig:
    """The config with a candidate's width. The vocabulary stays whole: which pieces go depends on the text.

    Raises:
        ValueError: for a width that the architecture cannot have.
    """
    from deshi.jobs.stages import cut_language_model, prune

    row, smaller = layout_of(config), copy.deepcopy(config)
    if task == "classify":
        multiple = prune.FFN_MULTIPLE
        setattr(smaller, row.ffn_key, max(multiple, int(row.ffn(config) * candidate.ffn) // multiple * multiple))
        return smaller
    from dataclasses import replace

    from deshi.jobs.stages.prune_schedule import check_goal, shape_of

    whole = shape_of(config)
    goal = replace(
        whole,
        ffn=cut_language_model.ffn_width(whole.ffn, candidate.ffn),
        kv_groups=candidate.kv_groups or whole.kv_groups,
        hidden=candidate.hidden or whole.hidden,
    )
    check_goal(whole, goal)
    smaller.head_dim = goal.head_dim
    smaller.num_key_value_heads, smaller.num_attention_heads = goal.kv_groups, goal.heads
    smaller.hidden_size = goal.hidden
    setattr(smaller, row.ffn_key, goal.ffn)
    return smaller
