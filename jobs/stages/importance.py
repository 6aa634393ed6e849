"""Importance: what pruning judges layers and neurons by, measured from activations on calibration rows.

- depth: block influence, 1 - mean cos(hidden before a layer, hidden after it) (ShortGPT, arXiv 2403.03853);
- FFN width: mean |activation| of a neuron x L2 norm of its outgoing weights, the Wanda score (arXiv
  2306.11695) summed to the neuron as in Minitron (arXiv 2407.14679).

Shapes: hidden states [rows, tokens, hidden], FFN activations [rows, tokens, ffn], importance [layers, ffn]; only real
tokens (attention_mask 1, or all where there is no mask) are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deshi.jobs.stages.architectures import layout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]


def calibration_batches(
    tokenizer: Any, texts: Sequence[str], *, max_length: int, batch_size: int = 32
) -> list[dict[str, Tensor]]:
    """Texts as padded batches, in the given order."""
    starts = range(0, len(texts), batch_size)
    cut = {"truncation": True, "max_length": max_length, "padding": True, "return_tensors": "pt"}
    return [dict(tokenizer(list(texts[start : start + batch_size]), **cut)) for start in starts]


@torch.inference_mode()
def block_influence(model: PreTrainedModel, batches: Iterable[Batch]) -> list[float]:
    """1 - mean cosine of what enters and what leaves a layer, one number a layer; near 0 it does little."""
    layers = layout_of(model.config).layer_list(model)
    sums = torch.zeros(len(layers), dtype=torch.float64)
    tokens = 0
    mask = torch.empty(0)

    def add(index: int, before: Tensor, after: Tensor) -> None:
        cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
        sums[index] += cosine[mask].double().sum().cpu()

    with hooked(layers, lambda i: lambda _, args, out: add(i, args[0], out[0] if isinstance(out, tuple) else out)):
        for batch in batches:
            mask = real_tokens(batch).to(model.device)
            tokens += int(mask.sum())
            forward(model.base_model, batch)
    return (1 - sums / max(tokens, 1)).tolist()


@torch.inference_mode()
def ffn_importance(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """Mean |activation| of each FFN neuron x the L2 norm of its outgoing weights, float64 [layers, ffn]."""
    row = layout_of(model.config)
    outs = [row.ffn_out_of(layer) for layer in row.layer_list(model)]
    sums = torch.zeros(len(outs), row.ffn(model.config), dtype=torch.float64)
    tokens = 0
    mask = torch.empty(0)

    def add(index: int, activation: Tensor) -> None:
        sums[index] += activation[mask].abs().double().sum(dim=0).cpu()

    with hooked(outs, lambda i: lambda _, args, out: add(i, args[0])):
        for batch in batches:
            mask = real_tokens(batch).to(model.device)
            tokens += int(mask.sum())
            forward(model.base_model, batch)
    norms = torch.stack([out.weight.double().norm(dim=0).cpu() for out in outs])
    return sums / max(tokens, 1) * norms


def strongest(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest scores, in their old order."""
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values


def real_tokens(batch: Batch) -> Tensor:
    """Which tokens are not padding, bool [rows, tokens]."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def forward(model: PreTrainedModel, batch: Batch) -> None:
    """One forward pass without dropout, for what the hooks see."""
    training = model.training
    # transformers keeps packed sequences apart by their position ids only where no cache is made
    options = {"use_cache": False} if "position_ids" in batch else {}
    model.eval()(**{name: tensor.to(model.device) for name, tensor in batch.items()}, **options)
    model.train(training)


@contextmanager
def hooked(modules: Iterable[nn.Module], hook_of: Callable[[int], Callable[..., None]]) -> Iterator[None]:
    """Registers `hook_of(index)` as forward hook of each module, for the time of the block."""
    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.callback(module.register_forward_hook(hook_of(index)).remove)
        yield
