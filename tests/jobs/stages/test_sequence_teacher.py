"""What is asked is what the model says, in pieces that fit, and a killed run goes on where it stopped."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from deshi.jobs.data.sequences import make_sequence_splits
from deshi.jobs.stages import sequence_teacher
from deshi.jobs.stages.answers import shard_name
from deshi.jobs.stages.plain_head import refuse_altered_logits
from deshi.jobs.stages.sequence_answers import SHARD_ROWS, read_rank
from deshi.jobs.stages.sequence_teacher import Teacher, answer, ask
from deshi.jobs.storage import Storage

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))
ASKED = {"max_length": 96, "top_k": 16, "vocabulary": None, "precision": "fp32", "packing": True, "batch_rows": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A storage with a teacher and splits: (storage, teacher, splits, SequenceSplits)."""
    folder = tmp_path_factory.mktemp("world")
    for name, count, seed in (("train", 190, 1), ("test", 20, 2)):
        lines = [json.dumps({"messages": chat}) for chat in lm["conversations"](count, seed=seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    splits = make_sequence_splits(
        train=folder / "train.jsonl", test=folder / "test.jsonl", format="messages", loss_on="assistant", seed=0
    )
    storage = Storage(str(folder / "runs"))
    teacher = storage.stage("teacher", {}, lambda out: lm["tiny_lm"](out / "model") and None)
    return storage, teacher, storage.stage("splits", {}, splits.write), splits


def said_alone(model, sequences, row):
    """log-softmax in float64 of one sequence by itself, at its targets."""
    ids = torch.from_numpy(sequences.input_ids[row].astype(np.int64))[None]
    with torch.inference_mode():
        logits = model(ids).logits[0].double()
    return logits[np.flatnonzero(sequences.loss_mask[row]) - 1].log_softmax(-1).numpy()


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("vocabulary", [320, 300])
def test_the_answers_are_the_models(world, packing, vocabulary, monkeypatch):
    monkeypatch.setattr(sequence_teacher, "LOGIT_TOKENS", 7)
    _, teacher, _, splits = world
    model = AutoModelForCausalLM.from_pretrained(teacher.path / "model").eval()
    sequences = splits.sequences("train", teacher.path / "model", max_length=96, end=25)
    ids, top, tail = answer(
        model,
        sequences,
        top_k=16,
        vocabulary=vocabulary,
        max_length=96,
        batch_rows=3,
        packing=packing,
        pad_id=2,
    )
    full = np.concatenate([said_alone(model, sequences, row) for row in range(25)])[:, :vocabulary]
    full -= np.log(np.exp(full).sum(1, keepdims=True))
    assert np.abs(np.take_along_axis(full, ids, 1) - top).max() < 2e-5
    assert np.abs(np.sort(full, axis=1)[:, ::-1][:, :16] - top).max() < 2e-5
    rest = np.exp(full).sum(1) - np.exp(np.take_along_axis(full, ids, 1)).sum(1)
    assert np.abs(np.exp(tail) - rest).max() < 1e-5


def test_no_more_logits_than_stated_exist(world):
    _, teacher, _, splits = world
    model = AutoModelForCausalLM.from_pretrained(teacher.path / "model").eval()
    sequences = splits.sequences("train", teacher.path / "model", max_length=96)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape[0]))
    answer(model, sequences, top_k=4, vocabulary=320, max_length=96, batch_rows=64, packing=True, pad_id=2)
    assert sum(seen) == sequences.learned.sum() and max(seen) == sequence_teacher.LOGIT_TOKENS


def test_an_architecture_that_caps_its_logits_is_refused(world):
    class Capped(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config
            self.get_decoder, self.get_output_embeddings = model.get_decoder, model.get_output_embeddings

        def forward(self, **inputs):
            out = self.model(**inputs)
            out.logits = 5 * torch.tanh(out.logits / 5)
            return out

    model = AutoModelForCausalLM.from_pretrained(world[1].path / "model").eval()
    refuse_altered_logits(model, with_bias=True)
    with pytest.raises(ValueError, match="'llama' caps or scales its logits"):
        refuse_altered_logits(Capped(model), with_bias=True)


def test_a_teacher_that_gives_no_numbers_is_refused(world):
    _, teacher, _, splits = world
    model = AutoModelForCausalLM.from_pretrained(teacher.path / "model").eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = torch.nan
    sequences = splits.sequences("train", teacher.path / "model", max_length=96, end=2)
    with pytest.raises(ValueError, match="not finite"):
        answer(model, sequences, top_k=4, vocabulary=320, max_length=96, batch_rows=1, packing=True, pad_id=2)


def test_the_stage_goes_on_at_the_first_missing_file(world, tmp_path):
    import ray

    storage, teacher, splits_out, splits = world
    model = AutoModelForCausalLM.from_pretrained(teacher.path / "model").eval()
    asked = {"rows": {"train": 150, "validation": 500}, **ASKED}
    # One shard was written before the run was killed; its bytes must be the ones that are found at the end.
    said = {
        "rows": {"train": 150, "validation": 19},
        **{k: ASKED[k] for k in ("max_length", "top_k", "vocabulary", "precision")},
    }
    work = f".work/{storage.key('sequence_answers', {'teacher': teacher.key, 'splits': splits_out.key, **said})}"
    one = Teacher(storage, teacher.key, splits_out.key, work, asked | {"rows": said["rows"]})
    one({"split": np.array(["train"]), "begin": np.array([0])})
    left = Path(storage.root) / work / shard_name("train", 0)
    before = left.stat().st_mtime_ns, left.read_bytes()
    marked = pq.read_table(left)
    pq.write_table(marked.replace_schema_metadata(marked.schema.metadata | {b"kept": b"1"}), left)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        out = ask(storage, teacher, splits_out, replicas=2, cpus_each=0.5, gpus_each=0, **asked).path
    finally:
        ray.shutdown()
    assert before[1]
    assert pq.read_schema(out / shard_name("train", 0)).metadata[b"kept"] == b"1"
    names = sorted(path.name for path in out.glob("*.parquet"))
    assert names == [shard_name("train", 0), shard_name("train", SHARD_ROWS), shard_name("validation", 0)]
    for split, rows in (("train", [0, 149]), ("validation", [3, 18])):
        sequences = splits.sequences(split, teacher.path / "model", max_length=96)
        read = read_rank(out, split, rows)
        read.refuse_other_tokens(sequences)
        for row in rows:
            ids, top, _ = read.of([row])
            full = said_alone(model, sequences, row)
            assert np.abs(np.take_along_axis(full, ids, 1) - top).max() < 1 / 1024
    assert not (Path(storage.root) / work).exists()


def test_the_test_split_is_never_asked(world):
    storage, teacher, splits, _ = world
    with pytest.raises(ValueError, match="rows of test are to be asked"):
        ask(storage, teacher, splits, rows={"test": 3}, replicas=1, cpus_each=1, gpus_each=0, **ASKED)
