"""Structured pruning of causal language models of the Llama layout: depth, FFN, attention groups, hidden width.

Everything is physically smaller and uniform over the layers, so that stock transformers loads the folder. Depth
and FFN are those of `prune.py`; this file adds what a decoder's config can describe and an encoder's cannot:

- attention: whole key-value heads with all their query heads go ("groups"), so grouped-query attention stays
  legal: query head q belongs to group q // heads_per_group before and after. Importance [layers, groups] is the
  mean L2 norm of what a group writes to the residual stream: its part of o_proj times its part of o_proj's
  input. On SmolLM2-135M one of three groups less raises perplexity from 36.7 to 43.1 so, and to 58.6 where
  groups are chosen by the Wanda score (mean |activation| x column norm) summed over their columns;
- hidden width: the same channels of the residual stream go everywhere. Importance [hidden] is mean |activation|
  of a channel after each norm, summed over all norms (Minitron, arXiv 2407.14679);
- RMSNorm divides by the root mean square of *all* channels, and over fewer channels that is another number. Each
  norm's weight is multiplied by sqrt(hidden before / hidden after), which is exact where the channels that go are
  zero. On SmolLM2-135M (perplexity 36.7, 4,000 tokens of chat) widths 540, 504, 432 of 576 give 41.5, 56.6, 248
  so, 41.5, 67.3, 519 with the norms left alone, and 41.3, 57.9, 272 where each norm gets the measured mean of
  rms(kept channels) / rms(all channels), which would cost one more pass.

Batches hold `input_ids` [rows, tokens] with `attention_mask`, or packed [1, tokens] with `position_ids` that
start at 0 with each sequence. Importance is measured after the layers are gone, on the model as it then is.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deshi.jobs.stages.architectures import decoder_of
from deshi.jobs.stages.importance import (
    Batch,
    block_influence,
    ffn_importance,
    forward,
    hooked,
    real_tokens,
    strongest,
)
from deshi.jobs.stages.prune import copy_tokenizer, keep_layers, prune_depth, prune_ffn, rebuilt, write_model
from deshi.jobs.stages.prune_schedule import WIDTH_MULTIPLE, Shape, check_goal, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GENERATION_CONFIG = "generation_config.json"


def prune_lm(
    model_folder: Path,
    out_folder: Path,
    *,
    calibration: Sequence[Batch],
    layers: int | Sequence[int] | None = None,
    ffn: int | None = None,
    kv_groups: int | None = None,
    hidden: int | None = None,
    multiple: int = WIDTH_MULTIPLE,
    judge_folder: Path | None = None,
) -> Shape:
    """Cuts a language model to the shape given (None: whole) and writes a model folder, fp32.

    `layers` is how many of the most influential stay, or which ones. `judge_folder` is a model of the same shape, such
    as the rounded one, whose widths' importance is taken.

    Raises:
        ValueError: if the shape cannot be, the architecture is unknown, or there is nothing to measure on.
    """
    from transformers import AutoConfig

    start = shape_of(AutoConfig.from_pretrained(model_folder, trust_remote_code=False))
    wished = layers if isinstance(layers, int) else None if layers is None else len(layers)
    asked = {"layers": wished, "ffn": ffn, "kv_groups": kv_groups, "hidden": hidden}
    goal = Shape(**{**vars(start), **{axis: count for axis, count in asked.items() if count is not None}})
    check_goal(start, goal, multiple=multiple)
    widths = (goal.ffn, goal.kv_groups, goal.hidden) != (start.ffn, start.kv_groups, start.hidden)
    measures = widths or (isinstance(layers, int) and layers != start.layers)
    if measures and not sum(int(real_tokens(batch).sum()) for batch in calibration):
        raise ValueError("calibration has no tokens, so no importance can be measured; give some training text")

    model = load_language_model(model_folder)
    if isinstance(layers, int) and layers != start.layers:
        layers = keep_layers(layers, start.layers, block_influence(model, calibration))
    if layers is not None and not isinstance(layers, int):
        model = prune_depth(model, layers)
    judge = model if judge_folder is None else load_language_model(judge_folder)
    if goal.ffn != start.ffn:
        model = prune_ffn(model, ffn_importance(judge, calibration), goal.ffn)
    if goal.kv_groups != start.kv_groups:
        model = prune_groups(model, group_importance(judge, calibration), goal.kv_groups)
    if goal.hidden != start.hidden:
        kept = strongest(hidden_importance(judge, calibration), goal.hidden)
        model = prune_hidden(model, kept)
    write_model(model, out_folder)
    copy_tokenizer(model_folder, out_folder)
    copy_generation_config(model_folder, out_folder)
    return goal


def copy_generation_config(source: Path, to: Path) -> None:
    """Copies the file that says how a model ends and samples, where there is one."""
    if (source / GENERATION_CONFIG).is_file():
        shutil.copyfile(source / GENERATION_CONFIG, to / GENERATION_CONFIG)


def load_language_model(folder: Path) -> PreTrainedModel:
    """The causal language model of a model folder, fp32, in evaluation mode, no code of the folder run."""
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained
    return load(folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True).eval()


@torch.inference_mode()
def group_importance(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """Mean L2 norm of what each key-value group writes to the residual stream, float64 [layers, groups]."""
    row, shape = decoder_of(model.config), shape_of(model.config)
    outs = [row.attention_out_of(layer) for layer in row.layer_list(model)]
    sums = torch.zeros(shape.layers, shape.kv_groups, dtype=torch.float64)
    tokens = 0
    mask = torch.empty(0)

    def add(index: int, entering: Tensor) -> None:
        # query heads of a group are neighbours, so its columns are one run of heads_per_group x head_dim
        parts = zip(entering[mask].chunk(shape.kv_groups, 1), outs[index].weight.chunk(shape.kv_groups, 1), strict=True)
        for group, (heads, weight) in enumerate(parts):
            sums[index, group] += (heads @ weight.T).norm(dim=1).double().sum().cpu()

    with hooked(outs, lambda i: lambda _, args, out: add(i, args[0])):
        for batch in batches:
            mask = real_tokens(batch).to(model.device)
            tokens += int(mask.sum())
            forward(model.base_model, batch)
    return sums / max(tokens, 1)


@torch.inference_mode()
def hidden_importance(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """Mean |activation| of each channel after a norm, summed over all norms, float64 [hidden]."""
    norms = list(decoder_of(model.config).norm_list(model).values())
    sums = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    tokens = 0
    mask = torch.empty(0)

    def add(normed: Tensor) -> None:
        sums.add_(normed[mask].abs().double().sum(dim=0).cpu())

    with hooked(norms, lambda _: lambda _, args, out: add(out)):
        for batch in batches:
            mask = real_tokens(batch).to(model.device)
            tokens += int(mask.sum())
            forward(model.base_model, batch)
    return sums / max(tokens, 1)


def prune_groups(model: PreTrainedModel, importance: Tensor, count: int) -> PreTrainedModel:
    """A new model that keeps the `count` most important key-value groups of each layer, in their old order.

    Raises:
        ValueError: if there are not that many groups, or importance has another shape.
    """
    row, shape = decoder_of(model.config), shape_of(model.config)
    if not 1 <= count <= shape.kv_groups:
        raise ValueError(f"kv_groups {count} must be from 1 to {shape.kv_groups}, the whole")
    if tuple(importance.shape) != (shape.layers, shape.kv_groups):
        raise ValueError(
            f"importance has shape {tuple(importance.shape)}, the model {(shape.layers, shape.kv_groups)}; "
            "measure it on this model"
        )
    config = copy.deepcopy(model.config)
    config.head_dim = shape.head_dim  # explicit: it is no longer hidden_size / num_attention_heads
    config.num_key_value_heads = count
    config.num_attention_heads = count * shape.heads_per_group

    state = dict(model.state_dict())
    for layer, scores in enumerate(importance):
        groups = strongest(scores, count)
        keys = _run_of(groups, shape.head_dim).to(model.device)
        queries = _run_of(groups, shape.head_dim * shape.heads_per_group).to(model.device)
        stem = f"{row.key_prefix(model)}{row.layers}.{layer}."
        for linear, kept in ((row.query, queries), *((name, keys) for name in row.key_value)):
            for key in (f"{stem}{linear}.weight", f"{stem}{linear}.bias"):
                if key in state:
                    state[key] = state[key][kept]
        key = f"{stem}{row.attention_out}.weight"
        state[key] = state[key][:, queries]
    return rebuilt(model, config, state)


def prune_hidden(model: PreTrainedModel, kept: Tensor) -> PreTrainedModel:
    """A new model with only the channels `kept` (places, in order) of the residual stream.

    Raises:
        ValueError: if the config cannot describe that width.
    """
    row, shape = decoder_of(model.config), shape_of(model.config)
    width = len(kept)
    if row.heads_divide_hidden and width % shape.heads:
        raise ValueError(f"hidden {width} is no multiple of the {shape.heads} heads, as {row.model_type} requires it")
    config = copy.deepcopy(model.config)
    config.head_dim = shape.head_dim
    config.hidden_size = width

    kept = kept.to(model.device)
    state = dict(model.state_dict())
    prefix = row.key_prefix(model)
    readers = [f"{prefix}{row.embedding}", row.classifier]
    writers = []
    for layer in range(shape.layers):
        stem = f"{prefix}{row.layers}.{layer}."
        readers += [stem + name for name in (row.query, *row.key_value, *row.ffn_in)]
        writers += [stem + name for name in (row.attention_out, row.ffn_out)]
    for name in readers:  # [.., hidden]
        state[f"{name}.weight"] = state[f"{name}.weight"][:, kept]
    for key in [f"{name}.{part}" for name in writers for part in ("weight", "bias")]:  # [hidden, ..]
        if key in state:
            state[key] = state[key][kept]
    for path in row.norm_list(model):
        state[f"{prefix}{path}.weight"] = state[f"{prefix}{path}.weight"][kept] * (shape.hidden / width) ** 0.5
    return rebuilt(model, config, state)


def _run_of(blocks: Tensor, size: int) -> Tensor:
    """The places of whole blocks of `size` neighbours."""
    return (blocks[:, None] * size + torch.arange(size)).flatten()
