"""lm-evaluation-harness (Gao et al., "A framework for few-shot language model evaluation") as an optional evaluator:
one of its task files, asked through the served endpoint.

`lm_eval` runs in a process of its own and knows nothing of the model but the endpoint's URL and the tokenizer's folder;
what it measures is what is served. A task is a YAML file of the harness with a local data file; its relative paths are
looked up from its own folder. A task file may name Python functions of its own (`!function`), which then run.

Tasks scored by log-likelihoods (`multiple_choice`, `loglikelihood`, `loglikelihood_rolling`) need those of the prompt's
tokens. PyTorch's engine tells them, llama.cpp's does not: `evaluate(build="torch_generate-fp32")` asks the model folder
in PyTorch instead of the served build, and the result says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deshi.jobs.evidence.felt.endpoint import running
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.table import generation_engine
from deshi.serve.serving import ANY_SHAPE, ENGINES_FOLDER, MODEL_FOLDER, ServedTarget, Serving

BY_LIKELIHOOD = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")
WRITTEN = "generate_until"  # the harness's default


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One metric of one task."""

    task: str
    metric: str  # with the harness's filter, e.g. "exact_match,none"
    value: float
    stderr: float | None  # the harness's own
    n: int  # examples
    build: str  # that answered


def evaluate(
    folder: Path,
    tasks: Path,
    *,
    target: str | None = None,
    build: str | None = None,
    chat: bool = False,
    limit: int | None = None,
    python: str = sys.executable,
) -> tuple[TaskScore, ...]:
    """Serves a release or candidate in one process for as long as it takes, and evaluates it.

    Args:
        folder: with serving.json; its verdict does not matter here.
        tasks: a task file of the harness.
        target: a target of the release; the first one if left out.
        build: another build than the target's: `torch_generate-fp32` or `torch_generate-bf16`.
        chat: whether each prompt becomes a user's turn in the chat template.
        limit: of the task's examples, the first so many; all if left out.
        python: the interpreter that has lm_eval.

    Raises:
        ValueError: if lm_eval is not installed, the task file is none, the task needs log-likelihoods that the build
            does not tell, or the evaluation fails.
    """
    refuse_without_lm_eval(python)
    output_type = output_type_of(tasks)
    serving = Serving.read(folder)
    if serving.task != "generate":
        raise ValueError(f"{folder} is served for task {serving.task!r}; lm_eval asks language models only")
    served = serving.target(target)
    wanted = build or served.builds[ANY_SHAPE]
    if output_type in BY_LIKELIHOOD and engine_of(wanted) != "torch_generate":
        raise ValueError(_no_likelihoods(tasks, output_type, wanted))
    with (
        _candidate(folder, serving, served, wanted) as candidate,
        running(candidate, "evaluated", module="deshi.serve.process") as server,
    ):
        model = candidate / MODEL_FOLDER
        return evaluate_endpoint(
            server.url, tasks, tokenizer=model, chat=chat, limit=limit, concurrent=served.slots, python=python
        )


def evaluate_endpoint(
    url: str,
    tasks: Path,
    *,
    tokenizer: Path,
    chat: bool = False,
    limit: int | None = None,
    concurrent: int = 1,
    python: str = sys.executable,
) -> tuple[TaskScore, ...]:
    """Evaluates what answers at `url` (http://host:port); see `evaluate`.

    Args:
        url: of a running endpoint.
        tasks: a task file of the harness.
        tokenizer: the model folder.
        chat: as in `evaluate`.
        limit: as in `evaluate`.
        concurrent: requests at once; the endpoint's slots.
        python: as in `evaluate`.
    """
    refuse_without_lm_eval(python)
    output_type = output_type_of(tasks)
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as reply:  # noqa: S310 - the caller's endpoint
        model = json.load(reply)["data"][0]
    build = ", ".join(model["builds"])
    if output_type in BY_LIKELIHOOD and not model["prompt_logprobs"]:
        raise ValueError(_no_likelihoods(tasks, output_type, build))
    with tempfile.TemporaryDirectory(prefix="deshi-lm-eval-") as scratch:
        command = command_of(
            url, tasks, model=model["id"], context=model["max_model_len"], tokenizer=tokenizer, chat=chat, limit=limit,
            concurrent=concurrent, out=Path(scratch), python=python,
        )  # fmt: skip
        env = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, cwd=tasks.resolve().parent, env=env, capture_output=True, text=True, check=False)
        written = sorted(Path(scratch).rglob("results_*.json"))
        if done.returncode != 0 or not written:
            raise ValueError(f"lm_eval failed on {tasks}: {_why(done.stdout + done.stderr)}")
        return scores_of(json.loads(written[-1].read_text(encoding="utf-8")), build)


