"""Every kernel compiled for four architectures without a GPU, and the gate that reads the machine code."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from deshi.kernels.proof.compiled import GATE
from deshi.kernels.proof.machine_code import Code, loads_of
from deshi.kernels.triton_or_none import triton

pytestmark = pytest.mark.skipif(triton is None, reason="triton is not installed; pip install 'deshi[cuda]'")


def compiling(folder, *command):
    """A process that compiles: pytest's own interprets kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder)
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=280)


def test_every_kernel_passes_the_gate_on_every_architecture(tmp_path):
    told = compiling(tmp_path, "-m", "deshi.kernels.proof.compiled", "--processes", "2")
    assert told.returncode == 0, "\n".join(line for line in told.stdout.splitlines() if "FAILS" in line) + told.stderr
    figures = {one["name"]: one for one in json.loads(told.stdout.splitlines()[-1])["figures"]}
    assert figures.pop("compilations")["value"] >= 60
    assert set(figures) == set(GATE)
    assert all(one["value"] == 0 and one["bar"] == 0 and one["holds"] for one in figures.values())
    for kernel in ("w4a16", "w8a16", "w8a8", "norm_quantize", "kd_loss", "kv_int8"):
        assert f"{kernel}: " in told.stdout


def test_the_gate_can_fail(tmp_path):
    """Tiles beyond all shared memory and beyond all registers, no product, narrow loads, conversions, no program."""
    code = """
        import json
        from dataclasses import replace
        from deshi.kernels.proof import cases
        from deshi.kernels.proof.compiled import GATE, compile_all, failing
        from deshi.kernels.tuning import Config

        def made(kernel, **sizes):
            calls = cases.TUNED[kernel](Config(rows=None, **sizes), 0)
            return next(iter(cases.recorded(kernel, calls, (89,))))

        def with_must(case, **must):
            return replace(case, must=replace(case.must, **must))

        whole = made("w8a16", block_n=64, block_k=128, warps=4, dequantize=True)
        wrong = (
            made("w8a8", block_m=128, block_n=128, block_k=256, warps=8, stages=4),
            made("w8a8", block_m=64, block_n=128, block_k=64, warps=1),
            with_must(whole, math={"*bf16": "16-bit"}),
            with_must(whole, wide=("scale",)),
            with_must(whole, by_bits=True),
            made("w4a16", block_m=16, block_n=48, warps=4),
        )
        for one in compile_all(wrong, 2):
            print(json.dumps([[name for name, check in GATE.items() if check(*one) is not None], failing(*one)]))
    """
    told = compiling(tmp_path, "-c", textwrap.dedent(code))
    assert told.returncode == 0, told.stderr
    failed = [json.loads(line) for line in told.stdout.splitlines()]
    wanted = (
        "kernels over the shared memory of a block",
        "kernels that spill registers",
        "products without the architecture's tensor-core instruction",
        "kernels that read large arguments narrowly",
        "kernels that convert integers slowly",
        "kernels that do not compile",
    )
    assert [name for names, _ in failed for name in names] == list(wanted)
    for (_, (sentence,)), says in zip(
        failed, ("101376", "spills", "HMMA", "of 4 bytes", "64 conv", "power of 2"), strict=True
    ):
        assert says in sentence


def test_without_a_compiler_it_is_refused_in_one_sentence():
    told = subprocess.run(
        [sys.executable, "-m", "deshi.kernels.proof.compiled"],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        timeout=120,
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.strip().endswith("TRITON_INTERPRET is set, so kernels are not compiled; unset it")


def test_loads_are_followed_back_to_their_argument():
    """Through sums, a loop and a predicate; what is loaded through a pointer is no pointer."""
    ptx = """
        ld.param.b64 %rd1, [k_param_0];
        ld.param.b64 %rd2, [k_param_1];
        ld.param.b32 %r1, [k_param_2];
        ld.param.b64 %rd9, [k_param_3];
        cvta.to.global.u64 %rd3, %rd1;
        mul.wide.s32 %rd4, %r1, 4;
        add.s64 %rd5, %rd6, %rd4;
        @%p1 ld.global.v4.b32 { %r2, %r3, %r4, %r5 }, [ %rd5 + 0 ];
        mov.b64 %rd6, %rd5;
        selp.b64 %rd6, %rd3, %rd6, %p2;
        ld.global.L1::evict_last.b16 { %rs1 }, [ %rd3 + 2 ];
        cp.async.cg.shared.global [ %r7 + 0 ], [ %rd2 + 0 ], 0x10, %r8;
        ld.global.b64 %rd7, [ %rd2 + 0 ];
        ld.global.b32 %r6, [ %rd7 + 0 ];
        ld.shared.v4.b32 { %r2, %r3, %r4, %r5 }, [ %rd1 + 0 ];
    """
    types = {"words": "*i32", "x": "*bf16", "N": "i32"}
    assert loads_of(ptx, types) == {"words": {2: 1, 16: 1}, "x": {8: 1, 16: 1}}


def test_spills_are_counted():
    assert Code(instructions={"LDL": 2, "STL": 3, "LDS": 9}).spills == 5
