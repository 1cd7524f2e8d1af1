"""BitFit: only the biases of the body, and the head, are trained.

Paper: Ben Zaken et al. 2022, arXiv:2106.10199. By default a BatchNorm keeps its statistics, since with few labels those
of a batch do more harm than its bias can mend. Deviations: by default the head is solved first on the frozen features,
and the head has a rate of its own.
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


@method("bitfit", family="parameter-efficient", paper="Ben Zaken et al. 2022, arXiv:2106.10199")
@dataclass(frozen=True)
class BitFit:
    """The body's biases and a new head trained, all else frozen.

    Attributes:
        norms: Whether the biases of normalisation layers are trained too.
        recipe: The head, and how gradient descent runs; `learning_rate` is that of the biases.
    """

    norms: bool = True
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            10, 16, 1e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="affine"
        ),
        "image": Recipe(
            10, 16, 5e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="affine"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over the biases and the head, after the head's own where it is solved first."""
        from bequest.nn.depth import groups_by_depth
        from bequest.nn.names import normalisation, only
        from bequest.stages import train, with_new_head

        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        biases = {name for name, _ in network.body.named_parameters() if name.split(".")[-1] == "bias"}
        biases -= set() if self.norms else normalisation(network.body)
        if not biases:
            raise MethodError(f"bitfit found no biases to train in {source.name!r}. Choose another method.")
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        groups = groups_by_depth(network, only(source.layers, biases), recipe)
        return Plan(network, (*head_stages, train(recipe, groups)))
