"""`deshi bench kernels`: every kernel beside its peers on the present CUDA device, cold, in interleaved rounds.

Products are timed for 1 to 4,096 rows of x and two weights of large models. Printed are the median time with its
interval, bytes and operations a second beside the datasheet's, and how many times as fast as each peer ours is, by
rounds. The bars of the project follow (`bars.py`), those that are missed too, and the last line is one JSON object
`{"figures": [...]}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from deshi.kernels.figures import bars, print_figures, table
from deshi.kernels.proof import work
from deshi.kernels.proof.cards import Card, card_of
from deshi.kernels.speed import loss_peers, stream_peers
from deshi.kernels.speed.bars import figures_of
from deshi.kernels.speed.contest import OURS, Contender, Entry, Measured, as_tensor, chosen, contest, cuda_device
from deshi.kernels.speed.peers import Bound, Prepare
from deshi.kernels.speed.products import PRODUCTS, TOLERANCE
from deshi.kernels.speed.timing import copies, faster, interval, on_device

WEIGHTS = ((8192, 8192), (28672, 8192))  # out, in
ROWS = (1, 4, 16, 64, 256, 512, 2048, 4096)
ROUNDS = 15
# Relative errors: int8 of a normal row; two caches of int8; a loss of bfloat16 logits.
NORM_ERROR, DECODE_ERROR, LOSS_ERROR = 0.02, 0.03, 0.02


def bench(only: str | None = None, *, rounds: int = ROUNDS) -> None:
    """Measures and prints.

    Raises:
        ValueError: if there is no device to measure on, or no such kernel.
    """
    kernels = chosen(only, BENCHES)
    device = cuda_device("bench")
    name = torch.cuda.get_device_name(device)
    card = card_of(name)
    print(f"{name}, torch {torch.__version__}; {card.source if card else 'its datasheet is not in cards.py'}\n")
    figures = []
    for kernel in kernels:
        measured = list(BENCHES[kernel](device, rounds))
        print(table(HEADS, [row for one in measured for row in rows_of(one, card)]), end="\n\n", flush=True)
        figures += [figure for one in measured for figure in figures_of(one, card)]
    print(bars(figures))
    print_figures(figures)


def products(kernel: str, device: torch.device, rounds: int) -> Iterator[Measured]:
    """Every number of rows of x on each weight."""
    for columns, inner in WEIGHTS:
        generator = torch.Generator(device).manual_seed(0)
        weight = torch.randn(columns, inner, device=device, generator=generator).mul_(inner**-0.5).to(torch.bfloat16)
        made = work.PRODUCT_WORK[kernel]
        count = copies(made(1, columns, inner).bytes_moved, _cache(device))
        kept: dict[str, list[Bound]] = {}
        for rows in ROWS:
            x = torch.randn(rows, inner, device=device, generator=generator).to(torch.bfloat16)
            yield contest(
                made(rows, columns, inner),
                entries(PRODUCTS[kernel], weight, x, count, kept),
                x.float() @ weight.float().t(),
                TOLERANCE[kernel],
                rounds=rounds,
                shape=(rows, columns, inner),
            )


def entries(
    prepares: dict[str, Prepare], weight: torch.Tensor, x: torch.Tensor, count: int, kept: dict[str, list[Bound]]
) -> dict[str, Contender]:
    """The contenders for one x. Copies of the weight are made for the first x and kept for the others."""

    def entry(name: str, prepare: Prepare) -> Entry:
        if name not in kept:
            kept[name] = [prepare(weight) for _ in range(count)]
        return Entry([bind(x) for bind in kept[name]], as_tensor)

    return {name: partial(entry, name, prepare) for name, prepare in prepares.items()}


def norms(device: torch.device, rounds: int) -> Iterator[Measured]:
    """RMSNorm and int8."""
    for rows in (1, 64, 4096):
        done = work.norm(rows, 8192)
        contenders, exact = stream_peers.norms(rows, 8192, copies(done.bytes_moved, _cache(device)), device)
        yield contest(done, contenders, exact, NORM_ERROR, rounds=rounds)


def decodes(device: torch.device, rounds: int) -> Iterator[Measured]:
    """Attention over the int8 cache: one long context, and many shorter ones."""
    for rows, context in ((1, 32768), (16, 8192), (64, 4096)):
        done = work.decode(rows, context)
        contenders, exact = stream_peers.decodes(rows, context, copies(done.bytes_moved, _cache(device)), device)
        yield contest(done, contenders, exact, DECODE_ERROR, rounds=rounds)


def losses(device: torch.device, rounds: int) -> Iterator[Measured]:
    """The distillation loss with its gradients."""
    for tokens in (1024, 8192):
        given = loss_peers.inputs(tokens, device)
        contenders, exact = loss_peers.contenders(given), loss_peers.exact(given)
        yield contest(
            work.loss(tokens),
            contenders,
            exact,
            LOSS_ERROR,
            rounds=rounds,
            timer=partial(on_device, graph=False),  # a backward pass runs on threads of its own
            peak=loss_peers.peak_bytes,
        )


# Kernel -> its contests.
BENCHES: dict[str, Callable[[torch.device, int], Iterator[Measured]]] = {
    **{kernel: partial(products, kernel) for kernel in PRODUCTS},
    "norm_quantize": norms,
    "kv_int8": decodes,
    "kd_loss": losses,
}

HEADS = ("kernel and shape", "contender", "us", "interval", "GB/s", "of peak", "Top/s", "of peak", "peak MB", "ours is")


def rows_of(measured: Measured, card: Card | None) -> Iterator[tuple[str, ...]]:
    """The lines of one shape: contenders by their time, then who did not run.

    Bytes a second are ours alone: others move other bytes for the same work.
    """
    done = measured.work
    label = f"{done.kernel}: {done.label}"
    peak = card.peaks.get(done.math) if card and done.math else None
    medians = {name: interval(seconds) for name, seconds in measured.seconds.items()}
    for name, taken in sorted(medians.items(), key=lambda item: item[1].median):
        bandwidth, speed = done.bytes_moved / taken.median, done.operations / taken.median
        ratio = faster(measured.seconds[OURS], measured.seconds[name]) if OURS in medians and name != OURS else None
        yield (
            label,
            f"{name} (launched)" if name in measured.launched else name,
            f"{1e6 * taken.median:.1f}",
            f"{1e6 * taken.low:.1f} to {1e6 * taken.high:.1f}",
            f"{bandwidth / 1e9:.0f}" if name == OURS else "",
            f"{bandwidth / card.bandwidth:.2f}" if card and name == OURS else "",
            f"{speed / 1e12:.1f}" if done.operations else "",
            f"{speed / peak:.2f}" if peak else "",
            f"{measured.peaks[name] / 1e6:.0f}" if name in measured.peaks else "",
            f"{ratio.median:.2f} times as fast ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else "",
        )
    for name, why in measured.not_run.items():
        yield label, name, "", f"not run: {why}", "", "", "", "", "", ""


def _cache(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).L2_cache_size)
