"""What the project asks of its kernels, and whether a measurement meets it.

    share of the datasheet's bandwidth, 1 row    W8A16 0.50 at 8192 x 8192, 0.70 at 28672 x 8192; W4A16 0.35 and 0.55
    times as fast as gemlite                     1.0 at 1, 4, 16 and 64 rows, weight-only products
    times as fast as the 16-bit product          1.0 to 64 rows, 0.85 above, all products
    times as fast as others' W8A8, 512 rows up   1.0 of torch._int_mm with separate scaling, 0.85 of cutlass
    distillation loss, 8,192 tokens, v = 128256  1.0 of Liger's peak memory at most, 1.2 times its speed

A speed is the median over rounds of the other's time by ours. A peer that did not run leaves its bar open.
"""

from __future__ import annotations

from collections.abc import Iterator

from deshi.kernels.figures import Figure, figure
from deshi.kernels.proof.cards import Card
from deshi.kernels.proof.work import loss
from deshi.kernels.speed.contest import OURS, Measured
from deshi.kernels.speed.loss_peers import LIGER
from deshi.kernels.speed.peers import CUTLASS, GEMLITE, INT_MM, TORCH_16_BIT
from deshi.kernels.speed.timing import faster, interval

# (kernel, columns, inner) -> share of the bandwidth at one row.
BANDWIDTH = {
    ("w8a16", 8192, 8192): 0.50,
    ("w8a16", 28672, 8192): 0.70,
    ("w4a16", 8192, 8192): 0.35,
    ("w4a16", 28672, 8192): 0.55,
}
LOSS, LIGER_PEAK, LIGER_SPEED = loss(8192), 1.0, 1.2


def figures_of(measured: Measured, card: Card | None) -> Iterator[Figure]:
    """The bars that one shape is held to; none where ours does not run, as 8-bit floats on Ampere."""
    if OURS not in measured.seconds:
        return
    kernel, label = measured.work.kernel, f"{measured.work.kernel}: {measured.work.label}"
    if measured.shape is not None and measured.shape[0] == 1 and (kernel, *measured.shape[1:]) in BANDWIDTH:
        yield figure(
            f"{label}, share of bandwidth",
            measured.work.bytes_moved / interval(measured.seconds[OURS]).median / card.bandwidth if card else None,
            "of the datasheet" if card else "not judged: the card's datasheet is not in cards.py",
            bar=BANDWIDTH[kernel, *measured.shape[1:]],
        )
    for peer, bar in speed_bars(measured):
        yield speed(f"{label}, times as fast as {peer}", measured, peer, bar)
    for peer in LIGER if measured.work == LOSS else ():
        name = f"{label}, peak memory over {peer}"
        if peer in measured.peaks:
            ratio = measured.peaks[OURS] / measured.peaks[peer]
            yield figure(name, ratio, "ratio", bar=LIGER_PEAK, at_least=False)
        else:
            yield figure(name, None, why_not(measured, peer), bar=LIGER_PEAK, at_least=False)


def speed_bars(measured: Measured) -> Iterator[tuple[str, float]]:
    """Peer -> times as fast as it that ours must be."""
    kernel = measured.work.kernel
    if measured.shape is not None:
        rows = measured.shape[0]
        yield TORCH_16_BIT, 1.0 if rows <= 64 else 0.85
        if kernel in ("w4a16", "w8a16") and rows in (1, 4, 16, 64):
            yield GEMLITE, 1.0
        if kernel == "w8a8" and rows >= 512:
            yield INT_MM, 1.0
            yield CUTLASS, 0.85
    elif measured.work == LOSS:
        yield from dict.fromkeys(LIGER, LIGER_SPEED).items()


def speed(name: str, measured: Measured, peer: str, bar: float) -> Figure:
    """One of them, or why the peer did not run."""
    if peer not in measured.seconds:
        return figure(name, None, why_not(measured, peer), bar=bar)
    return figure(name, faster(measured.seconds[OURS], measured.seconds[peer]).median, "times", bar=bar)


def why_not(measured: Measured, peer: str) -> str:
    """In place of a unit."""
    return f"not run: {measured.not_run.get(peer, 'it is no contender here')}"
