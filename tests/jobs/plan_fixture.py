"""A plan for tests of the ladder: a teacher of six layers, the classifier's space."""

from __future__ import annotations

import math

from deshi.jobs.ladder import Plan
from deshi.jobs.stages.candidate import Candidate, Space
from deshi.jobs.stages.orders import named

SCHEMES = ("w8a8", "fp32")
WHOLE = Candidate(order="quantize-only", layers=6, scheme="w8a8")
PLAN = Plan(
    trials=24,
    minutes=10,
    steps=200,
    seed=0,
    max_drop=0.05,
    size_mb=math.inf,
    start="teacher",
    depth=6,
    teacher_depth=6,
    space=Space(
        layers=(1, 6),
        choices={
            "depth_by": ("even", "first", "influence"),
            "ffn": (1.0, 0.75, 0.5, 0.25),
            "vocabulary": ("seen", "all"),
            "scheme": SCHEMES,
        },
    ),
    orders=named("auto"),
    first=Candidate(layers=3, ffn=0.5, vocabulary="seen"),
    fixed=(
        WHOLE,
        WHOLE.model_copy(update={"order": "prune-quantize", "ffn": 0.5, "vocabulary": "seen"}),
        Candidate(family="static", order="static", layers=0, scheme="fp32"),
    ),
)
