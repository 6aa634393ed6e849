"""Losses through the head against the whole table in float64: formulas written out in torch, gradients by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deshi.kernels import through_head
from deshi.kernels.kd_loss import TeacherHead, TopK, kd_loss
from deshi.kernels.through_head import sequence_cross_entropy

N, V, D, DT, K = 23, 41, 6, 9, 5
KINDS = ("online", "cached", "cross-entropy")
SETTINGS = [
    ("forward_kl", 0.5),
    ("reverse_kl", 0.5),
    ("jsd", 0.3),
    ("jsd", 0.0),
    ("jsd", 1.0),
    ("skew_kl", 0.1),
    ("skew_kl", 0.0),
]


def online_loss(h, w, ht, wt, *, loss, **settings):
    return kd_loss(h, w, TeacherHead(ht, wt), kind=loss, **settings)


def topk_loss(h, w, ids, log_probs, log_tail, *, loss, **settings):
    return kd_loss(h, w, TopK(ids, log_probs, log_tail), kind=loss, **settings)


@pytest.fixture(autouse=True)
def ragged_chunks(monkeypatch):
    """Chunks of 5 tokens and blocks of 2, which divide neither 23 nor each other; a test may choose others."""
    monkeypatch.setitem(through_head.CHUNK, "cpu", 5 * V + 3)
    monkeypatch.setitem(through_head.BLOCK, "cpu", 2 * V + 7)


def draw(*shape: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def student(dtype: torch.dtype = torch.float64, n: int = N) -> tuple[Tensor, Tensor]:
    return draw(n, D, seed=0, dtype=dtype).requires_grad_(), draw(V, D, seed=1, dtype=dtype).requires_grad_()


def teacher(dtype: torch.dtype = torch.float64, n: int = N) -> tuple[Tensor, Tensor]:
    return draw(n, DT, seed=2, dtype=dtype), draw(V, DT, seed=3, dtype=dtype)


def labels(n: int = N) -> Tensor:
    return torch.randint(0, V, (n,), generator=torch.Generator().manual_seed(4))


def by_hand(name: str, p: Tensor, q: Tensor, alpha: float) -> Tensor:
    """The divergence of probabilities [n, k], mean over rows, straight from its formula."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a / b).log()).sum(-1).mean()

    if name == "forward_kl" or (alpha == 0 and name in ("jsd", "skew_kl")):
        return kl(p, q)
    if name == "reverse_kl" or (name == "jsd" and alpha == 1):
        return kl(q, p)
    mixture = alpha * p + (1 - alpha) * q
    if name == "skew_kl":
        return kl(p, mixture)
    return alpha * kl(p, mixture) + (1 - alpha) * kl(q, mixture)


def softened(logits: Tensor, temperature: float) -> Tensor:
    scaled = (logits / temperature).exp()
    return scaled / scaled.sum(-1, keepdim=True)


def hand_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -softened(logits, 1.0)[torch.arange(len(targets)), targets].log().mean()


def assert_agree(got: Tensor, expected: Tensor, leaves: tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    """The values, and the gradients in all leaves. Scaled, since a trained loss is rarely the root itself."""
    assert got.item() == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)
    ours = torch.autograd.grad(2.5 * got, leaves)
    hands = torch.autograd.grad(2.5 * expected, leaves)
    for mine, hand in zip(ours, hands, strict=True):
        torch.testing.assert_close(mine, hand, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "alpha"), SETTINGS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("ce_weight", [0.0, 0.7])
def test_an_online_teacher(name, alpha, temperature, ce_weight):
    (h, w), (ht, wt), targets = student(), teacher(), labels()
    got = online_loss(
        h,
        w,
        ht,
        wt,
        loss=name,
        temperature=temperature,
        alpha=alpha,
        labels=targets,
        distil_weight=0.4,
        ce_weight=ce_weight,
    )
    divergence = temperature**2 * by_hand(name, softened(ht @ wt.T, temperature), softened(h @ w.T, temperature), alpha)
    cross_entropy = hand_cross_entropy(h @ w.T, targets)
    assert got.divergence.item() == pytest.approx(divergence.item(), rel=1e-10)
    assert got.cross_entropy.item() == pytest.approx(cross_entropy.item() if ce_weight else 0.0, rel=1e-10)
    assert_agree(got.total, 0.4 * divergence + ce_weight * cross_entropy, (h, w))


