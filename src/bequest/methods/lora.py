"""LoRA: frozen weights with trainable low-rank updates, merged at the end.

    W' = W + (α/r)·B·A,   A: r × in, Kaiming-uniform (a = √5);   B: out × r, zero

Paper: Hu et al. 2022, arXiv:2106.09685. Only A, B and the head are trained; at the end the product is added to W, so
that the adapted network costs no more to run than the source. Deviations: every linear layer of the body is adapted
rather than the attention's queries and values alone, and every ungrouped convolution (networks such as EfficientNet
have no linear layer but their head): there A is a convolution to r channels with the layer's kernel and B a 1 × 1
convolution. By default the head is solved first on the frozen features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.core.errors import MethodError
from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.nn.network import Network
    from bequest.sources.source import Source


@method("lora", family="parameter-efficient", paper="Hu et al. 2022, arXiv:2106.09685")
@dataclass(frozen=True)
class LoRA:
    """Low-rank updates of all linear layers and ungrouped convolutions, and a new head; merged at the end.

    Attributes:
        rank: r, the rank of each update, 1 or more.
        lora_alpha: α; the update is scaled by α / r.
        lora_dropout: Dropout on the updates' inputs, from 0 to below 1.
        recipe: The head, and how gradient descent runs; `learning_rate` is that of A and B.
    """

    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            10, 16, 3e-4, 1e-3, 0.0, 0.06, 1.0, 3, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 16, 1e-3, 5e-3, 0.0, 0.06, 1.0, 3, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over the updates and the head, after the head's own where it is solved first."""
        from bequest.core.plan import Group
        from bequest.nn.lowrank import add_low_rank, targets
        from bequest.stages import train, with_new_head

        self._check()
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        names = targets(network.body)
        if not names:
            raise MethodError(
                f"lora found nothing to adapt in {source.name!r}: it has no Linear and no ungrouped Conv2d below its "
                "head. Choose another method."
            )
        add_low_rank(network.body, names, self.rank, self.lora_alpha, self.lora_dropout)
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        updates = tuple(f"body.{name}.{factor}" for name in names for factor in ("A", "B"))
        head = tuple(f"head.{name}" for name, _ in network.head.named_parameters())
        rate, head_rate, decay = recipe.learning_rate, recipe.head_learning_rate, recipe.weight_decay
        groups = (Group(updates, rate or 0, decay or 0), Group(head, head_rate or 0, decay or 0))
        merged = tuple(f"body.{name}.base.weight" for name in names)
        return Plan(network, (*head_stages, train(recipe, groups)), finish=_merge, merged=merged)

    def _check(self) -> None:
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("rank", self.rank, self.rank >= 1, "1 or more"),
                ("lora_alpha", self.lora_alpha, self.lora_alpha > 0, "above 0"),
                ("lora_dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "from 0 to below 1"),
            )
            if not valid
        ]
        if faults:
            raise MethodError("; ".join(faults) + ".")


def _merge(network: Network) -> Network:
    from bequest.nn.lowrank import merge_low_rank

    merge_low_rank(network.body)
    return network
