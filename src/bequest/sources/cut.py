"""A body that ends at one of its layers: what comes after is taken off, and the layer's output is pooled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError, nearest
from bequest.nn.depth import find_name, layers
from bequest.nn.network import Network
from bequest.nn.pooling import TEXT_POOLINGS, pool_tokens
from bequest.nn.taps import has_class_token, layout, prefix_tokens, tensor_of
from bequest.nn.trace import Call, first_call, trace
from bequest.sources.source import Source

_FAILURES = (AttributeError, TypeError, RuntimeError, IndexError, KeyError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class Cut:
    """Where a body ends, and what becomes of the output there.

    Attributes:
        at: Name of the last layer.
        shape: Of its output: `vector` (batch, width), `tokens` (batch, tokens, width), or `map` (batch, channels, …).
        channels_last: Whether a map's channels come last.
        pooling: Of tokens: `mean`, `cls` or `last`.
        skip: Tokens at the front that the mean leaves out.
        width: Of the embedding.
        removed: Modules that come later and were taken off.
        shortened: Whether lists were shortened, rather than each removed member passed through.
    """

    at: str
    shape: str
    channels_last: bool
    pooling: str
    skip: int
    width: int
    removed: tuple[str, ...] = ()
    shortened: bool = True

    def apply(self, body: nn.Module) -> CutBody:
        """The body, in place, without what comes later."""
        for name in reversed(self.removed):
            _remove(body, name, self.shortened)
        return CutBody(body, self)


class Skip(nn.Module):
    """Stands where a later layer stood: gives back its first input."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The first input as it is."""
        return inputs[0] if inputs else next(iter(named.values()))


