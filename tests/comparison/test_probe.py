"""The probe against linear probes and scores done by hand on what hooks see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import bequest
from bequest.core.errors import BequestError, DataError, RunError, SourceError
from bequest.core.plan import Features
from bequest.core.registry import get_method
from bequest.engine.run import run as run_method
from bequest.optim.linear import LinearSolver
from bequest.scores import scores
from bequest.scores.leep import leep
from bequest.scores.nce import nce
from bequest.scores.registry import score_all

SIZES: dict[str, Any] = {"train_size": 60, "test_size": 30}


def hooked(source: Any, task: Any, indices: Any, layers: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Each layer's output, averaged over its places by hand, sample by sample so that no token is padding."""
    body = source.network().body
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in [*layers, "embedding"]}

    def hook(name: str) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            if len(seen[name]) < len(seen["embedding"]) + 1:
                seen[name].append((output.mean((2, 3)) if output.ndim == 4 else output.mean(1))[0])

        return keep

    for name in layers:
        body.get_submodule(name).register_forward_hook(hook(name))
    with torch.no_grad():
        for i in indices:
            inputs = source.preprocess.collate([source.preprocess.encode(task.samples[int(i)])])
            seen["embedding"].append(body(*inputs)[0])
    return {name: torch.stack(found).numpy() for name, found in seen.items()}


@pytest.fixture(scope="module", params=["image", "text"])
def probed(request: Any, tiny_sources: Any, tiny_tasks: Any, tmp_path_factory: Any) -> Any:
    source, task = tiny_sources[request.param], tiny_tasks[request.param]
    folder = tmp_path_factory.mktemp("probe")
    found = bequest.probe(
        task, source, taps="all", seed=1, **SIZES, out=folder / "run", cache=folder / "cache", progress=False
    )
    return source, task, found


def test_linear_probes_are_those_done_by_hand(probed: Any) -> None:
    source, task, found = probed
    draw = task.draw(1, **SIZES)
    layers = [row.layer for row in found.rows if row.layer != "embedding"]
    assert len(layers) > 2
    features = hooked(source, task, draw.labelled, layers)
    for row in found.rows:
        values, count = features[row.layer], len(draw.train)
        part = Features(
            values=values[:count],
            labels=task.labels[draw.train],
            groups=None,
            num_classes=3,
            strata=task.strata[draw.train],
        )
        head, record = LinearSolver()(part, seed=1)
        with torch.no_grad():
            outputs = head(torch.from_numpy(values[count:]))
        truth = torch.from_numpy(task.labels[draw.held_out])
        assert row.linear == float((outputs.argmax(1) == truth).double().mean()), row.layer
        assert row.penalty == record["penalty"]
        assert row.linear_loss == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, truth)), abs=1e-3)
        assert row.width == values.shape[1]


def test_scores_are_those_of_hooked_features(probed: Any) -> None:
    source, task, found = probed
    draw = task.draw(1, **SIZES)
    features = hooked(source, task, draw.labelled, [row.layer for row in found.rows if row.layer != "embedding"])
    labels = task.labels[draw.labelled]
    for row in found.rows:
        by_hand = score_all(features[row.layer], labels, num_classes=3, kind="classification")
        assert set(row.scores) == set(scores())
        for name in ("h_score", "logme", "transrate"):
            assert row.scores[name] == pytest.approx(by_hand[name], rel=1e-2, abs=1e-2), (row.layer, name)


def test_leep_and_nce_are_of_the_sources_own_head(probed: Any) -> None:
    source, task, found = probed
    draw = task.draw(1, **SIZES)
    head, labels = source.network().head, task.labels[draw.labelled]
    for row in found.rows:
        if row.layer != "embedding" or isinstance(head, torch.nn.Identity):
            assert row.scores["leep"] is row.scores["nce"] is None
            continue
        embedding = hooked(source, task, draw.labelled, [])["embedding"]
        with torch.no_grad():
            probabilities = head(torch.from_numpy(embedding)).softmax(1).numpy()
        assert row.scores["leep"] == pytest.approx(leep(probabilities, labels), abs=1e-4)
        assert row.scores["nce"] == pytest.approx(nce(probabilities, labels), abs=1e-4)


def test_the_embeddings_probe_is_the_methods_validation(context_of: Any, probed: Any) -> None:
    source, task, found = probed
    context = context_of("image" if source.modality == "array" else "text")
    outcome = run_method(context, get_method("linear_probe").build({}), task.draw(1, **SIZES), seed=1)
    truth = context.labels(task.draw(1, **SIZES).ranking)
    [row] = [row for row in found.rows if row.layer == "embedding"]
    assert row.linear == context.objective.score(outcome.validation, truth)


