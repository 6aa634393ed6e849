"""The table of exporters: what is offered, and that a build is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from deshi.jobs.exporters.table import EXPORTERS, export, exportable


def test_builds_are_offered_by_scheme_engine_and_family():
    assert exportable() == (
        "onnxruntime-fp32",
        "onnxruntime-w8a8",
        "openvino-fp32",
        "openvino-w8a8",
        "openvino-w8a16",
        "torch_eager-fp32",
    )
    assert exportable(scheme="w8a8") == ("onnxruntime-w8a8", "openvino-w8a8")
    assert exportable(("onnxruntime", "torch_eager"), scheme="fp32") == ("onnxruntime-fp32", "torch_eager-fp32")
    assert exportable(static=True) == ("static-fp32",)
    with pytest.raises(ValueError, match="'tensorrt' is not known; use one of"):
        exportable(("tensorrt",))


def test_a_build_from_outside_joins_by_a_row(monkeypatch, bert, tmp_path):
    def text(model_folder: Path, out_folder: Path, calibration, max_length) -> None:
        (out_folder / "hello.txt").write_text(f"{len(calibration)} {max_length}")

    monkeypatch.setitem(EXPORTERS, "onnxruntime-text", text)
    (tmp_path / "model").symlink_to(bert / "model")
    folder = export("onnxruntime-text", tmp_path, calibration=["a", "b"], max_length=9)
    assert folder == tmp_path / "engines" / "onnxruntime-text"
    assert (folder / "hello.txt").read_text() == "2 9"


def test_a_failed_export_leaves_nothing_and_a_finished_one_stays(monkeypatch, bert, tmp_path):
    def half(model_folder: Path, out_folder: Path, calibration, max_length) -> None:
        (out_folder / "model.onnx").write_text("half")
        raise KeyboardInterrupt

    (tmp_path / "model").symlink_to(bert / "model")
    export("torch_eager-fp32", tmp_path)
    monkeypatch.setitem(EXPORTERS, "onnxruntime-fp32", half)
    monkeypatch.setitem(EXPORTERS, "torch_eager-fp32", half)
    with pytest.raises(KeyboardInterrupt):
        export("onnxruntime-fp32", tmp_path)
    export("torch_eager-fp32", tmp_path)  # is there, so it is not made again
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["torch_eager-fp32"]


def test_builds_of_the_other_family_are_refused(bert):
    with pytest.raises(ValueError, match="'static-fp32' is not one for the model"):
        export("static-fp32", bert)
    with pytest.raises(ValueError, match="'tensorrt-fp8' is not known"):
        export("tensorrt-fp8", bert)
