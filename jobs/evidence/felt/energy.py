"""Energy, where the machine tells: the processor packages' own counters (RAPL, as Linux shows it in powercap).

Most virtual machines and containers show none; then there is no figure, never an estimate from a data sheet.
"""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules of all processor packages since it was made; the whole machine's, whoever made it work."""

    def __init__(self, counters: Path = COUNTERS) -> None:
        # A package is `intel-rapl:0` (AMD's too); its parts, `intel-rapl:0:0`, are in it already.
        self._packages = [path for path in sorted(counters.glob("*-rapl:*")) if path.name.count(":") == 1]
        self._before = [_micro_joules(path, "energy_uj") for path in self._packages]

    def joules(self) -> float | None:
        """Since the start; None where no counter can be read. A counter that has begun anew is read as such."""
        total = 0.0
        for path, before in zip(self._packages, self._before, strict=True):
            now, most = _micro_joules(path, "energy_uj"), _micro_joules(path, "max_energy_range_uj")
            if now is None or before is None:
                return None
            total += now - before if now >= before or most is None else now + most - before
        return total / 1e6 if self._packages else None


def _micro_joules(package: Path, name: str) -> float | None:
    try:
        return float((package / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
