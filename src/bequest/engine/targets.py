"""Labels in the units in which networks are fitted.

A regression's targets are standardised by mean and standard deviation of the train part: rates and initial weights
then suit targets of any size. Every stage sees them so; once all stages are done, the inverse is written into the
head's last layer, so that the finished network speaks in the targets' own units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bequest.core.task import Draw
from bequest.engine.context import Context, Indices
from bequest.nn.head import last_linear


@dataclass(frozen=True)
class Targets:
    """The labels of a trial.

    Attributes:
        context: The run.
        mean: Of each target in the train part, float64 (targets,); None where labels are taken as they are.
        scale: Standard deviation of each, 1 where a target does not vary.
    """

    context: Context
    mean: np.ndarray[Any, np.dtype[np.float64]] | None = None
    scale: np.ndarray[Any, np.dtype[np.float64]] | None = None

    def labels(self, indices: Indices) -> Tensor:
        """What stages are fitted on, of some samples; dtype and shape as `Context.labels`."""
        labels = self.context.labels(indices)
        if self.mean is None or self.scale is None:
            return labels
        return torch.from_numpy((labels.numpy().astype(np.float64) - self.mean) / self.scale).float()

    def restore_units(self, head: nn.Module) -> set[str]:
        """Write the inverse into a head that was fitted on `labels`, in place; names of what was changed in it."""
        if self.mean is None or self.scale is None:
            return set()
        found = last_linear(head)
        if found is None or found[1].bias is None:
            raise TypeError(f"a head of type {type(head).__name__} whose last Linear has no bias cannot be rescaled")
        name, layer = found
        scale = torch.from_numpy(self.scale).to(layer.weight.device)
        with torch.no_grad():
            layer.weight.copy_(layer.weight.double() * scale[:, None])
            layer.bias.copy_(layer.bias.double() * scale + torch.from_numpy(self.mean).to(scale.device))
        return {f"{name}.{part}".lstrip(".") for part in ("weight", "bias")}


def targets(context: Context, draw: Draw) -> Targets:
    """The labels of a trial on one draw."""
    if not context.objective.standardised:
        return Targets(context)
    train = context.labels(draw.train).numpy().astype(np.float64)
    scale = train.std(0)
    return Targets(context, train.mean(0), np.where(scale > 0, scale, 1.0))
