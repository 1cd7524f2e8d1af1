"""LoRA: frozen weights with trainable low-rank updates, merged at the end.

    W' = W + (α/r)·B·A,   A: r × in, Kaiming-uniform (a = √5);   B: out × r, zero

Paper: Hu et al. 2022, arXiv:2106.09685. Only A, B and the head are trained; at the end the product is added to W, so
that the adapted network costs no more to run than the source. What came after it is a hyperparameter each: rsLoRA
(Kalajdzievski 2023, arXiv:2312.03732), DoRA (Liu et al. 2024, arXiv:2402.09353), PiSSA (Meng et al. 2024,
arXiv:2404.02948) and LoRA+ (Hayou et al. 2024, arXiv:2402.12354).

Deviations: every linear layer of the body is adapted rather than the attention's queries and values alone, and every
ungrouped convolution (networks such as EfficientNet have no linear layer but their head): there A is a convolution to
r channels with the layer's kernel and B a 1 × 1 convolution. By default the head is solved first on the frozen
features. Dropout acts where a layer is
called: not where its weight is read instead (attention of torch's own), nor in embeddings and grouped convolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bequest.core.errors import MethodError
from bequest.core.plan import Group, Plan, Recipe, recipe_for
from bequest.core.registry import method
from bequest.core.search import Search

if TYPE_CHECKING:
    from torch import nn

    from bequest.core.task import Task
    from bequest.nn.network import Network
    from bequest.sources.source import Source


@method("lora", family="parameter-efficient", paper="Hu et al. 2022, arXiv:2106.09685")
@dataclass(frozen=True)
class LoRA:
    """Low-rank updates of all linear layers and ungrouped convolutions, and a new head; merged at the end.

    Attributes:
        rank: r, the rank of each update, 1 or more.
        lora_alpha: α, above 0; the update is scaled by α / r.
        lora_dropout: Dropout on the updates' inputs, from 0 to below 1.
        targets: The layers that are adapted, as names or patterns with commas between, e.g. query,value or
            *.attention.*; empty for all linear layers and ungrouped convolutions below the head. Embeddings and grouped
            convolutions are adapted where a pattern names them.
        rank_pattern: Ranks of some layers, e.g. *.query=16,*.value=4; the last pattern that fits a layer counts.
        lora_alpha_pattern: The same for α.
        scaling: 'lora' for α / r, or 'rslora' for α / √r, which keeps the update's size as the rank grows.
        dora: Train the length of each output's weights apart from their direction.
        init: 'kaiming' for updates that start at zero, or 'pissa' for the weight's principal directions: they are then
            trained, and what is left of the weight is frozen.
        b_rate_ratio: LoRA+: B's learning rate over A's, above 0.
        recipe: The head, and how gradient descent runs; `learning_rate` is that of A.
    """

    rank: Annotated[int, Search(2, 64, log=True)] = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    targets: str = ""
    rank_pattern: str = ""
    lora_alpha_pattern: str = ""
    scaling: Literal["lora", "rslora"] = "lora"
    dora: bool = False
    init: Literal["kaiming", "pissa"] = "kaiming"
    b_rate_ratio: float = 1.0
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            10, 16, 3e-4, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 16, 4e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over the updates and the head, after the head's own where it is solved first."""
        from bequest.nn.lowrank import low_rank_layers
        from bequest.stages import train, with_new_head

        self._check()
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        self._wrap(network.body, source.name)
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        names = tuple(f"body.{name}" for name in low_rank_layers(network.body))
        merged = tuple(f"{name}.base.weight" for name in names)
        return Plan(
            network, (*head_stages, train(recipe, self._groups(network, names, recipe))), finish=_merge, merged=merged
        )

    def _wrap(self, body: nn.Module, source_name: str) -> None:
        from bequest.nn.lowrank import add_low_rank, by_pattern, start_from_principal, targets

        names = targets(body, self.targets)
        if not names:
            raise MethodError(
                f"lora found nothing to adapt in {source_name!r}: it has no Linear and no ungrouped Conv2d below its "
                "head. Choose another method."
            )
        ranks = by_pattern(self.rank_pattern, names, self.rank, int)
        alphas = by_pattern(self.lora_alpha_pattern, names, self.lora_alpha, float)
        for name, rank, alpha in zip(names, ranks, alphas, strict=True):
            # α / √r is α·√r / r.
            alpha = alpha * math.sqrt(rank) if self.scaling == "rslora" else alpha
            add_low_rank(body, (name,), rank, alpha, self.lora_dropout, magnitude=self.dora)
        if self.init == "pissa":
            start_from_principal(body)

    def _groups(self, network: Network, names: tuple[str, ...], recipe: Recipe) -> tuple[Group, ...]:
        rate, head_rate, decay = recipe.learning_rate or 0, recipe.head_learning_rate or 0, recipe.weight_decay or 0
        inner = tuple(f"{name}.A" for name in names)
        outer = tuple(f"{name}.B" for name in names)
        magnitudes = tuple(f"{name}.magnitude" for name in names) if self.dora else ()
        head = tuple(f"head.{name}" for name, _ in network.head.named_parameters())
        groups = (
            Group(inner, rate, decay),
            Group(outer, rate * self.b_rate_ratio, decay),
            Group(magnitudes, rate),
            Group(head, head_rate, decay),
        )
        return tuple(group for group in groups if group.names)

    def _check(self) -> None:
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("rank", self.rank, self.rank >= 1, "1 or more"),
                ("lora_alpha", self.lora_alpha, self.lora_alpha > 0, "above 0"),
                ("lora_dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "from 0 to below 1"),
                ("scaling", self.scaling, self.scaling in ("lora", "rslora"), "lora or rslora"),
                ("init", self.init, self.init in ("kaiming", "pissa"), "kaiming or pissa"),
                ("b_rate_ratio", self.b_rate_ratio, self.b_rate_ratio > 0, "above 0"),
            )
            if not valid
        ]
        if faults:
            raise MethodError("; ".join(faults) + ".")


def _merge(network: Network) -> Network:
    from bequest.nn.lowrank import merge_low_rank

    merge_low_rank(network.body)
    return network
