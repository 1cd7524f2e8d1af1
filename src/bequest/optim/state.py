"""What an optimizer keeps between steps, in bytes."""

from __future__ import annotations

import torch
from torch.optim import Optimizer


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the tensors in the optimizer's state; weights and gradients are not part of it."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))
