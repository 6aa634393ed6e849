"""A static student of the same teacher: one vector a piece, their weighted mean, and a linear head.

The method is model2vec's (Tulkens and van Dongen, 2024): every piece of the vocabulary goes through the
teacher's encoder as [CLS] piece [SEP]; the mean of its last hidden states over the three tokens, cut to its
first `dimensions` principal components, is its vector. A piece of probability p in the training text weighs a
/ (a + p) (SIF, Arora et al. 2017), or 1: weights that silence frequent pieces help topics and ruin questions,
whose "who" and "where" are frequent, so `a` is chosen on held-out rows. The folder is model2vec's own
(`StaticModel.from_pretrained` reads it), with `head.safetensors` beside it, `weight` [labels, dimensions] and
`bias` [labels]:

    logits = (mean over the tokens of weights[t] embeddings[t]) weight^T + bias
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax

from deshi.jobs.stages import vocabulary

HEAD_FILE = "head.safetensors"
BATCH = 512  # pieces a forward pass, each of about three tokens
SIF_COEFFICIENTS = (None, 1e-2, 1e-3)
PENALTIES = (100.0, 10.0)
SELECTION_ROWS = 2000
ITERATIONS = 200


def distill_static(
    teacher_folder: Path,
    out_folder: Path,
    *,
    dimensions: int | None = None,
    texts_for_vocabulary: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Writes the static model; only pieces seen in `texts_for_vocabulary`, and single characters, where it is given.

    `dimensions` defaults to 256, or to what the teacher and the vocabulary have if that is less.

    Raises:
        ValueError: if `dimensions` is more than the teacher's hidden size or the number of pieces.
    """
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    state = vocabulary.tokenizer_state(teacher_folder)
    prefix, suffix = surrounding_ids(state)
    keep = vocabulary.pieces_of(state["model"]).keys()
    if texts_for_vocabulary is not None:
        keep = vocabulary.piece_counts(state, texts_for_vocabulary).keys()
    state, old_ids = vocabulary.prune_tokenizer(state, keep)
    state |= {"post_processor": None, "truncation": None, "padding": None}

    hidden = piece_vectors(teacher_folder, old_ids, prefix, suffix)
    room = min(hidden.shape)
    if dimensions is not None and not 1 <= dimensions <= room:
        raise ValueError(f"dimensions {dimensions} must be from 1 to {room}, what this teacher and text have")
    tokenizer = Tokenizer.from_str(json.dumps(state))
    vectors = principal_components(hidden, dimensions or min(256, room), seed=seed)
    silent = [token["id"] for token in state["added_tokens"] if token["special"]]
    vectors[silent] = 0.0  # a text that spells out [SEP] says nothing with it
    out_folder.mkdir(parents=True, exist_ok=True)
    StaticModel(vectors.astype(np.float32), tokenizer, {}, max_length=None).save_pretrained(out_folder)


