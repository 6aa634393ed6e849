"""Distillation losses and their gradients against float64: formulas written out row by row, gradients by autograd."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from deshi.kernels import divergence_gradient, through_head, topk_gradient
from deshi.kernels.divergence_gradient import divergence_gradient_, run_divergence
from deshi.kernels.kd_loss import TeacherHead, TopK, kd_loss
from deshi.kernels.topk_gradient import run_topk, topk_gradient_
from deshi.kernels.tuning import Config

# numpy, the interpreter's processor, speaks of what a device does in silence: -inf less itself.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
U = 2**-24
EPS = {torch.bfloat16: 2**-7, torch.float16: 2**-11, torch.float32: 2**-23}  # the interpreter cuts to bfloat16
EACH = ["forward_kl", "reverse_kl", "jsd", "skew_kl"]
KINDS = [*((kind, 0.3) for kind in EACH), ("jsd", 0.0), ("jsd", 1.0), ("skew_kl", 0.0)]
WEIGHTS = {"distil_weight": 0.7, "ce_weight": 0.4}


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def config(block=16):
    return Config(rows=None, warps=4, block_n=block)


def kl(log_a, log_b):
    """KL of one row. Where a is 0 nothing is added."""
    there = log_a.exp() > 0
    return (log_a.exp() * (log_a - log_b))[there].sum()


def divergence(kind, log_p, log_q, alpha):
    """Of one row, straight from its formula."""
    if kind == "reverse_kl" or (kind == "jsd" and alpha == 1):
        return kl(log_q, log_p)
    if kind == "forward_kl" or alpha == 0:
        return kl(log_p, log_q)
    log_m = torch.logaddexp(log_p + math.log(alpha), log_q + math.log(1 - alpha))
    return kl(log_p, log_m) if kind == "skew_kl" else alpha * kl(log_p, log_m) + (1 - alpha) * kl(log_q, log_m)


def cross_entropy(x, label):
    return x.logsumexp(-1) - x[label] if label >= 0 else 0.0 * x[0]


def by_hand(x, teacher, labels, kind, temperature, alpha, outcomes=lambda row, x: x):
    """D T^2 and cross-entropy of each row, and the gradient of their weighted sum in x."""
    leaf = x.double().requires_grad_()
    rows = []
    for row, one in enumerate(leaf):
        log_q, log_p = ((side / temperature).log_softmax(-1) for side in (outcomes(row, one), teacher[row].double()))
        rows.append([temperature**2 * divergence(kind, log_p, log_q, alpha), cross_entropy(one, int(labels[row]))])
    values = torch.stack([torch.stack(row) for row in rows])
    (values @ torch.tensor(list(WEIGHTS.values()), dtype=torch.float64)).sum().backward()
    return values.detach(), leaf.grad


def off(log, size, block):
    """e(l) of online_softmax.py."""
    return U * (6 * size / block + 6 + 5 * math.log(size) + 32 + 6 * torch.where(log > -math.inf, log, 0).abs())


def bounds(log_q, log_p, kind, temperature, alpha, error):
    """What divergence_gradient.py allows for the divergences and for the distillation's part of the gradient."""
    q, p, e_q, e_p = log_q.exp(), log_p.exp(), error(log_q), error(log_p)
    both = e_q + e_p

    def terms(w, log_w, log_b):
        return torch.where(w > 0, w * (2 * error(log_w) * (log_w - log_b).abs() + both), 0).sum(-1)

    edge = {("jsd", 0): "forward_kl", ("jsd", 1): "reverse_kl", ("skew_kl", 0): "forward_kl"}
    kind = edge.get((kind, alpha), kind)
    if kind == "forward_kl":
        of_value, q_f, q_df = terms(p, log_p, log_q), p, p * e_p
    elif kind == "reverse_kl":
        of_value = terms(q, log_q, log_p)
        q_f = torch.where(q > 0, q * (log_q - log_p), 0)
        q_df = q * both
    else:
        log_m = torch.logaddexp(log_p + math.log(alpha), log_q + math.log(1 - alpha))
        of_value = terms(p, log_p, log_m)
        q_f = torch.where(q > 0, (1 - alpha) * q * (log_p - log_m).exp(), 0)
        q_df = q_f * both
        if kind == "jsd":
            of_value = alpha * of_value + (1 - alpha) * terms(q, log_q, log_m)
            q_f = torch.where(q > 0, (1 - alpha) * q * (log_q - log_m), 0)
            q_df = q * both
    b = 2 * e_q * (q_f.abs() + q * q_f.sum(-1, keepdim=True).abs()) + q_df
    slopes = WEIGHTS["distil_weight"] * temperature * (b + q * b.sum(-1, keepdim=True))
    return temperature**2 * of_value, slopes


