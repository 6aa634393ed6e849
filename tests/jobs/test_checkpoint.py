"""Only complete checkpoints that this user's runs sealed are read; anything else is as if it were not there."""

from __future__ import annotations

import json
import random

import pytest

from deshi.jobs import checkpoint
from deshi.jobs.storage import Storage, file_digest

KEY = b"k" * 32


@pytest.fixture
def sealed(tmp_path) -> Storage:
    """Two complete checkpoints, laid out as `publish` does, with plain bytes in place of DeepSpeed's files."""
    for step in (4, 8):
        folder = tmp_path / ".work/w" / f"step-{step:08d}"
        (folder / "state").mkdir(parents=True)
        (folder / "state/model.pt").write_bytes(random.Random(step).randbytes(1000))
        files = {"state/model.pt": file_digest(folder / "state/model.pt")}
        seal = {"step": step, "files": files, "hmac": checkpoint._sealed(files, step, KEY)}
        (folder / "sealed.json").write_text(json.dumps(seal))
    return Storage(str(tmp_path))


def newest(storage: Storage, tmp_path, key: bytes = KEY) -> int | None:
    return checkpoint._newest(storage, ".work/w", tmp_path / "copy", key)


def test_the_newest_is_taken(sealed, tmp_path):
    assert newest(sealed, tmp_path) == 8
    assert (tmp_path / "copy/state/model.pt").read_bytes() == random.Random(8).randbytes(1000)


def test_another_users_seal_is_not_read(sealed, tmp_path):
    assert newest(sealed, tmp_path, b"x" * 32) is None


@pytest.mark.parametrize("seed", range(20))
def test_any_flipped_bit_or_cut_falls_back_to_the_one_before(sealed, tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / ".work/w/step-00000008" / rng.choice(["state/model.pt", "sealed.json"])
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        del content[rng.randrange(len(content)) :]
    path.write_bytes(bytes(content))
    assert newest(sealed, tmp_path) == 4


def test_a_checkpoint_without_its_seal_is_not_complete(sealed, tmp_path):
    (tmp_path / ".work/w/step-00000008/sealed.json").unlink()
    assert newest(sealed, tmp_path) == 4


def test_the_key_is_private_and_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("DESHI_HOME", str(tmp_path / "home"))
    key = checkpoint.seal_key()
    assert len(key) == 32 and checkpoint.seal_key() == key
    assert (tmp_path / "home/checkpoint.key").stat().st_mode & 0o077 == 0
