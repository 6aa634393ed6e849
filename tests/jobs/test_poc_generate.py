"""The main job for a language model, whole, on a tiny one: verdict, endpoint, a folder for stock transformers."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deshi.jobs.evidence.schema import Evidence
from deshi.serve import release
from deshi.serve.run import free_port
from tests.jobs.test_poc import deshi, finished

pytestmark = [pytest.mark.timeout(900), pytest.mark.whole]
lm = runpy.run_path(str(Path(__file__).with_name("lm_fixtures.py")))

RECIPE = {
    "name": "talk",
    "task": "generate",
    "storage": "runs",
    "data": {
        "train": "train.jsonl",
        "test": "test.jsonl",
        "column": "messages",
        "max_length": 128,
        "forget": "other.txt",
        "slices": ["topic"],
    },
    "teacher": {"model": "teacher", "finetune": False},
    "student": {"layers": 3, "ffn": 0.5},
    "distill": {"steps": 4, "batch_size": 4, "learning_rate": 1.0e-3, "ce_weight": 0.5, "checkpoint_every": 2},
    "search": {"trials": 7, "minutes": 5, "orders": ["prune-distil-quantize"]},
    "resources": {"load_seconds": 2, "validation_tokens": 1000, "test_tokens": 1500},
    "targets": [{"name": "edge", "threads": 1, "memory_mb": 2000, "price_per_hour": 3, "slots": 2}],
    "business": {"peak_rps": 15},
    "kpi": {
        "quality": {"kl_mean": 0.5, "perplexity_ratio": 1.1, "same_top": 0.8},
        "latency_ms": {"first_token_p95": 3000, "per_token_p95": 1000},
    },
}


def lay_out(folder: Path) -> None:
    lm["tiny_lm"](folder / "teacher", layers=4)
    for name, rows in (("train", lm["conversations"](400, seed=0)), ("test", lm["conversations"](60, seed=1))):
        lines = [json.dumps({"messages": said, "topic": "ab"[number % 2]}) for number, said in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    other = (" ".join(said["content"] for said in chat) for chat in lm["conversations"](20, seed=5))
    (folder / "other.txt").write_text("\n\n".join(other))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of one unbroken run."""
    folder = tmp_path_factory.mktemp("talk")
    lay_out(folder)
    code, out, err = finished(deshi(folder, "poc", "recipe.yaml"), within=800)
    assert code == 0, err[-4000:]
    assert out.strip().startswith(evidence_of(folder).verdict.decision)
    return folder


def evidence_of(folder: Path) -> Evidence:
    return Evidence.model_validate_json((folder / "runs/talk/evidence.json").read_text())


@pytest.fixture(scope="module")
def endpoint(whole) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "deshi.jobs.cli", "serve", "runs/talk", "--no-ray", "--despite-verdict"]
    server = subprocess.Popen([*command, "--port", str(port)], cwd=whole, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert "chat/completions" in server.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(30)


def test_every_model_is_measured_on_the_text(whole):
    evidence = evidence_of(whole)
    assert {"chosen", "teacher", "undistilled-teacher", "unrecovered"} <= {row.id for row in evidence.models}
    for row in evidence.models:
        told = set(row.quality.measures)
        assert {"perplexity", "forget_perplexity", "choice_accuracy", "repetition"} <= told
        compared = {"perplexity_ratio", "kl_mean", "kl_p99", "kl_p999", "choice_flips", "length_ratio"}
        assert compared <= told or row.role == "teacher"
    assert {kpi.name for kpi in evidence.kpis} >= {"drop", "kl_mean", "perplexity_ratio", "first_token_p95.edge"}
    assert {row.column for row in evidence.models[0].quality.slices} <= {"topic"}
    assert any(note.startswith("Students learned from") for note in evidence.data.notes)


def test_the_released_weights_have_the_perplexity_that_the_evidence_states(whole):
    """Recomputed from the released file with stock transformers' own loss, outside the code that wrote it."""
    import torch

    from deshi.jobs.data.sequences import SequenceSplits
    from deshi.jobs.exporters.gguf_weights import dequantized

    folder = whole / "runs/talk/release"
    splits = SequenceSplits.read(next((whole / "runs").glob("splits-*")))
    sequences = splits.sequences("test", folder / "model", max_length=128)
    model = dequantized(folder / "model", next(folder.glob("engines/*/model.gguf")))
    total, tokens, seen = 0.0, 0, 0
    for ids, mask in zip(sequences.input_ids, sequences.loss_mask, strict=True):
        labels = torch.tensor([[token if learned else -100 for token, learned in zip(ids, mask, strict=True)]])
        with torch.inference_mode():
            loss = model(input_ids=torch.tensor(ids[None].astype("int64")), labels=labels).loss
        total, tokens, seen = total + float(loss) * int(mask.sum()), tokens + int(mask.sum()), seen + len(ids)
        if seen >= RECIPE["resources"]["test_tokens"]:
            break
    chosen = evidence_of(whole).model_row("chosen")
    assert chosen is not None
    assert chosen.quality.measures["perplexity"].value == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_stock_transformers_loads_the_model_folder_and_writes_with_it(whole):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = whole / "runs/talk/release/model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the red tower?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert model.generate(**asked, max_new_tokens=4, do_sample=False).shape[1] > asked["input_ids"].shape[1]


def test_openais_client_streams_from_the_endpoint(endpoint):
    from openai import OpenAI

    client = OpenAI(base_url=f"{endpoint}/v1", api_key="none", max_retries=0)
    name = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": "the red tower?"}],
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None and 1 <= chunks[-1].usage.completion_tokens <= 8
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")
    with urllib.request.urlopen(f"{endpoint}/healthz", timeout=5) as reply:
        assert reply.status == 200


def test_verify_and_the_report_know_such_a_run(whole):
    assert finished(deshi(whole, "verify", "runs/talk"))[0] == 0
    page = (whole / "runs/talk/report.html").read_text()
    assert "パープレキシティ" in page and "マクネマー" not in page


def test_running_it_again_does_nothing_twice(whole):
    stages = {path.parent.name: path.stat().st_mtime_ns for path in (whole / "runs").glob("*-*/stage.json")}
    first = evidence_of(whole)
    code, _, err = finished(deshi(whole, "poc", "recipe.yaml"))
    assert code == 0, err[-3000:]
    again = {path.parent.name: path.stat().st_mtime_ns for path in (whole / "runs").glob("*-*/stage.json")}
    assert again == stages
    assert evidence_of(whole).models == first.models
    release.verify(release.find(whole / "runs/talk/release") or whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": RECIPE["data"] | {"max_length": 4096}}, "max_length = 4096 is above the context"),
        ({"data": RECIPE["data"] | {"label": "topic"}}, "data.label belongs to task: classify"),
        ({"data": RECIPE["data"] | {"train": "empty.jsonl"}}, "is an empty conversation"),
        ({"student": {"kv_groups": 9}}, "kv_groups 9 must be"),
        ({"kpi": {"quality": {"max_drop": 0.1}}}, "kpi.quality.max_drop belongs to task: classify"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_any_work(tmp_path, change, sentence):
    lay_out(tmp_path)
    (tmp_path / "empty.jsonl").write_text('{"messages": [], "topic": "a"}\n')
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | change))
    code, out, err = finished(deshi(tmp_path, "poc", "recipe.yaml"), within=120)
    assert code == 2 and out == ""
    said = [line for line in err.splitlines() if line.startswith("deshi: ")]
    assert len(said) == 1 and sentence in said[0], err[-2000:]
    assert not list(tmp_path.glob("runs/talk/release*")) and not list(tmp_path.glob("runs/teacher-*"))
