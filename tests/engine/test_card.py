"""The model card, read back as the Hugging Face Hub reads it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from bequest.core.intervals import t_interval
from bequest.engine.card import model_card
from bequest.sources import hub_name

VALUES = [0.91, 0.93, 0.95]
EVIDENCE: dict[str, Any] = {
    "metric": "accuracy",
    "validation": {"mean": 0.94, "sem": 0.01, "seeds": 3, "values": VALUES},
    "test": {"mean": 0.93, "sem": 0.0115, "seeds": 3, "values": VALUES},
    "own_test": 0.925,
    "metrics": {"macro-F1": {"mean": 0.9, "sem": 0.0115, "seeds": 3, "values": VALUES}},
    "by_class": [[8, 10, 9], [9, 10, 11]],
    "groups": {"a / red": 0.5, "a / blue": 0.8},
    "labels": 100,
    "validation_labels": 20,
    "tested": 20,
    "trainable_parameters": 12_345,
    "rivals": 3,
    "environment": {"torch": "2.9.0", "cpu_count": 2},
}
RECORD = {"task": "BBC News", "method": "lora", "seed": 2, "settings": {"rank": 4, "odd": "a|b"}, "evidence": EVIDENCE}
CLASSES = ("cats", "do|gs")


def test_machines_read_what_it_is(tiny_sources: dict[str, Any]) -> None:
    source = replace(tiny_sources["text"], licence="Apache-2.0", request={"name": "hf:org/small"})
    text = str(model_card(source, "classification", CLASSES, RECORD))
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.S).group(1))
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "org/small"
    assert front["library_name"] == "bequest"
    assert front["pipeline_tag"] == "text-classification"
    assert front["tags"] == ["bequest", "transfer-learning", "lora"]
    assert front["metrics"] == ["accuracy", "macro-f1"]
    [model] = front["model-index"]
    assert {m["type"]: m["value"] for result in model["results"] for m in result["metrics"]} == {
        "accuracy": 0.93,
        "macro-f1": 0.9,
    }


def test_people_read_the_evidence(tiny_sources: dict[str, Any]) -> None:
    text = str(model_card(tiny_sources["text"], "classification", CLASSES, RECORD))
    ends = t_interval(VALUES)
    assert ends is not None
    assert f"| accuracy | 0.93 | {ends[0]:.4g} to {ends[1]:.4g} | 3 |" in text
    assert "seed 2, the median of 3 by validation; its own test accuracy is 0.925" in text
    assert "| cats | 10 | 0.889 | 0.800 | 0.842 |" in text
    assert "| do\\|gs | 10 |" in text and "| `odd` | a\\|b |" in text
    assert "100 labels, 20 of them held out" in text and "12,345 parameters" in text
    assert "best of 4 methods" in text
    assert "a / red fares worst, with an accuracy of 0.5" in text
    assert "- torch: 2.9.0" in text and "- cpu count: 2" in text
    assert 'model.predict(["some text"])' in text and "prediction.label" in text


def test_tuned_settings_and_intervals_at_the_edge_are_told_as_such(tiny_sources: dict[str, Any]) -> None:
    tuned = {"settings": {"rank": 4, "learning_rate": 0.001}, "tried": 20}
    scores = {**EVIDENCE["test"], "values": [0.5, 1.0]}
    record = {**RECORD, "evidence": {**EVIDENCE, "tuning": tuned, "test": scores}}
    text = str(model_card(tiny_sources["text"], "classification", CLASSES, record))
    assert "`rank`, `learning_rate` were chosen among 20 settings that were tried on held-out labels" in text
    assert "| accuracy | 0.93 | 0 to 1 | 2 |" in text


def test_an_interval_on_held_out_labels_has_its_metrics_range(tiny_sources: dict[str, Any]) -> None:
    below = {**EVIDENCE["validation"], "mean": -0.5, "values": [-0.5, -0.4, -0.6]}
    record = {**RECORD, "evidence": {**EVIDENCE, "metric": "R²", "validation": below}}
    text = str(model_card(tiny_sources["text"], "regression", CLASSES, record))
    assert "| R² on validation | -0.5 | -0.7484 to -0.2516 | 3 |" in text


def test_of_folds_nothing_is_said_that_only_a_test_part_bears_out(tiny_sources: dict[str, Any]) -> None:
    record = {**RECORD, "evidence": {**EVIDENCE, "folds": 5}}
    text = str(model_card(tiny_sources["text"], "multi-label", CLASSES, record))
    assert "in 5 folds, each scored by the network that has not seen it" in text
    assert "this model is the first fold's" in text and "Of all folds' networks of its seed" in text
    assert "chose nothing" not in text and "its own test" not in text
    assert "one of them all the same" not in text, "of several labels there may be none"


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression"])
def test_without_evidence_nothing_is_claimed(tiny_sources: dict[str, Any], kind: Any) -> None:
    text = str(model_card(tiny_sources["image"], kind, ("a", "b"), {}))
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.S).group(1))
    assert "model-index" not in front and "metrics" not in front
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## How to use it", "## Limits"]


def test_an_unknown_licence_is_not_dressed_up(tiny_sources: dict[str, Any]) -> None:
    source = replace(tiny_sources["text"], licence="Own terms")
    text = str(model_card(source, "classification", CLASSES, RECORD))
    assert "license: other" in text and "license_name: own terms" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minilm_l6", "sentence-transformers/all-MiniLM-L6-v2"),
        ("timm:resnet18", "timm/resnet18"),
        ("hf:org/name", "org/name"),
        ("hf:.", None),
        ("runs/reviews", None),
    ],
)
def test_the_hubs_name_of_a_source(tiny_sources: dict[str, Any], name: str, expected: str | None) -> None:
    assert hub_name(replace(tiny_sources["text"], request={"name": name})) == expected


def test_names_of_somebody_else_stay_text(tiny_sources: dict[str, Any]) -> None:
    evil = ("a\n# Owned\n<script>x</script>", "![x](http://evil/?q)", "[y](http://evil)", "`z`")
    record = {**RECORD, "task": evil[0], "evidence": {**EVIDENCE, "groups": {evil[1]: 0.5}, "by_class": None}}
    text = str(model_card(tiny_sources["text"], "classification", evil, record))
    body = re.sub(r"^---\n.*?\n---\n", "", text, flags=re.S)
    assert not re.search(r"^# Owned|(?<!\\)<script|(?<!\\)!\[|(?<!\\)\[[xy]|(?<!\\)`z", body, re.M)
    assert "\\# Owned \\<script\\>" in body
