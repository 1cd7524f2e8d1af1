"""Distillation's losses: gradients, the factor ρ², Hinton's limit, the published formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bequest.nn import losses

SOFTENED: dict[str, Callable[..., Tensor]] = {
    "soft cross-entropy": losses.soft_cross_entropy,
    "kl": losses.kl_divergence,
    "softmax l2": losses.softmax_l2,
    "dkd": lambda s, t, rho, **kw: losses.decoupled(s, t, torch.arange(len(s)) % s.shape[1], rho, **kw),
}
OTHERS: dict[str, Callable[..., Tensor]] = {
    "logits l2": lambda s, t, _: losses.logits_l2(s, t),
    "dist": losses.correlation,
    "standardised": lambda s, t, rho: losses.kl_divergence(losses.standardised(s), losses.standardised(t), rho),
    "feature l2": lambda s, t, _: losses.feature_l2(s, t),
}


def logits(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = spread * torch.randn(*(shape or (6, 5)), generator=generator, dtype=torch.float64)
    return drawn - drawn.mean(1, keepdim=True)


def gradient(loss: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    student = logits(seed=1).requires_grad_()
    loss(student, logits(seed=2), *arguments, **options).backward()
    assert student.grad is not None
    return student.grad


@pytest.mark.parametrize("name", SOFTENED | OTHERS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_is_that_of_finite_differences(name: str, temperature: float) -> None:
    loss, teacher = (SOFTENED | OTHERS)[name], logits(seed=2)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, temperature), logits(seed=1).requires_grad_())


@pytest.mark.parametrize("name", SOFTENED | OTHERS)
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    teacher = logits(seed=2).requires_grad_()
    (SOFTENED | OTHERS)[name](logits(seed=1).requires_grad_(), teacher, 4.0).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("name", SOFTENED)
def test_with_the_factor_the_gradient_does_not_shrink_with_the_temperature(name: str) -> None:
    sizes = [float(gradient(SOFTENED[name], rho).norm()) for rho in (4.0, 8.0, 16.0, 64.0)]
    assert max(sizes) / min(sizes) < 1.1
    bare = [float(gradient(SOFTENED[name], rho, scaled=False).norm()) for rho in (4.0, 64.0)]
    assert bare[0] / bare[1] == pytest.approx(256, rel=0.1), "without it, it shrinks as 1/ρ²"


def test_correlation_needs_no_factor() -> None:
    sizes = [float(gradient(losses.correlation, rho).norm()) for rho in (4.0, 64.0)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize("name", ["soft cross-entropy", "kl"])
def test_for_a_high_temperature_it_is_l2_between_logits(name: str) -> None:
    """Hinton et al. 2015, section 2.1: on centred logits the gradients tend to (z_S − z_T) / (C N)."""
    high = gradient(SOFTENED[name], 1e4)
    torch.testing.assert_close(high, (logits(seed=1) - logits(seed=2)) / (5 * 6), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(high, gradient(losses.logits_l2), rtol=1e-3, atol=1e-6)


def test_the_values_are_those_of_the_formulas() -> None:
    s, t, rho = logits(seed=1), logits(seed=2), 3.0
    p_s, p_t = (torch.exp(z / rho) / torch.exp(z / rho).sum(1, keepdim=True) for z in (s, t))
    cross = -(p_t * p_s.log()).sum() / 6
    entropy = -(p_t * p_t.log()).sum() / 6
    assert float(losses.soft_cross_entropy(s, t, rho, scaled=False)) == pytest.approx(float(cross))
    assert float(losses.soft_cross_entropy(s, t, rho)) == pytest.approx(float(9 * cross))
    assert float(losses.kl_divergence(s, t, rho)) == pytest.approx(float(9 * (cross - entropy)))
    assert float(losses.softmax_l2(s, t, rho)) == pytest.approx(float(9 * ((p_s - p_t) ** 2).sum() / 6))
    assert float(losses.logits_l2(s, t)) == pytest.approx(float(((s - t) ** 2).sum() / 6 / 5 / 2))
    assert float(losses.feature_l2(s, t)) == pytest.approx(float(((s - t) ** 2).sum() / 6 / 5 / 2))


def test_dkd_is_the_published_code() -> None:
    """α TCKD + β NCKD as github.com/megvii-research/mdistiller computes them: masks, and −1000 on the target."""
    s, t, labels, rho = logits(seed=1), logits(seed=2), torch.tensor([0, 1, 2, 3, 4, 0]), 4.0
    target = F.one_hot(labels, 5).double()

    def binary(z: Tensor) -> Tensor:
        p = (z / rho).softmax(1)
        return torch.stack([(p * target).sum(1), (p * (1 - target)).sum(1)], 1)

    tckd = F.kl_div(binary(s).log(), binary(t), reduction="sum") * rho**2 / 6
    nckd = F.kl_div((s / rho - 1000 * target).log_softmax(1), (t / rho - 1000 * target).softmax(1), reduction="sum") * (
        rho**2 / 6
    )
    assert float(losses.decoupled(s, t, labels, rho)) == pytest.approx(float(tckd + 8 * nckd))


def test_dkd_with_the_teachers_doubt_as_weight_is_kl() -> None:
    s, t, labels = logits(1, 5, seed=1), logits(1, 5, seed=2), torch.tensor([3])
    doubt = 1 - float((t / 4).softmax(1)[0, 3])
    dkd = losses.decoupled(s, t, labels, 4.0, others_weight=doubt)
    assert float(dkd) == pytest.approx(float(losses.kl_divergence(s, t, 4.0)))


def test_dist_is_the_formula() -> None:
    s, t = logits(seed=1), logits(seed=2)
    p_s, p_t = s.softmax(1), t.softmax(1)
    rows = sum(1 - torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(p_s, p_t, strict=True)) / 6
    columns = sum(1 - torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(p_s.T, p_t.T, strict=True)) / 5
    found = losses.correlation(s, t, 1.0, rows_weight=2.0, columns_weight=3.0)
    assert float(found) == pytest.approx(float(2 * rows + 3 * columns))


def test_standardised_logits_have_no_size() -> None:
    found = losses.standardised(7 * logits() + 3)
    torch.testing.assert_close(found, losses.standardised(logits()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.std(1), torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_an_ensemble_is_the_mean_of_soft_targets() -> None:
    teachers = [logits(seed=seed) + seed for seed in range(3)]
    mixed = losses.mean_soft_targets(teachers, 4.0)
    expected = torch.stack([(z / 4).softmax(1) for z in teachers]).mean(0)
    torch.testing.assert_close((mixed / 4).softmax(1), expected)
    torch.testing.assert_close(mixed.mean(1), torch.full((6,), 1.0, dtype=torch.float64))
    torch.testing.assert_close(
        losses.mean_soft_targets(teachers, 1e5), torch.stack(teachers).mean(0), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(losses.mean_soft_targets(teachers[:1], 4.0), teachers[0])


def test_top_classes_keep_the_mass_of_the_rest() -> None:
    z = logits(6, 9, spread=3.0)
    values, classes = losses.top_classes(z, 3, 2.0)
    whole = losses.from_top_classes(values, classes, 9)
    torch.testing.assert_close(whole.gather(1, classes), z.gather(1, classes))
    exact, kept = (z / 2).softmax(1), (whole / 2).softmax(1)
    torch.testing.assert_close(kept.gather(1, classes), exact.gather(1, classes))
    rest = kept.scatter(1, classes, 0.0)
    torch.testing.assert_close(rest.sum(1), 1 - exact.gather(1, classes).sum(1))
    assert ((rest - rest.amax(1, keepdim=True)).abs() < 1e-12)[rest > 0].all(), "it is spread evenly"
