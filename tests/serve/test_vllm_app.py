"""What would be asked of `ray.serve.llm`, against Ray's own schema; vLLM itself is not here to be run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig  # ray.serve.llm itself needs vLLM
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from deshi.serve import release, vllm_app
from deshi.serve.kpi import Kpi, Target
from deshi.serve.vllm_app import Args


def test_ray_takes_the_settings(parrot):
    config = LLMConfig.model_validate(vllm_app.llm_settings(Args(release=str(parrot), target="torch", replicas=2)))
    assert config.model_id == "parrot" and Path(config.model_loading_config.model_source) == parrot / "model"
    assert config.engine_kwargs["max_num_seqs"] == 2 and config.engine_kwargs["max_model_len"] == 16384
    assert config.engine_kwargs["trust_remote_code"] is False and config.deployment_config["num_replicas"] == 2
    assert config.experimental_configs["stream_batching_interval_ms"] == 0
    assert LLMConfig.model_validate(
        vllm_app.llm_settings(Args(release=str(parrot), accelerator_type="H100"))
    ).accelerator_type == "H100"  # fmt: skip


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_is_refused_in_one_sentence(parrot):
    for start in (
        lambda: vllm_app.build(Args(release=str(parrot))),
        lambda: call_user_app_builder_with_args_if_necessary(vllm_app.build, {"release": str(parrot)}),
    ):
        with pytest.raises(ValueError, match=r"vLLM cannot run here: vllm is not installed; pip install 'ray\[llm\]'"):
            start()


def test_what_may_not_be_served_is_refused(parrot, tiny, tmp_path):
    target = Target(name="eight", threads=1, price_per_hour=3)
    manifest = release.Manifest(
        name="parrot", created="2026-11-24T00:00:00Z", decision="REJECT", kpi=Kpi(), targets=(target,)
    )
    folder = release.write(parrot, tmp_path / "release", manifest)
    for args, sentence in (
        (Args(release=str(folder)), "judged REJECT"),
        (Args(release=str(folder), despite_verdict=True, target="moon"), "target 'moon' is not in this release"),
        (Args(release=str(tiny)), "is served for task 'classify'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            vllm_app.llm_settings(args)
