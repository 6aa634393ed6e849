"""The optional evaluator: a stand-in for the harness that asks as it asks, and the harness itself where installed.

The stand-in sends what `lm_eval.models.openai_completions` sends for a likelihood; the parrot's are known by hand.
"""

from __future__ import annotations

import json
import math
import stat
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from deshi.jobs.evidence.text import lm_evaluation
from deshi.serve.serving import Serving

pytestmark = pytest.mark.timeout(180)
EXAMPLES = Path(__file__).parents[4] / "examples" / "chat" / "lm_eval"
STAND_IN = """
import json, pathlib, sys, urllib.request
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
model = json.loads(options["--model_args"])
if "fail" in options["--tasks"]:
    print('API request failed with error message: {"error": {"message": "the context holds \\\\"8\\\\" tokens"}}')
    sys.exit(1)
assert sys.argv[1] == "run" and options["--model"] == "local-completions" and pathlib.Path("here.jsonl").is_file()
body = {"model": model["model"], "prompt": [[100, 101]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1,
        "echo": True}
if "written" in options["--tasks"]:
    body = {"model": model["model"], "prompt": [[100]], "max_tokens": 3, "temperature": 0, "stop": ["."], "seed": 1}
with urllib.request.urlopen(urllib.request.Request(model["base_url"], json.dumps(body).encode()), timeout=60) as reply:
    choice = json.load(reply)["choices"][0]
value = len(choice["text"]) if "written" in options["--tasks"] else choice["logprobs"]["token_logprobs"][1]
out = pathlib.Path(options["--output_path"]) / "parrot"
out.mkdir()
metrics = {"alias": "t", "acc,none": value, "acc_stderr,none": "N/A", "sample_len": 1,
           "norm,strip": model["max_length"], "norm_stderr,strip": model["num_concurrent"]}
results = {"results": {"t": metrics}, "n-samples": {"t": {"original": 9, "effective": 7}}}
(out / "results_2026.json").write_text(json.dumps(results))
"""


@pytest.fixture
def python(tmp_path):
    """An interpreter that finds the stand-in."""
    package = tmp_path / "path" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def task(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / "here.jsonl").touch()
    (folder / name).write_text("task: t\n" + text)
    return folder / name


def test_a_written_task_is_asked_of_what_is_served(parrot, tmp_path, python):
    written = task(tmp_path / "tasks", "written.yaml", "process_docs: !function own.rows\n")
    value, norm = lm_evaluation.evaluate(parrot, written, limit=7, python=python)
    assert (value.task, value.metric, value.value, value.stderr, value.n) == ("t", "acc,none", 3.0, None, 7)
    assert value.build == "llamacpp-f16"
    assert (norm.metric, norm.value, norm.stderr) == ("norm,strip", 1024.0, 8.0), "the context and the slots"


def test_likelihoods_are_asked_of_pytorch_alone(parrot, tmp_path, python):
    """By hand: a token that does not follow has the logit 0 where one of 270 has 8."""
    likely = task(tmp_path / "tasks", "likely.yaml", "output_type: multiple_choice\n")
    with pytest.raises(ValueError, match=r"log-likelihoods \(multiple_choice\), which llamacpp-f16 does not tell"):
        lm_evaluation.evaluate(parrot, likely, python=python)
    value = lm_evaluation.evaluate(parrot, likely, build="torch_generate-fp32", python=python)[0]
    assert value.value == pytest.approx(-8 - math.log1p(269 * math.exp(-8)), abs=1e-3)
    assert value.build == "torch_generate-fp32"
    assert Serving.read(parrot).targets.keys() == {"onprem"}, "what is evaluated is left as it is"


def test_a_running_endpoint_that_tells_none_is_refused(parrot, tmp_path, python):
    likely = task(tmp_path / "tasks", "likely.yaml", "include: base\n")
    task(tmp_path / "tasks", "base", "output_type: loglikelihood\n")
    with (
        lm_evaluation.running(parrot, "onprem", module="deshi.serve.process") as server,
        pytest.raises(ValueError, match=r"likely.yaml is scored by log-likelihoods \(loglikelihood\), which llamacpp"),
    ):
        lm_evaluation.evaluate_endpoint(server.url, likely, tokenizer=parrot / "model", python=python)


def test_what_cannot_be_evaluated_is_one_sentence(parrot, tmp_path, python):
    good = task(tmp_path / "tasks", "written.yaml", "")
    for tasks, options, sentence in (
        (tmp_path / "no.yaml", {}, "no.yaml does not exist; give a task file"),
        (task(tmp_path / "tasks", "list.yaml", "").with_name("here.jsonl"), {}, "names no task"),
        (task(tmp_path / "tasks", "bad.yaml", "a: [\n"), {}, "bad.yaml is no YAML"),
        (good, {"target": "moon"}, "target 'moon' is not in this release"),
        (good, {"build": "llamacpp-q9"}, "build 'llamacpp-q9' is not known; llamacpp has f16, q8_0, q4_0"),
        (good, {"build": "onnxruntime-fp32"}, "'onnxruntime' does not write text"),
        (task(tmp_path / "tasks", "fail.yaml", ""), {}, 'lm_eval failed on .*fail.yaml: the context holds "8" tokens'),
    ):
        with pytest.raises(ValueError, match=sentence) as refusal:
            lm_evaluation.evaluate(parrot, tasks, python=python, **options)
        assert "\n" not in str(refusal.value)


def test_without_the_harness_it_says_what_to_install(parrot, tmp_path):
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(ValueError, match=r"lm_eval is not installed for .*; pip install 'deshi\[evaluate\]'"):
        lm_evaluation.evaluate(parrot, EXAMPLES / "capitals.yaml", python=str(script))


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed (pip install 'deshi[evaluate]')")
def test_the_harness_itself(parrot, tmp_path):
    """After "H" comes "e", says the parrot: of two choices the second in one row, the first in the other."""
    folder = tmp_path / "tasks"
    rows = [{"said": "H", "choices": ["y", "e"], "right": 1}, {"said": "e", "choices": ["y", "H"], "right": 0}]
    source = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
    source += 'doc_to_text: "{{said}}"\ntarget_delimiter: ""\n'
    choose = "output_type: multiple_choice\ndoc_to_choice: '{{choices}}'\ndoc_to_target: '{{right}}'\n"
    write = "doc_to_target: 'ey '\ngeneration_kwargs: {until: ['!'], max_gen_toks: 3, temperature: 0}\n"
    likely, written = task(folder, "likely.yaml", source + choose), task(folder, "written.yaml", source + write)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = lm_evaluation.evaluate(parrot, likely, build="torch_generate-fp32")
    assert {score.metric: (score.value, score.n) for score in scores}["acc,none"] == (1.0, 2)
    scores = lm_evaluation.evaluate(parrot, written)
    assert {score.metric: (score.value, score.n) for score in scores}["exact_match,none"] == (0.5, 2)


def test_the_examples_are_what_they_say():
    assert lm_evaluation.output_type_of(EXAMPLES / "capitals.yaml") == "generate_until"
    assert lm_evaluation.output_type_of(EXAMPLES / "capitals_choice.yaml") == "multiple_choice"
    rows = [json.loads(line) for line in (EXAMPLES / "capitals.jsonl").read_text().splitlines()]
    assert all(row["cities"][row["answer"]] == row["capital"] for row in rows)
    assert {row["answer"] for row in rows} == {0, 1, 2, 3}, "a model that knows nothing must not look as if it did"
