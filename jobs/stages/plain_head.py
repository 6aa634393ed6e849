"""Whether a language model's logits are its last hidden states times its head, and nothing more.

Losses and cached answers send hidden states past the head themselves, chunk by chunk. An architecture that caps, scales
or shifts its logits behind the head would silently be taught, or asked, something else.
"""

from __future__ import annotations

from typing import Any

from deshi.jobs.data.packing import LEAK_MOST, LEAK_MOST_HALF


def refuse_altered_logits(model: Any, *, with_bias: bool) -> None:
    """Refuses a model whose logits are anything but hidden states times the head's weight, plus its bias if so said.

    Raises:
        ValueError: naming the architecture.
    """
    import torch

    head = model.get_output_embeddings()
    ids = torch.arange(8, device=head.weight.device)[None]
    training = model.training
    model.eval()
    with torch.inference_mode():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        plain = head(hidden) if with_bias else hidden @ head.weight.T
        given = model(input_ids=ids, use_cache=False).logits
    model.train(training)
    most, spread = float((plain.float() - given.float()).abs().max()), float(given.float().std())
    # Numbers that are not finite differ by none, and are told of where they are met.
    if most > (LEAK_MOST if given.dtype == torch.float32 else LEAK_MOST_HALF) * spread:
        alters = "caps or scales its logits behind the head" if with_bias else "caps, scales or shifts its logits"
        raise ValueError(
            f"the architecture {model.config.model_type!r} {alters}, which losses and cached answers do not know; "
            "take a model of another architecture"
        )
