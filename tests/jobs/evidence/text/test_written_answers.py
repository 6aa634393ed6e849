"""What is written is transformers' own greedy answer, through either engine; what is counted can be counted by eye."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deshi.jobs.data.conversations import canonical_messages
from deshi.jobs.evidence.text.written_answers import prompts_of, repeated, repetition, write
from deshi.jobs.exporters.gguf import export

lm = runpy.run_path(str(Path(__file__).parents[2] / "lm_fixtures.py"))
TEXTS = [canonical_messages(chat) for chat in lm["conversations"](12, seed=6)]
PLACE = {"threads": 1, "slots": 3, "context_length": 256}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder as it is served, with a build of each engine."""
    folder = tmp_path_factory.mktemp("served")
    lm["tiny_lm"](folder / "model", seed=8)
    (folder / "engines" / "torch_generate-fp32").mkdir(parents=True)
    export(folder / "model", folder / "engines" / "llamacpp-f16", scheme="f16")
    return folder


@pytest.mark.parametrize("build", ["torch_generate-fp32", "llamacpp-f16"])
def test_answers_are_transformers_greedy_ones(served, build):
    asked = prompts_of(TEXTS, "messages", most=7)
    assert [row for row, _ in asked] == list(range(7))
    written = write(served, build, asked, max_tokens=12, **PLACE)
    tokenizer = AutoTokenizer.from_pretrained(served / "model")
    model = AutoModelForCausalLM.from_pretrained(served / "model").eval()
    same, ended = 0, []
    for (row, prompt), answer in zip(asked, written, strict=True):
        ids = tokenizer.apply_chat_template(
            list(prompt.messages), add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.inference_mode():
            made = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        # llama.cpp ends an answer at the end of a text, too.
        ends = {tokenizer.eos_token_id} | ({0} if build.startswith("llamacpp") else set())
        length = next((at + 1 for at, token in enumerate(made) if token in ends), len(made))
        # Half a character at the end is never sent.
        text = tokenizer.decode(made[:length], skip_special_tokens=True).rstrip("\ufffd")
        assert answer.row == row and answer.tokens == tuple(tokenizer(answer.text)["input_ids"])
        same += (answer.text.rstrip("\ufffd"), answer.length) == (text, length)
        ended.append((answer.ended, made[length - 1] in ends))
    # Half precision may tip a near-tie.
    assert same == 7 if build.startswith("torch") else same >= 5
    assert sum(found == expected for found, expected in ended) >= same


def test_a_prompt_without_room_for_its_answer_is_left_out(served):
    asked = prompts_of(TEXTS, "messages")
    tokenizer = AutoTokenizer.from_pretrained(served / "model")
    sizes = [
        len(tokenizer.apply_chat_template(list(prompt.messages), add_generation_prompt=True)["input_ids"])
        for _, prompt in asked
    ]
    context = sorted(sizes)[8] + 3  # one token too few for the ninth
    written = write(served, "torch_generate-fp32", asked, max_tokens=4, **PLACE | {"context_length": context})
    assert [answer.row for answer in written] == [
        row for (row, _), n in zip(asked, sizes, strict=True) if n + 4 <= context
    ]
    assert 6 <= len(written) <= 8


def test_text_is_continued(served):
    asked = prompts_of(["the red bridge near the river", "x"], "text")
    assert [(row, prompt.text) for row, prompt in asked] == [(0, "the red bridge")]
    (answer,) = write(served, "torch_generate-fp32", asked, max_tokens=5, **PLACE)
    assert 1 <= answer.length <= 5


def test_a_conversation_needs_a_template(served, tmp_path):
    lm["tiny_tokenizer"](tmp_path / "model", template=None)
    with pytest.raises(ValueError, match="has no chat template"):
        write(tmp_path, "torch_generate-fp32", prompts_of(TEXTS, "messages"), **PLACE)


@pytest.mark.parametrize(
    ("tokens", "again", "all_of_them"),
    [
        ([], 0, 0),
        ([1, 2, 3], 0, 0),
        ([1, 2, 3, 4], 0, 1),
        ([1, 1, 1, 1, 1, 1], 2, 3),
        ([1, 2, 3, 4, 5, 1, 2, 3, 4], 1, 6),
        ([1, 2, 1, 2, 1, 2, 1, 2], 3, 5),
    ],
)
def test_repetition_is_counted(tokens, again, all_of_them):
    assert repeated(tokens) == (again, all_of_them)
    assert repetition(tokens) == pytest.approx(again / max(all_of_them, 1))
