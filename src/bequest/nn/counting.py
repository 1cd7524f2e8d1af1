"""What a pass through a network takes, by torch's own formulas for single operations."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


@contextmanager
def without_fused_layers() -> Generator[None]:
    """While it is open torch's Transformer layers run operation by operation, which is how they can be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def counter() -> FlopCounterMode:
    """PyTorch's own, which counts while it is open; it knows attention as processors fuse it, too.

    A multiplication and an addition are two. Matrix products, convolutions and attention are counted, what is done to
    each element alone is not.
    """

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    on_processors = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    return FlopCounterMode(display=False, custom_mapping=on_processors)


def frozen_share(network: nn.Module, inputs: tuple[Tensor, ...], uncounted: Collection[str] = ()) -> float:
    """What share of a pass's multiplications is at most in operations that nothing trained is upstream of.

    Args:
        network: Its parameters that are trained require gradients; it runs in the modes that it is in.
        inputs: A batch.
        uncounted: Names of operations that are much work though torch has no formula for them. One that is frozen
            makes the share 1.
    """
    with without_fused_layers(), torch.enable_grad(), _Multiplications(uncounted) as done:
        network(*inputs)
    return done.frozen / done.all if 0 < done.frozen < math.inf else float(done.frozen > 0)


class _Multiplications(TorchDispatchMode):
    def __init__(self, uncounted: Collection[str]) -> None:
        super().__init__()
        self.uncounted = uncounted
        self.formulas = counter().flop_registry
        self.all = self.frozen = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = self.formulas.get(func.overloadpacket)
        if count is None and func.overloadpacket.__name__ not in self.uncounted:
            return out
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        frozen = not any(t.requires_grad for t in operands)
        number = (math.inf if frozen else 0.0) if count is None else count(*args, **kwargs, out_val=out)
        self.all += number
        self.frozen += number if frozen else 0.0
        return out