class CutBody(nn.Module):
    """Runs a body and gives the pooled output of one of its layers.

    Attributes:
        body: What is left of the body.
        cut: Where it ends.
    """

    def __init__(self, body: nn.Module, cut: Cut) -> None:
        super().__init__()
        self.body = body
        self.cut = cut

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs → embedding (batch, width)."""
        caught: list[Tensor] = []
        handle = self.body.get_submodule(self.cut.at).register_forward_hook(
            lambda _module, _inputs, output: caught.append(tensor_of(output))
        )
        try:
            self.body(*inputs)
        finally:
            handle.remove()
        return _pool(caught[0], self.cut, inputs)

    def extra_repr(self) -> str:
        """Where it ends and how it pools, so that both are part of the fingerprint."""
        cut = self.cut
        return f"at={cut.at}, shape={cut.shape}, channels_last={cut.channels_last}, pooling={cut.pooling}"


def cut_source(source: Source, at: str, pooling: str | None = None) -> Source:
    """The source whose body ends at a layer.

    Args:
        source: The whole source.
        at: Name of a module in its body, whole or its end.
        pooling: Of tokens: `mean`, `cls` or `last`; None as the source pools.

    Raises:
        SourceError: There is no such layer, or its output is no embedding of the sample.
    """
    inputs = source.example()
    if inputs is None:
        raise SourceError(
            f"To cut {source.name!r} at a layer, a batch is needed. Give one: from_module(..., example=batch)."
        )
    cut = find(source.network().body, inputs, at, pooling)

    def apply(make: Callable[[], Network]) -> Network:
        made = make()
        return Network(cut.apply(made.body), nn.Identity(), made.origin.within("body"))

    cuts = [*source.description.get("cuts", ()), asdict(cut)]
    return replace(
        source,
        name=f"{source.name} up to {at}",
        width=cut.width,
        pretrained=lambda: apply(source.network),
        untrained=lambda: apply(source.untrained),
        description={**source.description, "cuts": cuts} if source.description else {},
        inputs=inputs,
    )


def from_description(description: dict[str, Any]) -> Cut:
    """The cut that `dataclasses.asdict` described."""
    return Cut(**{**description, "removed": tuple(description["removed"])})


def find(body: nn.Module, inputs: tuple[Tensor, ...], at: str, pooling: str | None = None) -> Cut:
    """The cut of a body at a layer; the body is left as it is.

    Args:
        body: In eval mode.
        inputs: A batch, best of two or more samples.
        at: Name of a module, whole or its end.
        pooling: Of tokens; None as the body pools.

    Raises:
        SourceError: There is no such layer, it is never called, or its output is no embedding of the sample.
    """
    if pooling is not None and pooling not in TEXT_POOLINGS:
        raise SourceError(f"pooling is {pooling!r}, expected {', '.join(TEXT_POOLINGS)}.")
    name = _name(body, at)
    calls = trace(body, inputs, keep=name)
    if name not in calls:
        members = [n for n in calls if n.startswith(name + ".")]
        raise SourceError(
            f"The layer {name!r} is never called as a whole; expected one that is. "
            + (f"Name one of its parts: {', '.join(members[:3])}, …" if members else nearest(name, calls))
        )
    output = tensor_of(calls[name].output)
    cut = _whole(body, name, output, len(inputs[0]), pooling)
    wanted = _pool(output, cut, inputs)
    later = _later(calls, body, calls[name])
    for removed, shortened in ((later, True), (later, False), ((), True)):
        candidate = replace(cut, removed=removed, shortened=shortened)
        if _same(candidate, body, inputs, wanted):
            return candidate
    raise SourceError(f"The body cannot be cut at {name!r}: it does not compute the same twice. Choose another layer.")


def _name(body: nn.Module, at: str) -> str:
    names = [name for name, _ in body.named_modules() if name]
    try:
        return find_name(at, names)
    except KeyError as error:
        told, listed, _ = error.args[0].partition(" There are: ")
        if listed:
            # All modules would be hundreds.
            told += f" The steps of depth are: {', '.join(layer.name for layer in layers(body))}."
        raise SourceError(f"{told} `bequest ls layers SOURCE` lists them.") from None


def _whole(body: nn.Module, name: str, output: Any, batch: int, pooling: str | None) -> Cut:
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or output.shape[0] != batch:
        told = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise SourceError(
            f"The layer {name!r} gives {told} for a batch of {batch}; expected ({batch}, width), tokens ({batch}, …, "
            f"width) or a map ({batch}, channels, …, …). Choose a block: `bequest ls layers SOURCE`."
        )
    shape, channels_last, width = layout(body.get_submodule(name), output)
    return Cut(name, shape, channels_last, pooling or _usual(body), prefix_tokens(body), width)


def _usual(body: nn.Module) -> str:
    """How the body pools its tokens at its end."""
    for module in body.modules():
        own = getattr(module, "pooling", None)
        if own in TEXT_POOLINGS:
            return str(own)
    pool = getattr(body, "global_pool", None)
    if isinstance(pool, str) and pool:
        return "cls" if pool == "token" else "mean"
    return "cls" if has_class_token(body) or _reads_text(body) else "mean"


def _reads_text(body: nn.Module) -> bool:
    return "input_ids" in getattr(body, "names", ())


def _later(calls: dict[str, Call], body: nn.Module, last: Call) -> tuple[str, ...]:
    later: list[str] = []
    for name, _ in body.named_modules():
        inside = any(name.startswith(known + ".") for known in later)
        if name and not inside and first_call(calls, name) > last.ended:
            later.append(name)
    return tuple(later)


def _remove(body: nn.Module, name: str, shortened: bool) -> None:
    parent, _, child = name.rpartition(".")
    holder, module = body.get_submodule(parent), body.get_submodule(name)
    if shortened and isinstance(holder, (nn.ModuleList, nn.Sequential)) and child == str(len(holder) - 1):
        del holder[-1]
    elif isinstance(module, nn.ModuleList):
        body.set_submodule(name, nn.ModuleList())
    else:
        body.set_submodule(name, Skip())


def _same(cut: Cut, body: nn.Module, inputs: tuple[Tensor, ...], wanted: Tensor) -> bool:
    shorter = cut.apply(copy.deepcopy(body)).eval()
    try:
        with torch.no_grad():
            return torch.allclose(shorter(*inputs), wanted, rtol=1e-4, atol=1e-5)
    except _FAILURES:
        # The body's own code reads something of a layer that was taken off.
        return False


def _pool(output: Tensor, cut: Cut, inputs: tuple[Tensor, ...]) -> Tensor:
    if cut.shape == "vector":
        return output
    if cut.shape == "map":
        return output.mean(tuple(range(1, output.ndim - 1)) if cut.channels_last else tuple(range(2, output.ndim)))
    mask = inputs[1] if len(inputs) > 1 and inputs[1].shape == output.shape[:2] else None
    return pool_tokens(output, cut.pooling, mask, cut.skip)
