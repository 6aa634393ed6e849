"""The task `generate`: text, one token after the other. Its row in the table of tasks, and the pieces of it that have
no other home.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.data.model_folder import check_model_folder
from deshi.jobs.data.render import refuse_unrenderable
from deshi.jobs.data.sequences import SequenceSplits, make_sequence_splits
from deshi.jobs.data.vocabulary_match import same_vocabulary
from deshi.jobs.evidence.felt.chat_endpoint import felt_chat
from deshi.jobs.evidence.felt.endpoint import Felt
from deshi.jobs.evidence.felt.latency import LatencyRow
from deshi.jobs.evidence.risk import risk
from deshi.jobs.evidence.text import asked_text, choices, measure_text, text_scores
from deshi.jobs.exporters import gguf_layout
from deshi.jobs.finalist import Finalist
from deshi.jobs.ladder import Line
from deshi.jobs.recipe import Data, Recipe
from deshi.jobs.session import Machine
from deshi.jobs.stages import builds, cut_language_model, prune_lm, sequence_answers, sequence_teacher, spaces
from deshi.jobs.stages import teach_language_model as teach
from deshi.jobs.stages.architectures import decoder_of
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.prune_schedule import check_goal, shape_of
from deshi.jobs.stages.sequence_batches import rows_needed
from deshi.jobs.storage import Output
from deshi.jobs.task import Task
from deshi.serve.engines.table import GENERATION_ENGINES
from deshi.serve.kpi import Target
from deshi.serve.serving import ANY_SHAPE, ServedTarget, Serving

SCHEMES = ("q4_0", "w4a16", "q8_0", "w8a8", "w8a16", "f16", "bf16", "fp32")  # from the coarsest
REQUESTS = 64  # different ones, sent in random order


def refuse(recipe: Recipe) -> None:
    """Raises ValueError for what this recipe may not ask of a language model."""
    from transformers import AutoConfig

    data, student = recipe.data, recipe.student
    folders = {"teacher": check_model_folder(recipe.teacher.model)}
    if student.model is not None:
        folders["student"] = check_model_folder(student.model)
        same_vocabulary(folders["student"], folders["teacher"])
    for folder in folders.values():
        gguf_layout.config_of(folder)
        refuse_unrenderable(folder, format=data.format, loss_on=data.learned, max_length=data.max_length)
    config = AutoConfig.from_pretrained(folders.get("student", folders["teacher"]), trust_remote_code=False)
    decoder_of(config)
    whole = shape_of(config)
    asked = {"layers": student.layers, "kv_groups": student.kv_groups, "hidden": student.hidden}
    wanted = {axis: count for axis, count in asked.items() if count is not None}
    check_goal(whole, type(whole)(**{**vars(whole), **wanted}))


def make_splits(data: Data, seed: int) -> SequenceSplits:
    """The rows of a run."""
    return make_sequence_splits(
        train=data.train,
        test=data.test,
        validation=data.validation,
        forget=data.forget,
        format=data.format,
        column=data.column,
        loss_on=data.learned,
        slices=data.slices,
        seed=seed,
    )


def ask(lesson: Lesson, machine: Machine) -> Lesson:
    """The lesson with the teacher's answers: to as many rows of train as any training will see, and to validation."""
    recipe, asked = lesson.recipe, lesson.recipe.resources.teacher
    distil, data = recipe.distill, recipe.data
    seen = distil.steps * distil.batch_size * data.max_length  # tokens, where every row is full
    leading = lesson.sequence_splits.leading("train", lesson.teacher, max_length=data.max_length, tokens=seen)
    rows = rows_needed(
        leading,
        steps=distil.steps,
        batch_size=distil.batch_size,
        max_length=data.max_length,
        packing=data.packing,
    )
    validation = len(measure_text.leading(lesson, "validation").lengths)
    vocabulary = None
    if recipe.student.model is not None:
        vocabulary = same_vocabulary(check_model_folder(recipe.student.model), lesson.teacher)
    answers = sequence_teacher.ask(
        lesson.storage,
        Output(key=lesson.teacher_key, storage=lesson.storage),
        Output(key=lesson.splits_key, storage=lesson.storage),
        rows={"validation": validation} | ({} if distil.online_teacher else {"train": rows}),
        max_length=data.max_length,
        vocabulary=vocabulary,
        packing=data.packing,
        precision=lesson.precision,
        batch_rows=1 if asked.batch_size == "auto" else asked.batch_size,
        replicas=asked.replicas,
        cpus_each=1 if machine.gpus else max(1, machine.cpus // asked.replicas),
        gpus_each=asked.gpus_each if machine.gpus else 0,
    )
    return lesson.answered(answers, rows=rows)


def given(lesson: Lesson, model: str) -> Output:
    """A language model that others made.

    Raises:
        ValueError: if it does not know the teacher's vocabulary.
    """
    same_vocabulary(check_model_folder(model), lesson.teacher)
    return teach.pretrained(lesson, model)


def runnable(recipe: Recipe) -> tuple[str, ...]:
    """Builds that can be made and run here; eager PyTorch, many times slower on a CPU, only there if it is named."""
    import torch

    found = builds.runnable(recipe.search.engines, GENERATION_ENGINES)
    if recipe.search.engines == "auto" and not torch.cuda.is_available():
        found = tuple(name for name in found if name.startswith("llamacpp"))
    return found


def screen(rows: Sequence[LatencyRow], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Scheme -> builds, the coarsest first. None is left out: what rounds less may be worth its time."""
    found = {scheme: tuple(name for name in names if name.endswith(f"-{scheme}")) for scheme in SCHEMES}
    return {scheme: those for scheme, those in found.items() if those}


def judge(lesson: Lesson, folder: Path, build: str, threads: int) -> dict[str, Any]:
    """On validation rows, against the teacher's cached answers.

    `score` is the share of tokens that both find likeliest; `agreement` the teacher's perplexity over the model's, at
    most 1, since a model may know the text better than its teacher; `quality` their mean. Kept: the search, the choice
    and the report ask for the same builds.
    """
    import torch

    data = lesson.recipe.data
    inputs = {
        "served": folder.name,  # a finished output's folder is called by its key
        "build": build,
        "answers": lesson.answers_key,
        "tokens": lesson.recipe.resources.validation_tokens,
        "packing": data.packing,
    }

    def ask_all(out: Path) -> None:
        torch.set_num_threads(threads)
        sequences = measure_text.leading(lesson, "validation")
        rows = np.flatnonzero(sequences.learned)
        answers = sequence_answers.read_rank(lesson.storage.fetch(lesson.answers_key), "validation", rows)
        model = measure_text.weights_of(folder, build)
        told = text_scores.cached_scores(model, sequences, answers, max_length=data.max_length, packing=data.packing)
        assert told.kl is not None and told.same_top is not None
        taught = asked_text.taught_nll(lesson, "validation")
        ratio = float(np.exp(told.nll.mean(dtype=np.float64) - taught))
        score = float(told.same_top.mean())
        said = {
            "score": score,
            "agreement": min(1.0, 1 / ratio),
            "quality": (score + min(1.0, 1 / ratio)) / 2,
            "measures": {"kl_mean": float(told.kl.mean(dtype=np.float64)), "perplexity_ratio": ratio},
        }
        (out / "judged.json").write_text(json.dumps(said), encoding="utf-8")

    judged = lesson.storage.stage("judged", inputs, ask_all).path / "judged.json"
    found: dict[str, Any] = json.loads(judged.read_text(encoding="utf-8"))
    return found


def serving(lesson: Lesson, folder: Path, targets: dict[str, ServedTarget]) -> Serving:
    """What the ingress answers with."""
    return Serving(task="generate", name=lesson.recipe.name, max_length=lesson.recipe.data.max_length, targets=targets)


def felt(lesson: Lesson, made: Finalist, target: Target) -> Felt:
    """First token, time of a token, throughput and memory through the endpoint, asked the validation rows."""
    recipe = lesson.recipe
    _, answer = measure_text.typical(lesson)
    texts = lesson.sequence_splits.table("validation")["text"].to_pylist()
    parts = (choices.parted(text, recipe.data.format, most=choices.PROMPT_CHARACTERS) for text in texts)
    prompts = [part[0] for part in parts if part is not None][:REQUESTS]
    fixed = {"max_tokens": answer, "temperature": 0, "ignore_eos": True}
    requests = [
        fixed | ({"messages": list(asked.messages)} if asked.messages else {"prompt": asked.text}) for asked in prompts
    ]
    return felt_chat(
        made.folder.path,
        target,
        requests,
        peak_rps=recipe.business.peak_rps,
        latency_ms=recipe.kpi.latency_ms_p95.get(target.name),
        first_token_ms=recipe.kpi.latency_ms.first_token_p95,
        per_token_ms=recipe.kpi.latency_ms.per_token_p95,
        confidence=recipe.kpi.quality.confidence,
        seconds=recipe.resources.load_seconds,
        seed=recipe.seed,
    )


def controls(lines: Sequence[Line], winner: Line | None, teacher_depth: int) -> dict[str, Candidate]:
    """The teacher only quantized, in the scheme whose size is nearest to the winner's: equal bytes."""
    whole = [
        line
        for line in lines
        if line["error"] is None
        and line["candidate"]["order"] == "quantize-only"
        and line["candidate"]["layers"] == teacher_depth
    ]
    if not whole:
        return {}
    wanted = winner["size_mb"] if winner else 0.0
    nearest = min(whole, key=lambda line: (abs(line["size_mb"] - wanted), line["id"]))
    return {"quantize-only": Candidate(**nearest["candidate"])}


HOW = {
    "intervals": "two-sided at kpi.quality.confidence; a verdict asks whether all of the interval lies "
    "within the limit",
    "selection": "candidates were ranked on validation rows, by the tokens that they and the teacher find likeliest "
    "and by perplexity; the test rows were opened once, after the choice",
    "text": "likelihoods were computed in PyTorch on the weights as the engine's file holds them; KL over the whole "
    "vocabulary; the bootstrap draws rows, not tokens",
    "latency": "engines timed in one window, in random order, beside the teacher's f16 build; latency as felt measured "
    "through the running endpoint, streamed, open loop at peak_rps on loopback, load generator on the same cores",
    "cost": "whole machines at peak_rps within the latency limit, paid all month; cost at full use is a lower bound",
    "controls": "the teacher only quantized at equal bytes; the winner's shape cut and not trained; the same shape and "
    "steps trained on the text alone, without the teacher's answers",
}

TASK = Task(
    refuse=refuse,
    make_splits=make_splits,
    teach=teach.fit,
    pretrained=teach.pretrained,
    given=given,
    load=prune_lm.load_language_model,
    ask=ask,
    yardstick=measure_text.YARDSTICK,
    runnable=runnable,
    screen=screen,
    typical=measure_text.typical,
    screened_at=lambda typical: {"typical": typical},
    latency=measure_text.latency,
    ground=spaces.of_language_model,
    on_the_way=cut_language_model.on_the_way,
    cut_to=cut_language_model.cut_to,
    cut_depth=cut_language_model.cut_depth,
    cut_width=cut_language_model.cut_width,
    judge=judge,
    ranked_on=lambda lesson: (len(measure_text.leading(lesson, "validation").lengths),) * 2,
    score_how="same likeliest token as the teacher on validation rows, Wilson with rows as trials",
    agreement_how="the teacher's perplexity over this model's on validation rows, at most 1",
    serving=serving,
    one_request=ANY_SHAPE,
    one_request_is="a prompt of 128 tokens and an answer of 32",
    fresh_start=False,
    untrained_speaks=True,
    felt=felt,
    controls=controls,
    answered=asked_text.answered,
    risk=risk.of_language_model,
    facts=asked_text.facts,
    score_name=lambda _: "same_top",
    how=HOW,
)
