"""llama.cpp's token ids are the tokenizer's own, by every rule in the table; what it would cut otherwise is refused."""

from __future__ import annotations

import json
import random
import runpy
from pathlib import Path

import pytest

from deshi.jobs.exporters.gguf import export
from deshi.jobs.gguf_tokenizer import RULES, read_folder, read_metadata, write_folder

exporters = Path(__file__).parent / "exporters"
models = runpy.run_path(str(exporters / "gguf_models.py"))
llama = runpy.run_path(str(exporters / "llamacpp_reading.py"))
TEXTS = [
    "Hello world, I'm sure you'll say they've DON'T and it's YOU'RE; s't 'Tis",
    "  two  spaces   three    before 7  and  after  ",
    "1 12 123 1234 1234567 3.14 1,000 x1y22 ½ ² Ⅳ ٣٤ ४",
    "def f(x):\n    return x ** 2  # why?\n\n\n\tif True:\n\t\tpass\r\n\r\n",
    "日本語のテキストと漢字、ひらがな。カタカナ!　全角スペース",
    "emoji 🙂👍🏽👨‍👩‍👧‍👦 🇯🇵 end",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n  <|endoftext|> x<|im_end|><|im_end|>",
    "été naïve Ångström ﬁ \u00a0no-break \u200bzero \t tab",
    "!!! ??? ... --- *** (a[b]{c}) <> _x_ $5 #tag @who\n",
    "line1\r\nline2\rline3\n \n  \n",
    "",
    " ",
    "\n",
    "A" * 50,
]
POOLS = ["abc XYZ", "0123456789 ", "\n\t \r", "日本語かなカナ", "🙂🇯🇵👍🏽", "éßøñ", ".,!?-_", "'s't'll", "½²Ⅳ٣", "  "]


