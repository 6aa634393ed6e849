"""The cluster's files against the schemas of those who will read them; Serve's own reader ignores unknown keys."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import get_args

import pytest
import ray
import yaml
from pydantic import BaseModel
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema

from deshi.serve.app import Args

CLUSTER = Path(__file__).parents[2] / "cluster"
MANIFESTS = ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml")


def read(name):
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def unknown_keys(raw, model: type[BaseModel], path=""):
    """Keys that the schema does not have, at any depth."""
    for key, value in raw.items():
        if key not in model.model_fields:
            yield f"{path}{key}"
            continue
        annotation = model.model_fields[key].annotation
        inner = [one for kind in (annotation, *get_args(annotation)) for one in (kind, *get_args(kind))]
        models = [one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]
        for one in value if isinstance(value, list) else [value]:
            if models and isinstance(one, dict):
                yield from unknown_keys(one, models[0], f"{path}{key}.")


def serve_configs():
    return {"serve-config.yaml": read("serve-config.yaml")} | {
        "rayservice.yaml": yaml.safe_load(read("rayservice.yaml")["spec"]["serveConfigV2"])
    }


@pytest.mark.parametrize("name", ["serve-config.yaml", "rayservice.yaml"])
def test_serve_configs(name):
    raw = serve_configs()[name]
    config = ServeDeploySchema.model_validate(raw)
    assert list(unknown_keys(raw, ServeDeploySchema)) == []
    assert config.http_options.host == "127.0.0.1", "no key is asked for yet"
    for application in config.applications:
        module, _, function = application.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        Args.model_validate(application.args)


def test_a_misspelt_key_would_be_found():
    raw = read("serve-config.yaml")
    raw["http_options"]["hots"] = raw["applications"][0]["route"] = "x"
    ServeDeploySchema.model_validate(raw)  # Serve itself says nothing
    assert list(unknown_keys(raw, ServeDeploySchema)) == ["http_options.hots", "applications.route"]


def test_runtime_env_is_one_that_ray_takes():
    raw = read("runtime_env.yaml")
    env = RuntimeEnv(**raw)
    assert env.pip_config()["packages"] == ["${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"]
    assert all(isinstance(value, str) for value in raw["env_vars"].values())


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_manifests(name):
    raw = read(name)
    assert raw["apiVersion"] == "ray.io/v1" and raw["kind"].lower() == name.removesuffix(".yaml")
    spec = raw["spec"].get("rayClusterSpec") or raw["spec"].get("rayClusterConfig") or raw["spec"]
    assert spec["rayVersion"] == ray.__version__, "the image's Ray is the one that is tested"
    assert f"rayproject/ray:{spec['rayVersion']}-py311" in (CLUSTER / "Dockerfile").read_text()
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec.get("workerGroupSpecs", ())]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        for container in pod["containers"]:
            assert container["image"] == "deshi:0.1.0"
            assert container["resources"]["limits"] == container["resources"]["requests"]
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounted == {volume["name"] for volume in pod.get("volumes", ())}
    for group in spec.get("workerGroupSpecs", ()):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_a_kubernetes_job_runs_under_the_same_rules_as_a_submitted_one():
    embedded = yaml.safe_load(read("rayjob.yaml")["spec"]["runtimeEnvYAML"])
    assert embedded["env_vars"] == read("runtime_env.yaml")["env_vars"]
