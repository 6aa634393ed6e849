"""The recipe says everything once, and refuses in one sentence."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from deshi.jobs.recipe import Recipe

DEMO = Path(__file__).resolve().parents[2] / "examples" / "trec" / "recipe.yaml"


def written(tmp_path: Path, change: dict) -> Path:
    recipe = yaml.safe_load(DEMO.read_text())
    for dotted, value in change.items():
        *path, last = dotted.split(".")
        part = recipe
        for key in path:
            part = part[key]
        part[last] = value
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "recipe.yaml"


def test_the_demo_recipe_is_valid_by_the_printed_json_schema():
    validator = jsonschema.Draft202012Validator(Recipe.model_json_schema())
    recipe = yaml.safe_load(DEMO.read_text())
    assert list(validator.iter_errors(recipe)) == []
    assert list(validator.iter_errors(recipe | {"serach": {}})) != []


def test_relative_paths_are_relative_to_the_recipe(tmp_path):
    recipe = Recipe.load(written(tmp_path, {"data.train": "rows/train.csv", "storage": "out"}))
    assert recipe.data.train == str(tmp_path / "rows" / "train.csv")
    assert recipe.storage == str(tmp_path / "out")


def test_uris_and_hub_ids_stay_as_they_are(tmp_path):
    recipe = Recipe.load(written(tmp_path, {"storage": "s3://bucket/runs", "teacher.model": "owner/model"}))
    assert recipe.storage == "s3://bucket/runs"
    assert recipe.teacher.model == "owner/model"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"serach": {}}, r"unknown key 'serach'; remove it"),
        ({"data.colour": "x"}, r"unknown key 'data.colour'; remove it"),
        ({"search.trials": 0}, r"search.trials = 0 is not allowed: .*greater than or equal to 1"),
        ({"name": "a/b"}, r"name = 'a/b' is not allowed"),
        ({"task": "translate"}, r"task = 'translate' is not allowed"),
        ({"targets": []}, r"targets = \[\] is not allowed"),
        (
            {"kpi.latency_ms_p95": {"moon": 5}},
            r"kpi.latency_ms_p95 names 'moon', which is no target; use one of onprem",
        ),
        ({"teacher.epochs": 3}, r"steps and epochs exclude each other; keep one of them"),
        ({"kpi.quality.max_drop": -1}, r"kpi.quality.max_drop = -1 is not allowed"),
    ],
)
def test_what_the_recipe_may_not_say(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        Recipe.load(written(tmp_path, change))
    assert "\n" not in str(refused.value)


def test_two_targets_of_one_name(tmp_path):
    target = {"name": "edge", "price_per_hour": 1}
    with pytest.raises(ValueError, match="two targets are called 'edge'"):
        Recipe.load(written(tmp_path, {"targets": [target, target], "kpi.latency_ms_p95": {}}))


def test_a_missing_key_is_named(tmp_path):
    path = written(tmp_path, {})
    recipe = yaml.safe_load(path.read_text())
    del recipe["teacher"]
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="teacher is missing; add it"):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("name: [", "is not YAML"), ("- a list", "holds no mapping of keys"), (None, "does not exist")],
)
def test_what_is_no_recipe(tmp_path, content, sentence):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        Recipe.load(path)
