"""Vocabulary pruning: most of a small model's file are embeddings of pieces that its text never uses.

Kept are the pieces that the training text is cut into, every added and special token, every single-character
piece (with its `##` form), byte pieces, and what keeps those reachable: for BPE the intermediate pieces of
their merges; for Unigram the lowest-scored piece, since unknown characters are priced from it. A text that
the old tokenizer cuts into kept pieces only is then cut the same way by the new one, for these reasons:

- WordPiece takes the longest piece that fits; it is still there, and nothing longer has come;
- BPE applies the first merge that fits; the merges it applied are still there in the same order, and no new
  ones;
- Unigram takes the best-scored path; it is still there with its score, and no new ones.

Ids become consecutive: pieces in their old order, then the added tokens that stand outside the model's
vocabulary.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from deshi.jobs.stages.architectures import architecture_of
from deshi.jobs.stages.prune import load_classifier, rebuilt, write_model

SUPPORTED = ("WordPiece", "BPE", "Unigram")
PROBE = 500  # texts on which the written tokenizer is compared with the old one
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What was kept: `old_ids[new_id]` is the id that a piece had before."""

    old_ids: tuple[int, ...]
    size_before: int


def prune_vocabulary(model_folder: Path, out_folder: Path, texts: Sequence[str]) -> Vocabulary:
    """Writes the model with only the pieces that `texts` are cut into, and those that must stay (see above).

    Raises:
        ValueError: if the tokenizer or the model cannot be pruned without changing what it says.
    """
    import torch

    model = load_classifier(model_folder)
    row = architecture_of(model.config)
    before = tokenizer_state(model_folder)
    named = config_ids(model.config.to_dict())
    used = piece_counts(before, texts).keys()
    after, old_ids = prune_tokenizer(before, used, keep_ids=[old for ids in named.values() for old in ids])
    new_ids = {old: new for new, old in enumerate(old_ids)}

    rows = row.embedding_of(model).num_embeddings
    if max(old_ids) >= rows:
        raise ValueError(
            f"the tokenizer of {model_folder} has id {max(old_ids)}, the model only {rows} embeddings; "
            "resize the model's embeddings to the tokenizer first"
        )
    config = copy.deepcopy(model.config)
    config.vocab_size = len(old_ids)
    for key, ids in named.items():
        renumbered = [new_ids.get(old) for old in ids]
        setattr(config, key, renumbered if isinstance(getattr(config, key), list) else renumbered[0])
    if row.positions_count_from_padding and config.pad_token_id != model.config.pad_token_id:
        raise ValueError(
            f"the padding token of {model_folder} would move from id {model.config.pad_token_id} to "
            f"{config.pad_token_id}, and {row.model_type} counts positions from it; keep the whole vocabulary"
        )
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        write_tokenizer(model_folder, Path(scratch), after, old_ids)
        refuse_other_cut(model_folder, Path(scratch), new_ids, texts[:: max(1, len(texts) // PROBE)])
    state = dict(model.state_dict())
    key = f"{row.key_prefix(model)}{row.embedding}.weight"
    state[key] = state[key][torch.tensor(old_ids, device=model.device)]
    write_model(rebuilt(model, config, state), out_folder)
    write_tokenizer(model_folder, out_folder, after, old_ids)
    return Vocabulary(old_ids=tuple(old_ids), size_before=rows)


def unknown_token_rate(tokenizer_json: Path, texts: Sequence[str]) -> tuple[int, int]:
    """Unknown tokens and all tokens of `texts`, special tokens not counted."""
    state = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    counts = piece_counts(state, texts)
    unknown = unknown_piece(state)
    return (0 if unknown is None else counts[unknown]), sum(counts.values())


def tokenizer_state(model_folder: Path) -> dict[str, Any]:
    """`tokenizer.json` as stock transformers runs it, which rebuilds parts of the file for some classes.

    Raises:
        ValueError: if the tokenizer has no fast form or is of a kind that this file cannot prune.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the tokenizer of {model_folder} has no tokenizer.json form, so it cannot be pruned; "
            "keep the whole vocabulary of this model"
        )
    state: dict[str, Any] = json.loads(backend.to_str())
    refuse_unsupported(state)
    return state


def refuse_unsupported(state: Mapping[str, Any]) -> None:
    """Refuses kinds of tokenizer whose pruned form could cut text otherwise."""
    model = state["model"]
    if model["type"] not in SUPPORTED:
        raise ValueError(
            f"tokenizer model {model['type']!r} cannot be pruned; only {', '.join(SUPPORTED)} can, "
            "so keep the whole vocabulary"
        )
    affix = model.get("end_of_word_suffix") or model.get("continuing_subword_prefix")
    if model["type"] == "BPE" and affix:
        raise ValueError(
            f"tokenizer model 'BPE' with the affix {affix!r} cannot be pruned; only BPE without affixes can, "
            "so keep the whole vocabulary"
        )


def refuse_other_cut(old: Path, new: Path, new_ids: Mapping[int, int], texts: Sequence[str]) -> None:
    """Refuses a pruned tokenizer that stock transformers does not load as the same cut of `texts`."""
    from transformers import AutoTokenizer

    before, after = (AutoTokenizer.from_pretrained(folder)(list(texts))["input_ids"] for folder in (old, new))
    if [[new_ids.get(piece) for piece in ids] for ids in before] != after:
        raise ValueError(
            f"the tokenizer of {old} cuts text otherwise once its vocabulary is pruned; "
            "keep the whole vocabulary of this model"
        )


def piece_counts(state: Mapping[str, Any], texts: Sequence[str]) -> Counter[str]:
    """How often each piece occurs when `texts` are cut whole, special tokens not added."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids: Counter[int] = Counter()
    for start in range(0, len(texts), 1000):
        batch = list(texts[start : start + 1000])
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            ids.update(encoding.ids)
    return Counter({str(tokenizer.id_to_token(piece)): count for piece, count in ids.items()})


def unknown_piece(state: Mapping[str, Any]) -> str | None:
    """The piece that stands for what the vocabulary lacks, if there is one."""
    model = state["model"]
    if model["type"] == "Unigram":
        return None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


def config_ids(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """The token ids that a model's config names: `pad_token_id` and its like, each as a list."""
    named = {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}
    return {key: value if isinstance(value, list) else [value] for key, value in named.items()}


def prune_tokenizer(
    state: Mapping[str, Any], keep: Collection[str], *, keep_ids: Collection[int] = ()
) -> tuple[dict[str, Any], list[int]]:
    """The tokenizer with the pieces `keep` and what they need, and for each new id the old one.

    `keep_ids` are kept whatever they are; ids that no piece has are ignored.
    """
    refuse_unsupported(state)
    after = json.loads(json.dumps(state))
    model = after["model"]
    vocabulary = pieces_of(model)
    added = {token["content"]: token["id"] for token in after["added_tokens"]}
    wanted = {piece for piece in keep if piece in vocabulary} | (added.keys() & vocabulary.keys())
    fixed = {*keep_ids, *(part[key] for part, key in id_places(after))}
    wanted |= {piece for piece, old in vocabulary.items() if old in fixed or _always_stays(piece, model)}
    if (unknown := unknown_piece(after)) in vocabulary:
        wanted.add(unknown)
    if model["type"] == "BPE":
        wanted |= merge_closure(model["merges"], wanted) & vocabulary.keys()
    if model["type"] == "Unigram":
        wanted.add(min(model["vocab"], key=lambda entry: entry[1])[0])

    inside = sorted((vocabulary[piece], piece) for piece in wanted)
    outside = sorted((old, piece) for piece, old in added.items() if piece not in vocabulary)
    old_ids = [old for old, _ in inside + outside]
    new_ids = {old: new for new, old in enumerate(old_ids)}
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old, _ in inside]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    else:
        model["vocab"] = {piece: new_ids[old] for old, piece in inside}
    if model["type"] == "BPE":
        pairs = [(merge, *_pair(merge)) for merge in model["merges"]]
        model["merges"] = [merge for merge, left, right in pairs if {left, right, left + right} <= wanted]
    for part, key in id_places(after):
        part[key] = new_ids[part[key]]
    return after, old_ids


def pieces_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> id of a tokenizer's model, added tokens outside it not counted."""
    if model["type"] == "Unigram":
        return {entry[0]: place for place, entry in enumerate(model["vocab"])}
    return dict(model["vocab"])


def id_places(state: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Every place of a tokenizer, its vocabulary apart, that holds an id: (container, key)."""
    yield from ((token, "id") for token in state["added_tokens"])
    if state.get("padding"):
        yield state["padding"], "pad_id"
    if state.get("post_processor"):
        yield from _post_processor_places(state["post_processor"])


def merge_closure(merges: Sequence[Any], pieces: Collection[str]) -> set[str]:
    """Every intermediate piece that BPE passes through when it builds `pieces` from characters."""
    ranks = {_pair(merge): rank for rank, merge in enumerate(merges)}
    passed: set[str] = set()
    for piece in pieces:
        symbols = list(piece)
        passed.update(symbols)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            place = pairs.index(best)
            symbols[place : place + 2] = ["".join(best)]
            passed.add(symbols[place])
    return passed


def write_tokenizer(source: Path, folder: Path, state: Mapping[str, Any], old_ids: Sequence[int]) -> None:
    """Writes tokenizer.json and its settings; of other vocabulary files only vocab.txt is written again."""
    new_ids = {str(old): str(new) for new, old in enumerate(old_ids)}
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
    for name in SETTINGS:
        if not (source / name).is_file():
            continue
        settings = json.loads((source / name).read_text(encoding="utf-8"))
        if decoder := settings.get("added_tokens_decoder"):
            kept = {new_ids[old]: token for old, token in decoder.items() if old in new_ids}
            settings["added_tokens_decoder"] = kept
        text = json.dumps(settings, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    if state["model"]["type"] == "WordPiece":
        lines = "".join(f"{piece}\n" for piece in state["model"]["vocab"])
        (folder / "vocab.txt").write_text(lines, encoding="utf-8")


def _always_stays(piece: str, model: Mapping[str, Any]) -> bool:
    bare = piece.removeprefix(model.get("continuing_subword_prefix") or "")
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return len(piece) == 1 or len(bare) == 1 or is_byte


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _post_processor_places(part: Any) -> Iterator[tuple[Any, Any]]:
    for inner in part.get("processors", ()):
        yield from _post_processor_places(inner)
    for name in ("sep", "cls"):
        if isinstance(part.get(name), list):
            yield part[name], 1
    specials = part.get("special_tokens")
    for token in specials.values() if isinstance(specials, dict) else ():
        yield from ((token["ids"], place) for place in range(len(token["ids"])))
