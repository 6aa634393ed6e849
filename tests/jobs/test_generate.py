"""The pieces of the task `generate` that have no other home: what is drawn, cut on the way, counted and controlled."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from deshi.jobs import generate
from deshi.jobs.evidence.decide import Finalist, FinalistTarget, choose, violations
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.kpis import kpi_rows
from deshi.jobs.evidence.schema import ModelRow, Quality
from deshi.jobs.evidence.text import measure_text
from deshi.jobs.evidence.verdict import verdict
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages import chain, cut_language_model, spaces
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Storage
from deshi.serve.kpi import Kpi, QualityKpi, Target, TokenLatency
from deshi.serve.statistics import Interval

lm = runpy.run_path(str(Path(__file__).with_name("lm_fixtures.py")))
TARGET = Target(name="edge", threads=1, price_per_hour=3)


def recipe_of(folder: Path, **changes) -> Recipe:
    given = {
        "name": "talk",
        "task": "generate",
        "data": {"train": "train.jsonl", "test": "test.jsonl", "max_length": 128},
        "teacher": {"model": "teacher", "finetune": False},
        "targets": [{"name": "edge", "threads": 1, "price_per_hour": 3}],
        "kpi": {"quality": {"same_top": 0.8}},
    }
    return Recipe.model_validate(given | changes).at(folder)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory) -> Lesson:
    """A tiny teacher of 8 layers and its rows."""
    folder = tmp_path_factory.mktemp("generate")
    lm["tiny_lm"](folder / "teacher", layers=8)
    for name, rows in (("train", lm["conversations"](200, seed=0)), ("test", lm["conversations"](30, seed=1))):
        lines = [json.dumps({"messages": said}) for said in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    recipe, storage = recipe_of(folder), Storage(str(folder / "runs"))
    splits = storage.stage("splits", {}, generate.make_splits(recipe.data, 0).write)
    bare = Lesson(recipe=recipe, storage=storage, splits_key=splits.key, precision="fp32")
    return bare.taught_by(generate.teach.fit(bare, chain.Machine(cpus=1, gpus=0, nodes=1, local=True), splits.key))


def test_the_recipes_student_is_tried_first_and_the_teacher_in_every_scheme(lesson):
    ground = spaces.of_language_model(lesson.recipe, lesson.teacher, "teacher", ("q4_0", "q8_0", "f16"))
    assert ground.first.layers == 6 and ground.first.scheme == "q8_0"  # 80% of eight, rounded
    whole = [candidate.scheme for candidate in ground.fixed if candidate.order == "quantize-only"]
    assert whole == ["q4_0", "q8_0", "f16"]
    assert ground.space.layers == (4, 8)
    assert set(ground.space.choices["hidden"]) == {0}


def test_a_cut_to_less_than_half_stops_on_the_way_and_comes_to_its_goal(lesson):
    small = Candidate(layers=2, depth_by="influence", ffn=0.5)
    stops = cut_language_model.on_the_way(small, lesson)
    assert stops and all(2 <= stop.layers <= 8 for stop in stops)
    assert not cut_language_model.on_the_way(Candidate(layers=6), lesson)
    source = chain.parent(small, lesson)
    for stop in stops:
        source = cut_language_model.cut_to(source, stop, lesson)
    source = cut_language_model.cut_depth(source, small, lesson)
    made = cut_language_model.cut_width(source, small, lesson, None, True)
    config = json.loads((made.path / "model/config.json").read_text())
    whole = json.loads((lesson.teacher / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert config["intermediate_size"] == cut_language_model.ffn_width(whole["intermediate_size"], 0.5)


def test_layers_that_go_leave_the_others_as_they_were(lesson):
    from transformers import AutoModelForCausalLM

    candidate = Candidate(layers=5, depth_by="influence")
    cut = cut_language_model.cut_depth(chain.parent(candidate, lesson), candidate, lesson)
    kept = chain.kept_layers(candidate, lesson)
    assert len(kept) == 5 and list(kept) == sorted(kept)
    mine, whole = (AutoModelForCausalLM.from_pretrained(place) for place in (cut.path / "model", lesson.teacher))
    for new, old in enumerate(kept):
        pairs = zip(mine.model.layers[new].parameters(), whole.model.layers[old].parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert cut_language_model.cut_width(cut, candidate, lesson, None, True).key == cut.key  # no width to cut


def test_calibration_rows_hold_no_padding(lesson):
    for batch in cut_language_model.calibration_rows(lesson, lesson.teacher):
        positions = batch["position_ids"][0]
        starts = torch.nonzero(positions == 0).flatten().tolist()
        ends = [*starts[1:], len(positions)]
        assert all(end - start > 2 for start, end in zip(starts, ends, strict=True))


def test_a_typical_request_is_the_median_conversation(lesson):
    prompt, answer = measure_text.typical(lesson)
    sequences = measure_text.leading(lesson, "validation")
    lasts = []
    for ids, mask in zip(sequences.input_ids, sequences.loss_mask, strict=True):
        at = len(ids) - 1
        while not mask[at]:
            at -= 1
        end = at
        while mask[at]:
            at -= 1
        lasts.append((at + 1, end - at))
    assert (prompt, answer) == tuple(round(float(np.median(some))) for some in zip(*lasts, strict=True))


@pytest.mark.parametrize(("asked", "most", "fits"), [((100, 20), 512, (100, 20)), ((600, 20), 512, (492, 20)),
                                                     ((10, 600), 512, (10, 256)), ((5, 1), 512, (5, 2))])  # fmt: skip
def test_a_request_fits_the_context(asked, most, fits):
    assert measure_text.fit(*asked, most) == fits


def test_the_quantized_control_is_the_one_of_equal_bytes():
    def line(scheme: str, size: float, **changes) -> dict:
        candidate = Candidate(order="quantize-only", layers=8, scheme=scheme).model_dump() | changes
        return {"id": scheme, "candidate": candidate, "size_mb": size, "error": None}

    lines = [line("q4_0", 90), line("q8_0", 145), line("f16", 270), line("q2", 80, layers=4)]
    winner = {"id": "w", "size_mb": 121.0, "error": None, "candidate": {"order": "x", "layers": 6}}
    assert generate.controls([*lines, winner], winner, 8)["quantize-only"].scheme == "q8_0"
    assert generate.controls(lines[3:], winner, 8) == {}


def model(**figures: tuple[float, float, float]) -> ModelRow:
    told = {
        name: Figure(value=value, low=low, high=high, n=40, unit="nats") for name, (value, low, high) in figures.items()
    }
    same = Figure(value=0.9, unit="share", n=40, low=0.88, high=0.92)
    return ModelRow(
        id="chosen",
        role="chosen",
        digest="d",
        parameters=1,
        layers=1,
        ffn=1,
        vocabulary=1,
        scheme="q8_0",
        training_steps=0,
        quality=Quality(
            score=same,
            drop=same.model_copy(update={"value": 0.1, "low": 0.08, "high": 0.12}),
            measures=told,
        ),
        targets=(),
    )


@pytest.mark.parametrize(
    ("kl", "decision", "code"),
    [
        ((0.2, 0.1, 0.3), "ACCEPT", "kl_mean.pass"),
        ((0.7, 0.6, 0.8), "REJECT", "kl_mean.fail"),
        ((0.45, 0.3, 0.6), "INCONCLUSIVE", "kl_mean.inconclusive"),
        ((0.55, 0.3, 0.8), "INCONCLUSIVE", "kl_mean.inconclusive_above"),
    ],
)
def test_every_figure_of_quality_that_has_a_limit_has_a_say(kl, decision, code):
    kpi = Kpi(quality=QualityKpi(kl_mean=0.5, same_top=0.8))
    rows = kpi_rows(model(kl_mean=kl), kpi, (), margin=0.2, currency="JPY")
    spoken = verdict(rows, slices=(), confidence=0.95)
    assert spoken.decision == decision
    assert code in [reason.code for reason in spoken.reasons]
    assert (spoken.rows_needed is not None) == (code == "kl_mean.inconclusive")


def test_a_finalist_is_judged_by_what_a_reader_waits_for():
    kpi = Kpi(quality=QualityKpi(kl_mean=0.5), latency_ms=TokenLatency(first_token_p95=300, per_token_p95=15))
    load = {"margin": None, "peak_rps": 1.0, "requests_per_month": 1e6}

    def finalist(digest: str, first: float, token: float, kl: float) -> Finalist:
        place = FinalistTarget(
            target="edge",
            latency_ms_p95=900.0,
            size_mb=100.0,
            memory_mb=500.0,
            rps=Interval(value=4, low=4, high=4, n=1),
            first_token_ms_p95=first,
            per_token_ms_p95=token,
        )
        told = {"kl_mean": Interval(value=kl, low=kl, high=kl, n=40)}
        return Finalist(digest=digest, drop=Interval(value=0.9, low=0.8, high=1, n=40), targets=(place,), measures=told)

    slow = finalist("a", 450, 12, 0.1)
    assert violations(slow, kpi, (TARGET,), **load) == {"first_token_p95.edge": pytest.approx(0.5)}
    strange = finalist("b", 100, 12, 0.75)
    assert violations(strange, kpi, (TARGET,), **load) == {"kl_mean": pytest.approx(0.5)}
    good = finalist("c", 100, 12, 0.1)
    assert choose([slow, strange, good], kpi, (TARGET,), **load).finalist == good


def test_how_far_the_score_may_drop_follows_from_same_top(tmp_path):
    assert recipe_of(tmp_path).margin == pytest.approx(0.2)
    assert recipe_of(tmp_path, kpi={"quality": {"kl_mean": 0.5}}).margin is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"train": "a", "test": "b", "label": "x"}}, "data.label belongs to task: classify"),
        ({"distill": {"hidden_weight": 1.0}}, "distill.hidden_weight belongs to task: classify"),
        ({"task": "classify", "kpi": {"quality": {"same_top": 0.8}}}, "kpi.quality.same_top belongs to task: generate"),
        ({"task": "classify", "student": {"kv_groups": 2}, "kpi": {}}, "student.kv_groups belongs to task: generate"),
    ],
)
def test_a_key_of_the_other_task_is_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe_of(tmp_path, **changes)
