"""The release against `sha256sum`, every kind of tampering, and a kill after each file operation."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from deshi.serve import release
from deshi.serve.kpi import Kpi, Target
from deshi.serve.release import Manifest
from deshi.serve.serving import ServedTarget, Serving

TARGET = Target(name="onprem", threads=2, price_per_hour=15)


def candidate(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "engines" / "openvino-w8a8").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "engines" / "openvino-w8a8" / "model.xml").write_text("<net/>")
    (folder / "engines" / "openvino-w8a8" / "model.bin").write_bytes(weights)
    served = ServedTarget(threads=2, builds={"1x16": "openvino-w8a8"})
    Serving(name="trec", labels=("a", "b"), max_length=16, targets={"onprem": served}).write(folder)
    return folder


def manifest(decision: str = "ACCEPT", created: str = "2026-11-24T00:00:00Z") -> Manifest:
    return Manifest.model_validate(
        {"name": "trec", "created": created, "decision": decision, "reasons": ("drop 0.07 > 0.05",)}
        | {"kpi": Kpi(), "targets": (TARGET,), "licences": {"teacher": "Apache-2.0"}, "commit": "0" * 40}
    )


@pytest.fixture
def written(tmp_path):
    return release.write(candidate(tmp_path / "candidate"), tmp_path / "run" / "release", manifest())


def test_written_is_what_sha256sum_says(written):
    names = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    names.remove("manifest.json")
    printed = subprocess.run(["sha256sum", *names], cwd=written, capture_output=True, text=True, check=True).stdout
    expected = {line.split(maxsplit=1)[1]: line.split()[0] for line in printed.splitlines()}
    verified = release.verify(written)
    assert {path: file.sha256 for path, file in verified.files.items()} == expected
    assert verified.files["model/model.safetensors"].bytes == len(b"weights")
    assert release.digest(written) == hashlib.sha256(printed.encode()).hexdigest()
    assert [path.name for path in written.parent.iterdir() if path.name != ".release.lock"] == ["release"]


def flip(folder):
    path = folder / "model/model.safetensors"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def rename_in_manifest(old, new):
    def change(folder):
        raw = json.loads((folder / "manifest.json").read_text())
        raw["files"][new] = raw["files"].pop(old)
        (folder / "manifest.json").write_text(json.dumps(raw))

    return change


def link(folder):
    (folder / "model/config.json").rename(folder / "model/real.json")
    (folder / "model/config.json").symlink_to("real.json")


def link_folder(folder):
    (folder / "model").rename(folder / "moved")
    (folder / "model").symlink_to("moved")


TAMPERINGS = [
    (flip, "model/model.safetensors differs"),
    (lambda folder: (folder / "model/config.json").unlink(), "model/config.json is missing"),
    (lambda folder: (folder / "model/extra.json").write_text("x"), "model/extra.json is extra"),
    (lambda folder: (folder / ".hidden").write_text("x"), ".hidden is extra"),
    (link, "model/config.json is a symbolic link"),
    (link_folder, "model is a symbolic link"),
    (rename_in_manifest("model/config.json", "../config.json"), "leaves the release folder"),
    (rename_in_manifest("model/config.json", "/etc/hostname"), "leaves the release folder"),
    (rename_in_manifest("serving.json", "other.json"), "names no serving.json"),
    (
        lambda folder: (folder / "model/pytorch_model.bin").write_bytes(b"x"),
        "pytorch_model.bin has the suffix",
    ),
    (lambda folder: (folder / "model/modeling.py").write_text(""), "modeling.py has the suffix"),
    (lambda folder: (folder / "a.safetensors").write_bytes(pickle.dumps([1])), "a.safetensors is a pickle"),
    (lambda folder: (folder / "a.safetensors").write_bytes(b"PK\x03\x04..."), "a.safetensors is a zip"),
    (lambda folder: os.mkfifo(folder / "model/pipe"), "model/pipe is no plain file"),
    (lambda folder: (folder / "manifest.json").write_text("{}"), "is no manifest"),
    (lambda folder: (folder / "manifest.json").unlink(), "manifest.json does not exist"),
]


@pytest.mark.parametrize(("tamper", "message"), TAMPERINGS, ids=[message for _, message in TAMPERINGS])
def test_every_tampering_is_named(written, tamper, message):
    tamper(written)
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        release.verify(written)


def test_the_first_file_is_named(written):
    flip(written)
    (written / "engines/openvino-w8a8/model.bin").write_bytes(b"other weights")
    (written / "zz.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"engines/openvino-w8a8/model\.bin differs"):
        release.verify(written)


def test_a_candidate_with_a_pickle_is_not_released(tmp_path):
    folder = candidate(tmp_path / "candidate")
    (folder / "model" / "training_args.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"training_args\.bin"):
        release.write(folder, tmp_path / "run" / "release", manifest())
    assert not (tmp_path / "run").exists()


def test_accepted_is_never_replaced_by_rejected(tmp_path, written):
    worse = candidate(tmp_path / "worse", b"worse")
    rejected = release.write(worse, written, manifest("REJECT"))
    assert rejected.name.startswith("release-reject-") and rejected.name.endswith(release.digest(rejected)[:8])
    assert release.verify(written).decision == "ACCEPT"
    assert release.verify(rejected).decision == "REJECT"
    better = release.write(candidate(tmp_path / "better", b"better"), written, manifest())
    assert better == written and (better / "model/model.safetensors").read_bytes() == b"better"


def test_rejected_is_replaced_by_anything(tmp_path):
    destination = tmp_path / "run" / "release"
    release.write(candidate(tmp_path / "one", b"one"), destination, manifest("REJECT"))
    there = release.write(candidate(tmp_path / "two", b"two"), destination, manifest("INCONCLUSIVE"))
    assert there == destination and release.verify(there).decision == "INCONCLUSIVE"


def test_the_same_release_is_left_as_it_is(tmp_path, written):
    before = (written / "manifest.json").stat()
    again = release.write(tmp_path / "candidate", written, manifest(created="2027-01-01T00:00:00Z"))
    assert again == written and (written / "manifest.json").stat().st_ino == before.st_ino


def test_a_folder_that_is_no_release_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no release"):
        release.write(candidate(tmp_path / "candidate"), tmp_path / "mine", manifest())
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_only_accepted_is_served(tmp_path, written):
    assert release.opened(written)[0].labels == ("a", "b")
    assert release.opened(tmp_path / "candidate")[1] is None, "a candidate under measurement has no manifest"
    rejected = release.write(candidate(tmp_path / "worse", b"worse"), written, manifest("REJECT"))
    with pytest.raises(ValueError, match=r"judged REJECT \(drop 0\.07 > 0\.05\).*--despite-verdict"):
        release.opened(rejected)
    assert release.opened(rejected, despite_verdict=True)[0].name == "trec"


def killed_after(operations: int, content: Path, destination: Path) -> int:
    """Writes a release in a process that is killed after so many file operations; its exit status."""
    if (child := os.fork()) == 0:
        left = operations

        def counted(function):
            def call(*arguments, **named):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return function(*arguments, **named)

            return call

        Path.rename, shutil.copyfile = counted(Path.rename), counted(shutil.copyfile)
        os.fsync, os.unlink, os.rmdir = counted(os.fsync), counted(os.unlink), counted(os.rmdir)
        release.write(content, destination, manifest())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_after_any_operation_leaves_one_complete_release(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill loses no page cache; only the order counts
    candidate(tmp_path / "new", b"new")
    release.write(candidate(tmp_path / "old", b"old"), tmp_path / "first" / "release", manifest())
    seen = []
    for operations in range(200):
        destination = tmp_path / f"run{operations}" / "release"
        shutil.copytree(tmp_path / "first" / "release", destination)
        status = killed_after(operations, tmp_path / "new", destination)
        found = release.find(destination)
        assert found == destination, f"after {operations} operations"
        release.verify(found)
        seen.append((found / "model/model.safetensors").read_bytes())
        # The next run of the same command finishes what the killed one began.
        release.write(tmp_path / "new", destination, manifest())
        assert (destination / "model/model.safetensors").read_bytes() == b"new"
        if status == 0:
            break
        assert status == -signal.SIGKILL
    else:
        pytest.fail("the writer never finished")
    assert len(seen) > 20 and seen[0] == b"old" and seen[-1] == b"new"
    assert seen == sorted(seen, reverse=True), "once the new one is there, no later kill brings the old one back"
