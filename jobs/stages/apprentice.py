"""The module that is trained: a stock transformers classifier, and projections where its width is not the teacher's.

`Apprentice(input_ids [n, t], attention_mask [n, t], want_hidden)` gives logits [n, k] and, if wanted, the hidden
states of every layer, embeddings first. Only the student is saved; the projections serve the hidden-state match alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deshi.jobs.stages.losses import MatchRow, projections_for, uniform_match
from deshi.jobs.stages.prune import copy_tokenizer, keep_layers
from deshi.jobs.stages.seen_pieces import whole_state
from deshi.jobs.storage import Storage


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


def save_student(engine: Any, storage: Storage, work: str, *, source: Path) -> None:
    """Writes the trained student as a model folder to `<work>/model`. A collective call.

    Under ZeRO-3 the weights lie scattered over the ranks and are gathered first.
    """
    import deepspeed
    import torch.distributed as dist

    student = engine.module.student
    scattered = [weight for weight in student.parameters() if hasattr(weight, "ds_id")]
    with deepspeed.zero.GatheredParameters(scattered, modifier_rank=None):
        if dist.get_rank() == 0:
            state = whole_state(student)
            with tempfile.TemporaryDirectory(prefix="deshi-model-") as folder:
                student.save_pretrained(folder, state_dict=state)
                copy_tokenizer(source, Path(folder))
                for path in sorted(Path(folder).iterdir()):
                    storage.upload(path, f"{storage.root}/{work}/model/{path.name}")
    dist.barrier()
