"""What a forward pass calls, in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Call:
    """The first call of a module in a forward pass.

    Attributes:
        began: Its place among all beginnings and endings.
        ended: The same for its end.
        output: What it returned, where that was asked for.
    """

    began: int
    ended: int = -1
    output: Any = None


def trace(module: nn.Module, inputs: tuple[Tensor, ...], keep: str | None = None) -> dict[str, Call]:
    """First calls by module name, in the order in which they began; modules that are never called are missing.

    Args:
        module: In eval mode.
        inputs: A batch.
        keep: Name of the module whose first output is kept.
    """
    calls: dict[str, Call] = {}
    ticks = iter(range(1 << 62))

    def begin(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls.setdefault(name, Call(next(ticks)))

        return hook

    def end(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, _inputs: Any, output: Any) -> None:
            if calls[name].ended < 0:
                calls[name].ended = next(ticks)
                calls[name].output = output if name == keep else None

        return hook

    handles = [h for n, m in module.named_modules() for h in _both(m, begin(n), end(n))]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def first_call(calls: dict[str, Call], name: str) -> int:
    """When a module, or a part of it, is first called; -1 if never (a list is not called, its members are)."""
    return min((c.began for n, c in calls.items() if n == name or n.startswith(name + ".")), default=-1)


def _both(module: nn.Module, begin: Callable[..., None], end: Callable[..., None]) -> tuple[Any, Any]:
    return module.register_forward_pre_hook(begin), module.register_forward_hook(end)


def called_before_trained(network: nn.Module, inputs: tuple[Tensor, ...]) -> frozenset[str]:
    """Modules without parameters whose every call comes before that of any module with a trainable parameter.

    What they do (dropout) would disturb frozen layers only, so they stay in eval mode while the rest trains. None where
    nothing frozen is called before what is trained.

    Args:
        network: Its parameters that are trained require gradients; it is left in eval mode.
        inputs: A batch.
    """
    began: dict[str, int] = {}
    last: dict[str, int] = {}
    ticks = iter(range(1 << 62))

    def hook(name: str) -> Callable[..., None]:
        def call(*_: Any) -> None:
            last[name] = next(ticks)
            began.setdefault(name, last[name])

        return call

    network.eval()
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    first = {True: 1 << 62, False: 1 << 62}  # of modules with parameters, by whether one of them is trained
    for name, module in network.named_modules():
        own = [p.requires_grad for p in module.parameters(recurse=False)]
        # One that is never called itself is read by the module that it stands in.
        if own and (name in began or any(own)):
            first[any(own)] = min(first[any(own)], began[_called(name, began)])
    if first[False] > first[True]:
        return frozenset()
    without = {name for name, module in network.named_modules() if next(module.parameters(), None) is None}
    return frozenset(name for name in without if name in last and last[name] < first[True])


def _called(name: str, calls: Mapping[str, int]) -> str:
    """The module itself or the nearest around it that is called; the network at last."""
    while name not in calls:
        name = name.rpartition(".")[0]
    return name
