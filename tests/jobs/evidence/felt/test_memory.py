"""The peak of a process tree whose sizes are known."""

from __future__ import annotations

import subprocess
import sys

from deshi.jobs.evidence.felt.memory import process_tree_peak


def test_memory_of_a_tree_is_seen_at_its_peak():
    """A parent holds 60 MB, a child 60 MB for a moment; both are gone at the end."""
    child = "import time; held = bytearray(60_000_000); held[::4096] = b'1' * len(held[::4096]); time.sleep(1.5)"
    parent = f"{child}; import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    with process_tree_peak(process.pid) as memory:
        process.wait()
    assert 120 < memory.peak_mb < 170
