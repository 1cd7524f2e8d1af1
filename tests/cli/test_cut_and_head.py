"""`--cut-at`, `--pooling`, `--head` and `--head-layers`, from the words of a command line to the saved model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bequest as library

Bequest = Callable[..., tuple[int, str, str]]
QUICK = ("--train-size", 40, "--quiet")
TEXTS = ["goal ball the team", "soup salt", "a violin note of the choir"]


def weights(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run / "best" / "model.safetensors")


def check_predictions(bequest: Bequest, run: Path) -> None:
    """`bequest predict` says what the loaded model says, twice the same."""
    files = [run.parent / f"{number}.txt" for number in range(len(TEXTS))]
    for file, text in zip(files, TEXTS, strict=True):
        file.write_text(text, encoding="utf-8")
    status, out, _ = bequest("predict", run, "--json", *files)
    assert status == 0
    told = [json.loads(line) for line in out.splitlines()]
    model = library.load(run)
    for _ in range(2):
        expected = [
            {"input": str(file), **vars(prediction)}
            for file, prediction in zip(files, model.predict(TEXTS), strict=True)
        ]
        assert told == expected
    assert {line["label"] for line in told} <= {"sport", "food", "music"}
    assert len({line["probability"] for line in told}) == len(TEXTS), "the model tells texts apart"


def test_adapt_cuts_the_body_and_builds_the_head(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    words = ("--cut-at", "layer.1", "--pooling", "mean", "--head", "mlp", "--head-layers", "12,6")
    run = tmp_path / "run"
    status, out, err = bequest(
        "adapt", table, "--source", f"hf:{bert}", "--method", "full", "--epochs", 1, *words, *QUICK, "--out", run
    )
    assert status == 0, err
    assert "Best by validation: full" in out

    saved = weights(run)
    layers = {match[1] for name in saved if (match := re.search(r"\.layer\.(\d+)\.", name))}
    assert layers == {"0", "1"}, "the third layer is gone"
    head = [tuple(saved[f"head.{name}.weight"].shape) for name in ("hidden.0", "hidden.1", "output")]
    assert head == [(12, 16), (6, 12), (3, 6)]
    about = json.loads((run / "best" / "model.json").read_text(encoding="utf-8"))
    [cut] = about["network"]["cuts"]
    assert cut["at"].endswith("layer.1") and cut["pooling"] == "mean"
    assert (about["head"]["kind"], about["head"]["hidden"]) == ("mlp", [12, 6])

    model = library.load(run)
    assert [layer.out_features for layer in model.network.head.hidden] == [12, 6]
    assert not any(module.training for module in model.network.modules())
    check_predictions(bequest, run)


def test_compare_gives_one_method_its_head(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    words = ("--cut-at", "layer.0", "--pooling", "cls", "--seeds", 1, "--methods", "linear_probe,full")
    settings = ("full.head=mlp", "full.head_layers=5", "full.epochs=1")
    run = tmp_path / "run"
    status, _, err = bequest(
        "compare",
        *(table, "--source", f"hf:{bert}", *words, *(w for s in settings for w in ("--set", s)), *QUICK, "--out", run),
    )
    assert status == 0, err
    heads = {
        method: json.loads((run / "trials" / method / "seed0" / "record.json").read_text(encoding="utf-8"))["head"]
        for method in ("linear_probe", "full")
    }
    assert heads["linear_probe"]["kind"] == "linear"
    assert (heads["full"]["kind"], heads["full"]["hidden"]) == ("mlp", [5])
    assert not [name for name in weights(run) if ".layer.1." in name]
    check_predictions(bequest, run)


def test_poolings_differ(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    """The flag reaches the network: the same weights, another vector of the tokens."""
    outputs = []
    for pooling in ("mean", "cls", "last"):
        run = tmp_path / pooling
        source = ("--source", f"hf:{bert}", "--pooling", pooling)
        status, _, err = bequest("adapt", table, *source, *QUICK, "--out", run)
        assert status == 0, err
        assert json.loads((run / "best" / "model.json").read_text(encoding="utf-8"))["network"]["pooling"] == pooling
        check_predictions(bequest, run)
        outputs.append(library.load(run).outputs(TEXTS))
    assert not any(a.allclose(b) for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--cut-at", "layer.7"], 1, "There is no layer 'layer.7'. Did you mean 'layer.2' or 'layer.1' or 'layer.0'?"),
        (["--cut-at", "encoder.layr.1"], 1, "There is no layer 'encoder.layr.1'. Did you mean 'encoder.layer.1'"),
        (["--pooling", "men"], 2, "argument --pooling: invalid choice: 'men' (choose from "),
        (["--head", "mpl"], 1, "--head of 'full' is 'mpl', expected linear or mlp."),
        (["--head", "mlp", "--head-layers", "12,x"], 1, "head_layers is '12,x', expected widths of 1 or more, e.g. "),
        (["--head-layers", "12"], 1, "head_layers is '12', but a linear head has none; expected head mlp."),
        (["--method", "linear_probe", "--head-layers", "12"], 1, "'linear_probe' has no hyperparameter 'head_layers'"),
        (["--method", "ful"], 1, "There is no method 'ful'. Did you mean 'full'?"),
        (["--head-layer-widths", "12"], 2, "There is no option --head-layer-widths. Did you mean '--head-layers'"),
    ],
)
def test_wrong_names(
    bequest: Bequest, table: Path, bert: Path, tmp_path: Path, words: list[str], status: int, text: str
) -> None:
    method = [] if "--method" in words else ["--method", "full"]
    found = bequest("adapt", table, "--source", f"hf:{bert}", *method, *words, "--out", tmp_path / "run")
    assert found[0] == status
    assert text in found[2]
    assert not (tmp_path / "run").exists(), "faults are found before anything is written"


def test_wrong_name_of_a_setting(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    words = ("--methods", "full", "--set", "full.head_layer=12", "--out", tmp_path / "run")
    status, _, err = bequest("compare", table, "--source", f"hf:{bert}", *words)
    assert status == 1
    assert "Method 'full' has no hyperparameter 'head_layer' (Did you mean 'head_layers'" in err
