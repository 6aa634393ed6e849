"""Decoding speed: against engines whose every token takes a known time, and the real ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest

from deshi.jobs.evidence.felt import decode_speed
from deshi.jobs.evidence.felt.decode_speed import interleaved_decode
from deshi.serve.engines.generation import Step


class Engine:
    """`first` seconds for the prompt, `gap` for a token; keeps what it was asked, all engines in one list."""

    asked: ClassVar[list[tuple[str, list[int]]]] = []

    def __init__(self, name, first, gap, short=0):
        self.name, self.first, self.gap, self.short, self.closed = name, first, gap, short, False

    async def submit(self, prompt_ids, params):
        assert params.ignore_eos and params.temperature == 0
        self.asked.append((self.name, list(prompt_ids)))
        await asyncio.sleep(self.first)
        for made in range(1, params.max_tokens + 1):
            last = made == params.max_tokens - self.short
            yield Step(text="x", finish_reason="length" if last else None, completion_tokens=made)
            if last:
                return
            await asyncio.sleep(self.gap)

    def close(self):
        self.closed = True


@pytest.fixture
def engines(monkeypatch):
    """`slow` takes four times `quick`'s time for the prompt and for a token; `short` ends early."""
    made = {
        "quick": Engine("quick", 0.02, 0.005),
        "slow": Engine("slow", 0.08, 0.02),
        "short": Engine("short", 0, 0, 1),
    }
    Engine.asked = []

    class Kind:
        def open(self, folder, *, threads, slots, context_length, max_queued):
            assert (threads, slots, context_length) == (1, 1, 16)
            return made[folder.name.split("-")[1]]

    monkeypatch.setattr(decode_speed, "generation_engine", lambda name: Kind())
    return made


def asked(*names, **more):
    settings = {"prompt_tokens": 8, "answer_tokens": 8, "threads": 1, "reference": names[0], "vocabulary": 5000}
    return interleaved_decode({name: Path(f"engines/any-{name}") for name in names}, **settings | {"rounds": 5} | more)


def test_known_times(engines):
    quick, slow = asked("quick", "slow")
    assert (quick.engine, slow.engine, quick.shape, quick.n) == ("quick", "slow", "8+8", 5)
    assert quick.ratio_to_reference == quick.ratio_low == quick.ratio_high == 1
    assert slow.median_ms > 80 + 7 * 20 and quick.median_ms > 20 + 7 * 5
    assert slow.ratio_to_reference == pytest.approx(4, rel=0.25)
    assert slow.ratio_low <= slow.ratio_to_reference <= slow.ratio_high
    assert slow.low <= slow.median_ms <= slow.high
    assert engines["quick"].closed and engines["slow"].closed


def test_parts_of_a_request(engines):
    whole, first, rest = (asked("slow", part=part)[0].median_ms for part in ("whole", "first", "rest"))
    assert first == pytest.approx(80, abs=30) and rest > 7 * 20
    assert whole == pytest.approx(first + rest, rel=0.2)


def test_every_round_asks_all_the_same_new_prompt(engines):
    asked("quick", "slow", rounds=6)
    rounds = [Engine.asked[at : at + 2] for at in range(0, 14, 2)]
    assert len(Engine.asked) == 14, "one round warms up"
    for one, other in rounds:
        assert {one[0], other[0]} == {"quick", "slow"} and one[1] == other[1] and len(one[1]) == 8
        assert all(256 <= token < 5000 for token in one[1])
    assert len({both[0][1][0] for both in rounds}) == 7, "no prompt begins like one before"
    assert len({both[0][0] for both in rounds}) == 2, "the order is drawn"


def test_what_cannot_be_timed(engines):
    with pytest.raises(ValueError, match="reference 'best' is not among the builds; use one of quick, slow"):
        asked("quick", "slow", reference="best")
    with pytest.raises(ValueError, match="rounds 2 gives no interval; use 3 or more"):
        asked("quick", rounds=2)
    with pytest.raises(ValueError, match="an answer of 1 tokens cannot be timed"):
        asked("quick", answer_tokens=1)
    with pytest.raises(ValueError, match="wrote 7 of 8 tokens"):
        asked("short")


def test_real_builds(parrot):
    folders = {name: parrot / "engines" / name for name in ("llamacpp-f16", "torch_generate-fp32")}
    rows = interleaved_decode(
        folders,
        prompt_tokens=20,
        answer_tokens=12,
        threads=1,
        reference="torch_generate-fp32",
        vocabulary=270,
        rounds=3,
        seed=1,
    )
    assert [row.engine for row in rows] == list(folders) and all(row.n == 3 and row.median_ms > 0 for row in rows)
