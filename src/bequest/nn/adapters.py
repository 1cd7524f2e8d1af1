"""Several adapters on one network, switched by name.

A low-rank layer stands around a layer of the network and writes nothing into it. So an adapter in use is its layers in
the places of those that they stand around, and its head; switching moves modules, and the network's own weights stay
as they are to the bit. An adapter that is not in use costs no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bequest.core.errors import SourceError, nearest
from bequest.nn.network import Network
from bequest.nn.peft_layout import adapted_layers


@dataclass(frozen=True)
class _Adapter:
    layers: dict[str, Any]
    head: nn.Module


class Adapters:
    """Adapters by name around one network.

    Attributes:
        network: What computes: with the adapter in use, or plain.
        active: Name of the adapter in use; None where none is.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.active: str | None = None
        self._head = network.head
        self._adapters: dict[str, _Adapter] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were added."""
        return tuple(self._adapters)

    def add(self, name: str, adapted: Network) -> None:
        """Take the low-rank layers and the head of a network with the same weights; none is in use afterwards.

        Args:
            name: For `use`.
            adapted: A copy of the plain network with low-rank layers in it. Its layers are ours from here on.

        Raises:
            SourceError: The name is taken, there are no low-rank layers, or the network underneath is another one.
        """
        carriers = set(adapted_layers(adapted.body).values())
        # Under every name: networks may have one layer in several places.
        layers = {n: m for n, m in adapted.body.named_modules(remove_duplicate=False) if m in carriers}
        if name in self._adapters or not layers:
            told = f"there is one of that name already: {', '.join(self.names)}" if layers else "it has none"
            raise SourceError(f"The adapter {name!r} cannot be added: {told}; expected a new name and low-rank layers.")
        self.off()
        self._check_same(name, adapted, layers)
        for place, layer in layers.items():
            layer.base = self.network.body.get_submodule(place)
        self._adapters[name] = _Adapter(layers, adapted.head)

    def use(self, name: str) -> None:
        """Compute with an adapter, and with its head.

        Raises:
            SourceError: There is none of that name.
        """
        if name not in self._adapters:
            raise SourceError(f"There is no adapter {name!r}. {nearest(name, self.names)}")
        self.off()
        adapter = self._adapters[name]
        for place, layer in adapter.layers.items():
            self.network.body.set_submodule(place, layer)
        self.network.head = adapter.head
        self.active = name

    def off(self) -> None:
        """Compute plainly, with the network's own head."""
        if self.active is None:
            return
        for place, layer in self._adapters[self.active].layers.items():
            self.network.body.set_submodule(place, layer.base)
        self.network.head = self._head
        self.active = None

    def _check_same(self, name: str, adapted: Network, layers: dict[str, Any]) -> None:
        """Beside its low-rank layers an adapter's network is ours, to the bit."""
        own = self.network.body.state_dict()
        for key, tensor in adapted.body.state_dict().items():
            layer = next((place for place in layers if key.startswith(f"{place}.")), None)
            if layer is not None and not key.startswith(f"{layer}.base."):
                continue
            plain = key if layer is None else f"{layer}.{key.removeprefix(f'{layer}.base.')}"
            if plain not in own or not torch.equal(own[plain], tensor):
                raise SourceError(
                    f"The adapter {name!r} cannot be added: {plain} is another than in the network; expected an "
                    "adapter that changes nothing beside its low-rank layers and the head. Load it as a source of its "
                    "own."
                )
