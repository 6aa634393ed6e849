"""`deshi plan`: what it counts, what it says, and that it touches nothing."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from deshi.jobs.evidence.benches.training_cost import Work, forward_flops, training_flops
from deshi.jobs.plan import cost
from deshi.jobs.plan_shown import as_data, show
from deshi.jobs.plan_stages import Cluster, StageCost, within_minutes
from deshi.jobs.recipe import Recipe

FIXTURES = runpy.run_path(str(Path(__file__).parent / "lm_fixtures.py"))
CHAT = Path(__file__).resolve().parents[2] / "examples/chat"
NOTHING = Cluster(
    tflops=None,
    utilisation=0.4,
    price_per_hour=None,
    devices_per_machine=8,
    gpu_memory_gb=None,
    rows=None,
    teacher_config=None,
    student_config=None,
)


def cluster(**changed):
    return Cluster(**vars(NOTHING) | changed)


def on_gpus(**changed):
    return cluster(teacher_config=CHAT / "configs/llama-8b.json", **changed)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    FIXTURES["tiny_lm"](folder / "teacher", layers=4)
    for name, seed in (("train", 0), ("test", 1)):
        rows = [json.dumps({"messages": messages}) for messages in FIXTURES["conversations"](120, seed=seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def written(folder, name="recipe.yaml", **changed):
    """A recipe file in `folder`, parts of it changed: `distill={"steps": 3}`."""
    recipe = {
        "name": "chat",
        "task": "generate",
        "data": {"train": "train.jsonl", "test": "test.jsonl", "max_length": 64},
        "teacher": {"model": "teacher", "finetune": False},
        "student": {"layers": 2},
        "distill": {"steps": 6, "batch_size": 4, "workers": 2},
        "search": {"trials": 9, "minutes": 30},
        "targets": [{"name": "here", "threads": 2, "price_per_hour": 15}],
        "kpi": {},
    }
    for part, values in changed.items():
        recipe[part] = recipe.get(part, {}) | values
    (folder / name).write_text(yaml.safe_dump(recipe))
    return folder / name


def planned(folder, on=NOTHING, **changed):
    return cost(Recipe.load(written(folder, **changed)), on)


def rows_of(made, stage):
    return [row for row in made.stages if row.stage == stage]


def test_the_stages_and_their_operations(chat):
    made = planned(chat)
    assert [row.stage for row in made.stages] == [
        "teach", "answers", "search", "train", "train", "train", "control", "export", "measure"
    ]  # fmt: skip
    assert not made.refused and not made.unchecked and not made.warnings
    # A third of nine trials train, in the orders of the table: both of these train the two layers, for six steps in all
    first, second, third = rows_of(made, "train")
    assert [first.what, second.what, third.what] == [
        "prune-distil-quantize", "distil-prune-quantize", "distil-quantize-prune"
    ]  # fmt: skip
    assert made.student.layers == 2 and made.teacher.layers == 4
    targets = first.flops / 3 - first.tokens * (2 * made.student.layer_weights + 4 * 2 * 64 * 64)
    assert first.tokens == 6 * 4 * 64
    assert 0 < targets < first.tokens * 2 * made.student.head_weights
    assert rows_of(made, "control")[0].flops == pytest.approx(first.flops)


def test_what_costs_more(chat):
    plain = planned(chat)
    online = planned(chat, distill={"online_teacher": True, "steps": 6, "batch_size": 4, "workers": 2})
    assert rows_of(online, "answers")[0].tokens < rows_of(plain, "answers")[0].tokens
    work = rows_of(plain, "train")[0]
    asked = rows_of(online, "train")[0].flops - work.flops
    assert asked == pytest.approx(
        forward_flops(plain.teacher, Work(tokens=work.tokens, targets=0, row_length=64)), rel=0.3
    )
    again = planned(chat, resources={"train": {"gradient_checkpointing": True}})
    assert rows_of(again, "train")[0].flops > 1.2 * work.flops
    taught = planned(chat, teacher={"model": "teacher", "finetune": True, "steps": 5, "batch_size": 4})
    told = Work(tokens=5 * 4 * 64, targets=0, row_length=64)
    assert rows_of(taught, "teach")[0].flops > training_flops(taught.teacher, told, recomputed=False)
    assert [table.what for table in taught.memory] == ["student", "teacher"]


def test_hours_and_money_by_hand(chat):
    made = planned(chat, cluster(tflops=0.001, utilisation=0.5, price_per_hour=300.0, devices_per_machine=1))
    row = rows_of(made, "train")[0]
    assert row.hours == pytest.approx(row.flops / (2 * 0.5e9) / 3600)
    assert row.money == pytest.approx(row.hours * 300 * 2)  # a machine for each worker
    assert made.total.hours == pytest.approx(sum(one.hours for one in made.stages if one.hours is not None))
    assert made.total.money == pytest.approx(sum(one.money for one in made.stages if one.money is not None))
    assert rows_of(made, "measure")[0].hours is None


def test_minutes_end_the_training_as_the_ladder_does(chat):
    rows = [StageCost(stage="train", what="", hours=hours) for hours in (0.5, 0.4, 0.1)]
    # The first always; a second of the mean, 30 minutes, after 30; a third, 27, after 54.
    assert [within_minutes(rows, minutes) for minutes in (1, 59, 60, 80, 82)] == [1, 1, 2, 2, 3]
    slow = planned(chat, cluster(tflops=1e-6), search={"trials": 9, "minutes": 1})
    assert len(rows_of(slow, "train")) == 1
    assert "ends the training after 1 of 3 trials" in slow.warnings[0]


def test_no_training_is_planned_where_none_is_allowed(chat):
    assert not rows_of(planned(chat, search={"trials": 9, "minutes": 0}), "train")


def test_a_plan_of_a_classifier(tmp_path, tiny_rows, tiny_model):
    tiny_model(tmp_path / "teacher", labels=3)
    for name, count in (("train", 120), ("test", 30)):
        pq.write_table(tiny_rows(count, seed=count).drop_columns("row"), tmp_path / f"{name}.parquet")
    recipe = {
        "name": "tiny",
        "data": {"train": "train.parquet", "test": "test.parquet", "max_length": 32},
        "teacher": {"model": "teacher", "steps": 10, "batch_size": 8},
        "distill": {"steps": 12, "batch_size": 8, "workers": 1},
        "search": {"trials": 6},
        "targets": [{"name": "here", "price_per_hour": 1}],
        "kpi": {},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    made = cost(Recipe.load(tmp_path / "recipe.yaml"), NOTHING)
    assert not made.refused and not made.unchecked
    assert rows_of(made, "teach")[0].flops > rows_of(made, "train")[0].flops > 0
    assert len(rows_of(made, "control")) == 2
    assert rows_of(made, "answers")[0].tokens < 120 * 32
    assert made.student.layers == 2 and made.student.ffn == 32


def test_missing_data_is_said_and_costed_from_max_length(chat):
    made = planned(chat, data={"train": "gone.jsonl", "test": "s3://company/test.jsonl", "max_length": 64})
    assert "does not exist here: 24 rows of max_length = 64" in made.unchecked[0]
    assert rows_of(made, "train")[0].tokens == 6 * 4 * 64
    told = cost(Recipe.load(chat / "recipe.yaml"), cluster(rows=8))
    assert rows_of(told, "answers")[0].tokens < rows_of(made, "answers")[0].tokens


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"distill": {"steps": 6, "batch_size": 3, "workers": 2}}, "does not share evenly"),
        ({"distill": {"loss": "nothing"}}, "no row of its table"),
        ({"data": {"train": "train.jsonl", "test": "test.jsonl", "max_length": 512}}, "above the context"),
    ],
)
def test_what_a_run_would_refuse_is_said(chat, changed, sentence):
    assert sentence in planned(chat, **changed).refused[0]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"teacher": {"model": "company/unknown"}}, "give its config.json as --teacher-config FILE"),
        ({"student": {"layers": 9}}, "more than the 4 there are"),
        ({"student": {"hidden": 33}}, "hidden 33 must be a multiple"),
        ({"search": {"orders": ["backwards"]}}, "no stage order"),
        ({"distill": {"deepspeed": {"train_micro_batch_size_per_gpu": 7}}}, "contradicts"),
    ],
)
def test_what_cannot_be_costed_is_refused(chat, changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        planned(chat, **changed)


def test_the_recipe_for_a_cluster_is_costed_without_its_models():
    recipe = Recipe.load(CHAT / "recipe-gpu.yaml")
    made = cost(recipe, on_gpus(tflops=989.0, price_per_hour=15000.0, gpu_memory_gb=80.0))
    assert not made.refused and not made.warnings
    assert made.teacher.parameters == 8_030_261_248
    assert 2.9e9 < made.student.parameters < 3.3e9
    student, teacher = made.memory
    assert (student.chosen, teacher.chosen) == (3, 3)
    assert student.own.total < student.stages[2].total < student.stages[1].total < student.stages[0].total
    # 16 bytes a parameter over 16 ranks, of the layers as they are before the cut in width
    assert student.own.weights + student.own.gradients + student.own.optimizer == student.network.parameters
    assert rows_of(made, "train")[0].tokens == 4000 * 128 * 4096
    answers = rows_of(made, "answers")[0]
    assert answers.bytes / answers.tokens == 121
    assert len(made.unchecked) == 2


@pytest.mark.parametrize(
    ("memory", "changed", "sentence"),
    [
        (14.0, {}, "a micro batch is 2 rows: take more gradient_accumulation"),
        (60.0, {"deepspeed": {"zero_stage": 1}}, None),
        (40.0, {"deepspeed": {"zero_stage": 1}}, "zero_stage: 2 takes"),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(memory, changed, sentence):
    recipe = Recipe.load(CHAT / "recipe-gpu.yaml")
    recipe = Recipe.model_validate(
        recipe.model_dump(exclude_unset=True) | {"distill": recipe.distill.model_dump(exclude_unset=True) | changed}
    )
    warnings = cost(recipe, on_gpus(gpu_memory_gb=memory)).warnings
    assert not warnings if sentence is None else sentence in " ".join(warnings)
    if memory == 14.0:
        assert any("the teacher that answers needs 16.1 GB on one device" in one for one in warnings)


def test_json_and_table_say_the_same_and_nothing_is_written(chat, capsys):
    path = written(chat)
    before = sorted(chat.rglob("*"))
    on = cluster(tflops=0.1, gpu_memory_gb=16.0)
    assert show(path, on, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(as_data(cost(Recipe.load(path), on))))
    assert told["total"]["flops"] == sum(row["flops"] for row in told["stages"])
    assert told["memory"][0]["stages"][1]["total"] > 0
    assert show(path, on, as_json=False)
    shown = capsys.readouterr().out
    assert "prune-distil-quantize" in shown and "ZeRO-1 (recipe)" in shown and "assumed" in shown
    assert sorted(chat.rglob("*")) == before


def test_a_refusal_is_told_to_the_caller(chat, capsys):
    assert not show(written(chat, distill={"loss": "nothing"}), NOTHING, as_json=False)
    assert "would be refused" in capsys.readouterr().out
