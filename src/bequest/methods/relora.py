"""ReLoRA: LoRA that merges its updates and starts again several times, so that the whole change may be of high rank.

    W_c = W_0 + Σ_{i ≤ c} (α/r)·B_i·A_i,   rank(W_c − W_0) ≤ c·r

Paper: Lialin et al. 2024, arXiv:2307.05695. Within a cycle it is LoRA. Between two cycles B·A is added to W, A starts
Kaiming-uniform and B at zero, 99 % of the optimizer's state of just these A and B is forgotten, by magnitude, and the
rate rises again from near 0 onto its cosine. The function is the same before and after a restart. At the end the last
update is merged, as LoRA's is.

Deviations. The paper pretrains: its cycles have 2,000 or 5,000 steps and rise over 50 to 100. A run here has some 65
steps, so that cycles and rises are fractions of the run unless `cycle_steps` and `rewarm_steps` are set. Every linear
layer and ungrouped convolution of the body is adapted, and the body's other parameters are frozen (the paper trains
embeddings and normalisation too). The published code differs from the paper, and this from it, in three places: its
wrapper sets A to zero while B is zero too, so that nothing is learned before the first merge, here A is Kaiming-uniform
from the start; it prunes each of Adam's moments by its own magnitude, so that an entry may keep its first moment and
lose its second, which makes a step of any size, here both keep the same entries; it may be run with a reset and no
rise, which diverges, here the rate and the restarts are made from the same numbers. By default the head is solved first
on the frozen features, and there is no warm start at full rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from bequest.core.errors import MethodError
from bequest.core.plan import Group, Plan, Recipe, recipe_for
from bequest.core.registry import method
from bequest.core.search import Search

if TYPE_CHECKING:
    from bequest.core.plan import Train
    from bequest.core.task import Task
    from bequest.nn.depth import Layer
    from bequest.nn.network import Network
    from bequest.sources.source import Source


@method("relora", family="parameter-efficient", paper="Lialin et al. 2024, arXiv:2307.05695")
@dataclass(frozen=True)
class ReLoRA:
    """Low-rank updates that are merged and started again every cycle, and a new head; merged at the end.

    Attributes:
        rank: r, the rank of each update, 1 or more.
        lora_alpha: α; the update is scaled by α / r.
        lora_dropout: Dropout on the updates' inputs, from 0 to below 1.
        cycles: Equal parts of the run between which updates are merged and started again, 1 or more; 1 is LoRA.
        rewarm: Fraction of a cycle over which the rates rise after a restart, above 0, at most 1; a step at least.
        cycle_steps: Optimizer steps of a cycle, 1 or more; overrules `cycles`.
        rewarm_steps: Optimizer steps over which the rates rise after a restart, 1 or more; overrules `rewarm`.
        prune: Fraction of the optimizer's state of A and B that a restart forgets, from 0 to 1; the smallest entries go
            first, and 1 also starts the count of steps again.
        warm_start: Fraction of the epochs in which all of the network is trained first, from 0 to below 1.
        warm_start_rate: The body's rate in those epochs as a fraction of `learning_rate`, above 0.
        recipe: The head, and how gradient descent runs; `learning_rate` is that of A and B, `schedule` what the rates
            follow between their falls to 0.
    """

    rank: Annotated[int, Search(2, 64, log=True)] = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    cycles: int = 4
    rewarm: float = 0.1
    cycle_steps: int | None = None
    rewarm_steps: int | None = None
    prune: float = 0.99
    warm_start: float = 0.0
    warm_start_rate: float = 0.2
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            10, 16, 3e-4, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="cosine", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 16, 3e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="cosine", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over the updates and the head with a restart after each cycle, after what comes first."""
        from bequest.nn.lowrank import add_low_rank, targets
        from bequest.optim.relora import Cycles, Jagged, Restart
        from bequest.stages import train, with_new_head

        self._check()
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        names = targets(network.body)
        if not names:
            raise MethodError(
                f"relora found nothing to adapt in {source.name!r}: it has no Linear and no ungrouped Conv2d below its "
                "head. Choose another method."
            )
        plain = dict(network.body.named_parameters())
        add_low_rank(network.body, names, self.rank, self.lora_alpha, self.lora_dropout)
        stages: list[Any] = [*with_new_head(network, recipe, source.width, len(task.classes))]
        epochs = recipe.epochs or 0
        if self.warm_start and epochs > 1:
            first = min(epochs - 1, max(1, round(self.warm_start * epochs)))
            stages.append(self._at_full_rank(network, plain, source.layers, replace(recipe, epochs=first)))
            epochs -= first
        updates = tuple(f"body.{name}.{factor}" for name in names for factor in ("A", "B"))
        head = tuple(f"head.{name}" for name, _ in network.head.named_parameters())
        rate, head_rate, decay = recipe.learning_rate, recipe.head_learning_rate, recipe.weight_decay
        groups = (Group(updates, rate or 0, decay or 0), Group(head, head_rate or 0, decay or 0))
        low_rank = train(replace(recipe, epochs=epochs), groups)
        cycles = Cycles(self.cycles, self.rewarm, self.cycle_steps, self.rewarm_steps)
        restarts = Restart(names, cycles, self.prune)
        stages.append(replace(low_rank, schedule=Jagged(low_rank.schedule, cycles), events=(restarts,)))
        merged = tuple(f"body.{name}.base.weight" for name in names)
        return Plan(network, tuple(stages), finish=_merge, merged=merged)

    def _at_full_rank(
        self, network: Network, plain: dict[str, Any], layers: tuple[Layer, ...], recipe: Recipe
    ) -> Train:
        """The head, and all that the body had before it was wrapped, under the names of now."""
        from bequest.nn.depth import groups_by_depth
        from bequest.stages import train

        now = {id(p): name for name, p in network.body.named_parameters()}
        layers = tuple(
            replace(layer, parameters=tuple(now[id(plain[n])] for n in layer.parameters)) for layer in layers
        )
        recipe = replace(recipe, learning_rate=(recipe.learning_rate or 0) * self.warm_start_rate)
        return train(recipe, groups_by_depth(network, layers, recipe))

    def _check(self) -> None:
        steps = (self.cycle_steps, self.rewarm_steps)
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("rank", self.rank, self.rank >= 1, "1 or more"),
                ("lora_alpha", self.lora_alpha, self.lora_alpha > 0, "above 0"),
                ("lora_dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "from 0 to below 1"),
                ("cycles", self.cycles, self.cycles >= 1, "1 or more"),
                ("rewarm", self.rewarm, 0 < self.rewarm <= 1, "above 0, at most 1"),
                ("cycle_steps", steps[0], steps[0] is None or steps[0] >= 1, "1 or more"),
                ("rewarm_steps", steps[1], steps[1] is None or steps[1] >= 1, "1 or more"),
                ("prune", self.prune, 0 <= self.prune <= 1, "from 0 to 1"),
                ("warm_start", self.warm_start, 0 <= self.warm_start < 1, "from 0 to below 1"),
                ("warm_start_rate", self.warm_start_rate, self.warm_start_rate > 0, "above 0"),
            )
            if not valid
        ]
        if faults:
            raise MethodError("; ".join(faults) + ".")


def _merge(network: Network) -> Network:
    from bequest.nn.lowrank import merge_low_rank

    merge_low_rank(network.body)
    return network
