"""L2-SP: fine-tuning that is pulled back to where it started, the source's weights.

    min over w, v of  L(w, v) + (α/2) ‖w − w⁰‖² + (β/2) ‖v‖²

w are the body's parameters, w⁰ what they are in the source, v the head's. Paper: Li et al. 2018, arXiv:1802.01483,
whose penalty takes the place of weight decay; so that is 0 here unless it is set. Deviations: AdamW, through which the
penalty's gradient goes with the loss's, rather than SGD with momentum; all parameters count, biases and normalisation
too; by default the head is solved first; the weights of the best epoch on held-out labels are kept. Losses are
reported without the penalty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from bequest.core.errors import MethodError
from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method
from bequest.core.search import Search

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("l2_sp", family="fine-tuning", paper="Li et al. 2018, arXiv:1802.01483")
@dataclass(frozen=True)
class L2SP:
    """All parameters trained, the body's pulled towards the source's, the head's towards 0.

    Attributes:
        alpha: α, the pull of the body towards the source's weights, 0 or more; the paper tries 0.001 to 0.1.
        beta: β, the pull of the head towards 0, 0 or more; 0.01 in the paper.
        recipe: The head, and how gradient descent runs.
    """

    alpha: Annotated[float, Search(1e-4, 1, log=True)] = 0.1
    beta: float = 0.01
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(8, 16, 5e-5, 5e-4, 0.0, 0.1, 0.9, 0, "linear", "solved", schedule="linear", batch_norm="frozen"),
        "image": Recipe(
            10, 32, 3e-4, 3e-4, 0.0, 0.1, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over all groups with the penalty, after the head's own where it is solved first."""
        from bequest.nn.depth import groups_by_depth
        from bequest.nn.penalties import StartingPoint
        from bequest.stages import train, with_new_head

        faults = [f"{n} is {v}, expected 0 or more" for n, v in (("alpha", self.alpha), ("beta", self.beta)) if v < 0]
        if faults:
            raise MethodError("; ".join(faults) + ".")
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        start = {name: parameter.detach().clone() for name, parameter in network.body.named_parameters()}
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        stage = train(recipe, groups_by_depth(network, source.layers, recipe))
        return Plan(network, (*head_stages, replace(stage, penalty=StartingPoint(start, self.alpha, self.beta))))
