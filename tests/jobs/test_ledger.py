"""The ledger keeps every finished line and drops only the one that a kill cut in half."""

from __future__ import annotations

import random

import pytest

from deshi.jobs.ledger import Ledger
from deshi.jobs.storage import Storage


def test_lines_come_back_in_order(tmp_path):
    ledger = Ledger(Storage(str(tmp_path)), "run/trials.jsonl")
    for number in range(5):
        ledger.append(f"t{number}", {"quality": number / 10})
    again = Ledger(Storage(str(tmp_path)), "run/trials.jsonl")
    assert [line["id"] for line in again.lines()] == [f"t{number}" for number in range(5)]
    assert again.get("t3") == {"id": "t3", "quality": 0.3}


def test_a_finished_trial_cannot_be_written_twice(tmp_path):
    ledger = Ledger(Storage(str(tmp_path)), "trials.jsonl")
    ledger.append("a", {})
    with pytest.raises(ValueError, match="already holds 'a'"):
        ledger.append("a", {})


def test_every_cut_keeps_the_whole_lines_before_it(tmp_path):
    """The file is cut after each of its bytes: what opens is always the longest prefix of whole lines."""
    path = tmp_path / "trials.jsonl"
    ledger = Ledger(Storage(str(tmp_path)), "trials.jsonl")
    for number in range(3):
        ledger.append(f"trial-{number}", {"text": "表" * number})
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        opened = Ledger(Storage(str(tmp_path)), "trials.jsonl")
        assert [line["id"] for line in opened.lines()] == [f"trial-{number}" for number in range(whole)], cut
        opened.append("next", {})
        assert len(Ledger(Storage(str(tmp_path)), "trials.jsonl").lines()) == whole + 1


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "trials.jsonl"
    Ledger(Storage(str(tmp_path)), "trials.jsonl").append("a", {"x": 1})
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(1)] = ord("X")
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"trials.jsonl line 1 is not a JSON object with an id; remove that line"):
        Ledger(Storage(str(tmp_path)), "trials.jsonl")
