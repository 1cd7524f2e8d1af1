"""Full fine-tuning: every parameter of the body and a new head are trained.

AdamW with a linear warm-up and decay (Devlin et al. 2019, arXiv:1810.04805); the head's rate is larger than the
body's, and the rate may fall from layer to layer towards the input (Howard & Ruder 2018, arXiv:1801.06146, there a
factor 1/2.6). By default the head is solved first on the frozen features (Kumar et al. 2022, arXiv:2202.10054): a
random head's first gradients distort what the body knows. Deviation from all three: the weights of the best epoch
on held-out labels are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("full", family="fine-tuning", paper="Devlin et al. 2019, arXiv:1810.04805")
@dataclass(frozen=True)
class Full:
    """All parameters trained, a new head included.

    Attributes:
        recipe: The head, and how gradient descent runs.
    """

    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            8, 16, 5e-5, 5e-4, 0.01, 0.1, 0.9, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 32, 3e-4, 3e-4, 0.05, 0.1, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over all groups, after the head's own where it is solved first."""
        from bequest.nn.depth import groups_by_depth
        from bequest.stages import train, with_new_head

        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        groups = groups_by_depth(network, source.layers, recipe)
        return Plan(network, (*head_stages, train(recipe, groups)))
