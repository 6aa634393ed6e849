"""Which rows people are asked about, and under which letter each model's answer stands.

Rows on which teacher and student differ tell the two apart, so they make up to half of the items (all of them where
there are fewer); the others are rows on which both say the same, which tell how satisfied people are at all. Both are
drawn at random and shuffled together, so the leading items of a sheet are a random sample too: who stops half-way
biases nothing. What is known of all rows from such items: `stratified.py`.

The coin that gives the student its letter is the SHA-256 of release, seed and row: another one for each item, the same
whenever the sheets are written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deshi.jobs.evidence.people.review_schema import KeyItem, Letter, ReviewKey


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What both models answered to one row."""

    row: int
    text: str
    student: str
    teacher: str

    @property
    def differs(self) -> bool:
        """Whether there are two answers at all."""
        return self.student != self.teacher


@dataclass(frozen=True, kw_only=True)
class Shown:
    """All that a sheet says of an item."""

    row: int
    text: str
    a: str
    b: str


def draw(pairs: Sequence[Pair], *, items: int, seed: int, release: str) -> ReviewKey:
    """At most `items` of the rows, in the order of the sheets.

    Raises:
        ValueError: if there is no row, or fewer than four items are asked for.
    """
    if not pairs:
        raise ValueError("no row has an answer of both teacher and student; run the recipe again")
    if items < 4:
        raise ValueError(f"{items} rows say nothing of a model; ask for 4 or more")
    rng = np.random.default_rng([seed, int(release[:8], 16)])
    differing, same = ([pair for pair in pairs if pair.differs == differs] for differs in (True, False))
    wanted = min(items, len(pairs))
    of_differing = min(len(differing), max(wanted // 2, wanted - len(same)))
    drawn = _some(differing, of_differing, rng) + _some(same, wanted - of_differing, rng)
    order = rng.permutation(len(drawn))
    return ReviewKey(
        release=release,
        seed=seed,
        rows=len(pairs),
        rows_differing=len(differing),
        items=tuple(
            KeyItem(row=pair.row, student=coin(release, seed, pair.row), differs=pair.differs)
            for pair in (drawn[place] for place in order)
        ),
    )


def coin(release: str, seed: int, row: int) -> Letter:
    """The letter of the student's answer to a row."""
    return "A" if hashlib.sha256(f"{release} {seed} {row}".encode()).digest()[0] & 1 else "B"


def shown(pairs: Sequence[Pair], key: ReviewKey) -> list[Shown]:
    """What the sheets say, in their order: nothing here depends on who a model is but the letters."""
    by_row = {pair.row: pair for pair in pairs}

    def one(item: KeyItem) -> Shown:
        pair = by_row[item.row]
        a, b = (pair.student, pair.teacher) if item.student == "A" else (pair.teacher, pair.student)
        return Shown(row=item.row, text=pair.text, a=a, b=b)

    return [one(item) for item in key.items]


def _some(pairs: Sequence[Pair], count: int, rng: np.random.Generator) -> list[Pair]:
    return [pairs[place] for place in rng.choice(len(pairs), count, replace=False)] if count else []
