"""Vocabulary pruning of language models: same pieces, same logits of what stays, any text still exact."""

import json
import random
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from deshi.jobs.stages.vocabulary_lm import prune_lm_vocabulary

SENTENCES = """
what is the capital of japan where does the tower stand who wrote the longest novel how many people live in tokyo
when did the war begin which animal sleeps longest why is the sky blue 東京の人口は何人ですか 日本の首都は naïve 123
"""
WORDS = SENTENCES.split()
ODD = ["☃ completely Unseen wörds 北海道!", "", "x" * 200, "\n\t  two  spaces ", "a\x00b", "🧑‍🚀 é", "<|im_end|> the"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]


def texts(count, words, seed):
    draw = random.Random(seed)
    said = [" ".join(draw.choices(words, k=draw.randint(3, 9))) for _ in range(count)]
    return [f"<|im_start|>user\n{line}<|im_end|>\n<|im_start|>assistant\n{line[::-1]}<|im_end|>\n" for line in said]


def byte_level():
    """As SmolLM2 and Qwen2 cut: bytes written as letters, digits one by one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(400, WORDS, 0), trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer.add_special_tokens(["<tool>"])  # outside the model's own vocabulary
    return tokenizer


def byte_fallback():
    """As Llama 2 and Mistral cut: characters, and <0x..> pieces for those that have none."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    plain = [text.replace("<|im_start|>", "").replace("<|im_end|>", "") for text in texts(400, WORDS, 0)]
    trained.train_from_iterator(plain, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"]))
    state = json.loads(trained.to_str())["model"]
    pieces += [piece for piece in state["vocab"] if piece != "<unk>"]
    merges = [tuple(merge) for merge in state["merges"]]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([*SPECIAL, "<tool>"])
    start = tokenizer.token_to_id("<|im_start|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    return tokenizer


KINDS = {"byte_level": (byte_level, True), "byte_fallback": (byte_fallback, False)}


@pytest.fixture(scope="module", params=sorted(KINDS))
def teacher(request, tmp_path_factory):
    """A random model whose embedding has three rows more than the tokenizer has pieces."""
    place = tmp_path_factory.mktemp(request.param)
    make, tied = KINDS[request.param]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=make(), unk_token="<unk>", bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|im_end|>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    fast.save_pretrained(place)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(fast) + 3, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, max_position_embeddings=512,
        bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(place)
    ends = [fast.eos_token_id, fast.convert_tokens_to_ids("<tool>")]
    GenerationConfig(
        eos_token_id=ends, pad_token_id=fast.pad_token_id, temperature=0.5, do_sample=True
    ).save_pretrained(place)
    return place


TRAINING = texts(60, WORDS[:14], 1)


@pytest.fixture(scope="module")
def pruned(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned")
    return out, prune_lm_vocabulary(teacher, out, TRAINING)


def both(teacher, pruned):
    return AutoTokenizer.from_pretrained(teacher), AutoTokenizer.from_pretrained(pruned[0])


def test_training_text_is_cut_into_the_same_pieces(teacher, pruned):
    old, new = both(teacher, pruned)
    for text in TRAINING:
        assert new.tokenize(text) == old.tokenize(text)
        assert [pruned[1].old_ids[piece] for piece in new(text)["input_ids"]] == old(text)["input_ids"]
    assert len(pruned[1].old_ids) < 0.85 * pruned[1].size_before


def test_any_text_is_encoded_and_decoded_exactly(teacher, pruned):
    old, new = both(teacher, pruned)
    for text in [*ODD, *texts(40, WORDS, 2)]:
        ids = new(text, add_special_tokens=False)["input_ids"]
        assert new.decode(ids) == old.decode(old(text, add_special_tokens=False)["input_ids"]) == text
        assert new.unk_token_id not in ids
    raw = Tokenizer.from_file(str(pruned[0] / "tokenizer.json"))
    assert [encoding.ids for encoding in raw.encode_batch(ODD)] == new(ODD)["input_ids"]


def test_bytes_and_special_tokens_stay_and_ids_follow(teacher, pruned):
    old, new = both(teacher, pruned)
    pieces = new.get_vocab()
    assert sorted(pieces.values()) == list(range(len(pruned[1].old_ids)))
    assert {piece: pruned[1].old_ids[place] for piece, place in pieces.items()}.items() <= old.get_vocab().items()
    assert {piece for piece in old.get_vocab() if len(piece) == 1 or piece.startswith("<")} <= pieces.keys()
    config = AutoConfig.from_pretrained(pruned[0])
    assert config.vocab_size == len(pieces) == len(new)
    for name in ("bos", "eos", "pad"):
        assert (
            getattr(config, f"{name}_token_id")
            == getattr(new, f"{name}_token_id")
            == pieces[getattr(old, f"{name}_token")]
        )
    generation = GenerationConfig.from_pretrained(pruned[0])
    assert generation.eos_token_id == [pieces["<|im_end|>"], pieces["<tool>"]]
    assert generation.pad_token_id == pieces["<|im_end|>"] and generation.temperature == 0.5


def test_kept_pieces_have_the_same_logits(teacher, pruned):
    old, new = both(teacher, pruned)
    model, small = (AutoModelForCausalLM.from_pretrained(place) for place in (teacher, pruned[0]))
    with torch.no_grad():
        for text in TRAINING[:5]:
            before = model(**old(text, return_tensors="pt")).logits[..., list(pruned[1].old_ids)]
            torch.testing.assert_close(small(**new(text, return_tensors="pt")).logits, before, atol=1e-5, rtol=1e-5)


def test_greedy_answers_are_those_of_the_old_model_held_to_the_kept_pieces(teacher, pruned):
    old, new = both(teacher, pruned)
    model, small = (AutoModelForCausalLM.from_pretrained(place) for place in (teacher, pruned[0]))
    gone = sorted(set(range(pruned[1].size_before)) - set(pruned[1].old_ids))
    messages = [{"role": "user", "content": " ".join(WORDS[:5])}]
    asked = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    greedy = {"do_sample": False, "max_new_tokens": 12}
    before = model.generate(**old.apply_chat_template(messages, **asked), suppress_tokens=gone, **greedy)
    after = small.generate(**new.apply_chat_template(messages, **asked), **greedy)
    assert new.decode(after[0]) == old.decode(before[0])
    assert [pruned[1].old_ids[piece] for piece in after[0]] == before[0].tolist()


def test_pruning_again_changes_nothing(pruned, tmp_path):
    again = prune_lm_vocabulary(pruned[0], tmp_path / "again", TRAINING)
    assert again.old_ids == tuple(range(len(pruned[1].old_ids)))


def test_refusals(teacher, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(teacher, folder)
    place = folder / "generation_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "suppress_tokens": [5]}))
    with pytest.raises(ValueError, match="names token ids in 'suppress_tokens'"):
        prune_lm_vocabulary(folder, tmp_path / "out", TRAINING)
    place.unlink()
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.bos_token_id = model.config.eos_token_id = model.config.pad_token_id = 0
    model.resize_token_embeddings(50)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="only 50 embeddings"):
        prune_lm_vocabulary(folder, tmp_path / "out", TRAINING)
    assert not (tmp_path / "out").exists()
