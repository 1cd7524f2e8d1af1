"""Taps give what a forward hook sees, pooled as the paper says, in the order of the forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import tiny
import torch
from torch import nn

from bequest.core.errors import SourceError
from bequest.nn.taps import Tap, Tapped, find_taps
from bequest.sources import get

SIZE = 64


def hooked(body: nn.Module, inputs: tuple[torch.Tensor, ...], name: str) -> torch.Tensor:
    """What torch's own hook sees at a module, at its first call."""
    seen: list[torch.Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).clone())

    handle = body.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        body(*inputs)
    handle.remove()
    return seen[0]


def run(body: nn.Module, inputs: tuple[torch.Tensor, ...], taps: list[Tap]) -> dict[str, torch.Tensor]:
    module = Tapped(body, taps)
    with torch.no_grad():
        whole, each = module(*inputs), module.each(*inputs)
    assert torch.equal(whole, torch.cat(each, 1))
    assert whole.shape[1] == module.width
    return {tap.name: part for tap, part in zip(taps, each, strict=True)}


def image_body(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    options = {} if "resnet" in name or "efficient" in name or "convnext" in name else {"img_size": SIZE}
    torch.manual_seed(0)
    body = timm.create_model(name, num_classes=0, **options).eval()
    return body, (torch.randn(2, 3, SIZE, SIZE),)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"],
)
def test_every_tap_is_what_a_hook_sees(name: str):
    body, inputs = image_body(name)
    taps = find_taps(body, inputs)
    features = run(body, inputs, taps)
    assert torch.equal(features[""], body(*inputs))
    assert len(features) == len(taps) > 10
    for tap in taps[:-1]:
        seen = hooked(body, inputs, tap.name)
        if tap.shape == "map":
            wanted = seen.mean((1, 2) if tap.channels_last else (2, 3))
        else:
            wanted = seen if tap.shape == "vector" else seen[:, tap.skip :].mean(1)
        assert torch.allclose(features[tap.name], wanted, atol=1e-6), tap.name
        assert tap.width == wanted.shape[1] == tap.channels


def test_no_two_taps_are_the_same_tensor_and_blocks_and_their_parts_are_there():
    body, inputs = image_body("tf_efficientnet_lite0")
    names = [tap.name for tap in find_taps(body, inputs)]
    assert {"blocks.1.1", "blocks.1.1.bn2", "blocks.4.2", "blocks.6.0.bn1", ""} <= set(names)
    assert "blocks.1.1.conv_pw" not in names  # bn1 gives an affine map of it
    features = run(body, inputs, find_taps(body, inputs))
    parts = [part.numpy().tobytes() for part in features.values()]
    assert len(set(parts)) == len(parts)


def test_before_and_after_attention_and_mlp():
    body, inputs = image_body("vit_tiny_patch16_224")
    names = [tap.name for tap in find_taps(body, inputs)]
    block = [name for name in names if name.startswith("blocks.3")]
    assert block == ["blocks.3.norm1", "blocks.3.attn", "blocks.3.norm2", "blocks.3.mlp", "blocks.3"]


@pytest.mark.parametrize(("target", "side"), [(0, 1), (100, 1), (128, 1), (512, 2), (1200, 3), (10**6, 16)])
def test_maps_are_pooled_to_the_target(target: int, side: int):
    body, inputs = image_body("resnet18")
    [tap] = find_taps(body, inputs, ["layer2.0"], target)
    [found] = run(body, inputs, [tap]).values()
    seen = hooked(body, inputs, "layer2.0")
    assert seen.shape[1:] == (128, 8, 8)
    side = min(side, 8)
    kernel = 8 // side
    places = range(0, 8 - kernel + 1, kernel)
    parts = [[seen[:, :, i : i + kernel, j : j + kernel].mean((2, 3)) for j in places] for i in places]
    wanted = torch.stack([torch.stack(row, -1) for row in parts], -2).flatten(1)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_texts_are_pooled_over_their_own_tokens_in_runs():
    source: Any = tiny.text_source()
    body = source.body
    texts = ["ball goal team match referee soup", "a", "song choir"]
    encoded = [source.preprocess.encode(text) for text in texts]
    for target in (0, 16, 48):
        taps = find_taps(body, source.example(), ["layer.0", "layer.1"], target)
        with torch.no_grad():
            padded = Tapped(body, taps)(*source.preprocess.collate(encoded))
            alone = [Tapped(body, taps)(*source.preprocess.collate([item])) for item in encoded]
        assert torch.allclose(padded, torch.cat(alone), atol=1e-5)
        runs = max(1, target // 16)
        assert [tap.width for tap in taps] == [16 * runs] * 2
        for item, row in zip(encoded, padded, strict=True):
            seen = hooked(body, source.preprocess.collate([item]), taps[0].name)[0]
            ends = [(j * len(seen) // runs, -(-(j + 1) * len(seen) // runs)) for j in range(runs)]
            wanted = torch.cat([seen[a:b].mean(0) for a, b in ends])
            assert torch.allclose(row[: 16 * runs], wanted, atol=1e-5)


class InPlace(nn.Module):
    """Its activation overwrites what the layer before it gave; one module is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.second(self.act(self.first(x))))


def test_the_first_call_counts_before_anything_works_in_place():
    torch.manual_seed(0)
    body, x = InPlace().eval(), torch.randn(5, 4)
    [first, second] = find_taps(body, (x,), ["first", "second"])
    features = run(body, (x,), [first, second])
    assert torch.equal(features["first"], body.first(x))
    assert torch.equal(features["second"], body.second(body.first(x).relu()))


def test_a_name_that_is_not_there_is_refused():
    body, inputs = image_body("vit_tiny_patch16_224")
    with pytest.raises(SourceError, match=r"There is no layer 'blocks.77'.*--taps"):
        find_taps(body, inputs, ["blocks.77"])


def test_an_output_that_is_no_embedding_is_named():
    class Transposing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.T).T

    with pytest.raises(SourceError, match=r"'inner' gives \(4, 5\) for a batch of 5; expected \(batch, channels\)"):
        find_taps(Transposing(), (torch.randn(5, 4),), ["inner"])


def test_pretrained_sources_know_their_taps():
    source = get("timm:resnet18", image_size=SIZE, pretrained=False)
    names = [tap.name for tap in source.taps()]
    assert names[-1] == "" and "layer4.1" in names
    assert all(tap.width <= 512 for tap in source.taps())
