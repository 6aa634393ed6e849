"""Which engine a finalist gets for a target whose memory the fastest one does not fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deshi.jobs import contender as contending
from deshi.serve.kpi import Kpi, Target

TARGETS = (
    Target(name="onprem", threads=1, price_per_hour=1),
    Target(name="edge", threads=1, price_per_hour=1, memory_mb=512),
)
BUILDS = ("onnxruntime-w8a8", "openvino-w8a8")


@pytest.fixture
def made(monkeypatch):
    """`made(memory)`: a contender of two builds, of which openvino is the faster; `memory` is MB by build."""

    def finalist(id, lesson, model, names, yardstick, *, without=None):
        left = {target.name: sorted(set(names) - (without or {}).get(target.name, set())) for target in TARGETS}
        targets = {name: SimpleNamespace(build_ids=(builds[-1],)) for name, builds in left.items()}
        return SimpleNamespace(serving=SimpleNamespace(targets=targets))

    def make(memory, kpi=Kpi(), names=BUILDS):
        def felt(lesson, made, target):
            (build,) = made.serving.targets[target.name].build_ids
            return SimpleNamespace(memory_mb=SimpleNamespace(value=memory[build]))

        monkeypatch.setattr(contending, "_felt", felt)
        lesson = SimpleNamespace(recipe=SimpleNamespace(targets=TARGETS, kpi=kpi), storage=None)
        bench = SimpleNamespace(yardstick_key="teacher")
        done = contending.contender("one", None, lesson, bench, None, measured=True, builds=names)
        chosen = {name: target.build_ids[0] for name, target in done.finalist.serving.targets.items()}
        return chosen, {name: felt.memory_mb.value for name, felt in done.felt.items()}

    monkeypatch.setattr(contending.building, "finalist", finalist)
    monkeypatch.setattr(contending.os, "cpu_count", lambda: 2)
    return make


def test_what_fits_stays_the_fastest(made):
    chosen, memory = made({"onnxruntime-w8a8": 380, "openvino-w8a8": 500})
    assert set(chosen.values()) == {"openvino-w8a8"} and memory == {"onprem": 500, "edge": 500}


def test_a_target_gets_another_build_where_the_fastest_is_too_large(made):
    chosen, memory = made({"onnxruntime-w8a8": 380, "openvino-w8a8": 513})
    assert chosen == {"onprem": "openvino-w8a8", "edge": "onnxruntime-w8a8"}
    assert memory == {"onprem": 513, "edge": 380}


def test_where_none_fits_the_fastest_stays(made):
    chosen, memory = made({"onnxruntime-w8a8": 600, "openvino-w8a8": 700})
    assert set(chosen.values()) == {"openvino-w8a8"} and memory["edge"] == 700
    chosen, _ = made({"openvino-w8a8": 700}, names=("openvino-w8a8",))
    assert chosen["edge"] == "openvino-w8a8"


def test_the_limit_may_be_the_kpis(made):
    chosen, _ = made({"onnxruntime-w8a8": 380, "openvino-w8a8": 450}, kpi=Kpi(memory_mb={"onprem": 400}))
    assert chosen == {"onprem": "onnxruntime-w8a8", "edge": "openvino-w8a8"}
