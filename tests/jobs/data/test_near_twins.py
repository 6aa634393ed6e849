"""Near-twins against scikit-learn's exact TF-IDF cosines and a plain union-find."""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from deshi.jobs.data.near_twins import normalise, sketch, twin_groups, twins_across

STEMS = [
    "the parcel went to {} on {}",
    "{} asked when {} will open",
    "{} の支店は {} にありますか",
    "refund {} for {}",
]


def _texts(count: int = 120) -> list[str]:
    rng = np.random.default_rng(1)
    names = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyzあいうえおかきくけこ"), 9)) for _ in range(40)]
    return [STEMS[rng.integers(4)].format(*rng.choice(names, 2)) for _ in range(count)]


def test_the_sketch_estimates_the_exact_cosine():
    texts = _texts()
    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=(3, 3),
        sublinear_tf=True,
        preprocessor=lambda text: f" {normalise(text)} ",
    )
    exact = vectorizer.fit_transform(texts)
    exact = (exact @ exact.T).toarray()
    vectors = sketch(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    error = (vectors @ vectors.T - exact)[np.triu_indices(len(texts), 1)]
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.04
    order = np.random.default_rng(5).permutation(len(texts))  # what stands beside a text does not matter
    np.testing.assert_allclose(sketch([texts[at] for at in order]), vectors[order], atol=1e-6)


def test_groups_are_the_chains_of_pairs():
    rng = np.random.default_rng(2)
    base = rng.normal(size=(700, 64)).astype(np.float32)  # more rows than one block
    base[650] = base[3] + 0.3 * rng.normal(size=64)
    base[10] = base[650] + 0.3 * rng.normal(size=64)
    vectors = base / np.linalg.norm(base, axis=1, keepdims=True)
    parent = list(range(700))

    def root(at):
        return at if parent[at] == at else root(parent[at])

    for left, right in zip(*np.nonzero(vectors @ vectors.T >= 0.9), strict=True):
        parent[root(left)] = root(right)
    expected = np.array([root(at) for at in range(700)])
    groups = twin_groups(vectors)
    assert len(set(groups)) == len(set(expected)) == 698
    assert groups[3] == groups[650] == groups[10]
    np.testing.assert_array_equal(twins_across(vectors[:20], vectors[650:]), np.isin(np.arange(20), [3, 10]))
    assert not twins_across(vectors, vectors[:0]).any()


def test_normalised_forms():
    assert normalise("  Ｈｅｌｌｏ　 WORLD\n") == "hello world"
    assert normalise("ｶﾞ") == "ガ"


def test_long_texts_that_differ_in_the_middle_or_the_end_are_no_twins():
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 7)) for _ in range(3000)]
    head = " ".join(words[:60])
    bodies = [" ".join(rng.choice(words, 3000)) for _ in range(4)]
    texts = [f"{head} {body}" for body in bodies] + [f"{head} {bodies[0]} ok"]
    groups = twin_groups(sketch(texts))
    assert len(set(groups)) == 4
    assert groups[0] == groups[4]
