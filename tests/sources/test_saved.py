"""A model trained on one task as the source for the next, and what a replay repeats."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as T
from torch import nn

import bequest
from bequest import sources
from bequest.core.errors import RunError, SourceError

CONFIG = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
QUICK: dict[str, Any] = {"train_size": 30, "test_size": 30, "progress": False, "precision": "float32"}
TRAINED: dict[str, Any] = {**QUICK, "epochs": 1, "head_init": "random"}


@pytest.fixture
def bert(save: Any) -> str:
    return f"hf:{save(T.BertModel(T.BertConfig(**CONFIG)), 'bert')}"


def test_what_was_learned_on_one_task_is_the_source_for_the_next(bert: str, tmp_path: Path, cache: Path):
    first = bequest.adapt(tiny.text_task(), bert, "full", out=tmp_path / "first", **TRAINED)
    source = sources.get(str(tmp_path / "first"))
    inputs = source.example()
    assert inputs
    state, learned = first.best.network.body.state_dict(), source.body.state_dict()
    assert all(torch.equal(state[k], learned[k]) for k in state)
    assert source.fingerprint != sources.get(bert).fingerprint
    own = source.network().head
    assert isinstance(own, nn.Linear) and own.out_features == 3

    second = bequest.adapt(tiny.text_task(), str(tmp_path / "first"), "freeze", out=tmp_path / "second", **TRAINED)
    third = bequest.adapt(tiny.text_task(), str(tmp_path / "second"), out=tmp_path / "third", **QUICK)
    for run in (second, third):
        loaded = bequest.load(run.folder)
        texts = ["ball goal", "soup bread salt"]
        assert torch.equal(loaded.outputs(texts), run.best.outputs(texts))
    assert sources.get(str(tmp_path / "second")).scratch(1).body(*inputs).shape == (3, 16)


def test_a_loaded_head_with_hidden_layers_has_no_dropout(bert: str, tmp_path: Path, cache: Path):
    run = bequest.adapt(tiny.text_task(), bert, "freeze", out=tmp_path / "run", head="mlp", **{**TRAINED, "epochs": 3})
    loaded = bequest.load(run.folder)
    assert not any(module.training for module in loaded.network.modules())
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    task = tiny.text_task()
    test = task.draw(0, train_size=30, test_size=30).test
    outputs = loaded.outputs([task.samples[int(i)] for i in test])
    loss = nn.functional.cross_entropy(outputs, torch.as_tensor(np.asarray(task.labels)[test]))
    [trial] = run.board.trials
    assert float(loss) == pytest.approx(trial.test_loss, rel=1e-5)


def test_a_saved_model_is_a_source_with_a_token_limit_of_choice(bert: str, tmp_path: Path, cache: Path):
    run = bequest.adapt(tiny.text_task(), sources.get(bert, max_tokens=9), out=tmp_path / "run", **QUICK)
    run.best.save(tmp_path / "saved")
    folder = str(tmp_path / "saved")
    assert sources.get(folder).preprocess.describe()["max_tokens"] == 9
    assert sources.get(folder, max_tokens=11).preprocess.describe()["max_tokens"] == 11
    with pytest.raises(SourceError, match="--max-tokens is 41, expected from 2 to 40"):
        sources.get(folder, max_tokens=41)
    with pytest.raises(SourceError, match="--image-size does not apply"):
        sources.get(folder, image_size=64)
    with pytest.raises(SourceError, match="--source-head does not apply"):
        sources.get(folder, head="fc")
    with pytest.raises(SourceError, match="--pooling does not apply"):
        sources.get(folder, pooling="mean")


def test_a_cut_model_is_saved_loaded_and_a_source_again(bert: str, tmp_path: Path, cache: Path):
    run = bequest.adapt(
        tiny.text_task(), bert, "full", cut_at="layer.1", pooling="mean", out=tmp_path / "run", **TRAINED
    )
    texts = ["ball goal", "soup bread salt"]
    loaded = bequest.load(tmp_path / "run")
    assert len(loaded.network.body.body.encoder.encoder.layer) == 2
    assert torch.equal(loaded.outputs(texts), run.best.outputs(texts))
    source = sources.get(str(tmp_path / "run"))
    assert source.width == 16
    again = bequest.adapt(tiny.text_task(), source, out=tmp_path / "again", **QUICK)
    assert torch.equal(bequest.load(tmp_path / "again").outputs(texts), again.best.outputs(texts))


def test_image_models(tmp_path: Path, cache: Path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pixels = rng.integers(0, 120, (60, 40, 40, 3), dtype=np.uint8)
    pixels[labels == 1, :, :, 0] += 90
    data = (list(pixels), [f"c{label}" for label in labels])
    for name, cut in (("timm:test_resnet", None), ("timm:test_vit", "blocks.3"), ("torchvision:resnet18", "layer1")):
        source = sources.get(name, image_size=64, cut_at=cut, pretrained=False)
        folder = tmp_path / name.replace(":", "-")
        run = bequest.adapt(data, source, out=folder, **QUICK)
        loaded = bequest.load(folder)
        assert torch.equal(loaded.outputs(list(pixels[:4])), run.best.outputs(list(pixels[:4])))
        assert sources.get(str(folder)).width == source.width


@pytest.mark.parametrize(
    "options", [{}, {"cut_at": "layer.1", "pooling": "mean", "max_tokens": 12}, {"pretrained": False}]
)
def test_a_replay_repeats_how_the_source_was_asked_for(
    options: dict[str, Any], bert: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "data.csv"
    task = tiny.text_task()
    rows = [f"{task.samples[i]},{task.classes[task.labels[i]]}" for i in range(len(task.labels))]
    data.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    source = sources.get("hf:bert", **options)
    run = bequest.adapt(data, source, out=tmp_path / "run", cut=False, **QUICK)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["source"]
    assert recorded["name"] == bert and {k: recorded[k] for k in options} == options
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = bequest.replay(tmp_path / "run", out=tmp_path / "replay", progress=False)
    assert again.board.source["fingerprint"] == run.board.source["fingerprint"] == source.fingerprint
    assert json.loads((again.folder / "run.json").read_text())["settings"]["cut"] is False


def test_models_of_modules_need_the_module(tmp_path: Path, cache: Path):
    torch.manual_seed(0)
    source = tiny.image_source()
    bequest.adapt(tiny.image_task(), source, out=tmp_path / "run", **QUICK)
    with pytest.raises(RunError, match=r"nn\.Module of the user's.*sources\.from_run\(name, folder, source="):
        sources.get(str(tmp_path / "run"))
    again = sources.from_run("again", tmp_path / "run", source=source)
    assert torch.equal(again.body(*(torch.ones(1, 3, 12, 12),)), source.body(torch.ones(1, 3, 12, 12)))
    assert not again.description


def test_damaged_models_are_told(bert: str, tmp_path: Path, cache: Path):
    run = bequest.adapt(tiny.text_task(), bert, out=tmp_path / "run", **QUICK)
    file = run.folder / "best" / "model.json"
    about = json.loads(file.read_text())
    del about["classes"]
    file.write_text(json.dumps(about))
    with pytest.raises(RunError, match=r"damaged or does not fit its description in model\.json \('classes'\)"):
        bequest.load(run.folder)
    file.write_text("{")
    with pytest.raises(RunError):
        sources.get(str(run.folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"There is no model in .*empty; expected model\.json"):
        bequest.load(tmp_path / "empty")
    with pytest.raises(SourceError, match=r"holds no model of a run; of a model that transformers saved, write hf:"):
        sources.get(str(tmp_path / "empty"))


def test_old_descriptions_are_read(tmp_path: Path, bert: str):
    source = sources.get(bert)
    assert source.description["form"] == "pooled"
    older = {k: source.description[k] for k in ("kind", "config", "pooling")}
    source.preprocess.save(tmp_path)
    again = sources.from_description("x", {"network": older, "preprocess": source.preprocess.describe()}, tmp_path)
    assert again.width == 16
    again.scratch(0).load_state_dict(source.network().state_dict())
    assert replace(again, name="y").width == 16