def hold(got, values, exact_values, exact, bound_values, bound):
    """Each number within its own bound."""
    for mine, right, allowed in (
        (values, exact_values, bound_values),
        (got, exact, bound + EPS[got.dtype] * (exact.abs() + torch.finfo(got.dtype).smallest_normal)),
    ):
        error = (mine.double().cpu() - right).abs()
        assert (error <= allowed + 1e-30).all(), f"{(error / (allowed + 1e-30)).max():.2f} times the stated bound"


def some_labels(count, size):
    labels = torch.randint(0, size, (count,), generator=torch.Generator().manual_seed(3))
    labels[1::3] = -100
    return labels


SETTINGS = {
    "rows": st.integers(1, 3),
    "size": st.integers(1, 100),
    "setting": st.sampled_from(KINDS),
    "temperature": st.sampled_from([1.0, 2.0, 0.5]),
    "dtype": st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    "block": st.sampled_from([16, 32, 64]),
    "scale": st.sampled_from([0.0, 1.0, 10.0, 1e4]),
    "seed": st.integers(0, 99),
}


@settings(max_examples=25, deadline=None)
@given(**SETTINGS, ruled_out=st.booleans(), padding=st.sampled_from([0, 3]))
def test_full_logits(device, rows, size, setting, temperature, dtype, block, scale, seed, ruled_out, padding):
    kind, alpha = setting
    x = draw(rows, size + padding, seed=seed, scale=scale, dtype=dtype)
    x[:, size:] = 7.0
    y = draw(rows, size, seed=seed + 1, scale=scale, dtype=dtype)
    if ruled_out and kind != "reverse_kl" and (kind, alpha) != ("jsd", 1):
        y[:, 1:][draw(rows, size - 1, seed=seed + 2) > 0.5] = -torch.inf
    labels = some_labels(rows, size)
    exact_values, exact = by_hand(x[:, :size], y, labels, kind, temperature, alpha)
    log_q, log_p = ((side[:, :size].double() / temperature).log_softmax(-1) for side in (x, y))

    def error(log):
        return off(log, size, block)

    of_d, bound = bounds(log_q, log_p, kind, temperature, alpha, error)
    log_1 = x[:, :size].double().log_softmax(-1)
    bound += WEIGHTS["ce_weight"] * 2 * error(log_1) * log_1.exp()
    bound_values = torch.stack([of_d, error(exact_values[:, 1])], dim=1)
    got = x.clone().to(device)
    values = run_divergence(
        got[:, :size], y.to(device), labels.to(device), kind, temperature, alpha, *WEIGHTS.values(), config(block)
    )
    hold(got[:, :size], values, exact_values, exact, bound_values, bound)
    assert (got[:, size:] == 7.0).all()
    plain = x[:, :size].double()
    at = {"kind": kind, "temperature": temperature, "alpha": alpha, **WEIGHTS}
    values = divergence_gradient_(plain, y.double(), labels, **at)
    torch.testing.assert_close(values, exact_values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain, exact, rtol=1e-9, atol=1e-9)


def answers_of(y, k):
    """ids, log-probabilities and log tail of the teacher's logits, in another order than the largest first."""
    log_p = y.double().log_softmax(-1)
    ids = log_p.topk(k).indices.flip(-1)
    rest = log_p.scatter(1, ids, -torch.inf)
    return ids, log_p.gather(1, ids), rest.logsumexp(-1)


