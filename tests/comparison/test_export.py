"""A run's low-rank updates as an adapter of the PEFT library, from the files that its folder keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import bequest
from bequest.core.errors import RunError
from bequest.core.registry import methods
from bequest.nn.lowrank import add_low_rank
from bequest.nn.peft_layout import with_own_factors
from bequest.sources import from_module

QUICK = {"epochs": 2, "learning_rate": 1e-2, "head_init": "random"}

LOW_RANK = [name for name in ("lora", "nola", "relora") if name in methods()]


def network(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    layers = [*body, nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5)]
    if num_classes != 5:
        layers[-1] = nn.Linear(16, num_classes)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_tasks: Any) -> bequest.Run:
    """A probe, and two trials of each method that adds low-rank layers."""
    folder = tmp_path_factory.mktemp("runs")
    return bequest.compare(
        tiny_tasks["image"],
        network(5),
        ["linear_probe", *LOW_RANK],
        settings=dict.fromkeys(LOW_RANK, QUICK),
        seeds=2,
        train_size=40,
        test_size=30,
        out=folder / "run",
        progress=False,
        cache=folder / "cache",
    )


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("method", LOW_RANK)
def test_the_adapter_computes_what_the_trial_was_scored_by(
    method: str, seed: int | None, run: bequest.Run, tiny_tasks: Any, tmp_path: Path
) -> None:
    made = bequest.export(run, tmp_path / "adapter", format="peft", method=method, seed=seed)
    [row] = [row for row in run.board.rows if row.method == method]
    assert (made.method, made.seed, made.notes) == (method, row.median_seed if seed is None else seed, ())
    assert made.check.num_samples == 32 and made.check.difference <= made.check.allowed
    [trial] = [t for t in run.board.trials if t.method == method and t.seed == made.seed]
    task = tiny_tasks["image"]
    model = peft.PeftModel.from_pretrained(network(3), made.path).eval()
    test = task.draw(made.seed, train_size=40, test_size=30).test
    with torch.no_grad():
        outputs = model(torch.stack([torch.as_tensor(task.samples[i]) for i in test]))
    accuracy = (outputs.argmax(1).numpy() == task.labels[test]).mean()
    assert accuracy == pytest.approx(trial.test)
    loss = nn.functional.cross_entropy(outputs, torch.as_tensor(task.labels[test]))
    assert float(loss) == pytest.approx(trial.test_loss, rel=1e-4)
    readme = (made.path / "README.md").read_text()
    assert "Its outputs, in order: channel 0, channel 1, channel 2." in readme


def test_what_was_exported_is_a_source(run: bequest.Run, tiny_tasks: Any, tmp_path: Path) -> None:
    made = bequest.export(run, tmp_path / "adapter", format="peft")
    again = bequest.compare(
        tiny_tasks["image"],
        network(5),
        ["linear_probe"],
        adapter=made.path,
        seeds=1,
        train_size=40,
        test_size=30,
        out=tmp_path / "again",
        progress=False,
        cache=tmp_path / "cache",
    )
    assert again.board.source["name"] == "Sequential with adapter"
    assert again.board.source["fingerprint"] != run.board.source["fingerprint"]


def test_a_distilled_trial_is_exported_too(run: bequest.Run, tiny_tasks: Any, tmp_path: Path) -> None:
    distilled = bequest.distill(
        tiny_tasks["image"],
        run,
        network(5),
        "lora",
        seeds=1,
        train_size=40,
        test_size=30,
        out=tmp_path / "distilled",
        progress=False,
        cache=tmp_path / "cache",
        **QUICK,
    )
    found: list[dict[str, torch.Tensor]] = []
    for method in ("lora", "lora, distilled"):
        made = bequest.export(distilled, tmp_path / method, format="peft", method=method)
        assert made.method == method
        found.append(load_file(made.path / "adapter_model.safetensors"))
    assert found[0].keys() == found[1].keys()
    assert any(not torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_what_cannot_be_exported(run: bequest.Run, tiny_tasks: Any, tmp_path: Path) -> None:
    source, data = from_module(network(5)), tiny_tasks["image"]
    adapter: dict[str, Any] = {"path": tmp_path / "adapter", "format": "peft"}
    with pytest.raises(RunError, match="does not say where its data lie, and a file is tried on real samples"):
        bequest.export(run.folder, **adapter)
    with pytest.raises(RunError, match=r"made from a module that only Python had; expected a named source. Give it"):
        bequest.export(run.folder, **adapter, data=data)
    with pytest.raises(RunError, match="linear_probe has no low-rank layers; expected a method that adds some"):
        bequest.export(run, **adapter, method="linear_probe")
    with pytest.raises(RunError, match=r"no finished trial of 'lroa'\. Did you mean 'lora'"):
        bequest.export(run, **adapter, method="lroa", source=source)
    with pytest.raises(RunError, match="no finished trial of 'lora' with seed 7; expected one of 0, 1"):
        bequest.export(run, **adapter, method="lora", seed=7)
    other = network(5)
    nn.init.zeros_(other[0].weight)  # pyright: ignore[reportArgumentType, reportIndexIssue]
    with pytest.raises(RunError, match="'Sequential' has other weights than the source of the run"):
        bequest.export(run.folder, **adapter, data=data, source=from_module(other))
    with pytest.raises(RunError, match=r"takes samples of kind array, but the data hold samples of kind text"):
        bequest.export(run, **adapter, data=tiny_tasks["text"])
    with pytest.raises(RunError, match=r"--tolerance is 0; expected a number between 0 and 1"):
        bequest.export(run, **adapter, tolerance=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file is a file; expected a folder, new or empty"):
        bequest.export(run, tmp_path / "file", format="peft")
    with pytest.raises(RunError, match="is not empty; expected a new or empty folder"):
        bequest.export(run, tmp_path, format="peft")
    with pytest.raises(RunError, match="cannot be written"):
        bequest.export(run, tmp_path / "file" / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model", {}, r"Cannot tell the format of .*; expected a file that ends in \.onnx, \.pt2, \.safetensors, or a"),
        ("model.onnx", {"format": "onxx"}, "--format is 'onxx'; expected one of onnx, torch-export"),
        ("model.pt2", {"format": "onnx"}, r"--format onnx writes a file that ends in \.onnx"),
        ("model.onnx", {"format": "hf"}, "--format hf writes a folder"),
    ],
)
def test_a_format_that_does_not_fit_the_path(name: str, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message):
        bequest.export(tmp_path, tmp_path / name, **options)


def test_a_format_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(RunError, match=r"needs onnxruntime, which is not installed.*'bequest\[onnx\]'"):
        bequest.export(tmp_path, tmp_path / "model.onnx")


def test_a_trial_whose_file_was_changed(run: bequest.Run, tmp_path: Path) -> None:
    file = run.folder / "trials" / "lora" / "seed1" / "trained.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-4] + bytes(4))
        with pytest.raises(RunError, match=r"trained\.safetensors was changed by hand or is damaged"):
            bequest.export(run, tmp_path / "adapter", format="peft", method="lora", seed=1)
    finally:
        file.write_bytes(whole)


class Remade(nn.Module):
    """Makes the factors of its one low-rank layer in each forward pass, as NOLA does."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.coefficient = nn.Parameter(torch.tensor(0.5))

    def factors(self) -> dict[str, torch.Tensor]:
        return {"0.B": self.coefficient * torch.ones_like(self.body.get_parameter("0.B"))}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(self.body, self.factors(), (x,))


