"""Structured pruning: fewer layers and a narrower FFN of any model; a classifier's head refitted in closed form.

Everything here is physically smaller, never masked, and uniform over the layers, so that the config describes
the result and stock transformers loads it. What goes is judged in `importance.py`.

The head: ridge regression of the last linear on its own input features to the teacher's centred logits. It
trains nothing and needs no label, and it is what makes an unrecovered candidate comparable with another.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deshi.jobs.stages.architectures import architecture_of, layout_of
from deshi.jobs.stages.importance import (
    Batch,
    calibration_batches,
    ffn_importance,
    forward,
    hooked,
    strongest,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FFN_MULTIPLE = 8  # int8 kernels read rows in multiples of 8
TOKENIZER_FILES = (
    "tokenizer.json",
    "chat_template.jinja",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
)


def keep_layers(
    count: int, depth: int, influence: Sequence[float] | Literal["even", "first"] = "even"
) -> tuple[int, ...]:
    """Which `count` of `depth` layers stay, in order: evenly spaced (3 of 6: 0, 3, 5), the first, or most influential.

    Raises:
        ValueError: if there are not that many layers.
    """
    if not 1 <= count <= depth:
        raise ValueError(f"cannot keep {count} layers of {depth}; take a number from 1 to {depth}")
    if influence == "first":
        return tuple(range(count))
    if influence == "even":
        return tuple(int(place + 0.5) for place in np.linspace(0, depth - 1, count))
    strongest = sorted(range(depth), key=lambda layer: (-float(influence[layer]), layer))
    return tuple(sorted(strongest[:count]))


def prune_depth(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A new model with only the layers `kept`, in order.

    Raises:
        ValueError: if `kept` is empty, not strictly increasing, out of range, or lacks a layer that must
        stay.
    """
    row = layout_of(model.config)
    depth = row.depth(model.config)
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < depth:
        raise ValueError(f"layers {tuple(kept)} must be increasing numbers from 0 to {depth - 1}; name those to keep")
    if row.first_layer_stays and kept[0] != 0:
        raise ValueError(f"layers {tuple(kept)} lack 0, which {row.model_type} cannot do without; keep layer 0")
    config = copy.deepcopy(model.config)
    for key in row.per_layer_keys:
        setattr(config, key, [getattr(config, key)[layer] for layer in kept])
    setattr(config, row.depth_key, len(kept))

    stem = f"{row.key_prefix(model)}{row.layers}."
    places = {f"{old}": new for new, old in enumerate(kept)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(stem):
            state[name] = tensor
            continue
        old, _, rest = name.removeprefix(stem).partition(".")
        if old in places:
            state[f"{stem}{places[old]}.{rest}"] = tensor
    return rebuilt(model, config, state)


def prune_ffn(model: PreTrainedModel, importance: Tensor, width: int) -> PreTrainedModel:
    """A new model that keeps the `width` most important FFN neurons of each layer, in their old order.

    Raises:
        ValueError: if `width` is not a multiple of 8 within the present width, or importance has another
        shape.
    """
    row = layout_of(model.config)
    shape = (row.depth(model.config), row.ffn(model.config))
    if width < 1 or width > shape[1] or (width % FFN_MULTIPLE and width != shape[1]):
        raise ValueError(
            f"ffn {width} must be a multiple of {FFN_MULTIPLE} from {FFN_MULTIPLE} to {shape[1]}, the whole"
        )
    if tuple(importance.shape) != shape:
        raise ValueError(f"importance has shape {tuple(importance.shape)}, the model {shape}; measure it on this model")
    config = copy.deepcopy(model.config)
    setattr(config, row.ffn_key, width)

    state = dict(model.state_dict())
    for layer, scores in enumerate(importance):
        kept = strongest(scores, width).to(model.device)
        stem = f"{row.key_prefix(model)}{row.layers}.{layer}."
        rows = torch.cat([kept + part * shape[1] for part in range(row.ffn_in_parts)])
        for key in [f"{stem}{linear}.{name}" for linear in row.ffn_in for name in ("weight", "bias")]:
            if key in state:
                state[key] = state[key][rows]
        state[f"{stem}{row.ffn_out}.weight"] = state[f"{stem}{row.ffn_out}.weight"][:, kept]
    return rebuilt(model, config, state)


@torch.inference_mode()
def head_features(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """What enters the classifier's last linear, float64 [rows, features]."""
    head = architecture_of(model.config).classifier_of(model)
    found: list[Tensor] = []
    with hooked([head], lambda _: lambda _, args, out: found.append(args[0].double().cpu())):
        for batch in batches:
            forward(model, batch)
    return torch.cat(found)


def ridge_head(features: Tensor, teacher_logits: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weight [labels, features] and bias [labels] of ridge regression to the centred logits, in float64.

    A softmax does not see a constant added to a row of logits, so each row's mean is taken off first. The
    intercept is not shrunk, and lambda = ridge x trace(X'X) / features, X centred: `ridge` has no unit.
    """
    x, y = features.double(), teacher_logits.double()
    y = y - y.mean(dim=1, keepdim=True)
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    shrink = max(ridge * float(gram.trace()) / len(gram), torch.finfo(torch.float64).tiny)
    weight = torch.linalg.solve(gram + shrink * torch.eye(len(gram), dtype=gram.dtype), x.T @ y).T
    return weight, y_mean - weight @ x_mean


def refit_head(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    teacher_logits: NDArray[Any] | Tensor,
    ridge: float = 0.01,
) -> PreTrainedModel:
    """A copy of `model` whose last linear comes as near the teacher's logits [rows, labels] as it can.

    Raises:
        ValueError: if the logits are not those of the batches' rows and the model's labels.
    """
    refitted = copy.deepcopy(model)
    head = architecture_of(model.config).classifier_of(refitted)
    features = head_features(refitted, batches)
    shape = (len(features), head.out_features)
    if tuple(teacher_logits.shape) != shape:
        raise ValueError(f"teacher_logits has shape {tuple(teacher_logits.shape)}, rows and labels are {shape}")
    weight, bias = ridge_head(features, torch.as_tensor(teacher_logits), ridge)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return refitted


def prune(
    model_folder: Path,
    out_folder: Path,
    *,
    layers: Sequence[int],
    ffn: int,
    calibration: Sequence[str],
    teacher_logits: NDArray[Any],
    max_length: int,
    importance_folder: Path | None = None,
    refit: bool = True,
    ridge: float = 0.01,
) -> None:
    """Keeps `layers`, narrows the FFN to `ffn`, refits the head on `calibration`, and writes a model folder.

    Importance is measured after the layers are gone, on `model_folder`'s model or on that of
    `importance_folder` (same shape: the quantized form, where a chain prunes after quantization).
    """
    from transformers import AutoTokenizer

    model = load_classifier(model_folder)
    row = architecture_of(model.config)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    batches = calibration_batches(tokenizer, calibration, max_length=max_length)
    pruned = prune_depth(model, layers)
    judge = pruned if importance_folder is None else prune_depth(load_classifier(importance_folder), layers)
    if ffn != row.ffn(model.config):
        pruned = prune_ffn(pruned, ffn_importance(judge, batches), ffn)
    if refit:
        pruned = refit_head(pruned, batches, teacher_logits, ridge)
    write_model(pruned, out_folder)
    copy_tokenizer(model_folder, out_folder)


def load_classifier(folder: Path) -> PreTrainedModel:
    """The sequence classifier of a model folder, fp32, in evaluation mode, no code of the folder run."""
    from transformers import AutoModelForSequenceClassification

    load = AutoModelForSequenceClassification.from_pretrained
    return load(folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True).eval()


def write_model(model: PreTrainedModel, folder: Path) -> None:
    """Writes config.json and model.safetensors, fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float32).save_pretrained(folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the tokenizer files that there are."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def rebuilt(model: PreTrainedModel, config: PretrainedConfig, state: Mapping[str, Tensor]) -> PreTrainedModel:
    """A model of the same class made from `config` with the tensors of `state`: all of them, no others."""
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten, the caller's seed is not
        new = type(model)(config)
    new.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, strict=True)
    return new.to(model.device, model.dtype).train(model.training)
