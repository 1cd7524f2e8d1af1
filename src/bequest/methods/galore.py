"""GaLore: all parameters trained, every matrix by AdamW in a subspace of its gradient.

    every T steps:   P = the leading r left singular vectors of G          (m × r, for a weight m × n with m ≤ n)
    every step:      R = PᵀG;   N = Adam(R), bias-corrected;   W ← (1 − η λ) W − η α P N

Where m > n the right side is projected. The optimizer keeps m r + 2 n r numbers rather than 2 m n; α is not divided by
r. Paper: Zhao et al. 2024, arXiv:2403.03507.

Deviations: every matrix of the body is projected, tables of embeddings and convolutions (flattened to out × in · height
· width) too, where the authors' code takes those of attention and MLP; a matrix with a side of r or less, vectors and
the head go through plain AdamW. P comes of a power iteration that starts from the P before rather than of an SVD,
unless `subspace` is exact, and refreshes are spread over the interval. T defaults to a quarter of the run where that is
below the paper's 200. By default the head is solved first on the frozen features; the weights of the best epoch on
held-out labels are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from bequest.core.errors import MethodError
from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method
from bequest.core.search import Search

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from bequest.core.task import Task
    from bequest.sources.source import Source

_LONGEST_INTERVAL, _REFRESHES = 200, 4


@method("galore", family="parameter-efficient", paper="Zhao et al. 2024, arXiv:2403.03507")
@dataclass(frozen=True)
class GaLore:
    """All parameters trained with an optimizer whose memory is a low-rank one; nothing to merge at the end.

    Attributes:
        rank: r, the rank of each matrix's subspace, 1 or more.
        galore_scale: α, the factor on projected updates, above 0.
        refresh_every: T, steps between two refreshes of a matrix's subspace, 1 or more; none for a quarter of the run,
            200 at most.
        subspace: How it is found: 'warm' from the one in use, 'randomised' from random directions, 'exact' by an SVD.
        optimizer_states: '32bit', or '8bit' to keep the moments of large tensors as bytes, by the package bitsandbytes.
        layerwise: Whether gradients are projected in the backward pass and then dropped, rather than after it: less
            memory, to the same result.
        recipe: The head, and how gradient descent runs.
    """

    rank: Annotated[int, Search(2, 64, log=True)] = 8
    galore_scale: float = 4.0
    refresh_every: int | None = None
    subspace: Literal["warm", "randomised", "exact"] = "warm"
    optimizer_states: Literal["32bit", "8bit"] = "32bit"
    layerwise: bool = False
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            8, 16, 1e-4, 1e-3, 0.01, 0.1, 0.9, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 32, 3e-4, 3e-4, 0.05, 0.1, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over all groups, after the head's own where it is solved first."""
        from bequest.nn.depth import groups_by_depth
        from bequest.stages import train, with_new_head

        self._check()
        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        groups = tuple(
            replace(group, options={"rank": None}) if group.names[0].startswith("head.") else group
            for group in groups_by_depth(network, source.layers, recipe)
        )
        stage = replace(train(recipe, groups), optimizer=partial(_optimizer, self))
        return Plan(network, (*head_stages, stage))

    def _check(self) -> None:
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("rank", self.rank, self.rank >= 1, "1 or more"),
                ("galore_scale", self.galore_scale, self.galore_scale > 0, "above 0"),
                (
                    "refresh_every",
                    self.refresh_every,
                    self.refresh_every is None or self.refresh_every >= 1,
                    "1 or more, or none",
                ),
            )
            if not valid
        ]
        if faults:
            raise MethodError("; ".join(faults) + ".")
        if self.optimizer_states == "8bit":
            from bequest.optim.inner import bitsandbytes

            bitsandbytes()


def _optimizer(method: GaLore, groups: list[dict[str, Any]], num_steps: int) -> Optimizer:
    from bequest.optim.galore import GaLore as Optimizer

    return Optimizer(
        groups,
        rank=method.rank,
        scale=method.galore_scale,
        refresh_every=method.refresh_every or max(1, min(_LONGEST_INTERVAL, num_steps // _REFRESHES)),
        subspace=method.subspace,
        states=method.optimizer_states,
        in_backward="project" if method.layerwise else "off",
    )
