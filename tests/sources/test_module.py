"""Any `nn.Module` as a source."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bequest
from bequest import sources
from bequest.core.errors import SourceError


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))


def test_body_and_head_are_the_module():
    module = mlp()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    source = sources.from_module(module)
    x = torch.randn(5, 4)
    network = source.network()
    assert source.width == 6 and source.name == "Sequential"
    assert torch.equal(network(x), module.eval()(x))
    network.requires_grad_(True)(x).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    module[0].weight.data.zero_()
    assert not torch.equal(source.network()(x), module(x))


def test_the_head_can_be_named_or_absent():
    module = mlp()
    x = torch.randn(5, 4)
    assert sources.from_module(module, head="0").width == 4
    whole = sources.from_module(module, head="")
    assert whole.width == 2 and isinstance(whole.network().head, nn.Identity)
    convolution = nn.Sequential(nn.Conv1d(2, 3, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert sources.from_module(convolution, head="", example=torch.zeros(2, 2, 9)).width == 3
    assert torch.equal(whole.body(x), module.eval()(x))


class Backwards(nn.Module):
    """Its layers are registered last to first."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Linear(3, 2)
        self.a = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.z(self.a(x))


def test_a_batch_finds_the_head_and_the_order():
    assert sources.from_module(Backwards()).width == 4
    source = sources.from_module(Backwards(), example=torch.zeros(1, 4))
    assert source.width == 3
    assert [layer.name for layer in source.layers] == ["a"]
    assert source.network().body(torch.zeros(1, 4)).shape == (1, 3)


def test_the_twin_is_reset_by_the_seed_alone():
    source = sources.from_module(mlp())
    one, same, other = source.scratch(1), source.scratch(1), source.scratch(2)
    assert torch.equal(one.body[0].weight, same.body[0].weight)
    assert not torch.equal(one.body[0].weight, other.body[0].weight)
    assert not torch.equal(one.body[0].weight, source.body[0].weight)


class Token(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x + self.token)


def test_a_module_that_cannot_be_reset_asks_for_its_maker():
    with pytest.raises(SourceError, match=r"Layers without reset_parameters: Token.*from_module\(\.\.\., untrained="):
        sources.from_module(Token()).scratch(0)
    assert sources.from_module(Token(), untrained=Token).scratch(0).head.out_features == 2
    assert sources.from_module(Token()).layers[0].parameters == ("token",)


@pytest.mark.parametrize(
    ("module", "options", "told"),
    [
        (nn.Conv1d(1, 1, 1), {}, r"Conv1d has no Linear layer that could be its head.*head=''"),
        (nn.Conv1d(1, 1, 1), {"head": ""}, r"Cannot tell how long the embedding of Conv1d is\. Give a batch"),
        (mlp(), {"head": "5"}, r"Sequential has no layer '5'\. There are: 0, 4"),
        (mlp(), {"head": "2"}, r"The head '2' is a ReLU; expected a Linear\. Name another layer: 0, 4"),
    ],
)
def test_faults(module: nn.Module, options: dict[str, Any], told: str):
    with pytest.raises(SourceError, match=told):
        sources.from_module(module, **options)


class Standardise:
    modality, fingerprint, persistent = "array", "standardise", True

    def encode(self, sample: Any) -> np.ndarray[Any, Any]:
        return (np.asarray(sample, dtype=np.float32) - 3) / 2

    def collate(self, items: Any) -> tuple[torch.Tensor, ...]:
        return (torch.from_numpy(np.stack(items)),)


def test_preprocessing_of_ones_own():
    own = Standardise()
    assert sources.from_module(mlp(), preprocess=own).preprocess is own
    function = sources.from_module(mlp(), preprocess=lambda x: np.asarray(x) * 2).preprocess
    assert function.encode([1, 2]).tolist() == [2, 4]


def data(count: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    return rng.normal(size=(count, 4)).astype(np.float32) + labels[:, None], [f"c{label}" for label in labels]


def test_arrays_of_the_task_are_a_modules_batch(tmp_path: Any, cache: Any):
    task = bequest.task_from_arrays(*data())
    assert sources.resolve(Backwards(), task).width == 3
    cut = sources.resolve(mlp(), task, cut_at="2")
    assert cut.width == 6 and len(list(cut.body.parameters())) == 4
    named = sources.resolve(Backwards(), task, head="a")
    assert named.width == 4
    run = bequest.adapt(task, mlp(), cut_at="0", out=tmp_path / "run", test_size=10, progress=False)
    assert run.board.source["width"] == 6
    loaded = bequest.load(run.folder, source=sources.resolve(mlp(), task, cut_at="0"))
    assert torch.equal(loaded.outputs(data()[0][:3]), run.best.outputs(data()[0][:3]))


def test_options_that_do_not_apply_are_refused():
    task = bequest.task_from_arrays(*data())
    with pytest.raises(SourceError, match=r"cut_at is for a source's name, but 'Sequential' is a Source already"):
        sources.resolve(sources.from_module(mlp()), task, cut_at="0")
    with pytest.raises(SourceError, match="max_tokens does not apply to 'Sequential'"):
        sources.resolve(mlp(), task, max_tokens=3)
    with pytest.raises(SourceError, match="pooling does not apply to 'Sequential'"):
        sources.resolve(mlp(), task, pooling="mean")
