"""What tokens say of the next one, against logits in full and in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bequest.nn import language
from bequest.nn.language import IGNORED, Vocabulary, token_losses
from bequest.nn.objectives import OBJECTIVES


@pytest.fixture
def case() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 5, 4), (7, 4), (7,)))
    targets = torch.randint(0, 7, (3, 5))
    targets[0, 1:3] = IGNORED
    targets[2] = IGNORED
    return hidden, weight, bias, targets


def plain(hidden: Any, weight: Any, bias: Any, targets: Any) -> Any:
    logits = F.linear(hidden, weight, bias).transpose(1, 2)
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)


@pytest.mark.parametrize("logits", [1, 14, 2**23])
def test_values_and_gradients_in_any_number_of_pieces(
    case: tuple[torch.Tensor, ...], logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "_LOGITS", logits)
    *tensors, targets = case
    ours, theirs = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    factors = torch.rand(3, 5, dtype=torch.float64)
    results = [token_losses(*ours, targets), plain(*theirs, targets)]
    torch.testing.assert_close(*results)
    for result in results:
        (result * factors).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_frozen_last_layer_gets_no_gradient_and_hidden_states_the_same(case: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, _, targets = case
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    token_losses(ours, weight, None, targets).sum().backward()
    plain(theirs, weight, None, targets).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert weight.grad is None


def test_outputs_are_sums_and_counts_and_perplexity_is_over_tokens(case: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, bias, targets = case
    layer = nn.Linear(4, 7, dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight, bias
    outputs = Vocabulary(layer)(hidden, targets).detach()
    losses = plain(hidden, weight, bias, targets)
    assert outputs[:, 1].tolist() == [3, 5, 0]
    torch.testing.assert_close(outputs[:, 0], losses.sum(1))
    objective = OBJECTIVES["causal-lm"]
    labels = torch.empty(3, 0)
    assert objective.score(outputs, labels) == pytest.approx(float(torch.exp(losses.sum() / 8)))
    assert float(objective.loss(outputs, labels)) == pytest.approx(float(losses.sum() / 8))
    assert not objective.higher_is_better


def test_low_precision_adds_up_in_float32() -> None:
    hidden, weight = torch.randn(2, 3, 4).bfloat16(), torch.randn(9, 4).bfloat16()
    losses = token_losses(hidden, weight, None, torch.zeros(2, 3, dtype=torch.int64))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(
        losses, plain(hidden.float(), weight.float(), None, torch.zeros(2, 3, dtype=torch.int64)), rtol=0.05, atol=0.05
    )


def test_perplexity_that_no_number_holds_stays_finite() -> None:
    assert OBJECTIVES["causal-lm"].score(torch.tensor([[1e6, 1.0]]), torch.empty(1, 0)) < float("inf")
