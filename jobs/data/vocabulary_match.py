"""Do a student and its teacher speak of the same pieces? Logits can be compared id by id only then.

Compared are the two `tokenizer.json`: the model (for BPE its vocabulary and merges), the added tokens, and how text is
cut and normalised before. Heads that differ by padded rows alone, which models have for the speed of their matrix
products, are the same vocabulary: ids beyond the tokenizer's never stand in a text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Pieces = dict[str, int]


def same_vocabulary(student_folder: Path, teacher_folder: Path) -> int:
    """How many ids both models know: the smaller of their heads, padding included; never below the tokenizer's ids.

    Raises:
        ValueError: if the tokenizers cut text differently or number a piece differently, or a head is too small.
    """
    student, teacher = _tokenizer(student_folder), _tokenizer(teacher_folder)
    _same_pieces(_pieces(student), _pieces(teacher))
    for part, what in (
        ("model", "merges or the model's settings"),
        ("normalizer", "normalising"),
        ("pre_tokenizer", "cutting text into words"),
    ):
        _require(
            _comparable(student[part]) == _comparable(teacher[part]),
            f"the student's and the teacher's tokenizer differ in {what}, so the same text becomes different ids; "
            "take a student with the teacher's tokenizer",
        )
    needed = 1 + max(_pieces(student).values())
    sizes = [_head_rows(folder) for folder in (student_folder, teacher_folder)]
    for size, folder in zip(sizes, (student_folder, teacher_folder), strict=True):
        _require(
            size >= needed,
            f"vocab_size {size} of {folder} is below the {needed} ids of its tokenizer; repair its config.json",
        )
    return min(sizes)


def _same_pieces(student: Pieces, teacher: Pieces) -> None:
    for piece in sorted(student.keys() ^ teacher.keys()):
        raise ValueError(
            f"piece {piece!r} is known to the {'student' if piece in student else 'teacher'} alone (the student's "
            f"tokenizer has {len(student)} pieces, the teacher's {len(teacher)}); take a student with the teacher's "
            "tokenizer"
        )
    for piece, number in student.items():
        _require(
            teacher[piece] == number,
            f"piece {piece!r} is {number} to the student and {teacher[piece]} to the teacher; take a student with the "
            "teacher's tokenizer",
        )


def _tokenizer(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    _require(
        path.is_file(),
        f"{folder} has no tokenizer.json, so its vocabulary cannot be compared; save the model with a fast tokenizer",
    )
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    _require(
        isinstance(told.get("model"), dict) and "vocab" in told["model"],
        f"{path} holds no model with a vocab; save the model with a fast tokenizer",
    )
    return {"normalizer": None, "pre_tokenizer": None, "added_tokens": [], **told}


def _pieces(tokenizer: dict[str, Any]) -> Pieces:
    """Piece to id, added tokens included; Unigram lists [piece, score] in the order of ids."""
    vocab = tokenizer["model"]["vocab"]
    own = dict(vocab) if isinstance(vocab, dict) else {piece: number for number, (piece, _) in enumerate(vocab)}
    return own | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def _comparable(part: Any) -> Any:
    """Spelt in one way: settings left out are off, older files join the two halves of a merge by a space.

    A vocab of ids was compared piece by piece; Unigram's, with its scores, stays.
    """
    if not isinstance(part, dict):
        return part
    told = {name: value for name, value in part.items() if value not in (None, False)}
    if isinstance(told.get("vocab"), dict):
        del told["vocab"]
    if "merges" in told:
        told["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in told["merges"]]
    return told


def _head_rows(folder: Path) -> int:
    path = folder / "config.json"
    _require(path.is_file(), f"{folder} has no config.json; give a model folder")
    told = json.loads(path.read_text(encoding="utf-8"))
    size = told.get("vocab_size") or told.get("text_config", {}).get("vocab_size")
    _require(isinstance(size, int), f"{path} names no vocab_size; repair it")
    assert isinstance(size, int)
    return size


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
