"""Asks a language model what it expects at every token that is learned, shard by shard, by Ray Data.

Rows are packed (`packing.py`), and of their hidden states only the targets meet the head, `LOGIT_TOKENS` at a time: no
more than [512, vocabulary] logits ever exist. A shard (`sequence_answers.py`) is one file and is moved into place when
whole, so that a killed run goes on at the first missing file. The first rows of a split are a random sample of it, so
a run that will not see all of train asks for as many as it will see. The test split is never asked here: it is opened
once, at the end, for all models together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray

from deshi.jobs.data.packing import IGNORED, collate, plan, refuse_leak
from deshi.jobs.data.render import Sequences
from deshi.jobs.data.sequences import SequenceSplits
from deshi.jobs.stages.answers import shard_name
from deshi.jobs.stages.plain_head import refuse_altered_logits
from deshi.jobs.stages.sequence_answers import SHARD_ROWS, TOP_K, pack, write_shard
from deshi.jobs.storage import Output, Storage

LOGIT_TOKENS = 512
ASKED = ("train", "calibration", "validation")


def answer(
    model: Any,
    sequences: Sequences,
    *,
    top_k: int,
    vocabulary: int,
    max_length: int,
    batch_rows: int,
    packing: bool,
    pad_id: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """ids, log-probabilities [targets, k] and log tails [targets] of the rows' targets, row after row.

    Raises:
        ValueError: where the model gives numbers that are not finite.
    """
    import torch

    device = next(model.parameters()).device
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    learnable = sequences.learnable
    rows = [
        [int(learnable[at]) for at in row]
        for row in plan(sequences.lengths[learnable], max_length=max_length, seed=0, packing=packing).rows
    ]
    # Rows of like length together: a batch is as long as its longest row.
    rows.sort(key=lambda row: int(sequences.lengths[row].sum()))
    begins = np.concatenate([[0], np.cumsum(sequences.learned)])
    k = min(top_k, vocabulary)
    ids = np.zeros((begins[-1], k), np.int64)
    log_probs, tail = np.zeros((begins[-1], k), np.float32), np.zeros(begins[-1], np.float32)
    for first in range(0, len(rows), batch_rows):
        some = rows[first : first + batch_rows]
        batch = collate(some, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=pad_id)
        batch = {name: value.to(device) for name, value in batch.items()}
        at = np.concatenate([np.arange(begins[row], begins[row + 1]) for packed in some for row in packed])
        with torch.inference_mode():
            hidden = decoder(
                input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
            ).last_hidden_state[:, :-1][batch["labels"][:, 1:] != IGNORED]
            for states, here in zip(
                hidden.split(LOGIT_TOKENS), np.split(at, range(LOGIT_TOKENS, len(at), LOGIT_TOKENS)), strict=True
            ):
                logits = head(states)[:, :vocabulary].float()
                total = logits.logsumexp(dim=-1)
                top, picked = logits.topk(k, dim=-1)
                rest = logits.scatter_(1, picked, -torch.inf).logsumexp(dim=-1)
                if not bool(torch.isfinite(total).all()):
                    raise ValueError(
                        f"the teacher {model.config.model_type} answers with numbers that are not finite; "
                        "run it in fp32, or check its weights"
                    )
                ids[here] = picked.cpu().numpy()
                log_probs[here] = (top - total[:, None]).cpu().numpy()
                tail[here] = (rest - total).cpu().numpy()
    return ids, log_probs, tail


class Teacher:
    """A Ray Data actor: holds the teacher, answers one shard a call and writes its file."""

    def __init__(self, storage: Storage, teacher_key: str, splits_key: str, work: str, asked: Mapping[str, Any]):
        import torch
        from transformers import AutoModelForCausalLM

        self._folder = storage.fetch(teacher_key) / "model"
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        model = AutoModelForCausalLM.from_pretrained(
            self._folder, dtype=kinds[asked["precision"]], trust_remote_code=False
        )
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        refuse_altered_logits(self._model, with_bias=True)
        if asked["packing"]:
            refuse_leak(self._model)
        self._splits = SequenceSplits.read(storage.fetch(splits_key))
        self._storage, self._work, self._asked = storage, work, asked

    def __call__(self, shards: dict[str, Any]) -> dict[str, Any]:
        asked = self._asked
        vocabulary = asked["vocabulary"] or self._model.get_output_embeddings().weight.shape[0]
        for split, begin in zip(shards["split"].tolist(), shards["begin"].tolist(), strict=True):
            sequences = self._splits.sequences(
                split,
                self._folder,
                max_length=asked["max_length"],
                begin=begin,
                end=min(begin + SHARD_ROWS, asked["rows"][split]),
            )
            ids, log_probs, tail = answer(
                self._model,
                sequences,
                top_k=asked["top_k"],
                vocabulary=vocabulary,
                max_length=asked["max_length"],
                batch_rows=asked["batch_rows"],
                packing=asked["packing"],
                pad_id=0,
            )
            table = pack(split, begin, sequences, ids=ids, log_probs=log_probs, tail=tail, vocabulary=vocabulary)
            with tempfile.TemporaryDirectory(prefix="deshi-shard-") as folder:
                path = Path(folder) / shard_name(split, begin)
                write_shard(table, path)
                target = f"{self._storage.root}/{self._work}/{path.name}"
                self._storage.upload(path, f"{target}.partial")
                self._storage.filesystem.move(f"{target}.partial", target)
        return shards


def ask(
    storage: Storage,
    teacher: Output,
    splits: Output,
    *,
    rows: Mapping[str, int],
    max_length: int,
    top_k: int = TOP_K,
    vocabulary: int | None = None,
    packing: bool,
    precision: str,
    batch_rows: int,
    replicas: int,
    cpus_each: float,
    gpus_each: float,
) -> Output:
    """The stage: the first `rows[split]` rows of each asked split through the teacher, by an actor pool of Ray Data.

    `vocabulary` is the part of the teacher's head that the student has too, where one of them has padded rows.
    """
    if not rows or set(rows) - set(ASKED):
        raise ValueError(
            f"rows of {', '.join(sorted(rows)) or 'no split'} are to be asked; ask some of {', '.join(ASKED)}"
        )
    tables = SequenceSplits.read(splits.path)
    many = {split: min(count, tables.table(split).num_rows) for split, count in sorted(rows.items())}
    said = {"rows": many, "max_length": max_length, "top_k": top_k, "vocabulary": vocabulary, "precision": precision}
    inputs = {"teacher": teacher.key, "splits": splits.key, **said}
    asked = said | {"packing": packing, "batch_rows": batch_rows}

    def build(out: Path) -> None:
        work = f".work/{storage.key('sequence_answers', inputs)}"
        ask_missing(
            storage,
            work,
            [(split, begin) for split, count in many.items() for begin in range(0, count, SHARD_ROWS)],
            actor=Teacher,
            arguments=(storage, teacher.key, splits.key, work, asked),
            replicas=replicas,
            cpus_each=cpus_each,
            gpus_each=gpus_each,
            out=out,
        )

    return storage.stage("sequence_answers", inputs, build)


def ask_missing(
    storage: Storage,
    work: str,
    wanted: Sequence[tuple[str, int]],
    *,
    actor: type,
    arguments: tuple[Any, ...],
    replicas: int,
    cpus_each: float,
    gpus_each: float,
    out: Path,
) -> None:
    """Has the shards that are not in the folder `work` of the storage written by actors, then copies all to `out`."""
    import ray.data

    storage.filesystem.create_dir(f"{storage.root}/{work}", recursive=True)
    there = storage.filesystem.get_file_info(pafs.FileSelector(f"{storage.root}/{work}"))
    present = {info.base_name for info in there}
    missing = [item for item in wanted if shard_name(*item) not in present]
    if missing:
        ray.data.from_items(
            [{"split": split, "begin": begin} for split, begin in missing], override_num_blocks=len(missing)
        ).map_batches(
            actor,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=min(replicas, len(missing))),
            batch_size=1,
            num_cpus=cpus_each,
            num_gpus=gpus_each or None,
        ).materialize()
    for item in wanted:
        name = shard_name(*item)
        pafs.copy_files(f"{storage.root}/{work}/{name}", str(out / name), storage.filesystem, pafs.LocalFileSystem())
    storage.filesystem.delete_dir(f"{storage.root}/{work}")
