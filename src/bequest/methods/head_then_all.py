"""Head, then all: with the body frozen the head is fitted first, then everything is trained at a small rate.

The oldest staged recipe; with a solved linear head it is LP-FT (Kumar et al. 2022, arXiv:2202.10054), whose authors
find that a random head's gradients distort good features, which hurts most out of distribution. The first stage runs on
stored features and costs next to nothing. `full` starts from a solved head too, but then moves the head ten times
faster than the body; here one small rate serves both, as in the paper. With `head_init random` the head is trained by
gradient descent for `head_epochs` epochs instead of solved. Deviation: the weights of the best epoch on
held-out labels are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.core.errors import MethodError
from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("head_then_all", family="fine-tuning", paper="Kumar et al. 2022, arXiv:2202.10054")
@dataclass(frozen=True)
class HeadThenAll:
    """The head first, on frozen features; then all parameters at a small rate.

    Attributes:
        head_epochs: Epochs of the first stage where the head is trained rather than solved, 1 or more.
        recipe: The head, and how gradient descent runs in the second stage.
    """

    head_epochs: int = 10
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            8, 16, 3e-5, 3e-5, 0.01, 0.1, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 32, 1e-4, 1e-4, 0.05, 0.1, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """The head's stage on the source's features, then a Train stage over all groups."""
        from bequest.nn.depth import groups_by_depth
        from bequest.stages import head_alone, train, with_new_head

        if self.head_epochs < 1:
            raise MethodError(f"head_epochs is {self.head_epochs}, expected 1 or more.")
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        first = with_new_head(network, recipe, source.width, len(task.classes))
        if not first:
            first = (head_alone(network, recipe, self.head_epochs, 1e-3),)
        return Plan(network, (*first, train(recipe, groups_by_depth(network, source.layers, recipe))))