@settings(max_examples=25, deadline=None)
@given(**SETTINGS, k=st.integers(1, 40), of_ids=st.sampled_from([torch.int64, torch.int32, torch.uint16]))
def test_top_k(device, rows, size, setting, temperature, dtype, block, scale, seed, k, of_ids):
    (kind, alpha), k = setting, min(k, size)
    x = draw(rows, size, seed=seed, scale=scale, dtype=dtype)
    ids, log_probs, log_tail = answers_of(draw(rows, size, seed=seed + 1, scale=min(scale, 10.0)), k)
    has_tail = k < size
    log_probs, log_tail = log_probs.float(), log_tail.float()
    teacher = torch.cat([log_probs, log_tail[:, None].clamp(min=-80)], dim=1) if has_tail else log_probs
    labels = some_labels(rows, size)

    def outcomes(row, one):
        tail = one.scatter(0, ids[row], -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([one[ids[row]], tail]) if has_tail else one[ids[row]]

    exact_values, exact = by_hand(x, teacher, labels, kind, temperature, alpha, outcomes)
    o = torch.stack([outcomes(row, one.double()) for row, one in enumerate(x)])
    log_q, log_p = ((side.double() / temperature).log_softmax(-1) for side in (o, teacher))

    def error(log):
        return off(log, size, block) + off(torch.zeros(()), size, block) / min(temperature, 1)

    of_d, slopes = bounds(log_q, log_p, kind, temperature, alpha, error)
    log_1 = o.log_softmax(-1)
    slopes += WEIGHTS["ce_weight"] * 2 * error(log_1) * log_1.exp()
    bound = torch.zeros(rows, size, dtype=torch.float64)
    if has_tail:
        rest = x.double().scatter(1, ids, -torch.inf)
        share = rest.softmax(-1)
        of_tail = exact.scatter(1, ids, 0.0).abs() + WEIGHTS["ce_weight"] * share  # the label's 1 may cancel some
        bound = slopes[:, -1:] * share + 2 * error(rest.log_softmax(-1)) * of_tail
    bound = bound.scatter(1, ids, slopes[:, :k])
    bound_values = torch.stack([of_d, error(exact_values[:, 1])], dim=1)
    got, stored = x.clone().to(device), ids.to(of_ids).to(device)
    tail = log_tail.to(device) if has_tail else None
    at = (labels.to(device), kind, temperature, alpha, *WEIGHTS.values(), config(block))
    values = run_topk(got, stored, log_probs.to(device), tail, *at)
    hold(got, values, exact_values, exact, bound_values, bound)
    plain = x.double()
    at = {"kind": kind, "temperature": temperature, "alpha": alpha, **WEIGHTS}
    values = topk_gradient_(plain, ids.to(of_ids), log_probs, log_tail, labels, **at)
    torch.testing.assert_close(values, exact_values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain, exact, rtol=1e-9, atol=1e-9)


def both_kernels(device, x, y, labels, kind="jsd", **changed):
    """Gradient and values of either kernel; answers are those of y but for what is changed."""
    with_k = torch.nan_to_num(y.double(), nan=0.0, posinf=5.0, neginf=-5.0)
    ids, log_probs, log_tail = (
        changed.get(n, a) for n, a in zip(("ids", "p", "t"), answers_of(with_k, 5), strict=True)
    )
    apart = torch.stack([labels, labels], dim=1).to(device)[:, 0]  # labels may lie apart
    at = (apart, kind, 2.0, 0.3, *WEIGHTS.values(), config(32))
    got, cached = x.clone().to(device), x.clone().to(device)
    values = run_divergence(got, y.to(device), *at)
    cached_values = run_topk(cached, ids.to(device), log_probs.to(device).float(), log_tail.to(device).float(), *at)
    return (got.cpu(), values.cpu()), (cached.cpu(), cached_values.cpu())


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row(device, kind, poison):
    x, y, labels = draw(3, 50, dtype=torch.float32), draw(3, 50, seed=1, dtype=torch.float32), torch.tensor([1, 2, 3])
    clean = both_kernels(device, x, y, labels, kind)
    for whose in ("student", "teacher"):
        sides = {"student": x.clone(), "teacher": y.clone()}
        sides[whose][1, 37] = poison
        _, log_probs, _ = answers_of(y, 5)
        log_probs[1, 2] = poison
        changed = {"p": log_probs} if whose == "teacher" else {}
        poisoned = both_kernels(device, sides["student"], sides["teacher"], labels, kind, **changed)
        for (gradient, values), (was, were) in zip(poisoned, clean, strict=True):
            assert torch.equal(gradient[[0, 2]], was[[0, 2]]) and torch.equal(values[[0, 2]], were[[0, 2]])
            assert not torch.isfinite(gradient[1]).any() and not torch.isfinite(values[1, 0])


def test_what_no_table_holds_is_no_number(device):
    """A label or an id beyond v reads and writes nothing, and says so in its row; a device cannot raise."""
    x, y = draw(3, 50, dtype=torch.float32), draw(3, 50, seed=1, dtype=torch.float32)
    clean = both_kernels(device, x, y, torch.tensor([1, 2, 3]))
    ids = answers_of(y, 5)[0]
    ids[1, 2] = 50
    hand = functional.cross_entropy(x, torch.tensor([1, 2, 3]), reduction="none")
    for _, values in clean:
        torch.testing.assert_close(values[:, 1], hand, rtol=1e-5, atol=1e-5)
    beyond = both_kernels(device, x, y, torch.tensor([1, 2, 3]), ids=ids)[1:]
    for told, right in ((both_kernels(device, x, y, torch.tensor([1, 50, 3])), clean), (beyond, clean[1:])):
        for (gradient, values), (was, were) in zip(told, right, strict=True):
            assert torch.equal(gradient[[0, 2]], was[[0, 2]]) and torch.equal(values[[0, 2]], were[[0, 2]])
            assert not torch.isfinite(gradient[1]).any() and not torch.isfinite(values[1, 1])


def test_a_teacher_that_rules_out_what_the_student_does_not(device):
    """KL(q || p) is infinite then. Where the student rules it out too, nothing is added."""
    for ruled_out in (False, True):
        x, y = torch.zeros(1, 20), torch.zeros(1, 20)
        y[0, 3] = -torch.inf
        if ruled_out:
            x[0, 3] = -torch.inf
        for kind in EACH:
            at = {"kind": kind, "temperature": 1.0, "alpha": 0.5}
            on_device, plain = x.clone().to(device), x.clone()
            value = run_divergence(on_device, y.to(device), None, kind, 1.0, 0.5, 1.0, 0.0, config(32))[0, 0]
            reference = divergence_gradient_(plain, y, **at)[0, 0]
            torch.testing.assert_close(value.cpu(), reference, atol=1e-6, rtol=1e-6)
            assert torch.isfinite(value) == (ruled_out or kind != "reverse_kl")
            torch.testing.assert_close(on_device.cpu(), plain, equal_nan=True, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", EACH)
def test_a_sure_student_and_an_empty_tail_stay_finite(device, kind):
    """The student puts e^-60 on the tail, which 1 - sum would call 0; the teacher's tail was rounded to nothing."""
    x = torch.tensor([[60.0, 0.0, 0.0, 0.0]]).to(device)
    answers = torch.tensor([[0, 1]]), torch.log(torch.tensor([[0.75, 0.25]])), torch.tensor([-torch.inf])
    values = run_topk(x, *(part.to(device) for part in answers), None, kind, 1.0, 0.5, 1.0, 0.0, config())
    assert torch.isfinite(values).all() and torch.isfinite(x).all()
    if kind == "forward_kl":
        assert values[0, 0].item() == pytest.approx(-0.5623351446 + 0.25 * 60, rel=1e-6)  # 3/4 ln 3/4 + 1/4 ln 1/4 + 15


N, V, D, DT, K = 11, 41, 6, 9, 5


def problem(dtype=torch.float64):
    """A student, its two kinds of teacher, and labels."""
    h, w = (draw(*shape, seed=seed, dtype=dtype).requires_grad_() for shape, seed in (((N, D), 0), ((V, D), 1)))
    states, head = draw(N, DT, seed=2, dtype=dtype), draw(V, DT, seed=3, dtype=dtype)
    return (
        h,
        w,
        {"online": TeacherHead(states, head), "cached": TopK(*answers_of(states @ head.T, K))},
        some_labels(N, V),
    )


def whole(h, w, target, labels, kind, temperature, alpha):
    """The loss's mean and its gradients in h and w, from the table [tokens, vocabulary] in float64."""
    h, w = (part.detach().double().requires_grad_() for part in (h, w))
    logits = h @ w.T
    if isinstance(target, TeacherHead):
        teacher, outcomes = target.hidden.double() @ target.head.double().T, lambda row, x: x
    else:
        teacher = torch.cat([target.log_probs, target.log_tail[:, None]], dim=1)

        def outcomes(row, x):
            tail = x.scatter(0, target.ids[row], -torch.inf).logsumexp(-1, keepdim=True)
            return torch.cat([x[target.ids[row]], tail])

    values, slopes = by_hand(logits.detach(), teacher, labels, kind, temperature, alpha, outcomes)
    logits.backward(slopes / N)
    return values.mean(0), h.grad, w.grad


@pytest.mark.parametrize("which", ["online", "cached"])
@pytest.mark.parametrize(("kind", "alpha"), KINDS)
@pytest.mark.parametrize("aligned", [1, 16])
def test_the_loss_through_the_head(monkeypatch, which, kind, alpha, aligned):
    """In chunks of 3 tokens and blocks of 1, whose rows lie apart or not."""
    monkeypatch.setitem(through_head.CHUNK, "cpu", 3 * V)
    monkeypatch.setitem(through_head.BLOCK, "cpu", V + 3)
    monkeypatch.setitem(through_head.ALIGNED, "cpu", aligned)
    h, w, targets, labels = problem()
    target = targets[which]
    at = {"kind": kind, "temperature": 2.0, "alpha": alpha, "labels": labels, **WEIGHTS}
    got = kd_loss(h, w, target, **at)
    values, of_h, of_w = whole(h, w, target, labels, kind, 2.0, alpha)
    assert got.total.item() == pytest.approx(0.7 * values[0].item() + 0.4 * values[1].item(), rel=1e-10)
    assert [got.divergence.item(), got.cross_entropy.item()] == pytest.approx(values.tolist(), rel=1e-10)
    (3 * got.total).backward()
    torch.testing.assert_close(h.grad, 3 * of_h, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(w.grad, 3 * of_w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("which", ["online", "cached"])
@pytest.mark.parametrize("kind", EACH)
def test_the_kernels_through_the_head(device, monkeypatch, which, kind):
    """What a GPU runs: aligned rows and the kernels, here in place of the references where there is none."""
    monkeypatch.setitem(through_head.ALIGNED, "cpu", 16)
    monkeypatch.setitem(through_head.CHUNK, "cpu", 3 * V)
    monkeypatch.setattr(divergence_gradient, "reference", lambda *given: run_divergence(*given, config()))
    monkeypatch.setattr(topk_gradient, "reference", lambda *given: run_topk(*given, config()))
    h, w, targets, labels = problem(torch.float32)
    h, w, labels = h.detach().to(device).requires_grad_(), w.detach().to(device).requires_grad_(), labels
    target = type(targets[which])(*(part.to(device) for part in targets[which]))
    got = kd_loss(h, w, target, kind=kind, temperature=2.0, alpha=0.3, labels=labels.to(device), **WEIGHTS)
    got.total.backward()
    values, of_h, of_w = whole(h.cpu(), w.cpu(), targets[which], labels, kind, 2.0, 0.3)
    assert [got.divergence.item(), got.cross_entropy.item()] == pytest.approx(values.tolist(), rel=1e-5)
    torch.testing.assert_close(h.grad.cpu().double(), of_h, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(w.grad.cpu().double(), of_w, rtol=1e-4, atol=1e-6)


def test_no_token_and_no_label_cost_nothing():
    h, w, targets, labels = problem()
    at = {"kind": "jsd", "temperature": 1.0, "alpha": 0.3}
    for target in targets.values():
        none = kd_loss(h[:0], w, type(target)(*(p if p.shape[0] == V else p[:0] for p in target)), **at)
        assert none.total.item() == 0
        alone = kd_loss(h, w, target, **at)
        ignored = kd_loss(h, w, target, labels=torch.full_like(labels, -100), ce_weight=0.5, **at)
        assert ignored.total.item() == alone.total.item() and ignored.cross_entropy.item() == 0
        for mine, right in zip(*(torch.autograd.grad(one.total, (h, w)) for one in (ignored, alone)), strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-15)


class Largest(TorchDispatchMode):
    """The most numbers that an operation's result held, in memory other than what was given."""

    def __init__(self, *given):
        super().__init__()
        self.given, self.numbers = {one.untyped_storage().data_ptr() for one in given}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in self.given:
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // result.element_size())
        return result


@pytest.mark.parametrize("kind", EACH)
def test_the_references_hold_no_more_than_a_block(monkeypatch, kind):
    """Beside the logits and the answers that they are given."""
    monkeypatch.setitem(through_head.BLOCK, "cpu", 2 * V)
    y, labels = draw(N, V, seed=1, dtype=torch.bfloat16), some_labels(N, V)
    for reference, target in ((divergence_gradient.reference, (y,)), (topk_gradient.reference, answers_of(y, K))):
        x = draw(N, V, dtype=torch.bfloat16)
        with Largest(x, *target, labels) as seen:
            reference(x, *target, labels, kind, 2.0, 0.3, 1.0, 0.5)
        assert V < seen.numbers <= 2 * V


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "mse"}, "'mse' is not known; take one of forward_kl"),
        ({"temperature": 0.0}, "temperature 0.0 must be a number above 0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"alpha": 1.5}, "alpha 1.5 of jsd is a share"),
        ({"kind": "skew_kl", "alpha": 1.0}, "below 1"),
        ({"labels": None}, "needs labels"),
        ({"labels": torch.zeros(N)}, "give integers"),
        ({"labels": torch.zeros(N + 1, dtype=torch.int64)}, "one for each of 11 tokens|give integers \\[11\\]"),
        ({"student": torch.zeros(N, V, dtype=torch.int32)}, "give floats"),
        ({"student": torch.zeros(V, N).t()}, "each row in one piece"),
        ({"teacher": torch.zeros(N, V + 1)}, "of the student's shape"),
        ({"teacher": torch.zeros(N, V, device="meta")}, "move one"),
        ({"ids": torch.zeros(N, K + 1, dtype=torch.int64)}, "read the answers of the same tokens"),
        ({"ids": torch.zeros(N, K)}, "give integers and floats"),
        ({"ids": torch.zeros(N, K, dtype=torch.int64, device="meta")}, "move one"),
        ({"ids": torch.zeros(N, V + 1).long(), "log_probs": torch.zeros(N, V + 1)}, "must be 1 to 41"),
        ({"head": torch.zeros(V, D + 1)}, "of one width"),
        ({"head": torch.zeros(V + 2, D)}, "the teacher's 41"),
        ({"vocabulary": V + 1}, "must lie in 1..41"),
        ({"states": torch.zeros(N, DT + 1)}, "the head's width"),
    ],
)
def test_bad_input_is_refused_with_the_fix(change, says):
    def call(student=None, teacher=None, ids=None, log_probs=None, head=None, states=None, vocabulary=None, **at):
        at = {"kind": "jsd", "temperature": 1.0, "alpha": 0.5, "labels": some_labels(N, V), **WEIGHTS, **at}
        student = torch.zeros(N, V) if student is None else student
        ids = torch.arange(K).expand(N, K) if ids is None else ids
        log_probs = torch.zeros(N, K) if log_probs is None else log_probs
        divergence_gradient_(student.clone(), torch.zeros(N, V) if teacher is None else teacher, **at)
        topk_gradient_(student.clone(), ids, log_probs, torch.zeros(N), **at)
        target = TeacherHead(torch.zeros(N, DT) if states is None else states, torch.zeros(V, DT))
        kd_loss(torch.zeros(N, D), torch.zeros(V, D) if head is None else head, target, vocabulary=vocabulary, **at)

    call()
    with pytest.raises(ValueError, match=says):
        call(**change)


def test_pytorch_knows_the_operators(opchecked):
    y, labels = draw(3, 20, seed=1, dtype=torch.float32), torch.tensor([1, -100, 3])
    ids, log_probs, log_tail = answers_of(y, 4)
    for told in (labels, None):
        at = (told, "jsd", 2.0, 0.3, 1.0, 0.5)
        x, answers = draw(3, 20, dtype=torch.float32), (ids, log_probs.float(), log_tail.float())
        assert opchecked(torch.ops.deshi.divergence_gradient_, x.clone(), y, *at)
        assert opchecked(torch.ops.deshi.topk_gradient_, x.clone(), *answers, *at)
