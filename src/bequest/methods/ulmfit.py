r"""ULMFiT's fine-tuning: gradual unfreezing, a rate for each group of layers, slanted triangles.

    phase k trains the head and the last k groups of layers;   η of a group = η of the next one / 2.6

Paper: Howard & Ruder 2018, arXiv:1801.06146, section 3.3. The head is trained first; then one more group from the last
joins in each phase. Every phase is one epoch but the last, in which all groups are trained for `epochs` epochs, and the
schedule starts anew in each. Layers are put together into a few groups, since a network of 17 layers would otherwise
need as many phases.

Deviations: the head's phase is by default solved rather than one epoch of gradient descent (`head_init random` gives
the paper's); AdamW rather than Adam with β₁ = 0.7; each phase ends on its best epoch on held-out labels, the
state before it among them. The paper's fine-tuning as a language model comes before all this and is not part of it.
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


@method("ulmfit", family="fine-tuning", paper="Howard & Ruder 2018, arXiv:1801.06146")
@dataclass(frozen=True)
class ULMFiT:
    """Groups of layers unfrozen one by one from the head down, each at a smaller rate than the one above it.

    Attributes:
        num_groups: Groups of the body's layers, 1 or more; one phase each.
        recipe: The head, and how gradient descent runs; `epochs` are those of the last phase, `learning_rate` is that
            of the body's last group, `layer_decay` the factor from each group to the one below it, and the paper's
            head learns 2.6 times as fast as the last group.
    """

    num_groups: int = 4
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            6, 16, 1e-4, 2.6e-4, 0.01, 0.1, 0.3846, 0, "linear", "solved", schedule="slanted", batch_norm="frozen"
        ),
        "image": Recipe(
            8, 32, 5e-4, 1.3e-3, 0.05, 0.1, 0.3846, 0, "linear", "solved", schedule="slanted", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """The head's stage, then a Train stage for each group that joins."""
        from bequest.nn.depth import bundles, groups_by_depth
        from bequest.stages import head_alone, train, with_new_head

        if self.num_groups < 1:
            raise MethodError(f"num_groups is {self.num_groups}, expected 1 or more.")
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        first = with_new_head(network, recipe, source.width, len(task.classes))
        if not first:
            first = (head_alone(network, recipe, 1, recipe.head_learning_rate or 0),)
        groups = bundles(source.layers, self.num_groups)
        phases = [train(recipe, groups_by_depth(network, groups[start:], recipe)) for start in range(len(groups))]
        gradual = [replace(phase, epochs=1) for phase in reversed(phases[1:])]
        return Plan(network, (*first, *gradual, *phases[:1]))
