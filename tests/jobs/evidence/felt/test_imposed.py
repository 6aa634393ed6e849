"""A process held to a target's cores and memory is really held, and so is what it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deshi.jobs.evidence.felt.energy import EnergyMeter
from deshi.jobs.evidence.felt.imposed import imposed
from deshi.serve.kpi import Target

CORES = len(os.sched_getaffinity(0))
CHILD = "import os, sys, time; sys.stdin.readline(); print(len(os.sched_getaffinity(0)), flush=True)"
GREEDY = "import sys; sys.stdin.readline(); held = bytearray(200_000_000); held[::4096] = b'1' * len(held[::4096])"


def _started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(CORES < 2, reason="one core cannot be fewer")
def test_what_it_starts_is_held_to_its_cores():
    parent = (
        f"import subprocess, sys; sys.stdin.readline(); subprocess.run([sys.executable, '-c', {CHILD!r}], input='')"
    )
    process = _started(parent)
    with imposed(process.pid, Target(name="edge", threads=1, price_per_hour=1)) as held:
        told, _ = process.communicate("go\n", timeout=60)
    assert held.cores == 1 and told.strip() == "1"
    assert held.words == "held to 1 core(s)"


def test_a_target_as_large_as_this_machine_is_held_to_nothing():
    process = _started(CHILD)
    with imposed(process.pid, Target(name="onprem", threads=CORES, price_per_hour=1)) as held:
        told, _ = process.communicate("go\n", timeout=60)
    assert (held.cores, held.memory_mb, held.words, told.strip()) == (None, None, "", str(CORES))


def test_a_process_that_needs_more_memory_than_its_target_has_dies():
    for limit, survives in ((100.0, False), (400.0, True)):
        process = _started(GREEDY)
        with imposed(process.pid, Target(name="edge", threads=CORES, memory_mb=limit, price_per_hour=1)) as held:
            if held.memory_mb is None:
                process.kill()
                pytest.skip("this system lets us make no control group")
            process.communicate("go\n", timeout=60)
        assert (process.returncode == 0) is survives


def test_energy_is_the_sum_over_packages_and_none_where_nothing_tells(tmp_path):
    assert EnergyMeter(tmp_path).joules() is None
    for name, value in (("intel-rapl:0", 900), ("intel-rapl:1", 50), ("intel-rapl:0:0", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
    meter = EnergyMeter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("400\n")  # it has begun anew: 500 more
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("150\n")
    assert meter.joules() == pytest.approx(600e-6)
