"""Cold copies, interleaved rounds, medians with an interval: the parts that need no device."""

import random

import pytest

from deshi.kernels.speed.timing import LEAST_COPIES, MOST_COPIES, copies, faster, interleaved, interval


def test_copies_are_at_least_four_and_four_times_the_cache():
    assert copies(10**9, 50 * 10**6) == LEAST_COPIES == 4
    assert copies(10 * 10**6, 50 * 10**6) == 20
    assert copies(1, 50 * 10**6) == MOST_COPIES


def test_the_interval_is_that_of_order_statistics():
    """n = 15: P(Binomial(15, 1/2) < 4) = 0.0176, and < 5 more than 0.025, so the fourth from either end."""
    samples = [float(n) for n in range(1, 16)]
    random.Random(0).shuffle(samples)
    told = interval(samples)
    assert (told.median, told.low, told.high) == (8.0, 4.0, 12.0)


def test_the_interval_covers_the_median():
    generator = random.Random(0)
    hits = 0
    for _ in range(2000):
        told = interval([generator.expovariate(1.0) for _ in range(15)])
        hits += told.low <= 0.6931 <= told.high
    assert 0.95 <= hits / 2000 <= 0.98


@pytest.mark.parametrize("samples", [[3.0], [3.0, 5.0]])
def test_few_rounds_are_told_as_they_are(samples):
    told = interval(samples)
    assert (told.low, told.high) == (min(samples), max(samples))


def test_a_drift_that_slows_all_alike_leaves_the_ratio():
    """Each round times everyone, and starts with another one."""
    order, clock = [], [0.0]

    def stopwatch(name, seconds):
        def read():
            order.append(name)
            clock[0] += 1
            return seconds * (1 + clock[0] / 10)

        return read

    seconds = interleaved({"a": stopwatch("a", 1.0), "b": stopwatch("b", 2.0), "c": stopwatch("c", 4.0)}, 6)
    assert order[:9] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert all(len(one) == 6 for one in seconds.values())
    ratio = faster(seconds["a"], seconds["b"])
    assert ratio.low <= 2.0 <= ratio.high and abs(ratio.median - 2.0) < 0.2
