"""The mask of what is learned, against transformers' own mask of a template that marks the answers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from deshi.jobs.data.conversations import canonical_messages
from deshi.jobs.data.render import refuse_unrenderable, render

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))
CHATML, conversations, tiny_lm = lm["CHATML"], lm["conversations"], lm["tiny_lm"]
CONTENT = "{{ message['content'] + '<|im_end|>' }}"
MARKED = CHATML.replace(
    CONTENT, "{% if message['role'] == 'assistant' %}{% generation %}" + CONTENT + "{% endgeneration %}"
    "{% else %}" + CONTENT + "{% endif %}"
)  # fmt: skip
# Like templates of reasoning models: an answer is shown otherwise once another follows.
REWRITING = MARKED.replace(
    "{% generation %}", "{% generation %}{% if loop.last %}{{ '<think></think>' }}{% endif %}"
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


def with_template(folder, tmp_path, template):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    return tmp_path


def said_by_transformers(folder, messages):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    told = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return np.array(told["input_ids"]), np.array(told["assistant_masks"], bool)


def rendered(folder, chats, **options):
    settings = {"format": "messages", "loss_on": "assistant", "max_length": 256} | options
    return render(folder, [canonical_messages(messages) for messages in chats], **settings)


@pytest.mark.parametrize("system", [False, True])
def test_the_mask_is_that_of_a_marking_template(folder, tmp_path, system):
    chats = [([{"role": "system", "content": "Brief."}] if system else []) + chat for chat in conversations(20)]
    chats[0][-1]["content"] = "橋 é🎵 yes"  # characters of several tokens
    marked = with_template(folder, tmp_path, MARKED)
    for at, chat in enumerate(chats):
        ids, mask = said_by_transformers(marked, chat)
        ours = rendered(folder, [chat])
        assert np.array_equal(ours.input_ids[0], ids), at
        assert np.array_equal(ours.loss_mask[0], mask), at
        assert ours.learned[0] == mask.sum() > 0


def test_the_end_of_turn_is_learned_and_the_newline_behind_it_is_not(folder):
    chat = [{"role": "user", "content": "no"}, {"role": "assistant", "content": "yes"}]
    ours = rendered(folder, [chat])
    learned = ours.input_ids[0][ours.loss_mask[0]]
    assert learned[-1] == 2 and (learned == 2).sum() == 1
    assert not ours.loss_mask[0][-1]


def test_a_greeting_is_context_only(folder):
    chat = conversations(1)[0][:2]
    ours = rendered(folder, [[{"role": "assistant", "content": "it was built in stone"}, *chat]])
    assert ours.learned[0] == rendered(folder, [chat]).learned[0]


def test_a_template_that_rewrites_answers_is_refused_unless_it_marks_them(folder, tmp_path):
    chat = next(chat for chat in conversations(9) if len(chat) > 2)
    plain = with_template(
        folder, tmp_path, REWRITING.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    )
    with pytest.raises(ValueError, match="rewrites turn 2 of the conversation that begins"):
        rendered(plain, [chat])
    assert rendered(plain, [chat[:2]]).learned[0] > 0
    marked = with_template(folder, tmp_path, REWRITING)
    ids, mask = said_by_transformers(marked, chat)
    ours = rendered(marked, [chat])
    assert np.array_equal(ours.input_ids[0], ids) and np.array_equal(ours.loss_mask[0], mask)


def test_a_template_that_forbids_an_order_says_so(folder, tmp_path):
    strict = with_template(
        folder,
        tmp_path,
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML,
    )
    with pytest.raises(ValueError, match=r"refuses the conversation 'hello' \(user first\)"):
        rendered(strict, [[{"role": "assistant", "content": "hello"}]], loss_on="all")


def test_long_rows_are_cut_and_counted(folder):
    chats = conversations(12)
    whole = rendered(folder, chats)
    cut = rendered(folder, chats, max_length=40)
    assert cut.cut == (whole.lengths > 40).sum() > 0
    for at in range(12):
        assert np.array_equal(cut.input_ids[at], whole.input_ids[at][:40])
        assert np.array_equal(cut.loss_mask[at], whole.loss_mask[at][:40])
    nothing = rendered(folder, chats, max_length=8)
    assert len(nothing.learnable) == 0 and len(nothing.lengths) == 12


def test_everything_but_the_first_token_can_be_learned(folder):
    texts = ["the old bridge", "river"]
    ours = render(folder, texts, format="text", loss_on="all", max_length=64)
    assert [mask.tolist() for mask in ours.loss_mask] == [[False] + [True] * (n - 1) for n in ours.lengths]
    chats = rendered(folder, conversations(2), loss_on="all")
    assert (chats.learned == chats.lengths - 1).all()


def test_a_completion_ends_with_the_end_of_text(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = json.dumps({"prompt": "where is the tower?", "completion": " near my castle"})
    ours = render(folder, [text], format="prompt_completion", loss_on="completion", max_length=64)
    learned = ours.input_ids[0][ours.loss_mask[0]].tolist()
    assert learned == [*tokenizer(" near my castle").input_ids, tokenizer.eos_token_id]


def test_refusals_before_any_work(folder, tmp_path):
    with pytest.raises(ValueError, match=r"max_length = 257 is above the context .* 256 tokens; write 256 or less"):
        refuse_unrenderable(folder, format="messages", loss_on="assistant", max_length=257)
    bare = tiny_lm(tmp_path / "bare", layers=1, template=None)
    with pytest.raises(ValueError, match="has no chat template, which format: messages needs"):
        refuse_unrenderable(bare, format="messages", loss_on="assistant", max_length=64)
    refuse_unrenderable(bare, format="text", loss_on="all", max_length=64)
