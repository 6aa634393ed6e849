"""Cached teacher answers come back as they were said, to a two-thousandth of a nat."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax

from deshi.jobs.stages.answers import TOP_K, pack, read, shard_name, unpack


def drawn(rows: int, classes: int, scale: float, seed: int = 0) -> np.ndarray:
    return log_softmax(np.random.default_rng(seed).normal(0, scale, (rows, classes)), axis=1).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 6, 50, TOP_K])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_answers_survive_the_file(classes, scale):
    said = drawn(200, classes, scale)
    assert np.abs(unpack(pack("train", np.arange(200), said), classes) - said).max() < 1.5 / 1024
    assert np.allclose(np.exp(unpack(pack("train", np.arange(200), said), classes)).sum(axis=1), 1)


def test_what_is_beyond_the_top_k_keeps_its_mass():
    said = drawn(50, 300, 2.0)
    back = unpack(pack("train", np.arange(50), said), 300)
    left_out = np.argsort(-said, axis=1)[:, TOP_K:]
    mass = np.take_along_axis(np.exp(said.astype(np.float64)), left_out, 1).sum(axis=1)
    kept = np.take_along_axis(np.exp(back.astype(np.float64)), left_out, 1).sum(axis=1)
    assert np.allclose(kept, mass, atol=2e-3)


def test_certainty_is_not_infinite():
    said = np.array([[0.0, -200.0]], dtype=np.float32)
    assert unpack(pack("train", np.arange(1), said), 2)[0, 1] == pytest.approx(-32, abs=0.01)


def test_shards_are_read_in_row_order(tmp_path):
    said = drawn(25, 3, 1.0)
    for begin in (20, 0, 10):
        rows = np.arange(begin, min(begin + 10, 25))
        table = pack("train", rows, said[rows]).replace_schema_metadata({"classes": "3"})
        pq.write_table(table, tmp_path / shard_name("train", begin))
    assert np.abs(read(tmp_path, "train") - said).max() < 1.5 / 1024
    assert read(tmp_path, "unlabelled").shape == (0, 3)


def test_the_table_is_small():
    table = pack("unlabelled", np.arange(1000), drawn(1000, 6, 1.0))
    assert table.nbytes / 1000 < 64, "bytes a row"
    assert table.schema.field("log_probs").type == pa.list_(pa.int16())
