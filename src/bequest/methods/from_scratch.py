"""From scratch: the same network with random weights, trained whole. The baseline that says what transfer was worth.

*Domain affinity* is the linear probe's accuracy minus this method's (Evci et al. 2022, arXiv:2201.03529): far above 0,
the source knows the domain; near or below 0, its features are little better than none. AdamW with a linear warm-up and
decay, with more epochs and a larger rate than fine-tuning, since nothing is there that could be lost.
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


@method("from_scratch", family="baseline", paper="Evci et al. 2022, arXiv:2201.03529")
@dataclass(frozen=True)
class FromScratch:
    """The source's architecture with random weights, all parameters trained.

    Attributes:
        recipe: The head, and how gradient descent runs.
    """

    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            20, 16, 5e-4, 5e-4, 0.01, 0.1, 1.0, 0, "linear", "random", schedule="linear", batch_norm="trained"
        ),
        "image": Recipe(
            30, 32, 1e-3, 1e-3, 0.05, 0.1, 1.0, 0, "linear", "random", schedule="linear", batch_norm="trained"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """One Train stage over all groups of the from-scratch twin."""
        from bequest.nn.depth import groups_by_depth
        from bequest.stages import train, with_new_head

        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        if recipe.head_init == "solved":
            raise MethodError(
                "head_init is 'solved', but from_scratch knows no features to solve a head on; expected random."
            )
        network = source.untrained().eval().requires_grad_(False)
        stages = with_new_head(network, recipe, source.width, len(task.classes))
        return Plan(network, (*stages, train(recipe, groups_by_depth(network, source.layers, recipe))))