def command_of(
    url: str,
    tasks: Path,
    *,
    model: str,
    context: int,
    tokenizer: Path,
    chat: bool,
    limit: int | None,
    concurrent: int,
    out: Path,
    python: str,
) -> list[str]:
    """The command line of the harness."""
    arguments = {
        "model": model,
        "base_url": f"{url}/v1/completions",
        "tokenizer": str(tokenizer.resolve()),
        "tokenizer_backend": "huggingface",
        "tokenized_requests": True,
        "max_length": context,
        "num_concurrent": concurrent,
    }
    command = [python, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", json.dumps(arguments)]
    command += ["--tasks", str(tasks.resolve()), "--output_path", str(out), "--batch_size", "1"]
    return [*command, *(["--apply_chat_template"] if chat else []), *(["--limit", str(limit)] if limit else [])]


def scores_of(results: dict[str, Any], build: str) -> tuple[TaskScore, ...]:
    """The harness's results file as rows: `results` by task, `metric,filter` and `metric_stderr,filter` in each."""
    rows = []
    for task, metrics in results["results"].items():
        for name, value in metrics.items():
            metric, comma, kind = name.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{metric}_stderr,{kind}")
            rows.append(
                TaskScore(
                    task=task,
                    metric=name,
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, int | float) else None,
                    n=results["n-samples"][task]["effective"],
                    build=build,
                )
            )
    return tuple(rows)


def output_type_of(tasks: Path) -> str:
    """How a task file is scored; what it includes is read too.

    Raises:
        ValueError: if it is no task file.
    """
    if not tasks.is_file():
        raise ValueError(f"{tasks} does not exist; give a task file of lm_eval (YAML), e.g. examples/chat/lm_eval")
    try:
        task = yaml.load(tasks.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{tasks} is no YAML ({' '.join(str(error).split())}); mend it") from None
    if not isinstance(task, dict) or not ({"task", "include"} & task.keys()):
        raise ValueError(f"{tasks} names no task; give a task file of lm_eval (YAML) with `task:`")
    if "output_type" in task:
        return str(task["output_type"])
    included = task.get("include")
    return output_type_of(tasks.parent / str(included)) if included else WRITTEN


class _Loader(yaml.SafeLoader):
    """The harness's own tags (`!function`) are words here."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def refuse_without_lm_eval(python: str) -> None:
    """Looks whether the interpreter finds lm_eval.

    Raises:
        ValueError: if it does not.
    """
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('lm_eval') is None)"
    if subprocess.run([python, "-c", look], capture_output=True, check=False).returncode != 0:
        raise ValueError(f"lm_eval is not installed for {python}; pip install 'deshi[evaluate]'")


@contextlib.contextmanager
def _candidate(folder: Path, serving: Serving, served: ServedTarget, build: str) -> Iterator[Path]:
    """A folder of links with one target, `evaluated`: a release may not be changed, nor is its verdict asked for."""
    kind = generation_engine(engine_of(build))
    if build.removeprefix(f"{kind.name}-") not in kind.schemes:
        raise ValueError(f"build {build!r} is not known; {kind.name} has {', '.join(kind.schemes)}")
    with tempfile.TemporaryDirectory(prefix="deshi-evaluated-") as scratch:
        candidate = Path(scratch)
        (candidate / MODEL_FOLDER).symlink_to((folder / MODEL_FOLDER).resolve())
        (candidate / ENGINES_FOLDER).mkdir()
        there = folder / ENGINES_FOLDER / build
        if there.is_dir():
            (candidate / ENGINES_FOLDER / build).symlink_to(there.resolve())
        else:  # PyTorch needs nothing but the model folder; what llama.cpp lacks, `process` refuses with its sentence
            (candidate / ENGINES_FOLDER / build).mkdir()
        target = served.model_copy(update={"builds": {ANY_SHAPE: build}})
        serving.model_copy(update={"targets": {"evaluated": target}}).write(candidate)
        yield candidate


def _no_likelihoods(tasks: Path, output_type: str, build: str) -> str:
    return (
        f"{tasks} is scored by log-likelihoods ({output_type}), which {build} does not tell of a prompt; "
        f"use build torch_generate-fp32, or a task with output_type: {WRITTEN}"
    )


def _why(said: str) -> str:
    """The endpoint's own sentence, if it refused; else the end of what the harness printed."""
    refusals = re.findall(r'"message":\s*("(?:[^"\\]|\\.)*")', said)
    return str(json.loads(refusals[-1])) if refusals else " ".join(said.split())[-600:]
