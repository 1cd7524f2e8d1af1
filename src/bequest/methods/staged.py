"""Staged: the head alone for an epoch, then everything, at rates that fall towards the input, one cycle each.

    phase 1: the head,  one cycle with its peak after 99 % of the steps, at the base rate
    phase 2: group i of n at  η · ratio^(−(n − i) / (n − 1)),  the head being group n;  η is half the base rate

This is `fine_tune` of fastai (Howard & Gugger 2020, arXiv:2002.04688), read off its code: one head-only epoch, a base
rate of 2e-3, its half for the second phase, rates down to a hundredth of it, a peak after 30 % of the steps that starts
at a fifth. `head_learning_rate` is the base rate and `learning_rate` the second phase's.

Deviations: BatchNorm stays frozen unless `batch_norm` is trained (fastai trains it in both phases); the head is one
layer; momentum is not cycled; each phase ends on its best epoch on held-out labels. With `head_init solved` the
solve is the first phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bequest.core.errors import MethodError
from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source

_HEAD_PEAK = 0.99
_DIV = 5.0


@method("staged", family="fine-tuning", paper="Howard & Gugger 2020, arXiv:2002.04688")
@dataclass(frozen=True)
class Staged:
    """The head alone first, then all layers at rates that fall from the head to the input, as fastai's fine_tune.

    Attributes:
        freeze_epochs: Epochs in which the head alone is trained, 1 or more.
        num_groups: Groups of the body's layers, 1 or more, which share a rate.
        rate_ratio: The head's rate over that of the first group, 1 or more.
        recipe: The head, and how gradient descent runs; `epochs`, `learning_rate` (the head's, the body's are below
            it) and `warmup` are those of the second phase, `head_learning_rate` that of the first. The rates follow
            `rate_ratio`, so `layer_decay` must stay unset.
    """

    freeze_epochs: int = 1
    num_groups: int = 2
    rate_ratio: float = 100.0
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            8, 16, 1e-3, 2e-3, 0.01, 0.3, 1.0, 0, "linear", "random", schedule="one_cycle", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 32, 1e-3, 2e-3, 0.01, 0.3, 1.0, 0, "linear", "random", schedule="one_cycle", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """The head's stage, then one Train stage over all groups."""
        from bequest.nn.depth import bundles, groups_by_depth
        from bequest.optim.schedules import OneCycle
        from bequest.stages import head_alone, train, with_new_head

        self._check()
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        first = with_new_head(network, recipe, source.width, len(task.classes))
        if not first:
            late = replace(recipe, warmup=_HEAD_PEAK)
            first = (head_alone(network, late, self.freeze_epochs, recipe.head_learning_rate or 0),)
        groups = bundles(source.layers, self.num_groups)
        rate, factor = recipe.learning_rate or 0, self.rate_ratio ** (-1 / max(1, len(groups)))
        falling = replace(recipe, learning_rate=rate * factor, head_learning_rate=rate, layer_decay=factor)
        second = train(recipe, groups_by_depth(network, groups, falling))
        if recipe.schedule == "one_cycle":
            second = replace(second, schedule=OneCycle(recipe.warmup or 0, _DIV))
        return Plan(network, (*first, second))

    def _check(self) -> None:
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("freeze_epochs", self.freeze_epochs, self.freeze_epochs >= 1, "1 or more"),
                ("num_groups", self.num_groups, self.num_groups >= 1, "1 or more"),
                ("rate_ratio", self.rate_ratio, self.rate_ratio >= 1, "1 or more"),
                ("layer_decay", self.recipe.layer_decay, self.recipe.layer_decay is None, "none: set rate_ratio"),
            )
            if not valid
        ]
        if faults:
            raise MethodError("; ".join(faults) + ".")
