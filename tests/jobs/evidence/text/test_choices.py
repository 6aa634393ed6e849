"""Items are what the rows say, and a choice is what the model would give each option alone, token by token."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deshi.jobs.data.conversations import canonical_messages
from deshi.jobs.evidence.text import choices
from deshi.jobs.evidence.text.choices import (
    OPTION_CHARACTERS,
    PROMPT_CHARACTERS,
    Item,
    Prompt,
    choose,
    make_items,
    mean_log_probs,
    parted,
)
from deshi.jobs.evidence.text.text_scores import head_of

lm = runpy.run_path(str(Path(__file__).parents[2] / "lm_fixtures.py"))
TEXTS = [canonical_messages(chat) for chat in lm["conversations"](40, seed=5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(folder, model)"""
    folder = lm["tiny_lm"](tmp_path_factory.mktemp("model"), seed=4)
    return folder, AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def alone(model):
    """Mean log-probability in float64 of an option's tokens behind a prompt, in one whole sequence by itself."""
    folder, lm_model = model
    tokenizer, exact = AutoTokenizer.from_pretrained(folder), copy.deepcopy(lm_model).double()

    def told(shown: str, option: str, *, special: bool) -> float:
        encoded = tokenizer(shown + option, add_special_tokens=special, return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.inference_mode():
            log_q = exact(ids).logits[0].log_softmax(-1)
        at = [i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(shown) and i > 0]
        return float(np.mean([log_q[i - 1, ids[0, i]] for i in at]))

    return told


def test_options_are_scored_as_each_would_be_alone(model, alone):
    folder, lm_model = model
    items = make_items(TEXTS, "messages", seed=0, most=6)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [
        [
            alone(
                tokenizer.apply_chat_template(list(item.prompt.messages), tokenize=False, add_generation_prompt=True),
                option,
                special=False,
            )
            for option in item.options
        ]
        for item in items
    ]
    found = mean_log_probs(lm_model, folder, items, max_length=256)
    assert np.abs(found - expected).max() < 1e-4
    chosen = choose(lm_model, folder, items, max_length=256)
    assert chosen.dtype == np.int64 and np.array_equal(chosen, np.argmax(expected, axis=1))
    assert len(set(chosen.tolist())) > 1


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("what is the red brid", ("ge", "e river tower song near", " castle yes", "er")),  # parted within a word
        ("t", ("he river", "own bridge", " red", "wer")),  # nothing to share
        ("the river", (" a", " a", " a bridge", " a bridge near")),  # options that begin alike
    ],
)
def test_text_is_continued_as_it_would_be_alone(model, alone, prompt, options):
    folder, lm_model = model
    item = Item(row=0, prompt=Prompt(text=prompt), options=options, right=0)
    found = mean_log_probs(lm_model, folder, [item], max_length=256)[0]
    assert np.abs(found - [alone(prompt, option, special=True) for option in options]).max() < 1e-4


def test_prompts_share_only_what_they_have_in_common(model):
    """An option can change how the prompt before it is cut into tokens."""
    _, lm_model = model
    parts = [([5, 6, 7, 8, 9], [10, 11]), ([5, 6, 12, 8, 9], [10]), ([5, 6, 7, 8], [9, 10]), ([5, 6, 7, 8, 9], [10])]
    found = choices._given_prompt(lm_model, head_of(lm_model), parts, torch.device("cpu"))
    for (before, option), value in zip(parts, found.tolist(), strict=True):
        ids = torch.tensor([before + option])
        with torch.inference_mode():
            log_q = lm_model(ids).logits[0].log_softmax(-1)
        at = range(len(before), len(before) + len(option))
        assert value == pytest.approx(float(np.mean([log_q[i - 1, ids[0, i]] for i in at])), abs=1e-4)


def test_a_long_prompt_loses_its_beginning(model):
    folder, lm_model = model
    item = Item(
        row=0, prompt=Prompt(text="the red bridge " * 30), options=(" a", " song", " near", " castle yes"), right=1
    )
    found = mean_log_probs(lm_model, folder, [item], max_length=16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = max(len(tokenizer(option)["input_ids"]) for option in item.options)
    kept = tokenizer("the red bridge " * 30)["input_ids"][-(16 - longest) :]
    with torch.inference_mode():
        log_q = lm_model(torch.tensor([kept])).logits[0, -1].log_softmax(-1)
    assert found[0, 0] == pytest.approx(float(log_q[tokenizer(" a")["input_ids"][0]]), abs=1e-4)


def test_items_are_the_rows_own(model):
    items = make_items(TEXTS, "messages", seed=0, most=30)
    assert len(items) == 30 and [item.row for item in items] == sorted(item.row for item in items)
    answers = [json.loads(text)[-1]["content"] for text in TEXTS]
    for item in items:
        messages = json.loads(TEXTS[item.row])
        assert item.options[item.right] == messages[-1]["content"]
        assert list(item.prompt.messages) == messages[-1 - len(item.prompt.messages) : -1]
        assert len(set(item.options)) == 4 and set(item.options) <= set(answers)
    assert len({item.right for item in items}) == 4
    gaps = [abs(len(option) - len(item.options[item.right])) for item in items for option in item.options]
    unlike = np.abs(np.subtract.outer([len(a) for a in answers], [len(a) for a in answers])).mean()
    assert np.mean(gaps) * 4 / 3 < 0.7 * unlike
    assert items == make_items(TEXTS, "messages", seed=0, most=30) != make_items(TEXTS, "messages", seed=1, most=30)


def test_a_prompt_keeps_the_last_turns_from_a_users_on():
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "x" * 90},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": "after"},
    ]
    kept = parted(json.dumps(chat), "messages", most=50)
    assert kept == (Prompt(messages=(chat[0], chat[3])), "second")
    assert parted(json.dumps(chat), "messages", most=500) == (Prompt(messages=tuple(chat[:4])), "second")
    prompt, _ = parted(json.dumps(chat), "messages", most=10)
    assert prompt.messages[-1] == {"role": "user", "content": "two three"}
    assert parted(json.dumps(chat[2:3]), "messages", most=50) is None


@pytest.mark.parametrize(
    ("format", "text", "prompt", "answer"),
    [
        ("prompt_completion", '{"prompt":"two and two?","completion":"four"}', "two and two?", "four"),
        ("text", " one two three four\n", "one two", " three four"),
        ("text", "東京都は日本の首都です", "東京都は日", "本の首都です"),
    ],
)
def test_other_formats_are_parted(format, text, prompt, answer):
    assert parted(text, format, most=400) == (Prompt(text=prompt), answer)


def test_what_is_long_is_cut_at_a_word():
    words = "word " * 400
    items = make_items([f"{words} {number}{words}" for number in range(5)], "text", seed=0)
    for item in items:
        assert PROMPT_CHARACTERS - 5 <= len(item.prompt.text) <= PROMPT_CHARACTERS
        assert item.prompt.text.startswith("word") and all(len(option) <= OPTION_CHARACTERS for option in item.options)
    assert all(option.endswith("word") for item in items for option in item.options)


def test_too_few_answers_make_no_items():
    assert make_items(TEXTS[:3], "messages", seed=0) == []
    assert make_items([TEXTS[0]] * 9, "messages", seed=0) == []


def test_a_conversation_needs_a_template(tmp_path, model):
    lm["tiny_tokenizer"](tmp_path, template=None)
    with pytest.raises(ValueError, match="has no chat template"):
        choose(model[1], tmp_path, make_items(TEXTS, "messages", seed=0, most=1), max_length=256)
