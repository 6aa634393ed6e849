"""What is known of a model behind a URL: where it was asked and how. It has no weights here."""

from __future__ import annotations

from pydantic import Field

from deshi.serve.kpi import Frozen


class AskedModel(Frozen):
    """A model that was asked, not held: it takes nothing of a target, and what was asked of it can be asked again."""

    url: str = Field(description="base URL, to which /chat/completions is put")
    model: str = Field(description="its name at the URL")
    prompt: str = Field(description="the system message; the user message is the row's text")
    temperature: float = 0.0
    max_tokens: int = Field(description="most tokens of an answer")
    at_once: tuple[int, ...] = Field(description="requests under way at a time, as the answers came")
    tried_again: int = Field(
        description="requests that the endpoint turned away (429, 5xx, silence) and that were sent again"
    )
    logprobs: bool = Field(description="whether the endpoint says how likely its tokens are")
