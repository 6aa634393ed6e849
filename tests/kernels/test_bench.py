"""The benchmark without a device: who takes part, what is held to which bar, what is printed."""

import json
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from deshi.kernels.figures import bars, figure, print_figures, table
from deshi.kernels.proof import work
from deshi.kernels.proof.cards import CARDS, SHARED_LIMIT, card_of
from deshi.kernels.speed import bench, loss_peers, peers, stream_peers
from deshi.kernels.speed.bars import figures_of
from deshi.kernels.speed.contest import OURS, Entry, Measured, NotHere, as_tensor, contest, relative_error
from deshi.kernels.speed.products import OURS_AT, PRODUCTS, TOLERANCE

H100 = card_of("NVIDIA H100 80GB HBM3")


def stopwatch(seconds):
    """A timer of calls that take no time."""
    return lambda calls: (lambda: seconds[len(calls)], len(calls) != 3)


def entry(answer, copies):
    return lambda: Entry([lambda: answer] * copies, as_tensor)


def test_a_contender_must_be_here_run_and_answer_rightly():
    exact = torch.ones(4, 4)

    def fails():
        raise RuntimeError("no kernel image\nis available")

    def is_not_here():
        raise NotHere("it is not installed")

    measured = contest(
        work.norm(4, 4),
        {
            OURS: entry(exact, 1),
            "right": entry(exact * 1.01, 2),
            "launched": entry(exact, 3),
            "wrong": entry(exact * 2, 2),
            "no number": entry(exact * float("nan"), 2),
            "fails": fails,
            "missing": is_not_here,
            "no tensor": lambda: Entry([lambda: None], as_tensor),
        },
        exact,
        0.02,
        rounds=3,
        timer=stopwatch({1: 1.0, 2: 2.0, 3: 3.0}),
        peak=lambda call: float(call().numel()),
    )
    assert {name: set(seconds) for name, seconds in measured.seconds.items()} == {
        OURS: {1.0},
        "right": {2.0},
        "launched": {3.0},
    }
    assert measured.launched == {"launched"} and measured.peaks[OURS] == 16
    assert measured.not_run == {
        "wrong": "its answer is 1 off, and 0.02 is what its formats explain",
        "no number": "its answer is nan off, and 0.02 is what its formats explain",
        "fails": "RuntimeError: no kernel image",
        "missing": "it is not installed",
        "no tensor": "its answer is a NoneType and no tensor",
    }
    with pytest.raises(RuntimeError, match="no kernel image"):
        contest(work.norm(4, 4), {OURS: fails}, exact, 0.02, rounds=1)


PEERS = [(kernel, name) for kernel, contenders in PRODUCTS.items() for name in contenders]


