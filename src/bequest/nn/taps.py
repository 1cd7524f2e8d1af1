"""Taps: what layers inside a body give, each pooled to one vector a sample, from one forward pass.

Pooling to about T numbers is Head2Toe's (Evci et al. 2022, arXiv:2201.03529): a layer with T channels or more is
averaged over all places; one with fewer keeps n = ⌊T / channels⌋ runs of tokens, or n = ⌊√(T / channels)⌋ rows and
columns of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError, nearest
from bequest.nn.depth import find_name, layers
from bequest.nn.pooling import pool_tokens

_SHAPES = {2: "vector", 3: "tokens", 4: "map"}
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


@dataclass(frozen=True)
class Tap:
    """Where a body is tapped, and how what comes there is pooled.

    Attributes:
        name: Of the module whose first output is taken; empty for the body's own output, the embedding.
        shape: Of the output: `vector` (batch, channels), `tokens` (batch, tokens, channels) or `map` (batch, channels,
            height, width).
        channels_last: Whether a map's channels come last.
        channels: How many there are.
        skip: Tokens at the front (class token, registers) that are left out.
        target: Numbers to pool to, about; 0 for the mean over all places.
        width: Numbers that come of it.
    """

    name: str
    shape: str
    channels_last: bool
    channels: int
    skip: int
    target: int
    width: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells its features from those of other taps of the same body, for the store."""
        return {"tap": self.name or "embedding", **({"target": self.target} if self.target else {})}

    @property
    def key_text(self) -> str:
        """The same as a word."""
        return f"{self.name}:{self.target}"

    def pooled_to(self, target: int, inputs: tuple[Tensor, ...], output: Tensor) -> Tap:
        """The same place, pooled to about `target` numbers; the output for some inputs tells the width."""
        tap = replace(self, target=target)
        return replace(tap, width=tap.pool(output[:1], tuple(t[:1] for t in inputs)).shape[1])

    def pool(self, output: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """The output pooled, (batch, width).

        Means of bfloat16 are taken in float32: a layer that is the same for every sample stays the same.

        Args:
            output: Of the tapped module.
            inputs: Of the body; a second one in the shape of the tokens is their mask.
        """
        output = output.float() if output.dtype == torch.bfloat16 else output
        if self.shape == "vector":
            return output.clone()  # a later layer may work in place
        if self.shape == "map":
            return _pool_map(output.movedim(-1, 1) if self.channels_last else output, self.target)
        mask = inputs[1] if len(inputs) > 1 and inputs[1].shape == output.shape[:2] else None
        runs = self.target // self.channels
        if runs <= 1:
            return pool_tokens(output, "mean", mask, self.skip)
        return _pool_runs(output, runs, mask, self.skip)


class Tapped(nn.Module):
    """A body that gives the pooled outputs of some of its layers, side by side.

    Attributes:
        body: The whole body.
        taps: In the order of the features.
    """

    def __init__(self, body: nn.Module, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.body = body
        self.taps = tuple(taps)

    @property
    def width(self) -> int:
        """Features in all."""
        return sum(tap.width for tap in self.taps)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs → features (batch, width)."""
        return torch.cat(self.each(*inputs), 1)

    def each(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs → the features of each tap, (batch, its width)."""
        return read_taps(self.body, self.taps, inputs)

    def describe(self) -> list[dict[str, Any]]:
        """The taps as plain data."""
        return [asdict(tap) for tap in self.taps]

    def extra_repr(self) -> str:
        """The taps, so that they are part of the fingerprint."""
        return ", ".join(f"{tap.name or 'embedding'}:{tap.target}" for tap in self.taps)


class Apart(nn.Module):
    """A tapped body that gives each tap's features by themselves."""

    def __init__(self, tapped: Tapped) -> None:
        super().__init__()
        self.tapped = tapped

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs → the features of each tap, (batch, its width)."""
        return self.tapped.each(*inputs)


def read_taps(body: nn.Module, taps: Sequence[Tap], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a body gives at each of some taps, (batch, its width), from one forward pass."""
    caught: dict[str, Tensor] = {}

    def catch(tap: Tap) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # Pooled at once: a later layer may work in place. The first call counts where there are several.
            if tap.key_text not in caught:
                caught[tap.key_text] = tap.pool(tensor_of(output), inputs)

        return hook

    inside = [tap for tap in taps if tap.name]
    handles = [body.get_submodule(tap.name).register_forward_hook(catch(tap)) for tap in inside]
    try:
        embedding = body(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(caught[tap.key_text] if tap.name else embedding for tap in taps)


def embedding_tap(width: int) -> Tap:
    """The body's own output."""
    return Tap("", "vector", True, width, 0, 0, width)


def tapped(body: nn.Module) -> tuple[nn.Module, tuple[Tap, ...] | None]:
    """The body itself and its taps; None where it is not tapped, and gives its embedding."""
    return (body.body, body.taps) if isinstance(body, Tapped) else (body, None)


def find_taps(body: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str] = (), target: int = 0) -> list[Tap]:
    """Taps of a body, in the order in which a forward pass comes by them.

    Args:
        body: In eval mode.
        inputs: A batch, best of two samples or more.
        names: Of modules, each whole or its end, or `embedding`; empty for all places: every layer (step of depth) and
            the parts that it is made of (attention, MLP, normalisation). Of parts that give the very same tensor the
            outermost counts, and a convolution that a BatchNorm reads is left out: that gives an affine map of it.
        target: Numbers to pool each to, about; 0 for means.

    Raises:
        SourceError: There is no such layer, or its output is no embedding of the sample.
    """
    seen = _Seen(body, inputs, target)
    if not names:
        return seen.all()
    return [seen.one(name) for name in names]


class _Seen:
    """What one forward pass shows of a body's modules; no output is kept."""

    def __init__(self, body: nn.Module, inputs: tuple[Tensor, ...], target: int) -> None:
        self.body, self.inputs, self.target = body, inputs, target
        self.skip = prefix_tokens(body)
        self.taps: dict[str, Tap] = {}
        self.refused: dict[str, str] = {}
        self.same: dict[int, list[str]] = {}
        self.read_by_batch_norm: set[int] = set()
        self._alive: list[Tensor] = []
        handles = [m.register_forward_hook(self._hook(n)) for n, m in body.named_modules() if n]
        try:
            with torch.no_grad():
                output = body(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        self.embedding = embedding_tap(output.shape[1])
        self.embedding_is = set(self.same.get(id(output), []))
        self.normalised = {n for i in self.read_by_batch_norm for n in self.same.get(i, []) if _is_convolution(body, n)}
        self._alive.clear()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            output = tensor_of(output)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                self.read_by_batch_norm.add(id(inputs[0]))
            if name in self.taps or name in self.refused:
                return
            if not isinstance(output, Tensor) or output.ndim not in _SHAPES or output.shape[0] != len(self.inputs[0]):
                told = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                self.refused[name] = f"gives {told} for a batch of {len(self.inputs[0])}"
                return
            # A tensor that is gone may leave its identity to another.
            self._alive.append(output)
            self.same.setdefault(id(output), []).append(name)
            shape, channels_last, channels = layout(module, output)
            tap = Tap(name, shape, channels_last, channels, self.skip, 0, channels)
            self.taps[name] = tap.pooled_to(self.target, self.inputs, output) if self.target else tap

        return hook

    def all(self) -> list[Tap]:
        steps = [layer.name for layer in layers(self.body, self.inputs)]
        wanted = {part for step in steps for part in _parts(self.body, step)} | set(steps)
        wanted -= self.embedding_is | self.normalised
        alike = [sorted(wanted.intersection(names), key=_outermost) for names in self.same.values()]
        wanted -= {name for names in alike for name in names[1:]}
        return [*(tap for name, tap in self.taps.items() if name in wanted), self.embedding]

    def one(self, name: str) -> Tap:
        if name == "embedding":
            return self.embedding
        names = [*self.taps, *self.refused]
        try:
            full = find_name(name, names)
        except KeyError as error:
            told = error.args[0].partition(" There are: ")[0]
            raise SourceError(f"{told} `bequest ls layers SOURCE --taps` lists them.") from None
        if full in self.refused:
            raise SourceError(
                f"The layer {full!r} {self.refused[full]}; expected (batch, channels), (batch, tokens, channels) or "
                f"(batch, channels, height, width). {nearest(full, self.taps)}"
            )
        return self.taps[full]


def layout(module: nn.Module, output: Tensor) -> tuple[str, bool, int]:
    """Shape of a module's output, whether channels come last, and how many there are.

    A module's last parameter tells how many channels it gives, and so where they are.
    """
    sizes = [p.shape[0] for p in module.parameters()]
    channels = sizes[-1] if sizes else None
    first, last = output.shape[1], output.shape[-1]
    shape, channels_last = _SHAPES[output.ndim], True
    if shape == "map":
        channels_last = last == channels != first
    elif shape == "tokens" and first == channels != last:
        shape, channels_last = "map", False
    return shape, channels_last, last if channels_last else first


def prefix_tokens(body: nn.Module) -> int:
    """Tokens at the front of a network's sequence that stand for no part of the sample."""
    known = getattr(body, "num_prefix_tokens", None)
    return known if isinstance(known, int) else int(has_class_token(body))


def has_class_token(body: nn.Module) -> bool:
    """Whether a parameter is called a class token."""
    return any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in body.named_parameters())


def tensor_of(output: Any) -> Any:
    """The tensor of a layer's output: itself, or the first of a tuple."""
    if hasattr(output, "last_hidden_state"):
        return output.last_hidden_state
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _parts(body: nn.Module, name: str) -> list[str]:
    """The modules with parameters that a layer is made of; lists are looked through."""
    found: list[str] = []
    for child, module in body.get_submodule(name).named_children():
        path = f"{name}.{child}"
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            found += _parts(body, path)
        elif next(module.parameters(), None) is not None:
            found.append(path)
    return found


def _is_convolution(body: nn.Module, name: str) -> bool:
    return isinstance(body.get_submodule(name), nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]


def _outermost(name: str) -> tuple[int, int]:
    return name.count("."), len(name)


def _pool_map(output: Tensor, target: int) -> Tensor:
    """(batch, channels, …) → (batch, channels · places)."""
    side = int((target / output.shape[1]) ** 0.5)
    if side <= 1 or output.ndim != 4:
        return output.mean(tuple(range(2, output.ndim)))
    kernel = [max(1, length // min(side, length)) for length in output.shape[2:]]
    return nn.functional.avg_pool2d(output, kernel, kernel).flatten(1)


def _pool_runs(output: Tensor, runs: int, mask: Tensor | None, skip: int) -> Tensor:
    """Means over equal runs of each sample's own tokens: (batch, tokens, channels) → (batch, runs · channels).

    Run j of n over L tokens goes from ⌊j·L/n⌋ up to ⌈(j + 1)·L/n⌉, so none is empty: short texts share tokens.
    """
    output = output[:, skip:] if mask is None else output
    batch, tokens, _ = output.shape
    device = output.device
    lengths = torch.full((batch,), tokens, device=device) if mask is None else mask.sum(1).clamp(min=1)
    run = torch.arange(runs, device=device)
    begin = run * lengths[:, None] // runs
    end = -(-(run + 1) * lengths[:, None] // runs)
    place = torch.arange(tokens, device=device)
    inside = (place >= begin[..., None]) & (place < end[..., None])
    weights = inside.to(output.dtype) / (end - begin)[..., None].to(output.dtype)
    return (weights @ output).flatten(1)
