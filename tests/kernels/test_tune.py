"""The tuner without a device: candidates, the choice by a fake timer, and the file in one step."""

import json

import pytest
import torch

from deshi.kernels import tuning
from deshi.kernels.speed import tune
from deshi.kernels.tuning import Config

PROCESSORS = 132


def test_the_fastest_candidate_of_each_class_is_chosen():
    """A fake card that likes 64 columns and two stages, fails where a tile is large, and cannot run eight warps."""

    def measure(config, rows):
        if config.warps == 8:
            return None
        slow = 1 + abs(config.block_n - 64) / 64 + abs(config.stages - 2) + 0.1 * config.programs / PROCESSORS
        return [rows * slow, rows * slow * 2]

    best = tune.tuned("w8a8", PROCESSORS, measure)
    assert [config.rows for config in best] == list(tune.ROWS)
    assert all((config.block_n, config.stages, config.programs) == (64, 2, PROCESSORS) for config in best)
    for rows in (1, 8, 9, 300, 5000):
        assert tuning.of_rows(tuple(best), rows) in best


def test_the_score_is_a_geometric_mean_over_shapes(capsys):
    """One that is ten times slower on one shape and twice as fast on another loses."""
    grid = list(tune.GRIDS["kv_int8"](None, PROCESSORS))
    steady, uneven = grid[0], grid[1]

    def measure(config, rows):
        return {steady: [1.0, 1.0], uneven: [0.5, 10.0]}.get(config)

    assert tune.best_config("kv_int8", None, PROCESSORS, measure) == steady
    assert "best of 2" in capsys.readouterr().out


def test_a_class_that_nothing_serves_is_told():
    with pytest.raises(ValueError, match="no candidate of w4a16 for 16 rows ran"):
        tune.best_config("w4a16", 16, PROCESSORS, lambda config, rows: None)


@pytest.mark.parametrize("kernel", list(tune.GRIDS))
def test_grids_hold_sizes_that_kernels_take(kernel):
    for rows in tune.BATCHES if kernel == "kv_int8" else tune.ROWS:
        grid = list(tune.GRIDS[kernel](rows, PROCESSORS))
        assert 10 <= len(grid) == len(set(grid)) <= 350
        assert all(config.rows == rows and config.warps in (1, 2, 4, 8) for config in grid)
        if kernel != "kv_int8":
            assert any(config.block_m >= min(rows or 128, 128) for config in grid)
            assert any(config.dequantize for config in grid) == (kernel != "w8a8" and (rows or 128) >= 64)


def test_the_file_is_read_back_as_it_was_chosen(tmp_path, monkeypatch):
    """Its form is that of default.json, with the card and the day; other kernels stand as the default has them."""
    best = {
        "w4a16": [Config(rows=8, block_m=8, block_n=32, warps=2, stages=5, programs=264), Config(rows=None, warps=4)]
    }
    path = tune.write(tmp_path / "made", "NVIDIA H100 80GB HBM3", 90, best)
    assert path == tmp_path / "made" / "nvidia-h100-80gb-hbm3.json"
    held = json.loads(path.read_text())
    assert (held["card"], held["sm"], len(held["date"])) == ("NVIDIA H100 80GB HBM3", 90, 10)
    assert held["kernels"]["w4a16"][1] == {"rows": None, "warps": 4}
    default = tuning.read(tuning.FOLDER / "default.json")
    assert tuning.read(path) == {**default, "w4a16": tuple(best["w4a16"])}
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    again = tune.write(tmp_path / "made", "NVIDIA H100 80GB HBM3", 90, {"w8a16": best["w4a16"]})
    assert tuning.read(again) == {**default, "w4a16": tuple(best["w4a16"]), "w8a16": tuple(best["w4a16"])}
    monkeypatch.setattr(tuning, "FOLDER", path.parent)
    assert tuning.table_of("NVIDIA H100 80GB HBM3")["w4a16"] == tuple(best["w4a16"])
    tuning.table_of.cache_clear()


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tune.write(tmp_path, "A card", 90, {})
    before = path.read_text()
    monkeypatch.setattr(tune.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tune.write(tmp_path, "A card", 90, {"w4a16": [Config(rows=None, warps=4)]})
    assert path.read_text() == before


def test_a_candidate_that_raises_or_answers_wrongly_is_passed_over(monkeypatch):
    """What `measure` gives comes from contest, whose stopwatch is a fake here."""
    exact = torch.ones(2, 2)
    real = tune.contest

    def with_fake_timer(*args, **kwargs):
        return real(*args, **kwargs, timer=lambda calls: (lambda: 3.0, True))

    monkeypatch.setattr(tune, "contest", with_fake_timer)

    def entry(answer):
        return lambda: tune.Entry([lambda: answer], tune.as_tensor)

    def out_of_resources():
        raise RuntimeError("out of resource: shared memory")

    done = tune.work.norm(2, 2)
    assert tune.median(done, entry(exact), exact, 0.01) == 3.0
    assert tune.median(done, entry(exact * 2), exact, 0.01) is None
    assert tune.median(done, out_of_resources, exact, 0.01) is None
    assert tune.whole([1.0, None]) is None and tune.whole([1.0, 2.0]) == [1.0, 2.0]


def test_products_are_measured_on_all_shapes_at_the_config(monkeypatch):
    """Our kernels' `run` gets the candidate; the interpreter's product would take minutes, so it is a fake here."""
    seen = []

    def prepare(weight):
        def bind(x, config=None):
            seen.append((tuple(weight.shape), len(x), config))
            return lambda: x.float() @ weight.float().t()

        return bind

    monkeypatch.setattr(tune, "WEIGHTS", ((16, 32), (32, 16)))
    monkeypatch.setitem(tune.OURS_AT, "w8a8", prepare)
    monkeypatch.setattr(tune, "contest", lambda *args, real=tune.contest, **kwargs: real(
        *args, **kwargs, timer=lambda calls: (lambda: float(len(calls)), True)))  # fmt: skip
    config = Config(rows=8, warps=4)
    seconds = tune.products("w8a8", torch.device("cpu"), cache=3000)(config, 8)
    assert seconds == [
        tune.copies(w, 3000) for w in (tune.work.PRODUCT_WORK["w8a8"](1, *s).bytes_moved for s in tune.WEIGHTS)
    ]
    assert {one[0] for one in seen} == {(16, 32), (32, 16)}
    assert all(rows == 8 and given == config for _, rows, given in seen)


def test_without_a_device_nothing_is_tuned(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ValueError, match="run deshi tune kernels on a machine with an NVIDIA GPU"):
        tune.tune(out=tmp_path)
    with pytest.raises(ValueError, match="--only kd_loss is no kernel"):
        tune.tune("kd_loss", tmp_path)
    assert not list(tmp_path.iterdir())
