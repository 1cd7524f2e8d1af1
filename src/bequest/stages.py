"""Stages that many methods share, made from a `Recipe`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from bequest.core.errors import MethodError
from bequest.core.plan import Group, Recipe, Solve, Train
from bequest.nn.head import new_head
from bequest.nn.network import Network
from bequest.optim.linear import LinearSolver
from bequest.optim.schedules import SCHEDULES

_MLP_EPOCHS = 30
"""Epochs of a hidden-layer head on stored features: cheap, since no body runs, and ended by patience."""


def train(recipe: Recipe, groups: tuple[Group, ...]) -> Train:
    """Gradient descent as the recipe says: AdamW, its schedule, the loss of the task's kind.

    Raises:
        MethodError: The groups are empty.
    """
    filled = tuple(group for group in groups if group.names)
    if not filled:
        raise MethodError(
            "These settings leave nothing to train: there is no new head, and all of the source is frozen. Train some "
            "of its layers."
        )
    return Train(
        groups=filled,
        epochs=_set(recipe.epochs),
        batch_size=_set(recipe.batch_size),
        schedule=SCHEDULES[_set(recipe.schedule)](_set(recipe.warmup)),
        loss=None,
        optimizer=_adamw,
        patience=_set(recipe.patience),
        fixed_statistics=recipe.batch_norm == "affine",
    )


def _adamw(groups: list[dict[str, Any]], num_steps: int) -> Any:
    import torch

    # One pass over a tensor in place of a dozen: a tenth of a small transformer's step on a processor.
    fused = all(p.device.type in ("cpu", "cuda", "xpu") for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, eps=1e-8, fused=fused)


def with_new_head(network: Network, recipe: Recipe, width: int, num_classes: int) -> tuple[Solve | Train, ...]:
    """Give the network the recipe's head, and the stages that fit it on the source's features if it asks for that.

    A linear head is solved; one with a hidden layer has no closed optimum and is trained on the stored features.
    A task without classes or targets (a language model's) needs no new head, and gets none: the source's own is kept.
    """
    if num_classes == 0:
        if recipe.head == "mlp":
            raise MethodError("head is 'mlp', but a language model keeps its own head; expected linear, the default.")
        network.head = nn.Identity()
        return ()
    network.head = new_head(_set(recipe.head), width, num_classes, hidden=recipe.hidden)
    if recipe.head_init == "random":
        return ()
    if recipe.head == "linear":
        return (Solve(LinearSolver(), source_features=True),)
    return (head_alone(network, replace(recipe, patience=5), _MLP_EPOCHS, 1e-3),)


def head_alone(network: Network, recipe: Recipe, epochs: int, learning_rate: float) -> Train:
    """The network's head trained by gradient descent on the source's stored features.

    Raises:
        MethodError: There is no new head.
    """
    names = tuple(f"head.{name}" for name, _ in network.head.named_parameters())
    if not names:
        raise MethodError(
            "The method begins with a new head alone, but a language model keeps its own, which knows the tokens "
            "already; expected one that trains the network itself, e.g. full or lora."
        )
    stage = train(replace(recipe, epochs=epochs), (Group(names, learning_rate, _set(recipe.weight_decay)),))
    return replace(stage, source_features=True)


def _set(value: Any) -> Any:
    if value is None:
        raise TypeError("the recipe is not complete; call Recipe.over with the method's defaults first")
    return value
