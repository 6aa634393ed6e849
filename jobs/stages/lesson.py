"""What every student of a run learns from: the recipe, the rows, the teacher and its answers, by address.

A `Lesson` is small and picklable, so that a trial on another node makes the same students as the driver would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.split import Splits
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages import answers as teacher_answers
from deshi.jobs.storage import Output, Storage


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Addresses of finished outputs; `teacher` and `answers` are empty until those stages are done."""

    recipe: Recipe
    storage: Storage
    splits_key: str
    precision: str
    teacher_key: str = ""
    answers_key: str = ""

    def taught_by(self, teacher: Output) -> Lesson:
        """The lesson with a teacher."""
        return replace(self, teacher_key=teacher.key)

    def answered(self, answers: Output) -> Lesson:
        """The lesson with the teacher's cached answers."""
        return replace(self, answers_key=answers.key)

    @property
    def splits(self) -> Splits:
        """The rows."""
        return _splits(self.storage.fetch(self.splits_key))

    @property
    def teacher(self) -> Path:
        """The teacher's model folder."""
        return self.storage.fetch(self.teacher_key) / "model"

    def log_probabilities(self, split: str) -> NDArray[np.float32]:
        """The teacher's log-probabilities on a split, [rows, labels], in the split's order."""
        return teacher_answers.read(self.storage.fetch(self.answers_key), split)


@lru_cache(maxsize=2)
def _splits(folder: Path) -> Splits:
    return Splits.read(folder)  # finished outputs never change, so one read a process is enough
