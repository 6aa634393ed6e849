"""`deshi bench kernels` and `deshi tune kernels`, where there is no device to run them on."""

import pytest
import torch
from typer.testing import CliRunner

from deshi.jobs.cli import app

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device, and would measure")


@pytest.mark.parametrize("command", ["bench", "tune"])
def test_without_a_device_it_is_one_sentence_and_exit_code_2(command):
    told = CliRunner().invoke(app, [command, "kernels"])
    assert told.exit_code == 2 and told.stdout == ""
    (sentence,) = told.stderr.splitlines()
    assert sentence.startswith("deshi: no CUDA device is present")
    assert f"deshi {command} kernels on a machine with an NVIDIA GPU" in sentence


@pytest.mark.parametrize("command", ["bench", "tune"])
def test_an_unknown_kernel_is_refused_with_those_there_are(command):
    told = CliRunner().invoke(app, [command, "kernels", "--only", "w4a17"])
    assert told.exit_code == 2 and "--only w4a17 is no kernel; take one of w4a16, w8a16, w8a8" in told.stderr


def test_what_is_asked_for_arrives(monkeypatch, tmp_path):
    from deshi.kernels.speed import bench, tune

    asked = []
    monkeypatch.setattr(bench, "bench", lambda only: asked.append(only))
    monkeypatch.setattr(tune, "tune", lambda only, out: asked.append((only, out)) or out / "card.json")
    assert CliRunner().invoke(app, ["bench", "kernels", "--only", "w8a8"]).exit_code == 0
    told = CliRunner().invoke(app, ["tune", "kernels", "--only", "w4a16", "--out", str(tmp_path)])
    assert told.exit_code == 0 and told.stdout.strip() == str(tmp_path / "card.json")
    assert asked == ["w8a8", ("w4a16", tmp_path)]
