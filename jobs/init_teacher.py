"""What a new recipe must know of the teacher, from its folder alone: no weights are loaded.

A classifier whose config already names the rows' classes is taken as it is. `data.max_length` is the recipe's default,
or, where more than one row in a hundred is longer, what holds 99 of 100 (a multiple of 64), and never more than the
teacher's positions: what is longer is cut, and a cut text is judged by its beginning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.data.model_folder import HUB_ID, check_model_folder
from deshi.jobs.recipe import Data

SAMPLE_ROWS = 256
LENGTHS = {"classify": Data.model_fields["max_length"].default, "generate": 512}  # a chat's context holds both sides
LENGTH_MOST, MULTIPLE = 2048, 64


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What the recipe says of the teacher."""

    model: str  # relative to the recipe, or an id for the hub
    is_here: bool
    finetune: bool
    max_length: int


def teacher_of(
    model: str, beside: Path, *, task: str, labels: Sequence[str], texts: Sequence[str], seed: int
) -> Teacher:
    """Looks at the teacher's folder, if it is one.

    Args:
        model: a folder, by the caller's own folder, or an id for the hub.
        beside: the folder of the recipe.
        task: of the recipe.
        labels: the classes of the rows.
        texts: of the rows, to see how long they are.
        seed: of the sample.

    Raises:
        ValueError: in one sentence, for a path where nothing is, or a folder that is no model.
    """
    folder = Path(model).expanduser()
    if not folder.exists():
        if not HUB_ID.fullmatch(model):
            raise ValueError(f"--teacher {model} does not exist; give the folder of a model, or its id on a hub")
        return Teacher(model=model, is_here=False, finetune=task == "classify", max_length=LENGTHS[task])
    check_model_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Teacher(
        model=os.path.relpath(folder.resolve(), beside),
        is_here=True,
        finetune=task == "classify" and sorted(map(str, (config.get("id2label") or {}).values())) != sorted(labels),
        max_length=_max_length(folder, config, task, texts, seed),
    )


def _max_length(folder: Path, config: dict[str, Any], task: str, texts: Sequence[str], seed: int) -> int:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    picked = np.random.default_rng([seed, 11]).permutation(len(texts))[:SAMPLE_ROWS]
    tokens = [len(encoded.ids) for encoded in tokenizer.encode_batch([texts[at] for at in picked.tolist()])]
    wanted = max(LENGTHS[task], MULTIPLE * int(np.ceil(np.quantile(tokens, 0.99) / MULTIPLE)))
    positions = config.get("max_position_embeddings") or LENGTH_MOST
    if task == "classify":  # some families count positions from the padding token on
        positions -= (config.get("pad_token_id") or 0) + 1
    return max(8, min(wanted, positions, LENGTH_MOST))
