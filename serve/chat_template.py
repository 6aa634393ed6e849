"""Conversations and texts to prompt ids, by jinja2 and the `tokenizers` library alone: no transformers, no torch.

The template is the model folder's (chat_template.jinja, or `chat_template` of tokenizer_config.json). It is rendered in
jinja2's immutable sandbox with the functions that transformers gives it; a test compares with `apply_chat_template`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Prompts:
    """The tokenizer of a model folder and its chat template, if it has one."""

    def __init__(self, tokenizer: Any, template: Any | None, special: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._special = dict(special)
        self.vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, model: Path) -> Prompts:
        """Opens a model folder.

        Raises:
            ValueError: if it has no tokenizer.json, or its template does not compile.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        path = model / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{path} does not exist; save the fast tokenizer there (tokenizer.save_pretrained)")
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        config = model / "tokenizer_config.json"
        settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        source = template_of(model, settings)
        tokens = {name: settings.get(name) for name in SPECIAL}
        special = {
            name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items() if token
        }
        return cls(tokenizer, None if source is None else compiled(source), special)

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        return self._template is not None

    def of_text(self, text: str) -> list[int]:
        """Ids of a text that is to be continued."""
        return list(self._tokenizer.encode(text).ids)

    def of_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation and of the words that begin the answer."""
        return list(self._tokenizer.encode(self.render(messages), add_special_tokens=False).ids)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text of a conversation.

        Raises:
            ValueError: with the template's own words, if it refuses the conversation.
        """
        from jinja2 import TemplateError

        assert self._template is not None
        try:
            return str(
                self._template.render(
                    messages=[dict(message) for message in messages],
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                    **self._special,
                )
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from None

    def text(self, ids: Sequence[int]) -> str:
        """What the ids stand for, special tokens in."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def template_of(model: Path, settings: Mapping[str, Any]) -> str | None:
    """The source of the template, chat_template.jinja first, as transformers looks for it."""
    file = model / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def compiled(source: str) -> Any:
    """A template in the sandbox.

    Raises:
        ValueError: if it is no jinja2 template.
    """
    from jinja2 import TemplateError, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words for training; here it only holds them."""

        tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

        def _same(self, caller: Any) -> str:
            return str(caller())

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"the chat template does not compile (line {error.lineno}: {error.message}); mend it"
        ) from None
