"""What the reader of an answer feels: against the real endpoint, and the search against a server that is a formula."""

from __future__ import annotations

import pytest

from deshi.jobs.evidence.felt import chat_endpoint
from deshi.jobs.evidence.felt.chat_endpoint import Limits, felt_chat
from deshi.jobs.evidence.felt.chat_stream import ChatSample
from deshi.serve.kpi import Target

SAYS = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 11, "temperature": 0, "ignore_eos": True}


def sample(latency=100.0, first=20.0, per_token=5.0, status=200):
    return ChatSample(
        scheduled=0.0,
        sent=0.0,
        latency_ms=latency,
        first_token_ms=first,
        per_token_ms=per_token,
        tokens=17,
        queue_ms=1.0,
        http_ms=2.0,
        status=status,
        text="x",
        arrivals=[0.02],
    )


@pytest.mark.timeout(240)
def test_the_real_endpoint(parrot):
    target = Target(name="onprem", threads=1, slots=8, rtt_ms=1000.0, price_per_hour=1, server="process")
    settings = {"latency_ms": None, "first_token_ms": None, "per_token_ms": None}
    felt = felt_chat(parrot, target, [SAYS], peak_rps=10, **settings, confidence=0.95, seconds=3, seed=0)
    parts = felt.latency
    assert parts.first_token_p95.value > 1000 and parts.p50.value >= 1000 and parts.network.value == 1000
    assert parts.p95.value >= parts.p50.value and parts.p95.value >= parts.first_token_p95.value
    assert parts.per_token_p95.value < 100 and parts.queue_p95.value < 1000
    assert parts.p50.value - 1000 < parts.engine_p95.value + parts.queue_p95.value + parts.http_p95.value
    assert 60 < parts.p50.n < 130 and parts.p95.high is not None
    assert f"{parts.p50.n} of {parts.p50.n} answered" in parts.p50.how
    assert parts.tokens_per_second.value > 10 * 11, "ten a second of 11 tokens each were no load"
    assert felt.throughput_rps.value >= 10 and felt.throughput_rps.high >= felt.throughput_rps.low
    assert "first token" in felt.throughput_rps.how and felt.memory_mb.value > 20


def test_an_endpoint_that_answers_nothing(parrot):
    target = Target(name="onprem", threads=1, price_per_hour=1, server="process")
    settings = {"latency_ms": None, "first_token_ms": None, "per_token_ms": None}
    too_long = SAYS | {"max_tokens": 100_000}
    with pytest.raises(ValueError, match=r"answered none of \d+ requests \(status 400\)"):
        felt_chat(parrot, target, [too_long], peak_rps=40, **settings, confidence=0.95, seconds=0.5, seed=0)


def test_limits_are_kept_at_the_95th_percentile():
    late = [sample() for _ in range(95)] + [sample(latency=900, first=800, per_token=70) for _ in range(5)]
    later = [*late[1:], sample(latency=900, first=800, per_token=70)]
    for limits in (Limits(latency_ms=200), Limits(first_token_ms=25), Limits(per_token_ms=6)):
        assert limits.kept(late) and not limits.kept(later)
    assert Limits().kept(later)
    assert not Limits().kept([]) and not Limits().kept([sample(), sample(status=503)])
    assert Limits(per_token_ms=1).kept([sample(per_token=None)]), "one token has no time after the first"


class Formula:
    """Answers every rate up to `able` in 100 ms, and above it in 10 s; remembers what was asked."""

    def __init__(self, able):
        self.able, self.asked = able, []

    def __call__(self, loop, url, requests, *, rps, seconds, seed):
        self.asked.append(rps)
        assert loop == "open" and 5 <= seconds <= 12
        return [sample(latency=100 if rps <= self.able else 10_000)] * 4


@pytest.mark.parametrize(
    ("able", "most", "at_peak", "found", "asked"),
    [
        (100, 8, 1, 8, [4, 8]),  # 12 and 10 are more than the slots can write: not asked
        (7, 8, 1, 7, [4, 8, 6, 7]),
        (1, 8, 1, 1, [4, 2]),  # at 1 it held: the run at peak_rps has told; then 1.5 and 1.25
        (0.6, 8, 1, 0.5, [0.5, 0.75]),  # at 1 it did not hold: nothing above is asked
        (0.0, 8, 1, 0.0, [0.5, 0.25]),
    ],
)
def test_the_search_asks_only_what_it_does_not_know(monkeypatch, able, most, at_peak, found, asked):
    server = Formula(able)
    monkeypatch.setattr(chat_endpoint, "in_own_process", server)
    limits = Limits(latency_ms=500)
    rps, steps = chat_endpoint._throughput(
        "", [], limits, most=most, at_peak=at_peak, peak_kept=at_peak <= able, seed=0
    )
    assert found / 1.3 <= rps <= found
    assert server.asked[: len(asked)] == asked and len(server.asked) <= 4
    assert all(rate > at_peak for rate in server.asked) or able < at_peak
    assert not rps or any(not step.within and step.rps <= 1.5 * rps for step in steps)