def random_texts(count):
    rng = random.Random(0)
    return ["".join(rng.choice(rng.choice(POOLS)) for _ in range(rng.randint(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of 1,600 rows. Its merges were learned across all borders of words, so that each wrong cut shows; some
    merges are missing, so that a whole piece found as a token is another answer than what the merges make of it."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds

    folder = tmp_path_factory.mktemp("base")
    models["tiny"](folder, vocab_size=1600, hidden_size=32, intermediate_size=32)
    tokenizer = Tokenizer(kinds.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=6,
    )
    tokenizer.train_from_iterator(TEXTS * 3 + random_texts(400), trainer)
    state = json.loads(tokenizer.to_str())
    state["model"]["merges"] = [merge for place, merge in enumerate(state["model"]["merges"]) if place % 9 != 8]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def folder(base, tmp_path):
    """A copy that a test may spoil."""
    made = tmp_path / "model"
    made.mkdir()
    for path in base.iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    change(made, pre_tokenizer=cutter("smollm"))
    return made


def cutter(rule):
    steps = [step | ({"trim_offsets": True} if step["type"] == "ByteLevel" else {}) for step in RULES[rule].steps]
    return {"type": "Sequence", "pretokenizers": steps}


def change(folder, name="tokenizer.json", **parts):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def ids_by_both(folder, gguf_file, texts):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with llama["server"](gguf_file) as running:
        return [(text, llama["token_ids"](running, text), tokenizer(text)["input_ids"]) for text in texts]


@pytest.mark.parametrize("rule", RULES)
def test_llama_cpp_cuts_as_the_tokenizer_does(folder, tmp_path, rule):
    state = json.loads((folder / "tokenizer.json").read_text())
    model = state["model"] | {"ignore_merges": RULES[rule].ignore_merges}
    change(folder, pre_tokenizer=cutter(rule), model=model)
    assert read_folder(folder, 1600).pre == rule
    # llama.cpp puts the first token before each text by these rules, where the file does not deny it.
    export(folder, tmp_path, scheme="f16")
    for text, theirs, ours in ids_by_both(folder, tmp_path / "model.gguf", TEXTS + random_texts(200)):
        assert theirs == ours, text


def test_each_rule_cuts_some_text_otherwise_than_the_others(folder):
    """So the test above can tell them apart."""
    from tokenizers import Tokenizer

    state = json.loads((folder / "tokenizer.json").read_text())
    said = set()
    for name, rule in RULES.items():
        state["pre_tokenizer"] = cutter(name)
        state["model"]["ignore_merges"] = rule.ignore_merges
        tokenizer = Tokenizer.from_str(json.dumps(state))
        said.add(json.dumps([tokenizer.encode(text).ids for text in TEXTS + random_texts(200)]))
    assert len(said) == len(RULES)


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, True), (True, True)])
def test_what_is_put_at_the_ends_is_put_there_by_llama_cpp_too(folder, tmp_path, bos, eos):
    tokens = {"<|im_start|>": 1, "<|im_end|>": 2}
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token in tokens)
    single = [first] * bos + [piece] + [last] * eos
    special = {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in tokens.items()}
    change(
        folder,
        post_processor={"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special},
    )
    export(folder, tmp_path, scheme="f16")
    for text, theirs, ours in ids_by_both(folder, tmp_path / "model.gguf", TEXTS):
        assert theirs == ours, text
        assert (theirs[:1] == [1]) >= bos and (theirs[-1:] == [2]) >= eos


def test_user_defined_tokens_and_rows_without_a_token(folder, tmp_path):
    state = json.loads((folder / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    change(folder, added_tokens=[*state["added_tokens"], {"id": 1500, "content": "[ACME 7]", **flags}])
    export(folder, tmp_path, scheme="f16")
    texts = ["ask [ACME 7] now", "[ACME 7][ACME 7]", " [ACME  7]", "[PAD1599] [PAD1501]"]
    said = ids_by_both(folder, tmp_path / "model.gguf", texts)
    for text, theirs, ours in said:
        assert theirs == ours, text
    assert [1500 in theirs for _, theirs, _ in said] == [True, True, False, False]


def test_there_and_back_is_the_same_tokenizer(folder, tmp_path):
    from transformers import AutoTokenizer

    written = tmp_path / "written"
    written.mkdir()
    write_folder(read_folder(folder, 1600), written, max_length=256)
    (written / "config.json").write_bytes((folder / "config.json").read_bytes())
    before, after = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(written)
    for text in TEXTS + random_texts(50):
        assert after(text)["input_ids"] == before(text)["input_ids"], text
        assert after.decode(after(text)["input_ids"]) == text
    asked = [{"role": "user", "content": "Hi"}], {"add_generation_prompt": True, "tokenize": False}
    assert after.apply_chat_template(asked[0], **asked[1]) == before.apply_chat_template(asked[0], **asked[1])
    assert after.special_tokens_map == before.special_tokens_map
    assert after.model_max_length == 256
    assert read_folder(written, 1600) == read_folder(folder, 1600)


def spoiled(edit):
    def apply(folder):
        state = json.loads((folder / "tokenizer.json").read_text())
        edit(state)
        (folder / "tokenizer.json").write_text(json.dumps(state))

    return apply


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoiled(lambda s: s["model"].update(type="WordPiece")), "no byte-level BPE"),
        (spoiled(lambda s: s["model"].update(byte_fallback=True)), "no byte-level BPE"),
        (spoiled(lambda s: s["added_tokens"][0].update(lstrip=True)), r"token '<\|endoftext\|>' of .*\(lstrip"),
        (spoiled(lambda s: s.update(pre_tokenizer={"type": "Whitespace"})), r"no rule .* does \(Whitespace\)"),
        (spoiled(lambda s: s.update(pre_tokenizer=None)), "no pre_tokenizer"),
        (spoiled(lambda s: s.update(normalizer={"type": "NFKC"})), r"no rule .* \(NFKC \+ Digits"),
        (spoiled(lambda s: s.update(normalizer={"type": "Lowercase"})), r"no rule .* \(Lowercase"),
        (spoiled(lambda s: s["model"].update(ignore_merges=True)), "no rule"),
        (
            spoiled(lambda s: s.update(post_processor={"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]})),
            r"adds to each text what GGUF cannot say \(BertProcessing\)",
        ),
        (lambda f: change(f, "tokenizer_config.json", eos_token="<nowhere>"), "names no eos_token .*'<nowhere>'"),
        (lambda f: change(f, "tokenizer_config.json", eos_token=None), r"names no eos_token .*\(None\)"),
    ],
)
def test_what_llama_cpp_would_cut_otherwise_is_refused(folder, tmp_path, spoil, said):
    spoil(folder)
    with pytest.raises(ValueError, match=said) as refusal:
        export(folder, tmp_path / "out", scheme="f16")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_more_ids_than_rows_is_refused(folder):
    with pytest.raises(ValueError, match="has id 1499 but the model only 1400 rows"):
        read_folder(folder, 1400)


GOOD = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<e>", "a", "b", "ab"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 0,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "llama"}, "of the kind 'llama'"),
        ({"model": None}, "of the kind None"),
        ({"pre": "tekken"}, "by the rule 'tekken'"),
        ({"pre": ["smollm"]}, r"by the rule \['smollm'\]"),
        ({"tokens": []}, "lacks tokens, token types or merges"),
        ({"merges": None}, "lacks tokens, token types or merges"),
        ({"token_type": [3, 1, 1]}, "lacks tokens, token types or merges"),
        ({"tokens": ["<e>", "a", "b", "b"], "merges": []}, "has 1 tokens twice"),
        ({"tokens": [1, 2, 3, 4]}, "tokens or merges that are no texts"),
        ({"merges": ["a b", "a c"]}, "merge 'a c' joins what are no tokens"),
        ({"merges": ["ab"]}, "merge 'ab' joins what are no tokens"),
        ({"eos_token_id": 4}, "names the id of eos 4 beyond its 4 tokens"),
        ({"eos_token_id": -1}, "names the id of eos -1 beyond its 4 tokens"),
        ({"eos_token_id": "a"}, "names the id of eos 'a' beyond its 4 tokens"),
    ],
)
def test_metadata_that_cannot_be_a_tokenizer_is_refused(changes, said):
    assert read_metadata(GOOD).ids == {"eos": 0}
    with pytest.raises(ValueError, match=said):
        read_metadata(GOOD | {f"tokenizer.ggml.{key}": value for key, value in changes.items()})
