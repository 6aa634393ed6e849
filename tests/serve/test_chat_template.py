"""Prompts against transformers: the rendering of real templates' constructs, and the ids."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer

from deshi.serve.chat_template import Prompts

CHATS = [
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " ü 😀 <b>&amp;</b> "}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
]
# Constructs of published templates: default system turn, namespace, loop control, tojson, special tokens, generation.
TEMPLATES = {
    "default system": """{% for message in messages %}
    {% if loop.first and message.role != 'system' %}{{ 'S: be kind\n' }}{% endif %}
{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ 'A:' }}{% endif %}""",
    "namespace and break": """{%- set ns = namespace(last='') -%}
  {%- for m in messages -%}
    {%- if m.role == 'assistant' -%}{% break %}{%- endif -%}
    {%- set ns.last = m.content | trim -%}
  {%- endfor -%}
{{ bos_token }}{{ ns.last }}{{ eos_token }}
""",
    "tojson": """{{ messages | tojson(indent=2) }}
{% if tools %}tools{% endif %}{% if documents is none %}none{% endif %}""",
    "generation": """{% for m in messages %}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}[{{ m.content }}]{% endif %}
{% endfor %}""",
}


@pytest.fixture(params=[None, *TEMPLATES])
def folder(request, parrot, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(parrot / "model", model)
    if request.param is not None:
        (model / "chat_template.jinja").write_text(TEMPLATES[request.param])
        settings = json.loads((model / "tokenizer_config.json").read_text())
        settings["bos_token"] = {"content": "<|endoftext|>", "__type": "AddedToken"}
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


@pytest.mark.parametrize("messages", CHATS, ids=["one", "system", "three"])
def test_it_renders_and_encodes_as_transformers_does(folder, messages):
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Prompts.load(folder)
    assert ours.chats and ours.render(messages) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert ours.of_chat(messages) == list(
        theirs.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    )
    assert ours.of_text(messages[0]["content"]) == theirs(messages[0]["content"])["input_ids"]


def changed(parrot, tmp_path, template):
    shutil.copytree(parrot / "model", tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path / "model"


def test_a_template_by_name_and_none(parrot, tmp_path):
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    assert Prompts.load(changed(parrot, tmp_path / "a", named)).render(CHATS[0]) == "hello"
    assert not Prompts.load(changed(parrot, tmp_path / "b", None)).chats


def test_what_a_template_refuses_is_one_sentence(parrot, tmp_path):
    refuses = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
        Prompts.load(changed(parrot, tmp_path / "a", refuses)).render(CHATS[0])
    with pytest.raises(ValueError, match=r"does not compile \(line 1"):
        Prompts.load(changed(parrot, tmp_path / "b", "{% if %}"))
    escape = "{{ messages.append(1) }}{{ ''.__class__.__mro__ }}"
    with pytest.raises(ValueError, match="refuses these messages"):
        Prompts.load(changed(parrot, tmp_path / "c", escape)).render(CHATS[0])
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist"):
        Prompts.load(tmp_path)
