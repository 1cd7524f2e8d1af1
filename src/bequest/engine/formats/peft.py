"""A low-rank method's updates in the files of the PEFT library: `peft`."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from bequest.engine.adapted import AdaptedModel
from bequest.engine.formats.format import Format, Outputs
from bequest.nn.peft_layout import merge_first
from bequest.sources import adapter


def _write(model: AdaptedModel, folder: Path, _: str) -> list[str]:
    return adapter.write(folder, model.network, model.source, model.classes)


def _read(model: AdaptedModel, folder: Path, _: str) -> Outputs:
    from peft import PeftModel

    network = model.source.network()
    origin = network.origin
    part = network.body.get_submodule(origin.inside)
    original = part
    if origin.path:
        original = nn.Module()
        original.add_module(origin.path, part)
    beside = adapter.read_head(folder)
    if beside is None and origin.head:
        original.set_submodule(origin.head, copy.deepcopy(model.network.head).apply(_forget), strict=False)
    made = PeftModel.from_pretrained(original, str(folder)).eval()  # pyright: ignore[reportArgumentType]
    if merge_first(model.network.body):
        made.merge_and_unload()  # pyright: ignore[reportCallIssue]
    if beside is not None or not origin.head:
        network.head = beside or copy.deepcopy(model.network.head)
    else:
        # The body now ends in the head, unless the original holds the two side by side.
        network.head = original.get_submodule(origin.head) if origin.path else nn.Identity()
    return lambda batch: network(*batch)


def _forget(module: nn.Module) -> None:
    for tensor in module.state_dict().values():
        tensor.zero_()


PEFT = Format("peft", "", "peft", ("peft",), "peft", _write, _read, merged=False)
