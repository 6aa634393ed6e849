"""Near-twins: texts that say almost the same, by the cosine of their character 3-gram TF-IDF vectors.

Character n-grams need no words, so Japanese works like English. Counting is vectorised over code points, and
the vectors are folded into 1,024 dimensions by a count sketch (Charikar et al. 2002; an unbiased estimate of
the cosine, standard deviation about (1 - c^2) / 32 = 0.006 at c = 0.9), so that the time does not depend on
how alike the texts are: n texts take n x n x 1,024 multiply-adds in blocks, and n x 4 KB of memory. Of a long
text the first, middle and last 500 characters are compared.

`sketch` -> float32 [n, 1024] of unit rows; `twin_groups` -> int64 [n]; `twins_across` -> bool [m].
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

THRESHOLD = 0.9
WINDOW = 500  # characters
DIMENSIONS = 1024
FEATURE_BITS = 18
BLOCK = 512  # rows compared at a time
CHUNK = 2048  # texts counted at a time


def normalise(text: str) -> str:
    """The form in which two texts are the same: NFKC, case folded, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def sketch(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors whose dot products estimate TF-IDF cosines; the IDF is taken over these texts together."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfTransformer

    counts = sparse.vstack([_counts(texts[at : at + CHUNK]) for at in range(0, len(texts), CHUNK)], format="csr")
    weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    rng = np.random.default_rng(20)  # the same fold for every corpus
    features = counts.shape[1]
    signs = rng.choice(np.array([-1, 1], np.float32), features)
    buckets = rng.integers(0, DIMENSIONS, features)
    fold = sparse.csr_matrix((signs, (np.arange(features), buckets)), shape=(features, DIMENSIONS))
    vectors: np.ndarray = (weights @ fold).toarray().astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))


def twin_groups(vectors: np.ndarray) -> np.ndarray:
    """The group of each row: rows joined by a chain of near-twins have the same number."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    count = len(vectors)
    groups = np.arange(count)
    for start in range(0, count, BLOCK):
        close = vectors[start : start + BLOCK] @ vectors[start:].T >= THRESHOLD
        left, right = np.nonzero(close)
        edges = (np.ones(len(left), bool), (groups[left + start], groups[right + start]))
        joined = connected_components(sparse.coo_matrix(edges, shape=(count, count)), directed=False)[1]
        groups = joined[groups]
    return groups


def twins_across(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which rows of `vectors` have a near-twin in `others`."""
    found = np.zeros(len(vectors), bool)
    if len(others) == 0:
        return found
    for start in range(0, len(vectors), BLOCK):
        found[start : start + BLOCK] = (vectors[start : start + BLOCK] @ others.T).max(axis=1) >= THRESHOLD
    return found


def _counts(texts: Sequence[str]) -> Any:
    """Counts of hashed character 3-grams, CSR float32 [len(texts), 2^18]."""
    from scipy import sparse

    padded = [f" {normalise(_windows(text))} " for text in texts]
    lengths = np.array([len(text) for text in padded])
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    mixed = (codes[:-2] * np.uint64(0x9E3779B1) + codes[1:-1]) * np.uint64(0x85EBCA77) + codes[2:]
    features = ((mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - FEATURE_BITS)).astype(np.int32)
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    inside = owner[:-2] == owner[2:]  # a 3-gram may not run from one text into the next
    ones = np.ones(int(inside.sum()), np.float32)
    matrix = sparse.csr_matrix((ones, (owner[:-2][inside], features[inside])), shape=(len(texts), 1 << FEATURE_BITS))
    matrix.sum_duplicates()
    return matrix


def _windows(text: str) -> str:
    if len(text) <= 3 * WINDOW:
        return text
    middle = (len(text) - WINDOW) // 2
    return f"{text[:WINDOW]} {text[middle : middle + WINDOW]} {text[-WINDOW:]}"
