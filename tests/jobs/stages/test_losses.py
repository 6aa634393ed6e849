"""Losses against their formulas, written out in float64 numpy; gradients by gradcheck."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deshi.jobs.stages import losses


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return scaled / scaled.sum(axis=1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.sum(p * np.log(p / q), axis=1)


FORMULAS = {
    "forward_kl": lambda p, q, a: kl(p, q),
    "reverse_kl": lambda p, q, a: kl(q, p),
    "jsd": lambda p, q, a: a * kl(p, a * p + (1 - a) * q) + (1 - a) * kl(q, a * p + (1 - a) * q),
    "skew_kl": lambda p, q, a: kl(p, a * p + (1 - a) * q),
}


def pair(n: int = 7, k: int = 5, scale: float = 2.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = scale * torch.randn(n, k, generator=generator, dtype=torch.float64)
    teacher = scale * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return student, teacher


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_each_loss_is_its_formula_times_temperature_squared(name, temperature, alpha):
    student, teacher = pair()
    p, q = (probabilities(logits.numpy(), temperature) for logits in (teacher, student))
    expected = temperature**2 * FORMULAS[name](p, q, alpha).mean()
    log_probs = teacher.log_softmax(-1)
    got = losses.LOSSES[name](student, log_probs, temperature=temperature, alpha=alpha)
    assert got.item() == pytest.approx(expected, rel=1e-12)
    in_float32 = losses.LOSSES[name](student.float(), log_probs.float(), temperature=temperature, alpha=alpha)
    assert in_float32.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.5), (2.0, 0.1), (3.0, 0.0)])
def test_gradients(name, temperature, alpha):
    student, teacher = pair(3, 4)
    loss = losses.LOSSES[name]
    teacher_log_probs = teacher.log_softmax(-1)
    assert torch.autograd.gradcheck(
        lambda logits: loss(logits, teacher_log_probs, temperature=temperature, alpha=alpha),
        student.requires_grad_(),
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_a_perfect_student_costs_nothing_and_feels_nothing(name):
    student, _ = pair()
    student.requires_grad_()
    loss = losses.LOSSES[name](student, student.detach().log_softmax(-1), temperature=2.0, alpha=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert student.grad is not None and student.grad.abs().max() < 1e-14


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite_and_right(name, dtype):
    """Logits of +-100, student and teacher sure of different classes: the exact value is known."""
    student = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-200.0, 0.0], [0.0, -200.0]])
    alpha = 0.25
    loss = losses.LOSSES[name](student, teacher, temperature=1.0, alpha=alpha)
    loss.backward()
    entropy = -alpha * np.log(alpha) - (1 - alpha) * np.log(1 - alpha)
    expected = {"forward_kl": 200.0, "reverse_kl": 200.0, "jsd": entropy, "skew_kl": -np.log(alpha)}[name]
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert loss.dtype is torch.float32
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_alpha_edges():
    student, teacher = pair()
    log_probs = teacher.log_softmax(-1)
    at = {"temperature": 2.0}
    forward = losses.forward_kl(student, log_probs, alpha=0.5, **at)
    reverse = losses.reverse_kl(student, log_probs, alpha=0.5, **at)
    assert losses.skew_kl(student, log_probs, alpha=0.0, **at) == forward
    assert losses.jsd(student, log_probs, alpha=0.0, **at) == forward
    assert losses.jsd(student, log_probs, alpha=1.0, **at) == reverse
    # The replacement at the edges is the limit of the formula over its vanishing weight.
    near = 1e-6
    assert (losses.jsd(student, log_probs, alpha=near, **at) / near).item() == pytest.approx(forward.item(), rel=1e-4)
    assert (losses.jsd(student, log_probs, alpha=1 - near, **at) / near).item() == pytest.approx(
        reverse.item(), rel=1e-4
    )
    with pytest.raises(ValueError, match="below 1"):
        losses.skew_kl(student, log_probs, alpha=1.0, **at)
    with pytest.raises(ValueError, match="from 0 to 1"):
        losses.jsd(student, log_probs, alpha=1.5, **at)


def test_bad_shapes_and_temperatures_are_refused():
    student, teacher = pair()
    with pytest.raises(ValueError, match="one shape"):
        losses.forward_kl(student, teacher[:1], temperature=1.0, alpha=0.5)
    with pytest.raises(ValueError, match="above 0"):
        losses.forward_kl(student, teacher, temperature=0.0, alpha=0.5)


def test_the_teacher_gets_no_gradient():
    student, teacher = pair()
    teacher.requires_grad_()
    losses.reverse_kl(student.requires_grad_(), teacher, temperature=1.0, alpha=0.5).backward()
    assert teacher.grad is None


def test_a_loss_joins_by_one_row(monkeypatch):
    def total_variation(student_logits, teacher_log_probs, *, temperature, alpha):
        q, p = (student_logits / temperature).softmax(-1), (teacher_log_probs / temperature).softmax(-1)
        return temperature**2 * (p - q).abs().sum(-1).mean() / 2

    monkeypatch.setitem(losses.LOSSES, "total_variation", total_variation)
    student, teacher = pair()
    for name, loss in losses.LOSSES.items():
        value = loss(student, teacher.log_softmax(-1), temperature=2.0, alpha=0.5)
        assert value.ndim == 0 and value > 0, name


def test_cross_entropy_is_the_mean_over_labelled_rows():
    student, _ = pair(4, 3)
    labels, labelled = torch.tensor([2, -100, 0, 7]), torch.tensor([True, False, True, False])
    q = probabilities(student.numpy(), 1.0)
    expected = -(np.log(q[0, 2]) + np.log(q[2, 0])) / 2
    assert losses.cross_entropy(student, labels, labelled).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda logits: losses.cross_entropy(logits, labels, labelled), student.requires_grad_()
    )


def test_cross_entropy_without_labels_is_zero_with_zero_gradient():
    student = torch.randn(4, 3, requires_grad=True)
    loss = losses.cross_entropy(student, torch.full((4,), -1), torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None and not student.grad.any()


def test_uniform_match_of_evenly_kept_layers_is_tinybert():
    match = losses.uniform_match([0, 2, 4], teacher_layers=6)
    assert [(row.student_layer, row.teacher_layer) for row in match] == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert sum(row.weight for row in match) == pytest.approx(1)


@pytest.mark.parametrize(("kept", "teacher"), [([0, 3, 5], [0, 3, 5, 6]), ([0, 1, 2], [0, 1, 2, 6]), ([5], [0, 6])])
def test_uniform_match_gives_each_kept_layer_the_input_of_the_next(kept, teacher):
    assert [row.teacher_layer for row in losses.uniform_match(kept, teacher_layers=6)] == teacher


@pytest.mark.parametrize("kept", [[], [3, 1], [0, 6], [1, 1], [-1, 2]])
def test_impossible_kept_layers_are_refused(kept):
    with pytest.raises(ValueError, match="must rise within"):
        losses.uniform_match(kept, teacher_layers=6)


def test_hidden_match_by_hand():
    rng = np.random.default_rng(0)
    student = [rng.normal(size=(2, 3, 4)) for _ in range(2)]
    teacher = [rng.normal(size=(2, 3, 5)) for _ in range(3)]
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    match = (
        losses.MatchRow(student_layer=0, teacher_layer=0, weight=0.25),
        losses.MatchRow(student_layer=1, teacher_layer=2, weight=2.0),
    )
    torch.manual_seed(0)
    projections = losses.projections_for(match, 4, 5).double()
    expected = 0.0
    for row in match:
        linear = projections[row.projection]
        weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
        for i, j in [(0, 0), (0, 1), (1, 0)]:
            error = student[row.student_layer][i, j] @ weight.T + bias - teacher[row.teacher_layer][i, j]
            expected += row.weight * np.sum(error**2) / (3 * 5)
    poisoned = [state.copy() for state in student]
    for state in poisoned:
        state[mask == 0] = np.nan
    for states in (student, poisoned):
        tensors = [torch.tensor(state, requires_grad=True) for state in states]
        got = losses.hidden_match(tensors, [torch.tensor(s) for s in teacher], torch.tensor(mask), projections, match)
        assert got.item() == pytest.approx(expected, rel=1e-12)
    got.backward()
    assert all(isinstance(linear, nn.Linear) and linear.weight.grad is not None for linear in projections.values())


def test_hidden_match_without_projection_has_the_right_gradient():
    match = losses.uniform_match([0], teacher_layers=2)
    student = [torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teacher = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3)]
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    projections = losses.projections_for(match, 4, 4)
    assert len(projections) == 0
    assert torch.autograd.gradcheck(
        lambda *states: losses.hidden_match(states, teacher, mask, projections, match), student
    )


def test_hidden_match_of_different_widths_needs_a_projection():
    match = losses.uniform_match([0], teacher_layers=1)
    states = [torch.zeros(1, 2, 3)] * 2, [torch.zeros(1, 2, 4)] * 2
    with pytest.raises(ValueError, match="need a projection"):
        losses.hidden_match(*states, torch.ones(1, 2), nn.ModuleDict(), match)
