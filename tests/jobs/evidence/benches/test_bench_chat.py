"""The chat benchmark on a tiny model: what is compared is the same work, and the figures say who was faster."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from deshi.jobs.data.packing import IGNORED
from deshi.jobs.data.render import render
from deshi.jobs.evidence.benches import bench_chat, bench_training
from deshi.jobs.evidence.benches.bench_chat import against_the_teacher, endpoint, openings
from deshi.jobs.evidence.benches.bench_training import own_answers, padded, step, together, training
from deshi.jobs.evidence.benches.plain_llamacpp import plain, timed
from deshi.jobs.evidence.felt.chat_stream import ChatSample

lm = runpy.run_path(str(Path(__file__).parents[2] / "lm_fixtures.py"))
ASKED = [[{"role": "user", "content": f"hello {number}"}] for number in range(12)]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return lm["tiny_lm"](tmp_path_factory.mktemp("student") / "model")


@pytest.fixture(scope="module")
def sequences(student):
    texts = [json.dumps(messages) for messages in lm["conversations"](80, turns=3)]
    return render(student, texts, format="messages", loss_on="assistant", max_length=128)


def values(figures):
    return {row["name"]: row["value"] for row in figures}


@pytest.mark.timeout(240)
def test_the_endpoint_against_plain_llamacpp(parrot, monkeypatch, capsys):
    monkeypatch.setattr(bench_chat, "TURN_S", 3.0)
    told = endpoint(parrot, ASKED, rounds=4, turns=2)
    assert [row["name"] for row in told] == [
        "decode tokens/s over plain llama.cpp",
        "first token over plain llama.cpp",
        "8 streams over llama.cpp's own server",
        "8 streams over one",
    ]
    assert all(row["value"] > 0 and row["holds"] is not None for row in told)
    printed = capsys.readouterr().out
    assert "plain llama.cpp, its binding" in printed and "8 streams" in printed


def test_the_control_is_asked_for_the_same_work(parrot):
    with plain(parrot / "engines" / "llamacpp-f16" / "model.gguf", threads=1, slots=2, context_length=256) as control:
        first_ms, per_token_ms = control.ask([5, 6, 7], 40)
        assert first_ms > 0 and 0 < per_token_ms < 1000
        assert control.url.startswith("http://")
    assert control.process.returncode == 0
    with (
        pytest.raises(RuntimeError, match="did not start"),
        plain(Path("none.gguf"), threads=1, slots=1, context_length=8),
    ):
        pass


def test_the_bindings_times_by_hand(monkeypatch):
    clock = iter([10.0, 10.5, 10.6, 10.8])
    monkeypatch.setattr(
        "deshi.jobs.evidence.benches.plain_llamacpp.time", SimpleNamespace(perf_counter=lambda: next(clock))
    )

    class Server:
        def handle_completions(self, body, told):
            assert json.loads(body) == {
                "prompt": [1],
                "n_predict": 4,
                "stream": True,
                "temperature": 0,
                "ignore_eos": True,
            }
            for text in ("a", "b", "c", ""):
                usage = {"completion_tokens": 4} if not text else None
                told(json.dumps({"choices": [{"text": text}], "usage": usage}, separators=(",", ":")))

    first_ms, per_token_ms = timed(Server(), {"prompt": [1], "n_predict": 4})
    assert first_ms == pytest.approx(500) and per_token_ms == pytest.approx(300 / 3)


def test_ratios_say_who_was_faster(monkeypatch, capsys):
    """Ours: 30 ms, then 5 ms a token; plain: 20 ms, then 4 ms: decode 0.8x, first token 1.5x."""
    ours = ChatSample(
        scheduled=0,
        sent=0,
        latency_ms=0,
        first_token_ms=30,
        per_token_ms=5,
        tokens=9,
        queue_ms=0,
        http_ms=0,
        status=200,
        text="",
        arrivals=[],
    )
    asked = []

    async def ask_once(url, request):
        asked.append(("ours", request["messages"]))
        return ours

    class Control:
        def ask(self, prompt, tokens):
            asked.append(("plain", prompt))
            return 20.0, 4.0

    monkeypatch.setattr(bench_chat, "ask_once", ask_once)
    prompts = SimpleNamespace(of_chat=lambda messages: messages)
    requests = [{"messages": number, "max_tokens": 9} for number in range(6)]
    times = bench_chat.one_stream("", Control(), requests, prompts)
    assert times["ours"].shape == times["plain"].shape == (5, 2)
    assert sorted(asked) == sorted((name, number) for name in ("ours", "plain") for number in range(6))
    told = bench_chat._one_stream_figures(times)
    assert values(told) == {"decode tokens/s over plain llama.cpp": 0.8, "first token over plain llama.cpp": 1.5}
    assert [row["holds"] for row in told] == [False, False]
    told = bench_chat._streams_figures({"ours": [90.0, 110.0], "plain": [100.0, 100.0], "one": [40.0, 40.0]})
    assert values(told) == {"8 streams over llama.cpp's own server": 1.0, "8 streams over one": 2.5}
    assert "0.80x (0.80 to 0.80)" in capsys.readouterr().out


def test_the_winner_against_the_teacher(parrot, monkeypatch):
    monkeypatch.setattr(bench_chat, "PROMPT_TOKENS", 8)
    told = values(against_the_teacher(parrot, parrot, threads=1, rounds=3))
    weights = sum(parameter.numel() for parameter in _loaded(parrot / "model").parameters())
    gguf = (parrot / "engines" / "llamacpp-f16" / "model.gguf").stat().st_size
    tokenizer = (parrot / "model" / "tokenizer.json").stat().st_size
    assert told["size over the fp16 teacher"] == pytest.approx((gguf + tokenizer) / (2 * weights), rel=1e-3)
    assert told["decode over eager teacher"] > 0
    assert not list((parrot / "engines").glob("torch_generate-bf16")), "the release stays as it is"


def test_openings_are_first_messages():
    rows = [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "x" * 300}],
    ]
    assert openings([json.dumps(row) for row in rows]) == [[{"role": "user", "content": "a"}]]


def test_packed_and_padded_learn_the_same(student, sequences):
    """The loss against torch's own, sequence by sequence; equal however the sequences are laid out."""
    model = _loaded(student)
    rows = [(0, 1, 2), (3, 4)]
    answers = own_answers(model, rows, sequences)
    losses = [
        step(model, layout(rows, sequences), answers, bench_training.STEPS[name])[1]
        for name in ("answers", "text")
        for layout in (together, padded)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[2] == pytest.approx(losses[3], abs=1e-5)
    total, count = 0.0, 0
    for number in range(5):
        ids = torch.from_numpy(sequences.input_ids[number].astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(sequences.loss_mask[number]), ids[0], IGNORED)[1:]
        with torch.no_grad():
            total += float(
                functional.cross_entropy(model(ids).logits[0, :-1], labels, ignore_index=IGNORED, reduction="sum")
            )
        count += int((labels != IGNORED).sum())
    assert losses[2] == pytest.approx(total / count, abs=1e-5)
    # its own answers cost nothing but the rounding of the store, so half of cross-entropy is left
    assert losses[0] == pytest.approx(0.5 * losses[2], abs=2e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_steps_are_compared(student, sequences, capsys):
    told = training(student, sequences, max_length=128, rows_per_step=2, rounds=3, threads=1, confidence=0.95, seed=0)
    assert values(told)["packed loss minus padded, max_length 128"] <= 1e-4
    assert values(told)["step with cached answers over cross-entropy, max_length 128"] > 0
    printed = capsys.readouterr().out
    assert "cached answers, padded" in printed
    with pytest.raises(ValueError, match="fewer than the 1000 of a step"):
        training(student, sequences, max_length=128, rows_per_step=1000, threads=1, confidence=0.95, seed=0)


def test_training_figures_by_hand(capsys):
    seconds = {"text": [1.0, 2.0, 4.0], "answers": [1.1, 2.2, 4.4], "padded": [2.2, 2.2, 4.4]}
    losses = {"text": [0.0] * 3, "answers": [1.0, 2.0, 3.0], "padded": [1.0, 2.5, 3.0]}
    told = bench_training.report(seconds, losses, [10, 20, 40], max_length=64, confidence=0.95, seed=0)
    assert [row["value"] for row in told] == [1.1, pytest.approx(8.8 / 7.7, abs=1e-4), 0.5]
    assert [row["holds"] for row in told] == [True, False, False]
    assert "9" in capsys.readouterr().out  # 70 tokens in 7.7 s


def test_the_modules_can_be_started():
    for name in ("benches.plain_llamacpp", "felt.chat_load"):
        command = [sys.executable, "-m", f"deshi.jobs.evidence.{name}", "--help"]
        assert "usage" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _loaded(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
