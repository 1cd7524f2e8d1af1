"""`timm:NAME` and `torchvision:NAME`, untrained: heads, widths, sizes and pixels."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from bequest import sources
from bequest.core.errors import SourceError

TIMM = {
    "resnet18": (512, 64),
    "mobilenetv3_small_050": (1024, 64),
    "convnext_atto": (320, 64),
    "tf_efficientnet_lite0": (1280, 64),
    "vit_tiny_patch16_224": (192, None),
    "deit_tiny_distilled_patch16_224": (192, None),
    "regnety_002": (368, 64),
}
TORCHVISION = {
    "resnet18": (512, 64),
    "efficientnet_b0": (1280, 64),
    "mobilenet_v3_small": (1024, 64),
    "shufflenet_v2_x0_5": (1024, 64),
    "squeezenet1_1": None,
    "googlenet": (1024, 64),
}


def run(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(*inputs)


def check(source: sources.Source, width: int, direct: nn.Module) -> None:
    """The parts compute what the library's whole network does, and come back from their description."""
    inputs = source.example()
    assert inputs
    assert source.width == width
    network = source.network()
    assert run(network.body, *inputs).shape == (3, width)
    again = sources.from_description(
        source.name,
        {"network": json.loads(json.dumps(source.description)), "preprocess": source.preprocess.describe()},
        Path("."),
    )
    assert again.width == width and again.preprocess == source.preprocess
    made = again.scratch(0)
    made.load_state_dict(network.state_dict())
    assert torch.equal(run(made, *inputs), run(network, *inputs))
    if isinstance(network.head, nn.Linear):
        assert torch.allclose(run(network, *inputs), run(direct, *inputs), atol=1e-5)


def seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str):
    width, size = TIMM[name]
    source = sources.get(f"timm:{name}", image_size=size, pretrained=False)
    check(source, width, seeded(lambda: timm.create_model(name)))
    assert source.name == f"timm:{name} (untrained)"


@pytest.mark.parametrize("name", [n for n in TORCHVISION if TORCHVISION[n]])
def test_torchvision(name: str):
    width, size = TORCHVISION[name] or (0, 0)
    source = sources.get(f"torchvision:{name}", image_size=size, pretrained=False)
    arguments = source.description["arguments"]
    check(source, width, seeded(lambda: torchvision.models.get_model(name, **arguments)))


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_untrained_weights_are_the_same_at_each_call(name: str):
    one, other = (sources.get(name, pretrained=False) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    state = torch.random.get_rng_state()
    one.scratch(5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_pixels_are_the_libraries_own():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 402, 3), dtype=np.uint8))
    for name in ("resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0"):
        source = sources.get(f"timm:{name}", pretrained=False)
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        [ours] = source.preprocess.collate([source.preprocess.encode(image)])
        assert torch.allclose(ours[0], timm.data.create_transform(**config)(image), atol=1e-5), name
    for name in ("resnet18", "efficientnet_b0", "convnext_tiny"):
        source = sources.get(f"torchvision:{name}", pretrained=False)
        transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        [ours] = source.preprocess.collate([source.preprocess.encode(image)])
        assert torch.allclose(ours[0], transform(image), atol=1e-5), name


def test_vision_transformers_of_timm_take_another_size():
    source = sources.get("timm:vit_tiny_patch16_224", image_size=64, pretrained=False)
    assert source.description["arguments"] == {"img_size": 64}
    check(source, 192, seeded(lambda: timm.create_model("vit_tiny_patch16_224", img_size=64)))


@pytest.mark.parametrize("size", [None, 64])
def test_vision_transformers_of_torchvision_take_another_size(
    size: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The weights lie where torchvision keeps what it has fetched."""
    weights = torchvision.models.get_model_weights("vit_b_16").DEFAULT
    whole = seeded(lambda: torchvision.models.get_model("vit_b_16"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(whole.state_dict(), file)
    source = sources.get("torchvision:vit_b_16", image_size=size)
    if size is None:
        check(source, 768, whole)
        return
    check(source, 768, source.network())
    state, own = source.network().body.state_dict(), whole.state_dict()
    positions = "encoder.pos_embedding"
    assert state[positions].shape == (1, 1 + 4 * 4, 768) != own[positions].shape
    assert torch.equal(state[positions][:, 0], own[positions][:, 0])
    assert all(torch.equal(state[name], own[name]) for name in state if name != positions)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("timm:resnet19", {}, r"timm has no network 'resnet19'\. Did you mean 'resnet18'"),
        ("timm:resnet18.of_nobody", {}, "cannot be loaded"),
        ("torchvision:resnet19", {}, r"torchvision has no classifier 'resnet19'\. Did you mean 'resnet18'"),
        ("torchvision:fcn_resnet50", {}, "torchvision has no classifier 'fcn_resnet50'"),
        ("torchvision:squeezenet1_1", {}, "'squeezenet1_1' has no Linear as its head"),
        ("torchvision:vit_b_16", {"image_size": 72}, "does not take images of 72 px"),
        ("timm:resnet18", {"image_size": 16}, "--image-size is 16, expected 32 or more"),
        ("timm:resnet18", {"max_tokens": 16}, "--max-tokens does not apply to 'timm:resnet18'"),
        ("timm:resnet18", {"pooling": "mean"}, "--pooling does not apply to 'timm:resnet18', which pools by itself"),
        ("timm:resnet18", {"head": "layer1"}, "The head 'layer1' is a Sequential; expected a Linear"),
        ("timm:resnet18", {"head": "fd"}, r"ResNet has no layer 'fd'\. There are: fc"),
        ("efficientnet_lite0", {"head": "classifier"}, "--source-head does not apply to 'efficientnet_lite0'"),
        ("minilm_l6", {"image_size": 64}, "--image-size does not apply to 'minilm_l6'"),
        (
            "nothing",
            {},
            r"There is no source 'nothing'.*timm:NAME, torchvision:NAME, hf:NAME, hf:FOLDER, hf:FILE.gguf, RUN",
        ),
        ("minilm-l7", {}, "Did you mean 'minilm_l6'"),
    ],
)
def test_faults(name: str, options: dict[str, Any], told: str):
    with pytest.raises(SourceError, match=told):
        sources.get(name, pretrained=False, **options)


def test_without_a_connection_the_weights_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    source = sources.get("timm:resnet18")
    with pytest.raises(SourceError, match=r"'timm:resnet18' cannot be loaded .*installs as a package"):
        source.network()


def test_networks_without_published_weights():
    source = sources.get("timm:vit_small_patch16_36x1_224")
    with pytest.raises(SourceError, match="timm publishes no weights of 'vit_small_patch16_36x1_224'"):
        source.network()
