"""Which rows to hold out: whole groups of near-twins, in proportion to the strata, up to each class's quota.

Every group gets a place in (0, 1): in its stratum (class and slice of its first row) the groups are shuffled,
and the k-th of n stands at (k + u) / n, u drawn once for the stratum. Read in the order of their places, any
prefix holds the strata in proportion (systematic sampling), so groups are taken from the front as long as
every class in them still has room. A class made of twins only may stay short of half its quota; it is then
filled row by row, twins or not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np


def hold_out(
    *,
    groups: Sequence[int] | np.ndarray,
    classes: Sequence[str],
    slices: Sequence[str],
    quota: Mapping[str, int],
    seed: int,
) -> np.ndarray:
    """Draws rows, deterministically by seed and row order.

    Args:
        groups: the group of each row; a group is held out whole.
        classes: the class of each row.
        slices: the slice of each row, the second part of its stratum.
        quota: how many rows of each class to hold out at most.

    Returns:
        bool [rows], true where the row is held out.
    """
    rng = np.random.default_rng(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(np.asarray(groups).tolist()):
        members[group].append(row)
    order = _by_place(list(members.values()), classes, slices, rng)

    held = np.zeros(len(classes), bool)
    taken: Counter[str] = Counter()
    for rows in order:
        wanted = Counter(classes[row] for row in rows)
        if all(taken[name] + count <= quota.get(name, 0) for name, count in wanted.items()):
            held[rows] = True
            taken += wanted
    short = {name for name, most in quota.items() if 2 * taken[name] < most}
    for row in (row for rows in order for row in rows):
        name = classes[row]
        if name in short and not held[row] and taken[name] < quota[name]:
            held[row] = True
            taken[name] += 1
    return held


def class_quota(counts: Mapping[str, int], *, share: float, leave: int = 2) -> dict[str, int]:
    """Rows of each class to hold out: the share, at least one, but `leave` rows always stay."""
    return {name: max(0, min(max(1, round(share * count)), count - leave)) for name, count in sorted(counts.items())}


def _by_place(
    units: list[list[int]], classes: Sequence[str], slices: Sequence[str], rng: np.random.Generator
) -> list[list[int]]:
    strata: dict[tuple[str, str], list[list[int]]] = defaultdict(list)
    for rows in units:
        strata[classes[rows[0]], slices[rows[0]]].append(rows)
    placed: list[tuple[float, list[int]]] = []
    for stratum in sorted(strata):
        found = strata[stratum]
        start = rng.random()
        placed += [
            ((k + start) / len(found), found[pick]) for k, pick in enumerate(rng.permutation(len(found)).tolist())
        ]
    return [rows for _, rows in sorted(placed)]
