"""NOLA: low-rank updates made of random matrices, of which only the coefficients are trained and stored.

    W' = W + (α/r)·B·A,   A = A₀ + Σ_{i ≤ k} α_i A_i,   B = Σ_{j ≤ k} β_j B_j,   A_i, B_j ~ U(−1, 1) / √k

Paper: Koohpayegani et al. 2024, arXiv:2310.02556. A₀, A_i and B_j are drawn from a seed and frozen; α, β and the head
are trained. How many numbers a layer takes no longer depends on its width, and a file of some kilobytes is the model:
`bits` rounds the coefficients to 8 or 4 bits once they are trained, and all that is scored and saved afterwards is the
rounded network. At the end the updates are merged, as LoRA's are.

Deviations. α and β start at zero and A₀ is Kaiming-uniform, as in the published code for language models; the gradient
is zero where α = β = 0 without an A₀, and the published code for vision starts A some 37 times smaller than Kaiming
would. Layers of one shape share a basis, where the published code draws one for each, in every forward pass. The bases
come from a generator of their own on the CPU, so that a seed means the same matrices on every device; the published
code seeds the global generators, of each device another. There are as many B_j as A_i, and for a narrow layer fewer
than `num_basis`: an eighth of its factor's numbers, or LoRA itself would be smaller. Every linear layer and ungrouped
convolution of the body is adapted. By default the head is solved first on the frozen features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from bequest.core.errors import MethodError
from bequest.core.plan import Group, Plan, Recipe, recipe_for
from bequest.core.registry import method
from bequest.core.search import Search

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.nn.network import Network
    from bequest.sources.source import Source


@method("nola", family="parameter-efficient", paper="Koohpayegani et al. 2024, arXiv:2310.02556")
@dataclass(frozen=True)
class NOLA:
    """Coefficients of frozen random low-rank updates, and a new head; merged at the end.

    Attributes:
        rank: r, the rank of each update, 1 or more.
        lora_alpha: α; the update is scaled by α / r.
        lora_dropout: Dropout on the updates' inputs, from 0 to below 1.
        num_basis: k, random matrices for each of a layer's two factors, 1 or more; narrow layers have fewer.
        basis_seed: Of the random matrices, 0 or more; the same for all trials.
        bits: Bits of a stored coefficient, 32, 8 or 4; with fewer than 32 the finished network has the rounded ones.
        recipe: The head, and how gradient descent runs; `learning_rate` is that of the coefficients.
    """

    rank: Annotated[int, Search(2, 64, log=True)] = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    num_basis: int = 256
    basis_seed: int = 0
    bits: int = 32
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            10, 16, 5e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 16, 5e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over the coefficients and the head, after the head's own where it is solved first."""
        from bequest.nn.lowrank import targets
        from bequest.nn.nola import Nola
        from bequest.nn.rounding import Rounded
        from bequest.stages import train, with_new_head

        self._check()
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        names = targets(network.body)
        if not names:
            raise MethodError(
                f"nola found nothing to adapt in {source.name!r}: it has no Linear and no ungrouped Conv2d below its "
                "head. Choose another method."
            )
        network.body = Nola(
            network.body,
            names,
            rank=self.rank,
            alpha=self.lora_alpha,
            num_basis=self.num_basis,
            seed=self.basis_seed,
            dropout=self.lora_dropout,
        )
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        coefficients = tuple(f"body.body.{name}.{kind}" for name in names for kind in ("alpha", "beta"))
        head = tuple(name for name in shapes if name.startswith("head."))
        rate, head_rate, decay = recipe.learning_rate, recipe.head_learning_rate, recipe.weight_decay
        groups = (Group(coefficients, rate or 0, decay or 0), Group(head, head_rate or 0, decay or 0))
        merged = tuple(f"body.body.{name}.base.weight" for name in names)
        coding = None if self.bits == 32 else Rounded({name: shapes[name] for name in coefficients}, self.bits)
        return Plan(network, (*head_stages, train(recipe, groups)), finish=_merge, merged=merged, coding=coding)

    def _check(self) -> None:
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("rank", self.rank, self.rank >= 1, "1 or more"),
                ("lora_alpha", self.lora_alpha, self.lora_alpha > 0, "above 0"),
                ("lora_dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "from 0 to below 1"),
                ("num_basis", self.num_basis, self.num_basis >= 1, "1 or more"),
                ("basis_seed", self.basis_seed, self.basis_seed >= 0, "0 or more"),
                ("bits", self.bits, self.bits in (32, 8, 4), "32, 8 or 4"),
            )
            if not valid
        ]
        if faults:
            raise MethodError("; ".join(faults) + ".")


def _merge(network: Network) -> Network:
    network.body = network.body.merged()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return network
