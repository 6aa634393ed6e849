"""What every student of a run learns from: the recipe, the rows, the teacher and its answers, by address.

A `Lesson` is small and picklable, so that a trial on another node makes the same students as the driver would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.sequences import SequenceSplits
from deshi.jobs.data.split import Splits
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages import answers as teacher_answers
from deshi.jobs.storage import Output, Storage


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Addresses of finished outputs; `teacher` and `answers` are empty until those stages are done.

    `rows` counts the leading rows of a language model's train split that students learn from: those that the teacher
    answered. None is all of them.
    """

    recipe: Recipe
    storage: Storage
    splits_key: str
    precision: str
    teacher_key: str = ""
    answers_key: str = ""
    rows: int | None = None

    def taught_by(self, teacher: Output) -> Lesson:
        """The lesson with a teacher."""
        return replace(self, teacher_key=teacher.key)

    def answered(self, answers: Output, *, rows: int | None = None) -> Lesson:
        """The lesson with the teacher's cached answers, to the leading `rows` of train if not to all."""
        return replace(self, answers_key=answers.key, rows=rows)

    @property
    def splits(self) -> Splits:
        """The rows; of a language model's task what `sequence_splits` gives, under the name that the tasks share."""
        if self.recipe.task == "generate":
            return cast(Splits, self.sequence_splits)
        return _splits(self.storage.fetch(self.splits_key))

    @property
    def sequence_splits(self) -> SequenceSplits:
        """The rows of a language model."""
        assert self.recipe.task == "generate", "a classifier's rows are no sequences"
        return _sequence_splits(self.storage.fetch(self.splits_key))

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


@lru_cache(maxsize=2)
def _sequence_splits(folder: Path) -> SequenceSplits:
    return SequenceSplits.read(folder)
