"""Losses of knowledge distillation: a student's outputs against those of a teacher.

z_S and z_T are the logits of student and teacher, ρ is the temperature and

    σ(z, ρ)_c = exp(z_c / ρ) / Σ_k exp(z_k / ρ)

Every loss is a sum over classes and a mean over the samples of the batch (`batchmean`). The gradient of a loss between
softened outputs shrinks as 1/ρ², so each is multiplied by ρ² unless `scaled` is False: the balance with the hard labels
then stays as ρ changes (Hinton et al. 2015, section 2). Teachers' tensors are taken as constants; gradients flow into
the student's alone.

Of the peers, torchdistill 1.1.5 gives the same values for `kl_divergence` (`KDLoss`) as long as its alpha is above 0,
and leaves the factor ρ² out where it is 0 or there are no labels; likewise for standardised logits (`LogitStdKDLoss`).
timm 1.0.31's logit distillation gives the same values as `kl_divergence`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float, *, scaled: bool = True) -> Tensor:
    """Cross-entropy between softened outputs (Hinton et al. 2015, arXiv:1503.02531, section 2).

        L = −ρ² (1/N) Σ_n Σ_c σ(z_T, ρ)_c log σ(z_S, ρ)_c

    For large ρ and centred logits its gradient tends to (z_S − z_T) / (C N), that of `logits_l2`.

    Args:
        student: Logits z_S (batch, classes).
        teacher: Logits z_T, of the same shape.
        temperature: ρ, above 0.
        scaled: Whether to multiply by ρ².
    """
    soft = (teacher.detach() / temperature).softmax(1)
    loss = -(soft * (student / temperature).log_softmax(1)).sum(1).mean()
    return loss * temperature**2 if scaled else loss


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float, *, scaled: bool = True) -> Tensor:
    """Kullback-Leibler divergence between softened outputs: `soft_cross_entropy` less the teacher's entropy.

        L = ρ² (1/N) Σ_n Σ_c σ(z_T, ρ)_c (log σ(z_T, ρ)_c − log σ(z_S, ρ)_c)

    Its gradient is that of `soft_cross_entropy`; it is 0 where the student equals the teacher.

    Args:
        student: Logits z_S (batch, classes).
        teacher: Logits z_T, of the same shape.
        temperature: ρ, above 0.
        scaled: Whether to multiply by ρ².
    """
    loss = F.kl_div(
        (student / temperature).log_softmax(1),
        (teacher.detach() / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return loss * temperature**2 if scaled else loss


def softmax_l2(student: Tensor, teacher: Tensor, temperature: float, *, scaled: bool = True) -> Tensor:
    """Squared l2 distance between softened outputs (as a Brier score against the teacher).

        L = ρ² (1/N) Σ_n ‖σ(z_S, ρ) − σ(z_T, ρ)‖²

    Args:
        student: Logits z_S (batch, classes).
        teacher: Logits z_T, of the same shape.
        temperature: ρ, above 0.
        scaled: Whether to multiply by ρ².
    """
    gap = (student / temperature).softmax(1) - (teacher.detach() / temperature).softmax(1)
    loss = gap.square().sum(1).mean()
    return loss * temperature**2 if scaled else loss


def logits_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared l2 distance between logits (Ba & Caruana 2014, arXiv:1312.6184), without a temperature.

        L = (1/N) Σ_n 1/(2C) ‖z_S − z_T‖²

    The factor 1/(2C) makes it the limit of `soft_cross_entropy` for ρ → ∞ on centred logits (Hinton et al. 2015,
    section 2.1); Ba & Caruana have 1/2.

    Args:
        student: Logits z_S (batch, classes).
        teacher: Logits z_T, of the same shape.
    """
    return (student - teacher.detach()).square().mean(1).mean() / 2


