"""A plausible `Evidence` for tests of the report. INVENTED NUMBERS: never measured, never to be shown as a result."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import (
    DataFacts,
    Evidence,
    KpiRow,
    LatencyParts,
    ModelRow,
    OrderRow,
    Quality,
    Reason,
    Removed,
    SliceRow,
    TargetRow,
    TrialPoint,
    Verdict,
    WaterfallStep,
)
from deshi.jobs.evidence.verdict import SENTENCES

worth = runpy.run_path(str(Path(__file__).with_name("worth_fixture.py")))

RECIPE: dict[str, Any] = {
    "name": "fixture",
    "storage": "runs",
    "seed": 7,
    "targets": [
        {"name": "onprem", "threads": 2, "memory_mb": None, "rtt_ms": 0.0, "price_per_hour": 15},
        {"name": "edge", "threads": 1, "memory_mb": 512, "rtt_ms": 40, "price_per_hour": 3},
        {"name": "cloud", "threads": 8, "memory_mb": None, "rtt_ms": 25, "price_per_hour": 60},
    ],
    "business": {"currency": "JPY", "requests_per_month": 1_000_000, "peak_rps": 20},
    "kpi": {
        "quality": {"max_drop": 0.05, "confidence": 0.95},
        "latency_ms_p95": {"onprem": 50},
        "size_mb": 40,
    },
}
CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
SLICES = (("DESC:def", 121, 0.021), ("HUM:ind", 182, 0.004), ("NUM:date", 57, 0.052), ("ENTY:food", 18, 0.11),
          ("LOC:city", 34, -0.02), ("ABBR:abb", 3, 0.333))  # fmt: skip


def _around(value: float, spread: float, unit: str, n: int, how: str, basis: Any = "measured") -> Figure:
    return Figure(value=value, unit=unit, n=n, low=value - spread, high=value + spread, how=how, basis=basis)


def _quality(score: float, drop: float | None) -> Quality:
    slices = tuple(
        SliceRow(
            column="fine",
            value=name,
            n=n,
            score=_around(score - shift, 0.9 / n, "share", n, "mean of hits on the slice"),
            teacher_score=0.8583,
            drop=_around((drop or 0) + shift, 1.1 / n, "share", n, "paired bootstrap on the slice, 10,000 draws"),
            harm_p=None if n < 20 else 0.0123 if name == "NUM:date" else 0.71,
            harmed=name == "NUM:date",
        )
        for name, n, shift in SLICES
    )
    return Quality(
        score=_around(score, 0.022, "share", 1002, "hits / rows on the test split"),
        drop=None if drop is None else _around(drop, 0.012, "share", 1002, "paired bootstrap, 10,000 draws"),
        mcnemar_p=None if drop is None else 0.0313,
        flips_to_wrong=0 if drop is None else 41,
        flips_to_right=0 if drop is None else 25,
        agreement=None if drop is None else _around(0.934 - drop, 0.011, "share", 1002, "same arg max as the teacher"),
        kl=None if drop is None else _around(0.087 + drop, 0.01, "nats", 1002, "mean KL(teacher || model)"),
        calibration_error=_around(0.031, 0.008, "share", 1002, "ECE, 15 equal-mass bins"),
        unknown_token_rate=_around(0.0042, 0.0009, "share", 1002, "unknown ids / ids on the test split"),
        slices=slices if drop is not None else (),
    )


def _target(name: str, build: str, engine: float, size: float, *, rtt: float, projected: bool = False) -> TargetRow:
    basis: Any = "projected" if projected else "measured"
    load = "open-loop Poisson load at 20 requests/s, 60 s, through the endpoint"
    part = lambda value: _around(value, value * 0.04 + 0.01, "ms", 1200, load, basis)  # noqa: E731
    return TargetRow(
        target=name,
        build=build,
        builds={"1x16": build, "1x128": build, "32x16": build, "32x128": f"openvino-{build.rpartition('-')[2]}"},
        engine_ms=_around(engine, engine * 0.03, "ms", 400, "median of 400 calls, interleaved", basis),
        ratio_to_teacher=_around(engine / 6.23, 0.011, "ratio", 400, "ratio of medians, bootstrap", basis),
        latency=LatencyParts(
            p50=part(engine * 1.3 + 3.1 + rtt),
            p95=part(engine * 1.9 + 5.7 + rtt),
            engine_p95=part(engine * 1.6),
            queue_p95=part(engine * 0.7),
            http_p95=part(4.45),
            network=Figure(value=rtt, unit="ms", basis="computed", how="rtt_ms of the recipe"),
        ),
        throughput_rps=_around(940 / engine, 11.0, "rps", 12, "closed loop at the latency limit", basis),
        memory_mb=_around(size * 2.2 + 96.4, 1.5, "MB", 5, "peak of the process tree", basis),
        size_mb=Figure(value=size, unit="MB", basis="computed", how="bytes that the target must hold"),
        machines=Figure(value=1.0 if engine < 5 else 2.0, unit="machines", basis="computed", how="ceil(20 / rps)"),
        cost_per_1000=Figure(value=0.0334 * engine + 0.11, unit="JPY", basis="computed", how="machines x price / load"),
        cost_per_1000_full_use=Figure(value=0.0051 * engine, unit="JPY", basis="computed", how="price / throughput"),
    )


def _model(id: str, role: Any, score: float, drop: float | None, engine: float, size: float, **shape: Any) -> ModelRow:
    return ModelRow(
        id=id,
        role=role,
        digest=f"{abs(hash_of(id)):064x}",
        chain=shape.get("chain", ()),
        parameters=shape.get("parameters", 22_713_216),
        layers=shape.get("layers", 6),
        ffn=shape.get("ffn", 1536),
        vocabulary=shape.get("vocabulary", 30522),
        scheme=shape.get("scheme", "fp32"),
        training_steps=shape.get("steps", 80),
        quality=_quality(score, drop),
        targets=(
            _target("onprem", f"onnxruntime-{shape.get('scheme', 'fp32')}", engine, size, rtt=0.0),
            _target("edge", f"onnxruntime-{shape.get('scheme', 'fp32')}", engine * 1.71, size, rtt=40.0),
            _target(
                "cloud",
                f"openvino-{shape.get('scheme', 'fp32')}",
                engine * 0.63,
                size,
                rtt=25.0,
                projected=True,
            ),
        ),
    )


def hash_of(name: str) -> int:
    """A fixed number for a name; Python's own hash of a string differs between processes."""
    return int.from_bytes(name.encode(), "big") * 2_654_435_761 % 2**255