@pytest.mark.parametrize("n", [1, 4, 5, 6, 10, 23])
def test_chunks_and_blocks_leave_no_token_out(n):
    (h, w), (ht, wt), targets = student(n=n), teacher(n=n), labels(n)
    expected = by_hand("forward_kl", softened(ht @ wt.T, 1.0), softened(h @ w.T, 1.0), 0.0)
    got = online_loss(h, w, ht, wt, loss="forward_kl", temperature=1.0, alpha=0.0)
    assert_agree(got.total, expected, (h, w))
    assert_agree(sequence_cross_entropy(h, w, targets), hand_cross_entropy(h @ w.T, targets), (h, w))


def test_tied_embeddings_get_both_gradients():
    """The head is the embedding too, so hidden states depend on it; the gradient is the sum of both ways."""
    _, w = student()
    tokens, targets = labels(), labels().roll(1)
    ours, hands = (torch.tanh(w[tokens] @ draw(D, D, seed=7)) for _ in range(2))
    assert_agree(sequence_cross_entropy(ours, w, targets), hand_cross_entropy(hands @ w.T, targets), (w,))


def cached(k: int, seed: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The teacher's probabilities [n, v] and its answers: ids, log-probabilities, log tail."""
    ht, wt = teacher()
    p = softened(ht @ wt.T, 1.0)
    top = p.topk(k)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    tail = (1 - top.values.sum(-1)).clamp(min=0)
    return p, top.indices[:, order], top.values[:, order].log(), tail.log()


def bucketed(p: Tensor, ids: Tensor) -> Tensor:
    """Probabilities [n, v] as [n, k + 1]: the listed, and the sum of the rest."""
    rest = torch.ones_like(p).scatter(1, ids, 0.0)
    return torch.cat([p.gather(1, ids), (p * rest).sum(-1, keepdim=True)], dim=1)


@pytest.mark.parametrize(("name", "alpha"), SETTINGS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("ce_weight", [0.0, 0.7])
def test_cached_answers(name, alpha, temperature, ce_weight):
    (h, w), targets = student(), labels()
    p, ids, log_probs, log_tail = cached(K)
    # Some labels are listed and some are not: both kinds of gradient are met.
    targets[::2] = ids[::2, 1]
    assert 0 < (ids == targets[:, None]).any(-1).sum() < N
    got = topk_loss(
        h,
        w,
        ids.to(torch.uint16),
        log_probs,
        log_tail,
        loss=name,
        temperature=temperature,
        alpha=alpha,
        labels=targets,
        distil_weight=0.4,
        ce_weight=ce_weight,
    )
    # Softened over the k + 1 outcomes, as documented: p^(1/T), normalised.
    sides = (bucketed(p, ids), bucketed(softened(h @ w.T, 1.0), ids))
    p_t, q_t = (softened(side.log(), temperature) for side in sides)
    divergence = temperature**2 * by_hand(name, p_t, q_t, alpha)
    assert got.divergence.item() == pytest.approx(divergence.item(), rel=1e-10)
    assert_agree(got.total, 0.4 * divergence + ce_weight * hand_cross_entropy(h @ w.T, targets), (h, w))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_all_answers_listed_are_the_whole_vocabulary(temperature):
    """With k = v nothing is left for the tail, whatever rounding says its mass is, and any temperature is exact."""
    (h, w), (ht, wt) = student(), teacher()
    _, ids, log_probs, log_tail = cached(V)
    got = topk_loss(h, w, ids, log_probs, log_tail, loss="forward_kl", temperature=temperature, alpha=0.0)
    whole = online_loss(h, w, ht, wt, loss="forward_kl", temperature=temperature, alpha=0.0)
    assert_agree(got.total, whole.total, (h, w))
    expected = temperature**2 * by_hand(
        "forward_kl", softened(ht @ wt.T, temperature), softened(h @ w.T, temperature), 0.0
    )
    assert got.total.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skew_kl"])
def test_a_sure_student_and_an_empty_tail_stay_finite(name):
    """The student puts e^-60 on the tail, which 1 - sum would call 0; the teacher's tail was rounded to nothing."""
    w = torch.eye(4, requires_grad=True)
    h = torch.tensor([[60.0, 0.0, 0.0, 0.0]], requires_grad=True)
    answers = torch.tensor([[0, 1]]), torch.log(torch.tensor([[0.75, 0.25]])), torch.tensor([-torch.inf])
    got = topk_loss(h, w, *answers, loss=name, temperature=1.0, alpha=0.5)
    got.total.backward()
    assert torch.isfinite(got.total) and torch.isfinite(h.grad).all() and torch.isfinite(w.grad).all()
    if name == "forward_kl":
        assert got.total.item() == pytest.approx(-0.5623351446 + 0.25 * 60, rel=1e-6)  # 3/4 ln 3/4 + 1/4 ln 1/4 + 15


def test_answers_rounded_in_the_cache_are_normalised():
    (h, w), (_, ids, log_probs, log_tail) = student(), cached(K)
    off = topk_loss(h, w, ids, log_probs + 0.01, log_tail + 0.01, loss="forward_kl", temperature=1.0, alpha=0.0)
    exact = topk_loss(h, w, ids, log_probs, log_tail, loss="forward_kl", temperature=1.0, alpha=0.0)
    assert off.total.item() == pytest.approx(exact.total.item(), rel=1e-12)


def calls(h: Tensor, w: Tensor) -> dict[str, Callable[[], Tensor]]:
    """One loss of each kind over 1.0 KL + 0.5 cross-entropy, in the type of the student, its inputs made."""
    n = len(h)
    ht, wt = teacher(h.dtype, n)
    ids, log_probs, log_tail = (part[:n] for part in cached(K)[1:])
    at = {"loss": "forward_kl", "temperature": 1.0, "alpha": 0.0, "labels": labels(n), "ce_weight": 0.5}
    return {
        "online": lambda: online_loss(h, w, ht, wt, **at).total,
        "cached": lambda: topk_loss(h, w, ids, log_probs, log_tail, **at).total,
        "cross-entropy": lambda: sequence_cross_entropy(h, w, at["labels"]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_target_costs_nothing_and_feels_nothing(kind):
    h, w = student(n=0)
    loss = calls(h, w)[kind]()
    loss.backward()
    assert loss.item() == 0 and h.grad.shape == (0, D) and torch.equal(w.grad, torch.zeros(V, D, dtype=w.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_as_near_as_its_rounding_allows(kind):
    """Half an ulp of bfloat16 is u = 2^-8 of a number; with the same rounded inputs in float64 as the truth:

    - each logit is rounded once, by at most uL, L the largest; a log-probability moves by 2uL, so cross-entropy by
      that and KL = sum p (log p - log q) by 4uL + (e^(2uL) - 1) sum p |log p - log q|;
    - a logit's gradient is a difference of products of at most two such probabilities (the tail's mass, and its
      share); with their sum b in its place it moves by at most (e^(4uL) - 1) b; it is rounded (u), as is the chunk's
      product (u) and the sum (u). The gradients in h and W so move by at most (e^(4uL) - 1 + 3u) b|W| and b^T|h|.
    """
    h16, w16 = (0.5 * part for part in student(torch.bfloat16))
    h16, w16 = (part.detach().requires_grad_() for part in (h16, w16))
    h, w = (part.detach().double().requires_grad_() for part in (h16, w16))
    ht, wt = teacher(torch.bfloat16)
    teacher_logits = ht.double() @ wt.double().T
    p, q, one = softened(teacher_logits, 1.0), softened((h @ w.T).detach(), 1.0), torch.eye(V)[labels()].double()
    if kind == "cached":
        p, ids, _, _ = cached(K)
        listed = torch.zeros_like(p).scatter(1, ids, 1.0)
        tail_p, tail_q = ((part * (1 - listed)).sum(-1, keepdim=True) for part in (p, q))
        p = torch.where(listed.bool(), p, tail_p * q / tail_q)
    hand = {
        "online": lambda q_: by_hand("forward_kl", p, q_, 0.0) + 0.5 * hand_cross_entropy(h @ w.T, labels()),
        "cached": lambda q_: (
            by_hand("forward_kl", bucketed(p, ids), bucketed(q_, ids), 0.0)
            + 0.5 * hand_cross_entropy(h @ w.T, labels())
        ),
        "cross-entropy": lambda q_: hand_cross_entropy(h @ w.T, labels()),
    }[kind](softened(h @ w.T, 1.0))
    got = calls(h16, w16)[kind]()
    got.backward()
    hand.backward()

    u = 2.0**-8
    step = u * max((h @ w.T).abs().max().item(), teacher_logits.abs().max().item())
    gap = (p * (p / q).log().abs()).sum(-1).mean().item()
    assert got.dtype is torch.float32
    assert got.item() == pytest.approx(hand.item(), abs=5 * step + math.expm1(2 * step) * gap)
    terms = (q + one if kind == "cross-entropy" else 1.5 * q + p + 0.5 * one) / N
    factor = math.expm1(4 * step) + 3 * u
    for mine, right, bound in (
        (h16.grad, h.grad, factor * terms @ w.abs()),
        (w16.grad, w.grad, factor * terms.T @ h.abs()),
    ):
        assert mine.dtype is torch.bfloat16
        assert ((mine.double() - right).abs() <= bound).all()
        # The bound is for the worst case, which a slip could hide in; rounding errors mostly cancel.
        assert (mine.double() - right).norm() <= 4 * u * right.norm()


class Largest(TorchDispatchMode):
    """Records the most numbers that the storage of any operation's result held."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.numbers = max([self.numbers, *(t.untyped_storage().nbytes() // t.element_size() for t in made)])
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_tokens_and_vocabulary_never_exists(kind):
    """Nothing is larger than the head or a chunk, backward included; the same count catches the plain formula."""
    h, w = student(torch.float32)
    call = calls(h, w)[kind]
    allowed = max(through_head.CHUNK["cpu"], V * DT)
    assert allowed < N * V / 2
    with Largest() as seen:
        call().backward()
    assert 4 * V < seen.numbers <= allowed
    with Largest() as plain:
        hand_cross_entropy(h @ w.T, labels()).backward()
    assert plain.numbers >= N * V


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_without_gradient_makes_none(kind):
    """Evaluation pays for no gradient of the head."""
    h, w = student(torch.float32)
    call = calls(h, w)[kind]
    with torch.no_grad(), Counted(torch.ops.aten.addmm_.default) as counted:
        value = call()
    assert not value.requires_grad and counted.calls == 0
    with Counted(torch.ops.aten.addmm_.default) as counted:
        assert call().item() == value.item()
    assert counted.calls == 5


class Counted(TorchDispatchMode):
    """Counts the calls of one operation."""

    def __init__(self, operation: object) -> None:
        super().__init__()
        self.operation, self.calls = operation, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func is self.operation
        return func(*args, **(kwargs or {}))


def test_a_frozen_head_and_a_second_backward_pass():
    h, w = student()
    loss = calls(h, w.detach())["online"]()
    loss.backward(retain_graph=True)
    torch.testing.assert_close(h.grad, torch.autograd.grad(calls(h, w)["online"](), h)[0])
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_padded_rows_take_no_part():
    """Three rows more in the student's head, seven in the teacher's: as if they were not there."""
    (h, w), (ht, wt), targets = student(), teacher(), labels()
    padded = torch.cat([w.detach(), draw(3, D, seed=8)]).requires_grad_()
    at = {"loss": "jsd", "temperature": 2.0, "alpha": 0.3, "labels": targets, "ce_weight": 0.5}
    plain = online_loss(h, w, ht, wt, **at).total
    sliced = online_loss(h, padded, ht, torch.cat([wt, draw(7, DT, seed=9)]), vocabulary=V, **at).total
    answers = cached(K)[1:]
    of_cache, sliced_cache = (
        topk_loss(h, w, *answers, **at).total,
        topk_loss(h, padded, *answers, vocabulary=V, **at).total,
    )
    for mine, right in ((sliced, plain), (sliced_cache, of_cache)):
        assert mine.item() == pytest.approx(right.item(), rel=1e-12)
        (grad,) = torch.autograd.grad(mine, padded)
        torch.testing.assert_close(grad[:V], torch.autograd.grad(right, w)[0])
        assert not grad[V:].any()


def test_bad_input_is_refused():
    (h, w), (ht, wt) = student(), teacher()
    at = {"loss": "jsd", "temperature": 1.0, "alpha": 0.5}
    _, ids, log_probs, log_tail = cached(K)
    for match, call in (
        ("rows and the teacher's 40", lambda: online_loss(h, w, ht, wt[:-1], **at)),
        ("must lie in 1..40", lambda: online_loss(h, w, ht, wt[:-1], vocabulary=V, **at)),
        ("is not known", lambda: online_loss(h, w, ht, wt, **{**at, "loss": "mse"})),
        ("is not known", lambda: topk_loss(h, w, ids, log_probs, log_tail, **{**at, "loss": "mse"})),
        ("above 0", lambda: online_loss(h, w, ht, wt, **{**at, "temperature": 0.0})),
        ("above 0", lambda: topk_loss(h, w, ids, log_probs, log_tail, **{**at, "temperature": 0.0})),
        ("is a share", lambda: online_loss(h, w, ht, wt, **{**at, "alpha": 1.5})),
        ("needs labels", lambda: online_loss(h, w, ht, wt, ce_weight=0.5, **at)),
        ("one for each of 23", lambda: sequence_cross_entropy(h, w, labels(3))),
        ("one row for each", lambda: online_loss(h, w, ht[:-1], wt, **at)),
        ("of one width", lambda: sequence_cross_entropy(h, w[:, 1:], labels())),
        ("cast one", lambda: sequence_cross_entropy(h, w.float(), labels())),
        ("read the answers", lambda: topk_loss(h, w, ids, log_probs[:, 1:], log_tail, **at)),
        ("the rows of the student's head", lambda: topk_loss(h, w, ids, log_probs, log_tail, vocabulary=V + 1, **at)),
    ):
        with pytest.raises(ValueError, match=match):
            call()
