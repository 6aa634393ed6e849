"""The volume of requests from which a change pays, found exactly although machines come whole.

A volume is a whole number of requests a month, and the peak moves in proportion to it. With v requests a month the
change is worth, a month,

    worth(v) = per_request x v + fixed + today's machines(v) x price - new machines(v) x price

`fixed` holds what does not follow the volume, the money spent once among it, spread over the horizon as an annuity; so
worth(v) >= 0 is NPV >= 0. The machines make steps: between two steps worth is a straight line, and every line is solved
by itself, so the answer is exact to the request and no search can miss a dip. Of more than `MOST_STEPS` steps, which
takes a thousand machines, one is too low to matter: machines then count in parts, and worth is one straight line.

Because of the dips a volume that pays may have one above it that does not. So the break-even is anchored at the volume
that is planned: where that pays, it is the smallest volume from which every one up to the planned one pays; where it
does not, it is the first larger one that does, up to `GROWTH` times the plan, else infinite. Where worth rises
steadily both are the one crossing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deshi.jobs.evidence.business.money import TOLERANCE, whole_machines
from deshi.jobs.evidence.business.payback import Floats

GROWTH = 10  # times the planned volume: beyond, other machines would be bought than those that were measured
MOST_STEPS = 20_000
CELLS = 2_000_000  # draws x lines worked on at once, about 100 MB


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Machines that share the load.

    Attributes:
        carries: requests a month that one of them answers, as the peak goes; shape [draws] or [1].
        price: money a month of one of them.
    """

    carries: Floats
    price: float


def break_even(*, per_request: Floats, fixed: Floats, today: Fleet | None, new: Fleet, planned: float) -> Floats:
    """Requests a month from which the change pays, shape [draws]; infinite where none up to `GROWTH` x `planned` does.

    Args:
        per_request: money that each request saves, machines aside.
        fixed: money a month that does not follow the volume, less the annuity of the money spent once.
        today: machines that answer today, or None where today is paid by the request.
        new: machines that will answer.
        planned: requests a month that the recipe states.
    """
    top = max(1, math.floor(planned))
    # Machines that cost nothing stand for none, so that there is one formula.
    ours = today or Fleet(carries=new.carries, price=0.0)
    slope, level, old, theirs = np.broadcast_arrays(per_request, fixed, ours.carries, new.carries)
    lines = 1 + sum(math.ceil(GROWTH * top / float(carries.min())) for carries in (old, theirs))
    if lines > MOST_STEPS:
        slope = slope + ours.price / old - new.price / theirs
        whole = Fleet(carries=np.full(1, float(GROWTH * top)), price=0.0)
        return break_even(per_request=slope, fixed=level, today=None, new=whole, planned=planned)
    found = np.empty(len(slope))
    for part in np.array_split(np.arange(len(slope)), math.ceil(len(slope) * lines / CELLS)):
        worth = _Worth(
            slope=slope[part, None],
            level=level[part, None],
            today=Fleet(carries=old[part, None], price=ours.price),
            new=Fleet(carries=theirs[part, None], price=new.price),
        )
        pays = worth.at(np.full((len(part), 1), float(top)))[:, 0] >= 0
        found[part] = np.where(pays, worth.smallest_up_to(top), worth.first_beyond(top))
    return found


@dataclass(frozen=True, kw_only=True)
class _Worth:
    """worth(v) of some draws; arrays of shape [draws, 1]."""

    slope: Floats
    level: Floats
    today: Fleet
    new: Fleet

    def at(self, volume: Floats) -> Floats:
        """Money a month at volumes of shape [draws, volumes]."""
        return self.slope * volume + self.level + _paid(self.today, volume) - _paid(self.new, volume)

    def smallest_up_to(self, top: int) -> Floats:
        """The volume above the last one up to `top` that does not pay; 1 where all do."""
        first, last = self._lines(0, top)
        at_first, at_last = self.at(first), self.at(last)
        # Of a line that loses money: its last volume, or the last one before it rises above 0.
        rises = (at_first < 0) & (at_last >= 0)
        crossing = np.ceil(first - at_first / np.where(rises, self.slope, 1.0)) - 1
        losing = np.where(at_last < 0, last, np.where(rises, crossing, 0.0))
        return np.where(first <= last, losing, 0.0).max(axis=1) + 1

    def first_beyond(self, top: int) -> Floats:
        """The first volume above `top` that pays, up to `GROWTH` times it; else infinite."""
        first, last = self._lines(top, GROWTH * top)
        at_first, at_last = self.at(first), self.at(last)
        rises = (at_first < 0) & (at_last >= 0)
        crossing = np.ceil(first - at_first / np.where(rises, self.slope, 1.0))
        paying = np.where(at_first >= 0, first, np.where(rises, crossing, np.inf))
        return np.where(first <= last, paying, np.inf).min(axis=1)

    def _lines(self, above: int, top: int) -> tuple[Floats, Floats]:
        """First and last volume of every straight line in (above, top]; where first > last there is none."""
        edges = [np.full_like(self.slope, top)]
        for fleet in (self.today, self.new):
            machines = np.arange(1, math.ceil(top / float(fleet.carries.min())) + 1)
            edges.append(np.clip(np.floor(fleet.carries * (machines + TOLERANCE)), above, top))
        last = np.sort(np.concatenate(edges, axis=1), axis=1)
        return np.concatenate([np.full_like(self.slope, above), last[:, :-1]], axis=1) + 1, last


def _paid(fleet: Fleet, volume: Floats) -> Floats:
    return fleet.price * whole_machines(volume, fleet.carries)