def test_factors_that_are_made_in_each_pass_become_the_layers_own() -> None:
    body = nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)
    add_low_rank(body, ("0",), 2, 2.0)
    remade, x = Remade(body), torch.randn(5, 4)
    wanted = remade(x)
    assert not torch.allclose(body(x), wanted)
    assert with_own_factors(remade) is body
    torch.testing.assert_close(body(x), wanted)
    assert with_own_factors(body) is body


def test_a_head_of_another_shape_lies_beside(run: bequest.Run, tiny_tasks: Any, tmp_path: Path) -> None:
    own = bequest.adapt(
        tiny_tasks["image"],
        network(5),
        "lora",
        **{**QUICK, "head": "mlp"},
        train_size=40,
        test_size=30,
        out=tmp_path / "run",
        progress=False,
        cache=tmp_path / "cache",
    )
    made = bequest.export(own, tmp_path / "adapter", format="peft")
    assert len(made.notes) == 1 and len(load_file(made.path / "head.safetensors")) == 4
    assert json.loads((made.path / "adapter_config.json").read_text())["modules_to_save"] is None
    source = bequest.sources.with_adapter(from_module(network(5)), made.path)  # pyright: ignore[reportAttributeAccessIssue]
    samples = [tiny_tasks["image"].samples[i] for i in range(8)]
    x = torch.stack([torch.as_tensor(sample) for sample in samples])
    torch.testing.assert_close(source.network()(x), own.best.outputs(samples), rtol=1e-4, atol=1e-5)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not say where its data lie"):
        bequest.export(tmp_path, tmp_path / "adapter", format="peft")
