"""What a model costs to serve: whole machines at peak load, and the money for 1,000 requests.

Money is in the recipe's `business.currency`; rates are requests a second; a month has 730 hours (8,760 / 12).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

HOURS_PER_MONTH = 730.0
TOLERANCE = 1e-9  # of a machine: so small a share is a rounding error of the division, not load


def machines(peak_rps: float, rps_within_limit_of_one_machine: float) -> int:
    """Whole machines that carry the peak, at least one.

    Args:
        peak_rps: requests a second at the busiest time.
        rps_within_limit_of_one_machine: requests a second that one machine answers within the latency limit.
    """
    _require_positive(peak_rps=peak_rps, rps_within_limit_of_one_machine=rps_within_limit_of_one_machine)
    return int(whole_machines(peak_rps, rps_within_limit_of_one_machine))


def whole_machines(
    load: float | NDArray[np.float64], carried_by_one: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    """`machines` for arrays of loads and of what one machine carries, both above 0 and of one unit."""
    return np.maximum(1.0, np.ceil(np.asarray(load) / carried_by_one - TOLERANCE))


def cost_per_1000(
    machines: int,
    price_per_hour: float,
    requests_per_month: float,
    hours_per_month: float = HOURS_PER_MONTH,
) -> float:
    """Money for 1,000 requests, with machines that run all month whether they are busy or not.

    Args:
        machines: whole machines.
        price_per_hour: money for one machine-hour; 0 is allowed, for a machine that is paid for already.
        requests_per_month: requests answered by all machines together.
        hours_per_month: hours that the machines run.
    """
    _require_positive(machines=machines, requests_per_month=requests_per_month, hours_per_month=hours_per_month)
    _require_price(price_per_hour)
    return machines * price_per_hour * hours_per_month / requests_per_month * 1000


def cost_per_1000_full_use(price_per_hour: float, throughput_rps: float) -> float:
    """Money for 1,000 requests on one machine that is never idle: a lower bound, to be labelled as such.

    Args:
        price_per_hour: money for one machine-hour; 0 is allowed.
        throughput_rps: requests a second that one machine answers at its limit.
    """
    _require_positive(throughput_rps=throughput_rps)
    _require_price(price_per_hour)
    return price_per_hour / (3600 * throughput_rps) * 1000


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value} must be above 0; give what was measured or is expected")


def _require_price(price_per_hour: float) -> None:
    if not (math.isfinite(price_per_hour) and price_per_hour >= 0):
        raise ValueError(f"price_per_hour = {price_per_hour} is no price; give 0 or more for a machine-hour")
