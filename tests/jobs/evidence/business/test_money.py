"""Money by hand: a month is 730 hours, machines are whole."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from deshi.jobs.evidence.business import money


@pytest.mark.parametrize(
    ("peak", "one", "expected"),
    [(20, 100, 1), (20, 20, 1), (20, 19.9, 2), (20, 3, 7), (0.3, 0.1, 3), (1e6, 1, 10**6)],
)
def test_machines_are_whole_and_carry_the_peak(peak, one, expected):
    assert money.machines(peak, one) == expected


def test_cost_per_1000_by_hand():
    # 3 machines x 15 an hour x 730 hours = 32,850 a month, for 1,000,000 requests.
    assert money.cost_per_1000(3, 15, 1_000_000) == pytest.approx(32.85)
    assert money.cost_per_1000(1, 15, 1_000_000, hours_per_month=100) == pytest.approx(1.5)
    assert money.cost_per_1000(1, 0, 1_000_000) == 0


def test_full_use_is_the_lower_bound():
    # One machine at 10 requests a second answers 36,000 an hour.
    assert money.cost_per_1000_full_use(36, 10) == pytest.approx(1.0)
    throughput, price, hours = 7, 15, 730
    at_full_load = money.cost_per_1000(1, price, throughput * 3600 * hours)
    assert money.cost_per_1000_full_use(price, throughput) == pytest.approx(
        float(Fraction(price, 3600 * throughput) * 1000)
    )
    assert at_full_load == pytest.approx(money.cost_per_1000_full_use(price, throughput))


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_senseless_input_is_refused(bad):
    with pytest.raises(ValueError, match="peak_rps"):
        money.machines(bad, 1)
    with pytest.raises(ValueError, match="rps_within_limit"):
        money.machines(1, bad)
    with pytest.raises(ValueError, match="machines"):
        money.cost_per_1000(bad, 1, 1)
    with pytest.raises(ValueError, match="requests_per_month"):
        money.cost_per_1000(1, 1, bad)
    with pytest.raises(ValueError, match="hours_per_month"):
        money.cost_per_1000(1, 1, 1, hours_per_month=bad)
    with pytest.raises(ValueError, match="throughput_rps"):
        money.cost_per_1000_full_use(1, bad)
    if bad != 0:
        with pytest.raises(ValueError, match="price_per_hour"):
            money.cost_per_1000(1, bad, 1)
