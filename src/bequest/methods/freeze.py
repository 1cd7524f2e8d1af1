"""Partial fine-tuning: a part of the body and a new head are trained, all else stays frozen.

Which part is given by depth (the last layers), by the parameters' names, or as all but the normalisation layers.

How far early layers can stay as they are is measured by Yosinski et al. 2014, arXiv:1411.1792. Frozen means frozen:
frozen layers run in eval mode, and neither their weights nor their BatchNorm statistics move. Optimizer, schedule and
head as in full fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.nn.network import Network
    from bequest.sources.source import Source


@method("freeze", family="fine-tuning", paper="Yosinski et al. 2014, arXiv:1411.1792")
@dataclass(frozen=True)
class Freeze:
    """The last layers, or those that are named, and a new head trained; all else frozen.

    Attributes:
        from_depth: Where training begins: the fraction of the layers, counted from the input, that stays frozen (0 to
            1; 1 trains the head alone), or the name of the first layer that is trained.
        train_only: What is trained instead, wherever it lies: names of parameters or layers with commas between, in
            which * stands for any text, e.g. '*.bias,blocks.5'; `from_depth` is then not read. Empty for `from_depth`.
        freeze_norms: Whether normalisation layers stay frozen too, BatchNorm's statistics included; with `from_depth` 0
            all but normalisation is trained.
        recipe: The head, and how gradient descent runs.
    """

    from_depth: str = "0.67"
    train_only: str = ""
    freeze_norms: bool = False
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
        """Train stage over the chosen layers, after the head's own where it is solved first."""
        from bequest.nn.depth import groups_by_depth
        from bequest.nn.names import only
        from bequest.stages import train, with_new_head

        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        if self.train_only:  # what is named is trained, whatever it is
            recipe = replace(recipe, batch_norm="trained")
        network = source.network()
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        trained = only(source.layers, self._trained(source, network))
        return Plan(network, (*head_stages, train(recipe, groups_by_depth(network, trained, recipe))))

    def _trained(self, source: Source, network: Network) -> set[str]:
        from bequest.nn.depth import from_depth
        from bequest.nn.names import matching, normalisation

        if self.train_only:
            names = [name for name, _ in network.body.named_parameters()]
            chosen = matching(self.train_only, names, source.layers)
        else:
            chosen = {name for layer in from_depth(source.layers, self.from_depth) for name in layer.parameters}
        return chosen - normalisation(network.body) if self.freeze_norms else chosen