def decoupled(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    target_weight: float = 1.0,
    others_weight: float = 8.0,
    scaled: bool = True,
) -> Tensor:
    """Decoupled knowledge distillation, DKD (Zhao et al. 2022, arXiv:2203.08679).

        L = ρ² (α KL(b_T ‖ b_S) + β KL(p̂_T ‖ p̂_S))

    b is the probability of the target class and that of all others together, p̂ the distribution among the others.
    `kl_divergence` is the same with α = 1 and, sample by sample, β = 1 − σ(z_T, ρ)_y. With two classes the second term
    is 0. The published code masks the target by subtracting 1000 from its logit; here it is taken out.

    Args:
        student: Logits z_S (batch, classes).
        teacher: Logits z_T, of the same shape.
        labels: The target class of each sample, int64 (batch,).
        temperature: ρ, above 0.
        target_weight: α.
        others_weight: β.
        scaled: Whether to multiply by ρ².
    """
    target = F.one_hot(labels, student.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        softened = logits / temperature
        others = softened[~target].view(len(softened), -1)
        binary = torch.stack([softened[target], others.logsumexp(1)], 1)
        return binary.log_softmax(1), others.log_softmax(1)

    loss = sum(
        (
            weight * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
            for weight, ours, theirs in zip(
                (target_weight, others_weight), parts(student), parts(teacher.detach()), strict=True
            )
        ),
        start=student.new_zeros(()),
    )
    return loss * temperature**2 if scaled else loss


def correlation(
    student: Tensor, teacher: Tensor, temperature: float, *, rows_weight: float = 1.0, columns_weight: float = 1.0
) -> Tensor:
    """DIST (Huang et al. 2022, arXiv:2205.10536): match relations instead of values.

        L = β (1/N) Σ_n (1 − r(p_S[n, :], p_T[n, :])) + γ (1/C) Σ_c (1 − r(p_S[:, c], p_T[:, c]))

    p = σ(z, ρ), r is Pearson's correlation: of the classes within a sample, and of the samples within a class. A
    correlation does not change with the size of what it compares, so the gradient does not shrink as 1/ρ² and there is
    no factor ρ² here. The published code (and torchdistill's `DISTLoss`) multiplies by it; the two agree at ρ = 1.

    Args:
        student: Logits z_S (batch, classes).
        teacher: Logits z_T, of the same shape.
        temperature: ρ, above 0.
        rows_weight: β, of the relations between classes.
        columns_weight: γ, of the relations between samples; a batch of one sample has none.
    """
    ours, theirs = (student / temperature).softmax(1), (teacher.detach() / temperature).softmax(1)
    loss = rows_weight * _dissimilarity(ours, theirs)
    return loss + columns_weight * _dissimilarity(ours.T, theirs.T) if len(student) > 1 else loss


def _dissimilarity(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 − Pearson's correlation, mean over the rows; a row that does not vary correlates with nothing."""
    ours, theirs = ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True)
    return 1 - F.cosine_similarity(ours, theirs, dim=1).mean()


def standardised(logits: Tensor) -> Tensor:
    """Each sample's logits with mean 0 and standard deviation 1 (Sun et al. 2024, arXiv:2403.01427).

        z ↦ (z − mean(z)) / s(z)

    Given student's and teacher's to another loss, the student need not match the size of the teacher's logits. s is the
    sample standard deviation (divisor C − 1), as in the published code.

    Args:
        logits: (batch, classes), two classes or more.
    """
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + 1e-7)


def feature_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared l2 distance between a projected feature of the student and one of the teacher.

        L = (1/N) Σ_n 1/(2D) ‖r(s) − t‖²

    Romero et al. 2015 (FitNets, arXiv:1412.6550) have 1/2 in place of 1/(2D), which makes the term's weight independent
    of the width.

    Args:
        student: r(s), the student's feature after a projection (batch, width).
        teacher: t, of the same shape.
    """
    return (student - teacher.detach()).square().mean(1).mean() / 2


def mean_soft_targets(teachers: list[Tensor], temperature: float) -> Tensor:
    """Logits whose softened output is the mean of several teachers' (Hinton et al. 2015, section 1).

        z = ρ log((1/K) Σ_k σ(z_k, ρ)) + const

    The constant, one a sample, gives z the mean over the classes that the teachers' logits have on average, so that
    losses on logits make sense too; for ρ → ∞ z tends to the mean of the teachers' logits.

    Args:
        teachers: Logits of each (batch, classes).
        temperature: ρ, above 0.
    """
    if len(teachers) == 1:
        return teachers[0]
    stacked = torch.stack(teachers)
    mixed = temperature * (stacked / temperature).log_softmax(2).logsumexp(0)
    return mixed - mixed.mean(1, keepdim=True) + stacked.mean((0, 2))[:, None]


def top_classes(logits: Tensor, num: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The largest logits of each sample, and what stands for all others together.

    Args:
        logits: (batch, classes), more classes than `num`.
        num: How many of them, 1 or more.
        temperature: ρ at which the others' probability mass is kept.

    Returns:
        The `num` largest logits and then one that all other classes share (batch, num + 1): spread evenly over them,
        their softened mass at ρ is what it was. And the classes of the largest, int64 (batch, num).
    """
    largest, classes = logits.topk(num, 1)
    others = logits.scatter(1, classes, float("-inf"))
    num_others = logits.shape[1] - num
    shared = temperature * ((others / temperature).logsumexp(1, keepdim=True) - torch.tensor(float(num_others)).log())
    return torch.cat([largest, shared], 1), classes


def from_top_classes(values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Logits of all classes (batch, num_classes) from what `top_classes` gave."""
    return values[:, -1:].repeat(1, num_classes).scatter(1, classes, values[:, :-1])
