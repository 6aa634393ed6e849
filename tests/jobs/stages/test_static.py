"""The static student against the teacher's own forward pass, numpy's SVD, scikit-learn and model2vec's reader."""

import random

import numpy as np
import pytest
import torch
from model2vec import StaticModel
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from deshi.jobs.stages import static
from deshi.serve.engines.engine import TokenBatch
from deshi.serve.engines.static import load

TOPICS = [
    ["river", "lake", "sea", "ocean", "water"],
    ["king", "queen", "prince", "lady", "lord"],
    ["red", "blue", "green"],
]
COMMON = ["the", "what", "is", "of", "name"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LETTERS = [*"abcdefgh", *[f"##{letter}" for letter in "abcdefgh"]]
WORDS = [*SPECIALS, *LETTERS, *COMMON, *[word for topic in TOPICS for word in topic], "unseen"]


def texts_and_labels(count, seed):
    draw = random.Random(seed)
    labels = [draw.randrange(3) for _ in range(count)]
    return [" ".join(draw.choices(COMMON, k=3) + draw.choices(TOPICS[label], k=1)) for label in labels], labels


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIALS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model("bert", vocab_size=len(WORDS), num_labels=3, max_position_embeddings=32, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def student(teacher, tmp_path):
    texts, _ = texts_and_labels(60, 0)
    static.distill_static(teacher, tmp_path / "model", texts_for_vocabulary=texts, dimensions=12)
    return tmp_path / "model"


def teacher_says(teacher, pieces):
    encoder, tokenizer = AutoModel.from_pretrained(teacher).eval(), AutoTokenizer.from_pretrained(teacher)
    with torch.no_grad():
        return np.stack(
            [encoder(**tokenizer(piece, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for piece in pieces]
        )


def test_a_piece_is_what_the_teacher_says_of_it_alone(teacher, tmp_path):
    static.distill_static(teacher, tmp_path / "model", dimensions=24)
    model = StaticModel.from_pretrained(tmp_path / "model")
    assert list(model.tokens) == WORDS
    words = [*COMMON, *TOPICS[0], "unseen", "a"]
    ours, expected = model.encode(words), teacher_says(teacher, words)
    # All 24 components are there, so PCA only shifts and turns: the distances stay.
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (ours, expected)]
    np.testing.assert_allclose(*distances, atol=1e-5)


def test_components_are_those_of_the_singular_value_decomposition():
    vectors = np.random.default_rng(0).normal(size=(50, 10)) @ np.diag(np.arange(10, 0, -1.0))
    found = static.principal_components(vectors.astype(np.float32), 4, seed=0)
    centred = vectors - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :4] * s[:4]), atol=1e-4)


def test_only_seen_pieces_and_characters_are_kept(student):
    model = StaticModel.from_pretrained(student)
    assert "unseen" not in model.tokens
    assert set(model.tokens) == set(WORDS) - {"unseen"}
    assert model.embedding.shape == (len(WORDS) - 1, 12)
    assert Tokenizer.from_file(str(student / "tokenizer.json")).encode("the river").tokens == ["the", "river"]


def test_it_learns_from_labels_and_from_probabilities(student):
    texts, labels = texts_and_labels(300, 1)
    unseen_texts, answers = texts_and_labels(100, 2)
    soft = np.full((300, 3), 0.05)
    soft[np.arange(300), labels] = 0.9
    for targets in (np.array(labels), soft):
        static.fit_head(student, texts, targets)
        head = load_file(student / "head.safetensors")
        assert head["weight"].shape == (3, 12) and head["bias"].shape == (3,)
        assert head["weight"].dtype == head["bias"].dtype == np.float32
        logits = StaticModel.from_pretrained(student).encode(unseen_texts) @ head["weight"].T + head["bias"]
        assert (logits.argmax(axis=1) == answers).mean() > 0.95


def test_the_served_engine_says_the_same_as_model2vec(student):
    texts, labels = texts_and_labels(120, 3)
    static.fit_head(student, texts, np.array(labels))
    head = load_file(student / "head.safetensors")
    expected = StaticModel.from_pretrained(student).encode(texts[:20]) @ head["weight"].T + head["bias"]
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(texts[:20])
    batch = TokenBatch(
        input_ids=np.array([row.ids for row in rows]), attention_mask=np.array([row.attention_mask for row in rows])
    )
    found = load(student.parent / "engines" / "static-fp32", threads=1).logits(batch)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fitting_again_starts_afresh(student):
    texts, labels = texts_and_labels(120, 4)
    written = []
    for _ in range(2):
        static.fit_head(student, texts, np.array(labels), seed=1)
        written.append([(student / name).read_bytes() for name in ("model.safetensors", "head.safetensors")])
    assert written[0] == written[1]


def test_weights_silence_frequent_pieces():
    frequency = np.array([1.0, 9.0, 90.0])
    np.testing.assert_allclose(static.sif_weights(frequency, 0.01), [0.5, 0.1, 0.01 / 0.91])
    assert static.sif_weights(frequency, None).tolist() == [1, 1, 1]


def test_soft_logistic_equals_scikit_learn_on_repeated_rows():
    generator = np.random.default_rng(5)
    x, soft = generator.normal(size=(80, 6)) * np.arange(1, 7), generator.dirichlet(np.ones(4), size=80)
    weight, bias = static.soft_logistic(x, soft, 2.0)
    scale = x.std(axis=0)
    reference = LogisticRegression(C=1 / 2.0, tol=1e-8, max_iter=2000)
    reference.fit(np.repeat(x / scale, 4, axis=0), np.tile(np.arange(4), 80), sample_weight=soft.ravel())
    np.testing.assert_allclose(weight, reference.coef_ / scale, atol=1e-3)
    np.testing.assert_allclose(bias - bias.mean(), reference.intercept_ - reference.intercept_.mean(), atol=1e-3)


def test_counts():
    assert static.count_matrix([[1, 1, 3], [], [0]], 4).toarray().tolist() == [[0, 2, 0, 1], [0] * 4, [1, 0, 0, 0]]


def test_a_label_that_no_row_has_is_never_answered(student):
    texts, labels = texts_and_labels(120, 6)
    rows = [(text, label) for text, label in zip(texts, labels, strict=True) if label < 2]
    static.fit_head(student, [text for text, _ in rows], np.array([label for _, label in rows]), labels=3)
    head = load_file(student / "head.safetensors")
    logits = StaticModel.from_pretrained(student).encode(texts) @ head["weight"].T + head["bias"]
    assert head["weight"].shape == (3, 12) and not (logits.argmax(axis=1) == 2).any()


def test_refusals(teacher, student, tmp_path):
    with pytest.raises(ValueError, match="dimensions 25 must be from 1 to 24"):
        static.distill_static(teacher, tmp_path / "wide", dimensions=25)
    assert not (tmp_path / "wide").exists()
    with pytest.raises(ValueError, match="2 texts have 1 targets"):
        static.fit_head(student, ["a", "b"], np.array([0]))
    with pytest.raises(ValueError, match="name 1 label only"):
        static.fit_head(student, ["a", "b"], np.array([1, 1]))