def build_evidence(**changes: Any) -> Evidence:
    """A whole evidence: six models, three targets (one projected), a search of ten trials; `changes` replace fields."""
    chain = ("distill", "prune", "recover", "quantize")
    models = (
        _model(
            "chosen",
            "chosen",
            0.8423,
            0.0160,
            0.78,
            14.7,
            chain=chain,
            layers=3,
            ffn=768,
            vocabulary=9214,
            parameters=6_912_774,
            scheme="w8a8",
            steps=200,
        ),
        _model("teacher", "teacher", 0.8583, None, 6.23, 90.4),
        _model("quantize-only", "control", 0.8543, 0.0040, 3.02, 22.9, chain=("quantize",), scheme="w8a8"),
        _model("undistilled-pretrained", "control", 0.7834, 0.0749, 0.79, 14.6, chain=("train", "quantize"), layers=3),
        _model("undistilled-teacher", "control", 0.8123, 0.0460, 0.77, 14.8, chain=("train", "quantize"), layers=3),
        _model("static", "control", 0.6517, 0.2066, 0.031, 4.1, chain=("static",), layers=0, ffn=0, scheme="fp32"),
    )
    trials = (
        (0.851, 0.944, 3.05, 23.1, True),
        (0.842, 0.929, 1.52, 18.9, True),
        (0.839, 0.921, 0.81, 14.7, True),
        (0.812, 0.881, 0.66, 12.2, True),
        (0.655, 0.702, 0.03, 4.0, True),
        (0.790, 0.843, 1.11, 17.4, False),
        (0.771, 0.836, 0.92, 16.0, False),
        (0.412, 0.455, 0.70, 12.9, False),
        (0.806, 0.861, 1.90, 21.7, False),
        (0.228, 0.301, 0.42, 10.8, False),
    )
    fields: dict[str, Any] = {
        "name": "fixture",
        "task": "classify",
        "created": "2031-02-03T04:05:06+00:00",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"torch": "2.13.0", "onnxruntime": "1.32.0", "openvino": "2026.4.0"},
        "machine": {
            "cpu": "Fixture CPU @ 2.00GHz",
            "cores": 2,
            "memory_gb": 8,
            "platform": "Linux",
            "gpu": None,
        },
        "recipe": RECIPE,
        "currency": "JPY",
        "score_name": "accuracy",
        "data": DataFacts(
            rows={
                "train": 300,
                "unlabelled": 3078,
                "agreement": 300,
                "calibration": 200,
                "validation": 500,
                "test": 1002,
            },
            labels={"training": 300, "selection": 500, "test": 1002},
            classes=CLASSES,
            truncated={"train": 0.0, "test": 0.0031},
            duplicates_dropped=72,
            near_twins=23,
            fingerprints={"train": "a1" * 32, "test": "b2" * 32},
            notes=("Agreement with the teacher is read on 300 of 3378 unlabelled rows.",),
        ),
        "models": models,
        "front": tuple(
            TrialPoint(
                number=i,
                family="encoder",
                chain=chain,
                rung=0,
                score=score,
                agreement=agreement,
                latency_ms=latency,
                size_mb=size,
                on_front=front,
                chosen=i == 2,
            )
            for i, (score, agreement, latency, size, front) in enumerate(trials)
        ),
        "waterfall": tuple(
            WaterfallStep(stage=stage, score=score, latency_ms=latency, size_mb=size, cost_per_1000=cost)
            for stage, score, latency, size, cost in (
                ("teacher", 0.861, 6.23, 90.4, 0.318),
                ("distill", 0.853, 3.17, 69.1, 0.216),
                ("prune", 0.801, 1.62, 27.6, 0.164),
                ("recover", 0.842, 1.61, 27.6, 0.163),
                ("quantize", 0.839, 0.78, 14.7, 0.136),
            )
        ),
        "orders": (
            _order("distill-prune-quantize", chain, 0.839),
            _order("prune-distill-quantize", ("prune", "distill", "quantize"), 0.834),
            _order("distill-quantize", ("distill", "quantize"), 0.848),
            OrderRow(
                name="distill-quantize-prune",
                chain=("distill", "quantize", "prune"),
                article=True,
                illegal="prune after quantize needs the full-precision parent, from which the quantized form is "
                "built again; keep the parent or put prune before quantize",
            ),
        ),
        "kpis": (
            KpiRow(
                axis="quality",
                name="drop",
                limit=0.05,
                limit_is="at most",
                figure=models[0].quality.drop,
                verdict="PASS",
            ),
            KpiRow(
                axis="operations",
                name="latency_ms_p95.onprem",
                limit=50,
                limit_is="at most",
                figure=models[0].targets[0].latency.p95,
                verdict="PASS",
            ),
            KpiRow(
                axis="operations",
                name="size_mb",
                limit=40,
                limit_is="at most",
                figure=models[0].targets[0].size_mb,
                verdict="PASS",
            ),
            KpiRow(
                axis="risk",
                name="worst_slice",
                limit=None,
                limit_is="at most",
                figure=_around(0.068, 0.06, "share", 57, "largest drop of a slice"),
                verdict="NO TARGET",
            ),
            KpiRow(
                axis="risk",
                name="calibration_error",
                limit=0.035,
                limit_is="at most",
                figure=models[0].quality.calibration_error,
                verdict="INCONCLUSIVE",
            ),
        ),
        "verdict": Verdict(
            decision="ACCEPT",
            reasons=(
                _reason("drop.pass", value="1.60", low="0.40", high="2.80", limit="5.00", unit="share"),
                _reason("latency_ms_p95.pass", target="onprem", value="7.18", limit="50", unit="ms"),
                _reason("size_mb.pass", value="14.7", limit="40", unit="MB"),
            ),
        ),
        "removed": Removed(
            layers=(1, 2, 4),
            ffn_share=0.5,
            vocabulary=21308,
            parameters_share=0.6957,
            bits="8-bit weights and activations",
        ),
        "business": tuple(
            worth["case"](target, share, pays=target != "cloud")
            for target, share in (("onprem", 0.571), ("edge", -0.12), ("cloud", 0.402))
        ),
        "risk": worth["risk"](models[0].quality.slices[2].drop),
        "licences": {"teacher": "Apache-2.0", "data": "unknown"},
        "how": {"latency": "interleaved with the teacher in one window, one engine at a time"},
        "seconds": {"teach": 41.2, "search": 388.0, "verdict": 97.5},
    }
    return Evidence(**{**fields, **changes})


def _reason(code: str, **values: str) -> Reason:
    values = {
        "target": "",
        "value": "?",
        "low": "?",
        "high": "?",
        "limit": "?",
        "unit": "",
        "rows": "",
    } | values
    return Reason(code=code, values=values, text=SENTENCES[code].format_map(values))


def _order(name: str, chain: tuple[str, ...], score: float) -> OrderRow:
    return OrderRow(
        name=name,
        chain=chain,
        score=_around(score, 0.031, "share", 500, "hits / rows on the validation split"),
        agreement=_around(score + 0.081, 0.02, "share", 300, "same arg max as the teacher"),
        size_mb=14.7,
        training_steps=200,
    )