def test_one_pass_a_source_and_none_again(tiny_tasks: Any, tmp_path: Path) -> None:
    calls: list[int] = []
    sources = [replace(tiny.image_source(), name=name) for name in ("one", "two")]
    with torch.no_grad():
        for parameter in sources[1].body.parameters():
            parameter.mul_(1.1)
    options = {**SIZES, "cache": tmp_path / "cache", "progress": False}
    forward = torch.nn.Conv2d.forward

    def counted(self: Any, x: Any) -> Any:
        if x.shape[1] == 3:  # the stem
            calls.append(len(x))
        return forward(self, x)

    torch.nn.Conv2d.forward = counted  # type: ignore[method-assign]
    try:
        first = bequest.probe(tiny_tasks["image"], sources, taps="all", out=tmp_path / "a", **options)
        made = sum(size for size in calls if size > 3)
        again = bequest.probe(tiny_tasks["image"], sources, taps="all", out=tmp_path / "a", **options)
    finally:
        torch.nn.Conv2d.forward = forward  # type: ignore[method-assign]
    assert made == 2 * 60, "each label's sample once through each source"
    assert first.record.passes == {name: {"asked": 60, "computed": 60} for name in ("one", "two")}
    assert again.record.passes == {name: {"asked": 60, "computed": 0} for name in ("one", "two")}
    assert again.rows == first.rows


