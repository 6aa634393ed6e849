"""Vocabulary pruning on trained WordPiece, byte-level BPE and Unigram tokenizers: same cut, same logits."""

import json
import random
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from deshi.jobs.stages import vocabulary

TEXT = """
what is the capital of japan where does the tower stand who wrote the longest novel how many people live in
tokyo when did the war begin which animal sleeps longest why is the sky blue name a river in africa
東京の人口は何人ですか 日本の首都はどこですか 最も長い川の名前は何ですか 富士山の高さを教えてください
"""
BASE = TEXT.split()
SHAPE = {"num_labels": 3, "max_position_embeddings": 300}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def sentences(count, words, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(3, 9))) for _ in range(count)]


def bert(corpus):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=500, special_tokens=specials))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(piece, tokenizer.token_to_id(piece)) for piece in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names), "BertTokenizer"


def roberta(corpus):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), specials, strict=True))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **names)
    return wrapped, "RobertaTokenizer"


def xlm_roberta(corpus):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        corpus, trainers.UnigramTrainer(vocab_size=400, special_tokens=specials, unk_token="<unk>")
    )
    tokenizer.add_special_tokens(["<mask>"])  # outside the model's own vocabulary, as in XLM-R
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", mask_token="<mask>", **names
    )
    return wrapped, "PreTrainedTokenizerFast"


KINDS = {"bert": bert, "roberta": roberta, "xlm-roberta": xlm_roberta}
TYPES = {"bert": "WordPiece", "roberta": "BPE", "xlm-roberta": "Unigram"}


