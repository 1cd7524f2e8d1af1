"""Normalisation only: the affine parameters of the normalisation layers, and the head, are trained.

    y = γ · (x − μ) / σ + β,    γ and β trained, all else as in the source

Paper: Frankle et al. 2021, arXiv:2003.00152, who train γ and β of BatchNorm in networks whose other weights are random;
here those come from the source, and every kind of normalisation layer counts. By default the statistics μ and σ of
a BatchNorm stay as pretrained; with `batch_norm trained` they are each batch's own, as in the paper. Deviation: the
head is trained too, and by default solved first on the frozen features.
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


@method("norm_only", family="parameter-efficient", paper="Frankle et al. 2021, arXiv:2003.00152")
@dataclass(frozen=True)
class NormOnly:
    """The normalisation layers and a new head trained, all else frozen.

    Attributes:
        recipe: The head, and how gradient descent runs; `learning_rate` is that of the normalisation layers.
    """

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
        """Train stage over the normalisation layers and the head, after the head's own where it is solved first."""
        from bequest.nn.depth import groups_by_depth
        from bequest.nn.names import normalisation, only
        from bequest.stages import train, with_new_head

        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        norms = normalisation(network.body)
        if not norms:
            raise MethodError(
                f"norm_only found no normalisation layer with parameters in {source.name!r}. Choose another method."
            )
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        groups = groups_by_depth(network, only(source.layers, norms), recipe)
        return Plan(network, (*head_stages, train(recipe, groups)))
