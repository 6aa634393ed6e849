"""The gate's error rates on simulated students of a stored run, in numbers that a test can afford."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from deshi.jobs.evidence.benches import bench_evidence, gate_simulation
from deshi.jobs.evidence.benches.gate_simulation import Ground, Stored, blocked, gate_outcomes, grounds

build_evidence = runpy.run_path(str(Path(__file__).parents[1] / "evidence_fixture.py"))["build_evidence"]
MARGIN = 0.05


@pytest.fixture(scope="module")
def stored() -> Stored:
    """1,000 rows as the demo's: the teacher right in 86%, 4% flip to wrong and 2.5% to right, slices of every size."""
    rng = np.random.default_rng(7)
    taught = rng.random(1000) < 0.86
    right = taught ^ (rng.random(1000) < np.where(taught, 0.047, 0.18))
    sizes = np.array([1 / (rank + 2) for rank in range(47)])
    slices = rng.choice([f"topic {rank}" for rank in range(47)], 1000, p=sizes / sizes.sum())
    return Stored(taught_right=taught, right=right, slice_of=tuple(slices.tolist()))


def often(count: int, draws: int, share: float) -> float:
    """The chance of so many or more."""
    return stats.binomtest(count, draws, share, alternative="greater").pvalue


@pytest.mark.parametrize("rows", [200, 1000])
def test_a_drop_of_the_margin_rarely_passes(stored, rows):
    found = gate_outcomes(stored, drop=MARGIN, margin=MARGIN, confidence=0.95, rows=rows, draws=1000, seed=0)
    assert often(round(1000 * found["PASS"]), 1000, 0.05) > 0.01
    assert often(round(1000 * found["PASS"]), 1000, 0.025) > 0.001  # the nominal rate
    assert found["FAIL"] < 0.05 and sum(found.values()) == pytest.approx(1)


def test_a_gate_by_the_value_would_pass_half(stored):
    """The simulation sees a gate that errs: an interval of width 0 at confidence near nothing is the bare value."""
    found = gate_outcomes(stored, drop=MARGIN, margin=MARGIN, confidence=0.01, rows=1000, draws=300, seed=0)
    assert found["PASS"] > 0.4


def test_students_have_the_drop_that_they_are_given(stored):
    rng = np.random.default_rng(0)
    for drop in (MARGIN, stored.drop, -0.01):
        taught, right = stored.draw(400_000, drop, rng)
        assert taught.mean() - right.mean() == pytest.approx(drop, abs=0.003)
    with pytest.raises(ValueError, match=r"a drop of 0\.95 cannot be made"):
        stored.draw(10, 0.95, rng)


def test_planted_harm_is_blocked(stored):
    gate, _ = blocked(stored, gate_simulation.planted(stored), margin=MARGIN, draws=100, seed=1)
    assert gate >= 0.95


@pytest.mark.parametrize("kind", ["as stored", "worse everywhere", "uneven flips"])
def test_unharmed_students_are_rarely_blocked(stored, kind):
    students = {
        "as stored": gate_simulation.same_drop(stored),
        "worse everywhere": gate_simulation.same_drop(stored, 0.03),
        "uneven flips": gate_simulation.uneven_flips(),
    }[kind]
    gate, test = blocked(stored, students, margin=MARGIN, draws=400, seed=2)
    assert often(round(400 * gate), 400, 0.05) > 0.01
    assert often(round(400 * test), 400, 0.05) > 0.01 and gate <= test


def test_planted_harm_is_what_the_issue_asks_for(stored):
    students = gate_simulation.planted(stored)
    for ground, rng in grounds(stored, 3, 5):
        assert ground.rows == 3000 and len(ground.here) == 20
        assert sum(here.sum() for here in ground.here) == 3000
        differences = students(ground, rng)
        base = stored.drop
        worst = max(differences[here].mean() for here in ground.here if here.sum() >= 150)
        assert worst == pytest.approx(base + 0.2, abs=0.06)
    with pytest.raises(ValueError, match="no slice has 150 of 3000 rows"):
        students(Ground(here=[np.arange(3000) < 149], rows=3000), np.random.default_rng(0))


def test_the_command_prints_its_figures_from_a_runs_folder(stored, tmp_path, monkeypatch, capsys):
    evidence = build_evidence()
    recipe = evidence.recipe | {"data": {"slices": []}}  # the labels stand for slices
    (tmp_path / "evidence.json").write_text(evidence.model_copy(update={"recipe": recipe}).model_dump_json())
    label = stored.slice_of

    def table(model: str, right: np.ndarray) -> pa.Table:
        answer = [name if ok else "wrong" for name, ok in zip(label, right, strict=True)]
        return pa.table({"model": [model] * 1000, "row": np.arange(1000), "label": label, "answer": answer})

    rows = pa.concat_tables([table("teacher", stored.taught_right), table("chosen", stored.right)])
    pq.write_table(rows.take(np.random.default_rng(0).permutation(2000)), tmp_path / "test-answers.parquet")
    read = bench_evidence.stored(tmp_path)
    assert np.array_equal(read.right, stored.right) and np.array_equal(read.taught_right, stored.taught_right)
    assert read.slice_of == stored.slice_of

    monkeypatch.setattr(
        bench_evidence,
        "PROOFS",
        (
            lambda run: bench_evidence.non_inferiority(run, draws=100),
            lambda run: bench_evidence.slice_harm(run, unharmed=50, broken=20),
        ),
    )
    bench_evidence.main(str(tmp_path))
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert all(set(each) == {"name", "value", "unit", "bar", "holds"} for each in told)
    named = {each["name"]: each for each in told}
    assert named["PASS at a true drop of the margin, 1000 rows"]["holds"] is True
    assert named["blocked of 20, one slice of at least 150 rows broken by 20 points"]["value"] >= 19
    assert len(told) == 12


def test_a_language_models_run_is_refused(tmp_path):
    (tmp_path / "evidence.json").write_text(build_evidence(task="generate").model_dump_json())
    with pytest.raises(ValueError, match="give a classifier's"):
        bench_evidence.evidence_of(tmp_path)


def test_the_largest_share_that_chance_explains():
    most = bench_evidence.most_by_chance(1000)
    assert often(round(1000 * most), 1000, 0.05) > 0.01 >= often(round(1000 * most) + 1, 1000, 0.05)
