"""A byte-level BPE tokenizer between a Hugging Face folder (tokenizer.json) and a GGUF file's metadata, both ways.

GGUF names the rule that cuts a text before the merges (`tokenizer.ggml.pre`) and leaves its regular expression to
llama.cpp; tokenizer.json writes it out. The table below says which rule is which. A rule that is not in it is refused:
another one would give other tokens without a word. (transformers, which can read these files as well, takes GPT-2's
rule for a name it has no expression for; for `smollm` two spaces before a digit then give another token.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # our name -> tokenizer.ggml.<name>_token_id
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WHOLE_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How llama.cpp cuts a text for one `tokenizer.ggml.pre`, as the steps of a tokenizer.json."""

    steps: tuple[dict[str, Any], ...]
    ignore_merges: bool = False  # a piece that is a token as a whole is taken as it is
    normalizers: tuple[str | None, ...] = (None,)  # llama.cpp normalizes nothing; a text in NFC is the same without it


RULES = {
    "gpt-2": Rule(steps=(GPT2,)),
    "smollm": Rule(steps=({"type": "Digits", "individual_digits": True}, GPT2)),
    "llama-bpe": Rule(steps=(_split(LLAMA3), WHOLE_BYTES), ignore_merges=True),
    "dbrx": Rule(steps=(_split(LLAMA3), WHOLE_BYTES)),
    "qwen2": Rule(steps=(_split(QWEN2), WHOLE_BYTES), normalizers=(None, "NFC")),
}
SAME_RULE = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "smaug-bpe": "dbrx"}


@dataclass(frozen=True, kw_only=True)
class GgufTokenizer:
    """What a GGUF file says of its tokenizer; `ids` by role (bos, eos, unk, pad)."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def read_folder(folder: Path, vocabulary: int) -> GgufTokenizer:
    """From tokenizer.json and tokenizer_config.json; ids up to `vocabulary` that no token has are marked unused.

    Raises:
        ValueError: in one sentence, for a tokenizer that llama.cpp would not run alike.
    """
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    model = state["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ValueError(f"the tokenizer of {folder} is no byte-level BPE; GGUF export writes that kind only")
    pieces = {index: (piece, NORMAL) for piece, index in model["vocab"].items()}
    for token in state["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise ValueError(
                f"the token {token['content']!r} of {folder} takes the spaces beside it (lstrip, rstrip or "
                "single_word), which llama.cpp does not do; switch that off in tokenizer.json"
            )
        pieces[token["id"]] = (token["content"], CONTROL if token["special"] else USER_DEFINED)
    if max(pieces) >= vocabulary:
        raise ValueError(
            f"the tokenizer of {folder} has id {max(pieces)} but the model only {vocabulary} rows; "
            "give the model its own tokenizer"
        )
    rows = [pieces.get(index, (f"[PAD{index}]", UNUSED)) for index in range(vocabulary)]
    ids = _ids(folder, settings, {piece: index for index, (piece, _) in pieces.items()})
    first, last = _template_ends(folder, state.get("post_processor"), ids)
    return GgufTokenizer(
        pre=_rule_of(folder, state),
        tokens=[piece for piece, _ in rows],
        types=[kind for _, kind in rows],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        ids=ids,
        # Where the settings say so, transformers goes by them and not by the template.
        add_bos=bool(settings.get("add_bos_token", first)),
        add_eos=bool(settings.get("add_eos_token", last)),
        chat_template=_chat_template(folder, settings),
    )


def read_metadata(metadata: dict[str, Any]) -> GgufTokenizer:
    """From a GGUF file's metadata.

    Raises:
        ValueError: in one sentence, for a kind of tokenizer or a rule that is not in the table.
    """
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "none")
    if kind != "gpt2":
        raise ValueError(f"its tokenizer is of the kind {kind!r}; only byte-level BPE ('gpt2') is read")
    if not isinstance(pre, str) or SAME_RULE.get(pre, pre) not in RULES:
        raise ValueError(f"its tokenizer cuts texts by the rule {pre!r}; only these are known: {', '.join(RULES)}")
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    types = metadata.get("tokenizer.ggml.token_type")
    if not tokens or merges is None or types is None or len(types) != len(tokens):
        raise ValueError("its tokenizer lacks tokens, token types or merges")
    if not all(isinstance(text, str) for text in (*tokens, *merges)):
        raise ValueError("its tokenizer has tokens or merges that are no texts")
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"its tokenizer has {len(tokens) - len(set(tokens))} tokens twice")
    known = set(tokens)
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= known:
            raise ValueError(f"its tokenizer's merge {merge!r} joins what are no tokens")
    ids = {role: metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in ROLES.items()}
    given = {role: index for role, index in ids.items() if index is not None}
    beyond = [f"{role} {index!r}" for role, index in given.items() if index not in range(len(tokens))]
    if beyond:
        raise ValueError(f"its tokenizer names the id of {beyond[0]} beyond its {len(tokens)} tokens")
    return GgufTokenizer(
        pre=SAME_RULE.get(pre, pre),
        tokens=tokens,
        types=types,
        merges=merges,
        ids=given,
        add_bos=metadata.get("tokenizer.ggml.add_bos_token", pre in ("llama-bpe", "llama3", "llama-v3")),
        add_eos=metadata.get("tokenizer.ggml.add_eos_token", False),
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def write_folder(tokenizer: GgufTokenizer, folder: Path, *, max_length: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template as stock transformers does."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    rule = RULES[tokenizer.pre]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    state = {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": token, **flags, "special": kind == CONTROL}
            for index, (token, kind) in enumerate(zip(tokenizer.tokens, tokenizer.types, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_trimmed(step) for step in rule.steps]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "ignore_merges": rule.ignore_merges,
            "vocab": {
                token: index
                for index, (token, kind) in enumerate(zip(tokenizer.tokens, tokenizer.types, strict=True))
                if kind != UNUSED
            },
            "merges": [merge.split(" ") for merge in tokenizer.merges],
        },
    }
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        add_bos_token=tokenizer.add_bos,
        add_eos_token=tokenizer.add_eos,
        chat_template=tokenizer.chat_template,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        **{f"{role}_token": tokenizer.tokens[index] for role, index in tokenizer.ids.items()},
    ).save_pretrained(folder)


def _trimmed(step: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json wants `trim_offsets`, which changes offsets only and so is no part of a rule."""
    return {**step, "trim_offsets": True} if step["type"] == "ByteLevel" else step