@pytest.fixture(scope="module", params=sorted(KINDS))
def teacher(request, tmp_path_factory):
    """A random classifier with a tokenizer trained on all words; every embedding row differs."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer, stock = KINDS[request.param](sentences(400, BASE, 0))
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": stock}))
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = AutoConfig.for_model(request.param, vocab_size=len(tokenizer) + 3, **SHAPE, **SIZES, **ids)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.base_model.embeddings.word_embeddings.weight.normal_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned")
    return out, vocabulary.prune_vocabulary(teacher, out, sentences(60, BASE[:20] + BASE[-2:], 1))


def answer(folder, texts):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoded = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**encoded).logits


def test_texts_of_kept_pieces_get_the_same_logits(teacher, pruned):
    out, kept = pruned
    old = AutoTokenizer.from_pretrained(teacher)
    all_kept = set(kept.old_ids)
    texts = [text for text in sentences(300, BASE, 2) if set(old(text)["input_ids"]) <= all_kept]
    texts += [*sentences(40, BASE[:20], 3), "the is of", "a"]
    assert len(texts) > 42  # some hold words that were not in the pruning text
    torch.testing.assert_close(answer(out, texts), answer(teacher, texts), atol=1e-6, rtol=1e-6)
    assert len(kept.old_ids) < kept.size_before * 0.9


def test_rows_and_ids_follow_the_pieces(teacher, pruned):
    out, kept = pruned
    old, new = AutoTokenizer.from_pretrained(teacher), AutoTokenizer.from_pretrained(out)
    assert sorted(new.get_vocab().values()) == list(range(len(kept.old_ids)))
    assert {piece: kept.old_ids[place] for piece, place in new.get_vocab().items()}.items() <= old.get_vocab().items()
    assert new.all_special_tokens == old.all_special_tokens
    config = AutoConfig.from_pretrained(out)
    assert config.vocab_size == len(kept.old_ids)
    assert config.pad_token_id == new.pad_token_id
    before, after = (
        AutoModelForSequenceClassification.from_pretrained(folder).get_input_embeddings().weight
        for folder in (teacher, out)
    )
    assert torch.equal(after, before[list(kept.old_ids)])


def test_every_piece_that_was_asked_for_stays(teacher, pruned):
    out, _ = pruned
    old, new = AutoTokenizer.from_pretrained(teacher), AutoTokenizer.from_pretrained(out)
    pieces = new.get_vocab()
    for text in sentences(60, BASE[:20] + BASE[-2:], 1):
        assert [piece for piece in old.tokenize(text) if piece not in pieces] == []
        assert new.tokenize(text) == old.tokenize(text)
    single = {piece for piece in old.get_vocab() if len(piece.removeprefix("##")) == 1}
    assert single <= pieces.keys()


def test_raw_tokenizers_and_stock_transformers_load_the_same(pruned):
    out, _ = pruned
    raw, stock = Tokenizer.from_file(str(out / "tokenizer.json")), AutoTokenizer.from_pretrained(out)
    texts = [*sentences(50, BASE, 4), "ZZZ unseen ☃ words", "", "北海道"]
    assert [encoding.ids for encoding in raw.encode_batch(texts)] == stock(texts)["input_ids"]


def test_unseen_text_is_answered(pruned):
    out, _ = pruned
    logits = answer(out, ["☃ completely Unseen wörds 北海道!", "", "x" * 200, "\n\t", "[MASK] <mask> </s>"])
    assert bool(torch.isfinite(logits).all())


def test_unknown_token_rate(teacher, pruned):
    out, _ = pruned
    kind = json.loads((out / "tokenizer.json").read_text())["model"]["type"]
    unknown, total = vocabulary.unknown_token_rate(out / "tokenizer.json", ["the sky ☃ is", "☃"])
    assert unknown == {"WordPiece": 2, "BPE": 0, "Unigram": 2}[kind]
    assert total > unknown
    assert vocabulary.unknown_token_rate(out / "tokenizer.json", sentences(9, BASE[:20], 5))[0] == 0


def test_vocabulary_files_of_the_old_tokenizer_are_gone(teacher, pruned):
    out, kept = pruned
    names = {path.name for path in out.iterdir()}
    assert not names & {"vocab.json", "merges.txt", "sentencepiece.bpe.model", "added_tokens.json"}
    if "vocab.txt" in names:
        assert len((out / "vocab.txt").read_text(encoding="utf-8").splitlines()) == len(kept.old_ids)


def test_pruning_again_with_the_same_text_changes_nothing(pruned, tmp_path):
    out, kept = pruned
    again = vocabulary.prune_vocabulary(out, tmp_path / "again", sentences(60, BASE[:20] + BASE[-2:], 1))
    assert again.old_ids == tuple(range(len(kept.old_ids)))


def test_merges_are_closed_over_intermediates():
    merges = [["a", "b"], ["c", "d"], ["ab", "cd"], ["abcd", "e"], ["b", "c"]]
    assert vocabulary.merge_closure(merges, {"abcde"}) == {*"abcde", "ab", "cd", "abcd", "abcde"}
    assert vocabulary.merge_closure(["b c", "a bc"], {"abc"}) == {*"abc", "bc", "abc"}


def test_the_lowest_unigram_score_stays_since_it_prices_the_unknown():
    scores = [("<unk>", 0.0), ("ab", -10.0), ("cd", -10.0), ("ef", -10.0), ("bcdef", -1.0), ("zz", -50.0)]
    before = Tokenizer(models.Unigram(scores, unk_id=0))
    assert before.encode("abcdef").tokens == ["ab", "cd", "ef"]  # not an unknown "a" (-60), then "bcdef"
    state, old_ids = vocabulary.prune_tokenizer(json.loads(before.to_str()), {"ab", "cd", "ef", "bcdef"})
    assert Tokenizer.from_str(json.dumps(state)).encode("abcdef").tokens == ["ab", "cd", "ef"]
    assert old_ids == [0, 1, 2, 3, 4, 5] and state["model"]["unk_id"] == 0


def test_other_kinds_of_tokenizer_are_refused(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match="tokenizer model 'WordLevel' cannot be pruned; only WordPiece, BPE, Unigram"):
        vocabulary.prune_tokenizer(json.loads(tokenizer.to_str()), {"a"})
    affixed = Tokenizer(models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(ValueError, match="'BPE' with the affix '</w>'"):
        vocabulary.prune_tokenizer(json.loads(affixed.to_str()), {"a"})


def test_too_few_embeddings_are_refused(teacher, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(teacher, folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.resize_token_embeddings(50)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="only 50 embeddings"):
        vocabulary.prune_vocabulary(folder, tmp_path / "out", BASE)
    assert not (tmp_path / "out").exists()