@pytest.mark.parametrize(("kernel", "name"), PEERS)
def test_every_product_answers_or_says_why_not(kernel, name):
    """On the CPU torch's 16-bit and int8 products and our references do; the others give one reason, in words."""
    weight = (torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) / 128**0.5).to(torch.bfloat16)
    x = torch.randn(32, 128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    kept = {}
    contenders = bench.entries({name: PRODUCTS[kernel][name]}, weight, x, 2, kept)
    exact = x.float() @ weight.float().t()
    measured = contest(
        work.PRODUCT_WORK[kernel](32, 64, 128),
        contenders,
        exact,
        TOLERANCE[kernel],
        rounds=1,
        timer=stopwatch({2: 1.0}),
    )
    runs_here = name in (OURS, peers.TORCH_16_BIT, peers.INT_MM)
    assert (name in measured.seconds) == runs_here, measured.not_run
    if not runs_here:
        assert measured.not_run[name].endswith(("is not installed", "it needs a CUDA device"))
    assert len(kept.get(name, (0, 0))) == 2


def test_rows_that_a_peer_does_not_take_are_told():
    with pytest.raises(NotHere, match="more than 16 rows"):
        peers.torch_int_mm(torch.ones(8, 16))(torch.ones(16, 16))


def test_the_same_weight_would_be_found_out_if_it_were_another():
    """The tolerance of each kernel lets its own rounding pass, and not another product."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    exact = x.float() @ weight.float().t()
    for kernel in PRODUCTS:
        answer = PRODUCTS[kernel][OURS](weight)(x)()
        assert TOLERANCE[kernel] / 8 < relative_error(answer, exact) < TOLERANCE[kernel]
        assert relative_error(answer.roll(1, dims=1), exact) > 5 * TOLERANCE[kernel]
    assert set(OURS_AT) <= set(PRODUCTS) == set(TOLERANCE) == set(work.PRODUCT_WORK)


@pytest.mark.parametrize("make", [partial(stream_peers.norms, 8, 64), partial(stream_peers.decodes, 2, 48)])
def test_streams_answer_or_say_why_not(make):
    contenders, exact = make(2, torch.device("cpu"))
    contenders.pop("torch, compiled", None)  # the same function through a C++ compiler
    told = contest(work.norm(8, 64), contenders, exact, bench.DECODE_ERROR, rounds=1, timer=stopwatch({2: 1.0}))
    assert OURS in told.seconds and any(name.startswith("torch") for name in told.seconds)
    assert all(why for why in told.not_run.values()) and set(told.not_run) == set(contenders) - set(told.seconds)


def test_losses_answer_or_say_why_not():
    given = loss_peers.inputs(40, torch.device("cpu"), vocabulary=96, student=16, teacher=24, dtype=torch.float32)
    exact = loss_peers.exact(given, rows=16)
    log_q = torch.log_softmax(given.hidden @ given.head.t(), -1)
    log_p = torch.log_softmax(given.teacher_hidden @ given.teacher_head.t(), -1)
    assert torch.allclose(exact, (log_p.exp() * (log_p - log_q)).sum(1).mean(), rtol=1e-4)
    told = contest(
        work.loss(40),
        loss_peers.contenders(given),
        exact,
        1e-3,
        rounds=1,
        timer=stopwatch({1: 1.0}),
        peak=lambda _: 8.0,
    )
    assert {OURS, "torch, whole logits"} <= set(told.seconds) == set(told.peaks)
    assert set(told.not_run) == set(loss_peers.LOSSES) - set(told.seconds)
    installed = find_spec("liger_kernel") is not None
    assert installed or set(told.not_run.values()) == {"liger_kernel is not installed"}
    assert given.hidden.grad is None and given.head.grad is None


def measured(kernel, rows, columns=8192, inner=8192, **ratios):
    """Ours takes twice the least time of an H100; each peer so many times as long."""
    done = work.PRODUCT_WORK[kernel](rows, columns, inner)
    ours = 2 * done.least_seconds(H100)
    seconds = {OURS: [ours] * 5, **{name: [ratio * ours] * 5 for name, ratio in ratios.items()}}
    return Measured(
        work=done, seconds=seconds, shape=(rows, columns, inner), not_run={"gemlite": "gemlite is not installed"}
    )


def told(one, card=H100):
    return {f["name"].partition(", ")[2]: (f["value"], f["bar"], f["holds"]) for f in figures_of(one, card)}


def test_bars_are_those_of_the_project():
    torch_name = f"times as fast as {peers.TORCH_16_BIT}"
    gemlite, cutlass = f"times as fast as {peers.GEMLITE}", f"times as fast as {peers.CUTLASS}"
    one = told(measured("w8a16", 1, **{peers.TORCH_16_BIT: 0.99}))
    assert one["share of bandwidth"] == (0.5, 0.5, True)
    assert one[torch_name] == (0.99, 1.0, False)
    assert one[gemlite] == (None, 1.0, None)
    assert told(measured("w8a16", 1, 28672))["share of bandwidth"] == (0.5, 0.7, False)
    assert told(measured("w4a16", 1))["share of bandwidth"] == (0.5, 0.35, True)
    assert told(measured("w4a16", 1, 28672))["share of bandwidth"] == (0.5, 0.55, False)
    assert told(measured("w4a16", 1), card=None)["share of bandwidth"] == (None, 0.35, None)
    assert "share of bandwidth" not in told(measured("w4a16", 4))
    assert told(measured("w4a16", 64, **{peers.GEMLITE: 1.2}))[gemlite] == (1.2, 1.0, True)
    assert gemlite not in told(measured("w4a16", 256))
    assert told(measured("w4a16", 256, **{peers.TORCH_16_BIT: 0.9}))[torch_name] == (0.9, 0.85, True)
    large = told(measured("w8a8", 512, **{peers.INT_MM: 0.9, peers.CUTLASS: 0.9}))
    assert large[f"times as fast as {peers.INT_MM}"] == (0.9, 1.0, False)
    assert large[cutlass] == (0.9, 0.85, True)
    assert cutlass not in told(measured("w8a8", 256))


def test_the_loss_is_held_to_liger_in_time_and_memory():
    eager, compiled, triton = loss_peers.LIGER
    one = Measured(
        work=work.loss(8192),
        seconds={OURS: [1.0] * 3, eager: [1.3] * 3, triton: [1.1] * 3},
        peaks={OURS: 90.0, eager: 100.0, triton: 80.0},
        not_run={compiled: "liger_kernel is not installed"},
    )
    assert told(one) == {
        f"v = 128256, d = 2048, dt = 4096, times as fast as {eager}": (1.3, 1.2, True),
        f"v = 128256, d = 2048, dt = 4096, times as fast as {compiled}": (None, 1.2, None),
        f"v = 128256, d = 2048, dt = 4096, times as fast as {triton}": (1.1, 1.2, False),
        f"v = 128256, d = 2048, dt = 4096, peak memory over {eager}": (0.9, 1.0, True),
        f"v = 128256, d = 2048, dt = 4096, peak memory over {compiled}": (None, 1.0, None),
        f"v = 128256, d = 2048, dt = 4096, peak memory over {triton}": (1.125, 1.0, False),
    }


def test_other_lengths_of_the_loss_and_what_ours_cannot_run_have_no_bar():
    short = Measured(work=work.loss(1024), seconds={OURS: [1.0]})
    no_fp8 = Measured(
        work=work.PRODUCT_WORK["w8a8-fp8"](1, 8192, 8192),
        seconds={peers.TORCH_16_BIT: [1.0]},
        not_run={OURS: "this card's tensor cores have no 8-bit floats"},
        shape=(1, 8192, 8192),
    )
    assert not told(short) and not told(no_fp8)
    (_, row) = bench.rows_of(no_fp8, H100)
    assert row[3] == "not run: this card's tensor cores have no 8-bit floats"


def test_the_table_tells_ours_beside_the_card_and_who_did_not_run(capsys):
    one = measured("w8a16", 1, **{peers.TORCH_16_BIT: 0.5})
    rows = list(bench.rows_of(one, H100))
    assert [row[1] for row in rows] == [peers.TORCH_16_BIT, OURS, "gemlite"]
    ours = rows[1]
    assert ours[4:6] == (f"{H100.bandwidth / 2 / 1e9:.0f}", "0.50") and ours[-1] == ""
    assert rows[0][-1] == "0.50 times as fast (0.50 to 0.50)"
    assert rows[2][3] == "not run: gemlite is not installed"
    lines = table(bench.HEADS, rows).splitlines()
    names = ("contender", peers.TORCH_16_BIT, OURS, "gemlite")
    assert len({line.index(name) for line, name in zip(lines, names, strict=True)}) == 1
    figures = list(figures_of(one, H100))
    print(bars(figures))
    print_figures(figures)
    out = capsys.readouterr().out.splitlines()
    assert {line.split()[-1] for line in out[1:-1]} == {"yes", "NO", "run"}
    last = json.loads(out[-1])["figures"]
    assert all(set(f) == {"name", "value", "unit", "bar", "holds"} for f in last)
    assert [f["holds"] for f in last] == [True, False, None]


def test_a_value_at_its_bar_holds_either_way():
    assert figure("speed", 1.0, "times", bar=1.0)["holds"] is True
    assert figure("peak", 1.0, "ratio", bar=1.0, at_least=False)["holds"] is True
    assert figure("peak", 1.01, "ratio", bar=1.0, at_least=False)["holds"] is False
    assert figure("speed", None, "not run", bar=1.0)["holds"] is None


def test_work_by_hand():
    """A 2 x 4 by 4 x 3 product of 8 bits: 12 bytes of weight, 3 scales, 16 of x, 12 of y; 2 * 24 operations."""
    done = work.PRODUCT_WORK["w8a16"](2, 3, 4)
    assert (done.bytes_moved, done.operations) == (12 + 12 + 16 + 12, 48)
    four = work.PRODUCT_WORK["w4a16"](1, 8, 256)
    assert four.bytes_moved == 8 * 256 // 2 + 4 * 8 * 2 + 2 * 256 + 2 * 8
    assert H100.seconds(bytes_moved=3.35e12, operations=0, math=None) == 1.0
    assert H100.seconds(bytes_moved=1, operations=2 * 989.4e12, math="16-bit") == 2.0


def test_cards_are_found_by_the_drivers_name():
    names = ("NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200")
    assert [card_of(name) for name in names] == list(CARDS)
    others = ("NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB", "NVIDIA GH200 480GB", "NVIDIA GB200", "NVIDIA H200 NVL")
    assert all(card_of(name) is None for name in others)
    assert all(card.sm in SHARED_LIMIT and ("fp8" in card.peaks) == (card.sm >= 89) for card in CARDS)
    assert SHARED_LIMIT == {80: 166912, 89: 101376, 90: 232448, 100: 232448}


def test_without_a_device_nothing_is_measured(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ValueError, match="no CUDA device is present"):
        bench.bench()
    with pytest.raises(ValueError, match="--only w4a17 is no kernel; take one of w4a16"):
        bench.bench("w4a17")
    assert capsys.readouterr().out == ""