def fit_head(
    folder: Path, texts: Sequence[str], targets: NDArray[Any], *, seed: int = 0, labels: int | None = None
) -> None:
    """Fits the piece weights and a logistic regression on the mean vectors of `texts`, and writes both.

    `targets` are labels int [rows], or the teacher's probabilities [rows, labels]. `labels` is their number, where
    it is more than integer targets show. The SIF coefficient and the penalty are chosen on a held-out fifth.

    Raises:
        ValueError: if rows and targets differ in number, or fewer than two labels occur.
    """
    from model2vec import StaticModel
    from safetensors.numpy import save_file

    if len(texts) != len(targets):
        raise ValueError(f"{len(texts)} texts have {len(targets)} targets; give one target for each text")
    soft = targets if targets.ndim == 2 else np.eye(labels or int(targets.max()) + 1)[targets]
    if (present := int((soft.sum(axis=0) > 0).sum())) < 2:
        raise ValueError(f"the targets name {present} label only; a head needs rows of at least two labels")
    model = StaticModel.from_pretrained(folder)
    counts = count_matrix(model.tokenize(list(texts)), len(model.tokens))
    frequency = np.asarray(counts.sum(axis=0)).ravel() + 1.0
    bag = counts.multiply(1.0 / np.maximum(counts.sum(axis=1), 1.0)[:, None]).tocsr()

    def features(sif: float | None) -> NDArray[np.float64]:
        return bag @ (model.embedding * sif_weights(frequency, sif)[:, None]).astype(np.float64)

    sif, penalty = choose(features, soft, seed=seed)
    weight, bias = soft_logistic(features(sif), soft, penalty)
    weights = sif_weights(frequency, sif)
    StaticModel(
        model.embedding, model.tokenizer, {}, weights=weights.astype(np.float32), max_length=None
    ).save_pretrained(folder)
    save_file({"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}, folder / HEAD_FILE)


def choose(
    features: Callable[[float | None], NDArray[np.float64]], soft: NDArray[Any], *, seed: int
) -> tuple[float | None, float]:
    """The SIF coefficient and penalty with the least cross-entropy on a fifth of (at most 2,000) rows."""
    order = np.random.default_rng(seed).permutation(len(soft))[:SELECTION_ROWS]
    held, fitted = order[: len(order) // 5], order[len(order) // 5 :]
    if len(held) < 2 * soft.shape[1]:
        return SIF_COEFFICIENTS[0], PENALTIES[0]
    losses: dict[tuple[float | None, float], float] = {}
    for sif in SIF_COEFFICIENTS:
        rows = features(sif)
        for penalty in PENALTIES:
            weight, bias = soft_logistic(rows[fitted], soft[fitted], penalty)
            losses[sif, penalty] = -float((soft[held] * log_softmax(rows[held] @ weight.T + bias, axis=1)).sum())
    return min(losses, key=lambda pair: losses[pair])


def soft_logistic(
    features: NDArray[np.float64], soft: NDArray[Any], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight [labels, dimensions] and bias [labels] of logistic regression on label probabilities [rows, labels].

    Least cross-entropy summed over rows + penalty / 2 x |weight|^2 in units of each feature's standard deviation:
    what scikit-learn's gives for rows that are repeated once a label and weighted by its probability.
    """
    from scipy.optimize import minimize

    scale = np.maximum(features.std(axis=0), 1e-12)
    x = features / scale
    shape = (soft.shape[1], x.shape[1] + 1)
    mass = soft.sum(axis=1, keepdims=True)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = flat.reshape(shape)
        log_p = log_softmax(x @ table[:, :-1].T + table[:, -1], axis=1)
        error = mass * np.exp(log_p) - soft
        slope = np.hstack([error.T @ x + penalty * table[:, :-1], error.sum(axis=0)[:, None]])
        return float(-(soft * log_p).sum() + penalty / 2 * (table[:, :-1] ** 2).sum()), slope.ravel()

    start = np.zeros(shape[0] * shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x.reshape(shape)
    return found[:, :-1] / scale, found[:, -1]


def count_matrix(rows: Sequence[Sequence[int]], pieces: int) -> csr_array:
    """How often each piece occurs in each row, sparse [rows, pieces]."""
    ends = np.cumsum([0, *map(len, rows)])
    ids = np.fromiter((piece for row in rows for piece in row), dtype=np.int64, count=int(ends[-1]))
    return csr_array((np.ones(len(ids)), ids, ends), shape=(len(rows), pieces))


def surrounding_ids(state: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """The special ids that the tokenizer puts before and after a text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.no_padding()
    encoding = tokenizer.encode("a")
    own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    if not own:
        return [], []
    return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]


def piece_vectors(folder: Path, ids: Sequence[int], prefix: list[int], suffix: list[int]) -> NDArray[np.float32]:
    """Mean last hidden state of [prefix, id, suffix] for each id, float32 [pieces, hidden]."""
    import torch
    from transformers import AutoModel

    load = AutoModel.from_pretrained
    encoder = load(folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True).eval()
    rows = torch.tensor([[*prefix, piece, *suffix] for piece in ids])
    with torch.inference_mode():
        means = [
            encoder(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state.mean(dim=1)
            for batch in rows.split(BATCH)
        ]
    return torch.cat(means).numpy()


def principal_components(vectors: NDArray[np.float32], dimensions: int, *, seed: int) -> NDArray[np.float64]:
    """The vectors, centred, in their first principal components, float64 [pieces, dimensions]."""
    from sklearn.decomposition import PCA

    reduce = PCA(n_components=dimensions, svd_solver="covariance_eigh", random_state=seed)
    return reduce.fit_transform(vectors.astype(np.float64))


def sif_weights(frequency: NDArray[Any], coefficient: float | None) -> NDArray[np.float64]:
    """a / (a + p) for each piece of that frequency; 1 where there is no coefficient."""
    if coefficient is None:
        return np.ones(len(frequency))
    return coefficient / (coefficient + frequency / frequency.sum())