def test_test_labels_are_not_read(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    task = tiny_tasks["image"]
    draw = task.draw(0, **SIZES)
    labels = task.labels.copy()
    labels[draw.test] = np.roll(labels[draw.test], 1)
    other = replace(task, labels=labels, split=tuple("test" if i in set(draw.test) else "train" for i in range(90)))
    same = replace(task, split=other.split)
    found = [
        bequest.probe(t, tiny_sources["image"], train_size=60, out=tmp_path / str(i), progress=False)
        for i, t in enumerate((same, other))
    ]
    assert found[0].rows == found[1].rows


def test_ranked_by_the_probe_then_its_loss(probed: Any) -> None:
    _, _, found = probed
    keys = [(row.linear, -row.linear_loss) for row in found.rows]
    assert keys == sorted(keys, reverse=True)
    assert found.best is found.rows[0] and found.record.ranked_by == "linear_probe"
    assert max(row.depth for row in found.rows) == 1 and min(row.depth for row in found.rows) > 0
    assert [row.depth for row in found.rows if row.layer == "embedding"] == [1]


def test_the_folder_holds_the_record(probed: Any) -> None:
    _, _, found = probed
    assert json.loads((found.folder / "probe.json").read_text()) == json.loads(json.dumps(found.record.to_json()))
    assert found.report.is_file()


def test_a_layer_that_is_the_embedding_stands_once(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    found = bequest.probe(tiny_tasks["image"], tiny_sources["image"], **SIZES, out=tmp_path / "p", progress=False)
    assert sorted(row.layer for row in found.rows) == ["blocks.0", "blocks.1", "embedding", "stem"]
    assert found.record.left_out == {"tiny_conv": {"blocks.2": "what the embedding is"}}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_layer_that_is_the_same_for_every_sample_is_left_out(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, precision: Any
) -> None:
    source, task = tiny_sources["text"], tiny_tasks["text"]
    name = "encoder.embeddings.token_type_embeddings"  # one text, so one type: rounding would be probed
    found = bequest.probe(task, source, taps=[name], **SIZES, precision=precision, out=tmp_path / "p", progress=False)
    assert [row.layer for row in found.rows] == ["embedding"]
    assert found.record.left_out == {"tiny_bert": {name: "the same for every sample"}}


@pytest.mark.parametrize(("kind", "defined"), [("regression", {"logme"}), ("multi-label", {"logme"})])
def test_other_kinds(kind: str, defined: set[str], tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    found = bequest.probe(tiny_tasks[kind], tiny_sources["image"], **SIZES, out=tmp_path / "p", progress=False)
    for row in found.rows:
        assert {name for name, value in row.scores.items() if value is not None} == defined
        assert row.linear is not None and row.linear > 0.5
    assert found.record.metric == {"regression": "R²", "multi-label": "macro-F1"}[kind]


def test_a_regressions_logme_does_not_depend_on_units(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    task = tiny_tasks["regression"]
    scaled = replace(task, labels=task.labels * np.float32(8) + np.float32(2))
    found = [
        bequest.probe(t, tiny_sources["image"], **SIZES, out=tmp_path / str(i), progress=False)
        for i, t in enumerate((task, scaled))
    ]
    by_layer = [{row.layer: (row.linear, row.scores["logme"]) for row in each.rows} for each in found]
    for layer, values in by_layer[0].items():
        assert values == pytest.approx(by_layer[1][layer], abs=1e-3)


def test_without_linear_probes_the_leave_one_out_accuracy_ranks(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path
) -> None:
    options = {**SIZES, "linear": False, "progress": False}
    found = bequest.probe(tiny_tasks["image"], tiny_sources["image"], out=tmp_path / "p", **options)
    assert found.record.ranked_by == "ridge_loo" and "linear_probe" not in found.record.names
    assert all(row.linear is row.penalty is None for row in found.rows)
    order = [(row.scores["ridge_loo"], row.scores["logme"]) for row in found.rows]
    assert order == sorted(order, reverse=True)  # type: ignore[type-var]
    values = bequest.probe(tiny_tasks["regression"], tiny_sources["image"], out=tmp_path / "q", **options)
    assert values.record.ranked_by == "logme"


def test_named_layers_and_the_embedding(tiny_tasks: Any, tmp_path: Path) -> None:
    source = tiny.image_source()
    other = replace(tiny.image_source(), name="other")
    found = bequest.probe(
        tiny_tasks["image"], [source, other], taps="blocks.1.norm, stem", **SIZES, out=tmp_path / "p", progress=False
    )
    assert sorted(row.layer for row in found.rows) == 2 * ["blocks.1.norm"] + 2 * ["embedding"] + 2 * ["stem"]
    depths = {row.layer: row.depth for row in found.rows}
    assert depths == {"stem": 0.25, "blocks.1.norm": 0.75, "embedding": 1}


def test_a_layer_that_one_source_lacks_is_said(tiny_tasks: Any, tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes:
        def note(self, text: str) -> None:
            notes.append(text)

        def progress(self, label: str, done: int, total: int) -> None: ...
        def trial(self, record: Any, board: Any) -> None: ...

    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    found = bequest.probe(
        tiny_tasks["image"], [flat, tiny.image_source()], taps=["stem"], **SIZES, out=tmp_path / "p", observer=Notes()
    )
    assert sorted((row.source, row.layer) for row in found.rows) == [
        ("Sequential", "embedding"),
        ("tiny_conv", "embedding"),
        ("tiny_conv", "stem"),
    ]
    assert any(text.startswith("Sequential: There is no layer 'stem'.") for text in notes)


def test_all_faults_at_once(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        bequest.probe(
            tiny_tasks["image"],
            ["minilm", tiny_sources["text"], tiny_sources["image"], tiny_sources["image"]],
            taps="blocks.9",
            out=tmp_path / "p",
            progress=False,
        )
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("There is no source 'minilm'. Did you mean")
    assert lines[1].startswith("The source 'tiny_bert' takes samples of kind 'text', but 'tiny images' holds 'array'.")
    assert lines[2].startswith("The source 'tiny_conv' is given 2 times; expected sources of different names.")
    assert "There is no layer 'blocks.9'." in lines[3]
    assert not (tmp_path / "p").exists()


def test_no_source(tiny_tasks: Any) -> None:
    with pytest.raises(SourceError, match="No source is given; expected one or more"):
        bequest.probe(tiny_tasks["image"], [], progress=False)


def test_a_folder_of_another_probe_is_refused(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    options = {**SIZES, "out": tmp_path / "p", "progress": False, "linear": False}
    bequest.probe(tiny_tasks["image"], tiny_sources["image"], **options)
    with pytest.raises(RunError, match=r"holds another run.*seed: 0 there, 1 now.*Choose another --out"):
        bequest.probe(tiny_tasks["image"], tiny_sources["image"], seed=1, **options)
    with pytest.raises(BequestError, match="holds a probe; expected a comparison"):
        bequest.replay(tmp_path / "p", out=tmp_path / "q")


def test_features_that_are_no_numbers_are_told_with_their_layer(tiny_tasks: Any, tmp_path: Path) -> None:
    source = tiny.image_source()
    with torch.no_grad():
        source.body.get_submodule("blocks.1.pointwise").bias[0] = torch.nan
    with pytest.raises(DataError, match=r"tiny_conv, layer (blocks.1|embedding): Feature 0 of sample 0 is nan"):
        bequest.probe(tiny_tasks["image"], source, **SIZES, out=tmp_path / "p", progress=False)


def test_an_earlier_regressions_head_has_no_classes(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    from bequest.sources.saved import from_run

    plain = tiny_sources["image"]
    for kind, classes in (("regression", False), ("image", True)):
        out = tmp_path / kind
        bequest.adapt(tiny_tasks[kind], plain, "linear_probe", **SIZES, out=out, progress=False)
        earlier = from_run(f"after {kind}", out, source=plain)
        found = bequest.probe(tiny_tasks["image"], earlier, linear=False, **SIZES, out=out / "probe", progress=False)
        assert any(row.scores["leep"] is not None for row in found.rows) == classes
