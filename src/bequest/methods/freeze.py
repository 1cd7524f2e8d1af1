"""Partial fine-tuning: the layers from a given depth up, and a new head, are trained; the first layers stay frozen.

How far early layers can stay as they are is measured by Yosinski et al. 2014, arXiv:1411.1792. Frozen means frozen:
those layers run in eval mode, and neither their weights nor their BatchNorm statistics move. Optimizer, schedule and
head as in full fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("freeze", family="fine-tuning", paper="Yosinski et al. 2014, arXiv:1411.1792")
@dataclass(frozen=True)
class Freeze:
    """The last layers and a new head trained, the first layers frozen.

    Attributes:
        from_depth: Where training begins: the fraction of the layers, counted from the input, that stays frozen (0 to
            1; 1 trains the head alone), or the name of the first layer that is trained.
        recipe: The head, and how gradient descent runs.
    """

    from_depth: str = "0.67"
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(8, 16, 5e-5, 5e-4, 0.01, 0.1, 0.9, 3, "linear", "solved", schedule="linear"),
        "image": Recipe(10, 32, 3e-4, 3e-3, 0.05, 0.1, 1.0, 3, "linear", "solved", schedule="linear"),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over the last layers, after the head's own where it is solved first."""
        from bequest.nn.depth import from_depth, groups_by_depth
        from bequest.stages import train, with_new_head

        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        trained = from_depth(source.layers, self.from_depth)
        return Plan(network, (*head_stages, train(recipe, groups_by_depth(network, trained, recipe))))
