"""The module that is trained: a stock transformers classifier, and projections where its width is not the teacher's.

`Apprentice(input_ids [n, t], attention_mask [n, t], want_hidden)` gives logits [n, k] and, if wanted, the hidden
states of every layer, embeddings first. Only the student is saved; the projections serve the hidden-state match alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deshi.jobs.stages.batches import Batches
from deshi.jobs.stages.losses import LOSSES, MatchRow, cross_entropy, hidden_match, projections_for, uniform_match
from deshi.jobs.stages.prune import copy_tokenizer, keep_layers
from deshi.jobs.stages.seen_pieces import keep_to_seen, whole_state
from deshi.jobs.storage import Storage

if TYPE_CHECKING:
    from deshi.jobs.stages.train import TrainJob


class Apprentice(nn.Module):
    """A student, with projections into a teacher's hidden width if one is to be matched."""

    def __init__(self, student: Any, teacher_config: Any | None) -> None:
        super().__init__()
        self.student = student
        self.projections = nn.ModuleDict()
        self.match: tuple[MatchRow, ...] = ()
        if teacher_config is None:
            return
        own, depth = student.config, teacher_config.num_hidden_layers
        self.match = uniform_match(keep_layers(min(own.num_hidden_layers, depth), depth), depth)
        self.projections = projections_for(self.match, own.hidden_size, teacher_config.hidden_size)

    @classmethod
    def to_train(cls, job: TrainJob, storage: Storage, batches: Batches) -> Apprentice:
        """The job's student, with the pieces of its vocabulary that the rows use."""
        teacher_folder = storage.fetch(job.teacher) / "model" if job.teacher and job.hidden_weight else None
        apprentice = cls.load(storage.fetch(job.student) / "model", teacher_folder)
        keep_to_seen(apprentice.student, batches.pieces)
        if job.gradient_checkpointing:
            apprentice.student.gradient_checkpointing_enable()
        return apprentice

    @classmethod
    def to_ask(cls, job: TrainJob, storage: Storage) -> Apprentice | None:
        """The job's online teacher, if there is one."""
        return cls.load(storage.fetch(job.teacher) / "model", None) if job.teacher else None

    @classmethod
    def load(cls, folder: Path, teacher_folder: Path | None) -> Apprentice:
        """From model folders; fp32, safetensors only."""
        from transformers import AutoConfig, AutoModelForSequenceClassification

        student = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        teacher_config = AutoConfig.from_pretrained(teacher_folder, trust_remote_code=False) if teacher_folder else None
        return cls(student, teacher_config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, want_hidden: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits [n, k] and hidden states [n, t, h] by layer (empty unless wanted)."""
        out = self.student(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=want_hidden)
        return out.logits, out.hidden_states if want_hidden else ()

    def loss(self, engine: Any, teacher: Apprentice | None, batch: dict[str, Tensor], job: TrainJob) -> Tensor:
        """The weighted sum of the losses of a micro-batch. `engine` is this module as DeepSpeed calls it."""
        inputs = batch["input_ids"], batch["attention_mask"], job.hidden_weight > 0
        logits, hidden = engine(*inputs)
        loss = torch.zeros((), device=logits.device)
        answers = batch.get("teacher_log_probs")
        if teacher is not None:
            with torch.no_grad():
                asked = teacher(*inputs)
            answers = torch.log_softmax(asked[0].float(), dim=-1)
        if job.distil_weight and answers is not None:
            distance = LOSSES[job.loss]
            loss = loss + job.distil_weight * distance(
                logits.float(), answers, temperature=job.temperature, alpha=job.alpha
            )
        if job.label_weight:
            loss = loss + job.label_weight * cross_entropy(logits.float(), batch["labels"], batch["labels"] >= 0)
        if job.hidden_weight and teacher is not None:
            loss = loss + job.hidden_weight * hidden_match(
                hidden, asked[1], batch["attention_mask"], projections=self.projections, match=self.match
            )
        return loss

    def write(self, folder: Path, *, source: Path) -> None:
        """Writes the student as a model folder, its whole vocabulary in it."""
        self.student.save_pretrained(folder, state_dict=whole_state(self.student))
        copy_tokenizer(source, folder)


def save_student(engine: Any, storage: Storage, work: str, *, source: Path) -> None:
    """Writes the trained student as a model folder to `<work>/model`. A collective call.

    Under ZeRO-3 the weights lie scattered over the ranks and are gathered first.
    """
    import deepspeed
    import torch.distributed as dist

    scattered = [weight for weight in engine.module.student.parameters() if hasattr(weight, "ds_id")]
    with deepspeed.zero.GatheredParameters(scattered, modifier_rank=None):
        if dist.get_rank() == 0:
            with tempfile.TemporaryDirectory(prefix="deshi-model-") as folder:
                engine.module.write(Path(folder), source=source)
                for path in sorted(Path(folder).iterdir()):
                    storage.upload(path, f"{storage.root}/{work}/model/{path.name}")
    dist.barrier()
