"""The language model that is trained: a stock transformers decoder with its head, and the loss of its target tokens.

The loss is made inside `forward`, because it reads the head's weight itself and not through the head's own forward:
only there does ZeRO-3 gather a weight that is read. Hidden states are taken at the targets alone, [n, d], and pass
through the head in chunks (`through_head.py`), so [tokens, vocabulary] never exists. Where the head is tied to the
embeddings, both uses of the one weight add to its gradient. What is learned from, in this order:

    asked     an online teacher's hidden states at the same targets and its head       kd_loss, TeacherHead
    answers   the teacher's cached top k of every target, in the batch                 kd_loss, TopK
    text      nothing but the tokens themselves: the control                           cross-entropy

Losses are those of losses.py with the same conventions, made by kernels/kd_loss.py: in plain PyTorch on a CPU, by
Triton kernels on a GPU. The embeddings are trained whole (not as `seen_pieces.py` does): a tied one is the head, and
every piece of the vocabulary takes part in every softmax.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deshi.jobs.data.packing import IGNORED, refuse_leak
from deshi.jobs.data.vocabulary_match import same_vocabulary
from deshi.jobs.stages.plain_head import refuse_altered_logits
from deshi.jobs.stages.prune import copy_tokenizer
from deshi.jobs.stages.prune_lm import GENERATION_CONFIG
from deshi.jobs.stages.sequence_batches import SequenceBatches
from deshi.jobs.storage import Storage
from deshi.kernels.kd_loss import TeacherHead, TopK, kd_loss
from deshi.kernels.through_head import sequence_cross_entropy

if TYPE_CHECKING:
    from deshi.jobs.stages.train import TrainJob

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Batch = dict[str, Tensor]
Asked = tuple[Tensor, Tensor]  # hidden states [n, d] at the targets, head [v, d]


class LanguageApprentice(nn.Module):
    """A student, or a teacher that is asked online. `vocabulary` is the part of the head that both have, None: all."""

    def __init__(self, student: Any, job: TrainJob, *, vocabulary: int | None = None) -> None:
        super().__init__()
        self.student = student
        self.job = job
        self.vocabulary = vocabulary

    @classmethod
    def to_train(cls, job: TrainJob, storage: Storage, batches: SequenceBatches) -> LanguageApprentice:
        """The job's student, fp32.

        Raises:
            ValueError: in one sentence, for an architecture that cannot be trained so.
        """
        folder = storage.fetch(job.student) / "model"
        vocabulary = batches.answers.vocabulary if batches.answers else None
        if job.teacher:
            vocabulary = same_vocabulary(folder, storage.fetch(job.teacher) / "model")
        apprentice = cls(_load(folder, torch.float32, packing=job.packing), job, vocabulary=vocabulary)
        if job.gradient_checkpointing:
            apprentice.student.gradient_checkpointing_enable()
        return apprentice

    @classmethod
    def to_ask(cls, job: TrainJob, storage: Storage) -> LanguageApprentice | None:
        """The job's online teacher, in the job's precision, if there is one."""
        if not job.teacher:
            return None
        return cls(_load(storage.fetch(job.teacher) / "model", KINDS[job.precision], packing=job.packing), job)

    @property
    def head(self) -> nn.Parameter:
        """The head's weight [vocabulary, width]."""
        weight: nn.Parameter = self.student.get_output_embeddings().weight
        return weight

    def forward(self, batch: Batch, asked: Asked | None) -> Tensor:
        """The weighted loss of a micro-batch as `SequenceBatches.at` gives it, a scalar."""
        job, hidden, labels = self.job, self.hidden(batch), targets_of(batch)
        target: TeacherHead | TopK
        if asked is not None:
            target = TeacherHead(*asked)
        elif "answer_ids" in batch:
            target = TopK(batch["answer_ids"], batch["answer_log_probs"], batch["answer_tail"])
        else:
            return job.label_weight * sequence_cross_entropy(hidden, self.head, labels) * batch["weight"]
        loss = kd_loss(
            hidden,
            self.head,
            target,
            kind=job.loss,
            temperature=job.temperature,
            alpha=job.alpha,
            labels=labels,
            distil_weight=job.distil_weight,
            ce_weight=job.label_weight,
            vocabulary=self.vocabulary,
        )
        return loss.total * batch["weight"]

    def loss(self, engine: Any, teacher: LanguageApprentice | None, batch: Batch, job: TrainJob) -> Tensor:
        """The loss of a micro-batch. `engine` is this module as DeepSpeed calls it, with its weights in place."""
        asked = teacher.says(batch) if teacher is not None else None
        loss: Tensor = engine(batch, asked)
        return loss

    @torch.no_grad()
    def says(self, batch: Batch) -> Asked:
        """What a student asks its teacher for."""
        return self.hidden(batch), self.head

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states [n, d] from which the n targets of packed rows are predicted, row after row."""
        out = self.student.get_decoder()(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        )
        states: Tensor = out.last_hidden_state[:, :-1][batch["labels"][:, 1:] != IGNORED]
        return states

    def write(self, folder: Path, *, source: Path) -> None:
        """Writes a model folder that stock transformers loads; a tied weight stands in it once."""
        state: dict[str, Tensor] = {}
        written: set[int] = set()
        for name, weight in self.student.state_dict(keep_vars=True).items():
            if id(weight) not in written:
                written.add(id(weight))
                state[name] = weight.detach().cpu().float().contiguous()
        self.student.save_pretrained(folder, state_dict=state)
        copy_tokenizer(source, folder)
        if (source / GENERATION_CONFIG).is_file():
            shutil.copyfile(source / GENERATION_CONFIG, folder / GENERATION_CONFIG)


def targets_of(batch: Batch) -> Tensor:
    """The target ids [n] of packed rows, row after row."""
    labels = batch["labels"][:, 1:]
    return labels[labels != IGNORED]


def _load(folder: Path, dtype: torch.dtype, *, packing: bool) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    refuse_altered_logits(model, with_bias=False)
    if packing:
        refuse_leak(model)
    return model
