"""How often the gate errs: verdicts on simulated students, made of a run's stored answers to its test rows.

A student of a known drop is the stored one with some answers changed at random: rows are drawn again with replacement,
and each right answer turns wrong with the chance e (wrong ones turn right, where less drop is wanted), so that over the
stored rows

    drop = stored drop + e P(stored student right)

holds exactly, and teacher and student differ about as often as they did. Slices keep the sizes that they have among the
rows drawn again. So that a student loses alike in all of them, its answers are those of other rows, drawn apart from
the slices; where differing is to vary with the slice, differences are drawn by that slice's shares.

What speaks is the gate's own code: `paired_drop` and `non_inferior`, and `flip_harms`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.evidence.risk.slice_harm import ERROR, Bools, Harm, flip_harms, members
from deshi.serve.paired_statistics import paired_drop
from deshi.serve.statistics import non_inferior

ROWS, SLICES, SLICE_ROWS = 3000, 20, 150  # of the test sets in which harm is planted: at least, at most, at least
PLANTED = 0.2  # of a slice's rows, broken
DIFFERING = (0.02, 0.3)  # shares of differing rows, of every other slice
Students = Callable[["Ground", np.random.Generator], NDArray[np.int64]]  # differences [rows] of one student


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Who was right on the test rows, and the slice of each row."""

    taught_right: Bools  # [rows]
    right: Bools  # [rows]
    slice_of: tuple[str, ...]  # [rows]

    @property
    def drop(self) -> float:
        """The teacher's accuracy less the student's."""
        return float(self.taught_right.mean() - self.right.mean())

    @property
    def discordant_share(self) -> float:
        """Share of rows on which exactly one of the two is right."""
        return float(np.mean(self.taught_right != self.right))

    def draw(self, n: int, drop: float, rng: np.random.Generator) -> tuple[Bools, Bools]:
        """Teacher and student [n] on rows drawn again, where the drop over the stored rows would be `drop`.

        Raises:
            ValueError: if there are not answers enough to change.
        """
        wanted = drop - self.drop
        changing = self.right if wanted > 0 else ~self.right
        share = float(changing.mean())
        if abs(wanted) > share:
            raise ValueError(
                f"a drop of {drop:g} cannot be made of answers that dropped by {self.drop:g} with {share:.0%} left to "
                "change; give a run whose margin is smaller"
            )
        rows = rng.integers(len(self.right), size=n)
        changed = changing[rows] & (rng.random(n) < abs(wanted) / max(share, 1e-12))
        return self.taught_right[rows], self.right[rows] ^ changed


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The slices of one simulated test set."""

    here: list[Bools]  # [slices][rows]
    rows: int


def gate_outcomes(
    stored: Stored, *, drop: float, margin: float, confidence: float, rows: int, draws: int, seed: int
) -> dict[str, float]:
    """PASS, FAIL and INCONCLUSIVE as shares of the draws of a student whose true drop is `drop`."""
    rng = np.random.default_rng([seed, rows])
    said: Counter[str] = Counter()
    for number in range(draws):
        found = paired_drop(*stored.draw(rows, drop, rng), confidence=confidence, seed=number).drop
        said[non_inferior(found.low, found.high, margin)] += 1
    return {outcome: said[outcome] / draws for outcome in ("PASS", "FAIL", "INCONCLUSIVE")}


def same_drop(stored: Stored, drop: float | None = None) -> Students:
    """Students that lose alike in every slice: as much as the stored one, or `drop`."""

    def one(ground: Ground, rng: np.random.Generator) -> NDArray[np.int64]:
        taught, right = stored.draw(ground.rows, stored.drop if drop is None else drop, rng)
        return taught.astype(np.int64) - right

    return one


def uneven_flips() -> Students:
    """Students that lose nothing anywhere, and differ from the teacher in some slices often and in others rarely."""

    def one(ground: Ground, rng: np.random.Generator) -> NDArray[np.int64]:
        share = np.zeros(ground.rows)
        for number, here in enumerate(ground.here):
            share[here] = DIFFERING[number % 2]
        luck = rng.random(ground.rows)
        return np.where(luck < share / 2, 1, np.where(luck < share, -1, 0))

    return one


def planted(stored: Stored) -> Students:
    """Students as `same_drop`, of which one slice, any of at least SLICE_ROWS rows, lost PLANTED of its rows more."""

    def one(ground: Ground, rng: np.random.Generator) -> NDArray[np.int64]:
        taught, right = stored.draw(ground.rows, stored.drop, rng)
        large = [here for here in ground.here if here.sum() >= SLICE_ROWS]
        if not large:
            raise ValueError(
                f"no slice has {SLICE_ROWS} of {ground.rows} rows; give a run whose slices are larger or fewer"
            )
        here = large[rng.integers(len(large))]
        broken = rng.choice(np.flatnonzero(here & right), size=round(PLANTED * here.sum()), replace=False)
        right[broken] = False
        return taught.astype(np.int64) - right

    return one


def grounds(stored: Stored, draws: int, seed: int) -> Iterator[tuple[Ground, np.random.Generator]]:
    """Test sets of ROWS rows, or as many as are stored; the smallest slices are put together so that few are left."""
    names = [name for name, _ in Counter(stored.slice_of).most_common()]
    kept = set(names if len(names) <= SLICES else names[: SLICES - 1])
    slice_of = np.array([name if name in kept else "(others)" for name in stored.slice_of])
    rows = max(ROWS, len(slice_of))
    for number in range(draws):
        rng = np.random.default_rng([seed, number])
        drawn = slice_of[rng.integers(len(slice_of), size=rows)] if rows > len(slice_of) else slice_of
        yield Ground(here=list(members({"slice": drawn.tolist()}).values()), rows=rows), rng


def blocked(stored: Stored, students: Students, *, margin: float, draws: int, seed: int) -> tuple[float, float]:
    """Share of students that some harmed slice blocks, and of those in which Holm's test alone rejects."""
    harms: list[list[Harm]] = [
        flip_harms(students(ground, rng), ground.here, margin) for ground, rng in grounds(stored, draws, seed)
    ]
    gate = np.mean([any(harm.harmed for harm in each) for each in harms])
    test = np.mean([any(harm.p is not None and harm.p <= ERROR for harm in each) for each in harms])
    return float(gate), float(test)