def _rule_of(folder: Path, state: dict[str, Any]) -> str:
    cutter = state.get("pre_tokenizer") or {}
    steps = tuple(
        {key: value for key, value in step.items() if key != "trim_offsets"}
        for step in (cutter["pretokenizers"] if cutter.get("type") == "Sequence" else [cutter])
    )
    normalizer = (state.get("normalizer") or {}).get("type")
    for name, rule in RULES.items():
        alike = rule.steps == steps and rule.ignore_merges == bool(state["model"].get("ignore_merges"))
        if alike and normalizer in rule.normalizers:
            return name
    found = " + ".join(str(step.get("type")) for step in ({"type": normalizer}, *steps) if step.get("type"))
    raise ValueError(
        f"llama.cpp has no rule that cuts texts as the tokenizer of {folder} does ({found or 'no pre_tokenizer'}); "
        f"the known ones are {', '.join(RULES)}"
    )


def _ids(folder: Path, settings: dict[str, Any], index_of: dict[str, int]) -> dict[str, int]:
    named = {role: settings.get(f"{role}_token") for role in ROLES}
    contents = {role: token["content"] if isinstance(token, dict) else token for role, token in named.items()}
    ids = {role: index_of[token] for role, token in contents.items() if token in index_of}
    if "eos" not in ids:
        raise ValueError(
            f"tokenizer_config.json of {folder} names no eos_token of its vocabulary ({contents['eos']!r}), "
            "without which llama.cpp never ends an answer; name it there"
        )
    return ids


def _template_ends(folder: Path, processor: dict[str, Any] | None, ids: dict[str, int]) -> tuple[bool, bool]:
    """Whether a text gets bos before it and eos after it."""
    parts = (processor or {}).get("processors", [processor] if processor else [])
    for part in parts:
        if part["type"] == "ByteLevel":
            continue
        single = part.get("single") if part["type"] == "TemplateProcessing" else None
        kinds = [
            "text" if "Sequence" in piece else part["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
            for piece in single or ()
        ]
        bos, eos = [ids.get("bos")], [ids["eos"]]
        if kinds in (["text"], [bos, "text"], ["text", eos], [bos, "text", eos]):
            return kinds[0] == bos, kinds[-1] == eos
        raise ValueError(
            f"the tokenizer of {folder} adds to each text what GGUF cannot say ({part['type']}); "
            "it may add bos before and eos after"
        )
    return False, False


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        return next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template
