"""Vocabulary pruning of a causal language model: fewer rows of embedding and head, fewer pieces to score.

Which pieces stay, and why a text of kept pieces is cut as before, stands in `vocabulary.py`, which does the
tokenizer (byte-level BPE, BPE with byte pieces, Unigram): the pieces of the texts, added and special tokens, all
single characters and bytes (so that any text can still be encoded), and the parts that merges build pieces from.

Here the model follows: embedding [vocabulary, hidden] and head [vocabulary, hidden] keep the rows of kept
pieces, so a kept piece has the same logit as before and the softmax is the old one restricted to kept pieces;
`*_token_id` of config and generation config get the new ids. Give the texts as they are trained on, rendered by
the chat template, so that the template's own words are among the pieces.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deshi.jobs.stages.architectures import decoder_of
from deshi.jobs.stages.prune import rebuilt, write_model
from deshi.jobs.stages.prune_lm import GENERATION_CONFIG, load_language_model
from deshi.jobs.stages.vocabulary import (
    PROBE,
    Vocabulary,
    config_ids,
    piece_counts,
    prune_tokenizer,
    refuse_other_cut,
    tokenizer_state,
    write_tokenizer,
)

CHAT_TEMPLATE = "chat_template.jinja"
OTHER_IDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "forced_decoder_ids")


def prune_lm_vocabulary(model_folder: Path, out_folder: Path, texts: Sequence[str]) -> Vocabulary:
    """Writes the model with only the pieces that `texts` are cut into, and those that must stay.

    Raises:
        ValueError: if the tokenizer or the model cannot be pruned without changing what it says.
    """
    from transformers import AutoConfig

    row = decoder_of(AutoConfig.from_pretrained(model_folder, trust_remote_code=False))
    generation = _generation_config(model_folder)
    before = tokenizer_state(model_folder)
    model = load_language_model(model_folder)
    settings = model.config.to_dict()
    named = [old for holder in (settings, generation) for ids in config_ids(holder).values() for old in ids]
    after, old_ids = prune_tokenizer(before, piece_counts(before, texts).keys(), keep_ids=named)
    new_ids = {old: new for new, old in enumerate(old_ids)}
    rows = row.embedding_of(model).num_embeddings
    if max(old_ids) >= rows:
        raise ValueError(
            f"the tokenizer of {model_folder} has id {max(old_ids)}, the model only {rows} embeddings; "
            "resize the model's embeddings to the tokenizer first"
        )
    config = copy.deepcopy(model.config)
    config.vocab_size = len(old_ids)
    for key, ids in _renumbered(settings, new_ids).items():
        setattr(config, key, ids)
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        write_tokenizer(model_folder, Path(scratch), after, old_ids)
        refuse_other_cut(model_folder, Path(scratch), new_ids, texts[:: max(1, len(texts) // PROBE)])

    state = dict(model.state_dict())
    kept = torch.tensor(old_ids, device=model.device)
    for key in (f"{row.key_prefix(model)}{row.embedding}.weight", f"{row.classifier}.weight"):
        state[key] = state[key][kept]
    write_model(rebuilt(model, config, state), out_folder)
    write_tokenizer(model_folder, out_folder, after, old_ids)
    if (model_folder / CHAT_TEMPLATE).is_file():
        shutil.copyfile(model_folder / CHAT_TEMPLATE, out_folder / CHAT_TEMPLATE)
    if generation:
        text = json.dumps(generation | _renumbered(generation, new_ids), indent=2)
        (out_folder / GENERATION_CONFIG).write_text(text + "\n", encoding="utf-8")
    return Vocabulary(old_ids=tuple(old_ids), size_before=rows)


def _renumbered(config: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, int | list[int] | None]:
    """The `*_token_id` entries with new ids; ids that no piece ever had go."""
    found: dict[str, int | list[int] | None] = {}
    for key, ids in config_ids(config).items():
        there = [new_ids[old] for old in ids if old in new_ids]
        found[key] = there if isinstance(config[key], list) else there[0] if there else None
    return found


def _generation_config(folder: Path) -> dict[str, Any]:
    """What generation_config.json says; refused where it names pieces in a way that cannot be renumbered."""
    if not (folder / GENERATION_CONFIG).is_file():
        return {}
    generation: dict[str, Any] = json.loads((folder / GENERATION_CONFIG).read_text(encoding="utf-8"))
    if found := [key for key in OTHER_IDS if generation.get(key)]:
        raise ValueError(
            f"{GENERATION_CONFIG} of {folder} names token ids in {found[0]!r}, which vocabulary pruning does not "
            "renumber; take it out or keep the whole vocabulary"
        )
    return generation
