"""The weights as a plain state dict: `safetensors`."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from bequest.core.results import atomic_open
from bequest.engine.adapted import AdaptedModel
from bequest.engine.formats.format import Format, Outputs, about, save_beside
from bequest.engine.formats.whole import blank, parted, whole

_ORIGINAL, _OWN = "original", "body, head"
"""What tensors' names are those of."""


def _write(model: AdaptedModel, folder: Path, name: str) -> list[str]:
    layout, network = _named(model)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    with atomic_open(folder / name) as file:
        file.write(save(state, {"format": "pt", "bequest": json.dumps({**about(model), "names": layout})}))
    told = {
        _ORIGINAL: f"Its tensors have the names that {model.source.name} gives them, the head included.",
        _OWN: f"Its tensors are called body.… and head.…: {model.source.name} has no place for this head.",
    }
    return [told[layout], *save_beside(model, folder)]


def _read(model: AdaptedModel, folder: Path, name: str) -> Outputs:
    layout, named = _named(model)
    named = blank(named)
    named.load_state_dict(load_file(folder / name))
    network = named if layout == _OWN else parted(named, model.network)
    return lambda batch: network(*batch)


def _named(model: AdaptedModel) -> tuple[str, nn.Module]:
    """What the names are those of, and a module with these names."""
    original = None if model.kind == "causal-lm" else whole(model.network)
    return (_OWN, model.network) if original is None else (_ORIGINAL, original)


SAFETENSORS = Format("safetensors", ".safetensors", "safetensors.torch.load_file", ("safetensors",), "", _write, _read)
