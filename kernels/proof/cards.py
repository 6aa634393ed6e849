"""Cards: what their datasheets promise, and what a program may use of them.

Bandwidths and peaks are the vendor's own dense figures; none is measured here. Shared memory is the most that one block
may ask for: 163 KiB at compute capability 8.0, 99 at 8.9, 227 at 9.0 and 10.0 (CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability").
"""

from __future__ import annotations

from dataclasses import dataclass

SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One row of a datasheet. Peaks are in operations a second, by what the tensor cores multiply."""

    name: str
    driver_name: str
    sm: int  # compute capability times ten
    bandwidth: float  # bytes a second
    peaks: dict[str, float]
    source: str

    def seconds(self, *, bytes_moved: float, operations: float, math: str | None) -> float:
        """The roofline: no card does it faster (Williams et al. 2009, doi 10.1145/1498765.1498785)."""
        arithmetic = operations / self.peaks[math] if math is not None else 0.0
        return max(bytes_moved / self.bandwidth, arithmetic)


CARDS = (
    Card(
        name="A100 SXM 80 GB",
        driver_name="NVIDIA A100-SXM4-80GB",
        sm=80,
        bandwidth=2.039e12,
        peaks={"16-bit": 312e12, "int8": 624e12},
        source="NVIDIA A100 Tensor Core GPU datasheet, A100 80GB SXM",
    ),
    Card(
        name="L40S",
        driver_name="NVIDIA L40S",
        sm=89,
        bandwidth=864e9,
        peaks={"16-bit": 362.05e12, "int8": 733e12, "fp8": 733e12},
        source="NVIDIA L40S datasheet",
    ),
    Card(
        name="H100 SXM",
        driver_name="NVIDIA H100 80GB HBM3",
        sm=90,
        bandwidth=3.35e12,
        peaks={"16-bit": 989.4e12, "int8": 1978.9e12, "fp8": 1978.9e12},
        source="NVIDIA H100 Tensor Core GPU datasheet and architecture white paper, SXM5",
    ),
    Card(
        name="H200 SXM",
        driver_name="NVIDIA H200",
        sm=90,
        bandwidth=4.8e12,
        peaks={"16-bit": 989.4e12, "int8": 1978.9e12, "fp8": 1978.9e12},
        source="NVIDIA H200 Tensor Core GPU datasheet, SXM",
    ),
    Card(
        name="B200",
        driver_name="NVIDIA B200",
        sm=100,
        bandwidth=8e12,
        peaks={"16-bit": 2250e12, "int8": 4500e12, "fp8": 4500e12},
        source="NVIDIA Blackwell architecture technical brief, HGX B200",
    ),
)
# The first of the table for each architecture.
OF_ARCHITECTURE = {sm: next(card for card in CARDS if card.sm == sm) for sm in SHARED_LIMIT}


def card_of(name: str) -> Card | None:
    """The row of a card by the driver's name; None for one whose datasheet is not in the table."""
    return next((card for card in CARDS if card.driver_name == name), None)
