"""The model card that lies beside a saved model: what it is, how it came to be, and what speaks for it.

In the Hugging Face Hub's format: a README.md that begins with what machines read. Whatever the record does not tell is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bequest.core.intervals import t_interval, within_range
from bequest.core.per_class import class_scores
from bequest.core.task import Kind
from bequest.sources import Source, hub_name

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_PIPELINES = {
    ("text", "classification"): "text-classification",
    ("text", "multi-label"): "text-classification",
    ("image", "classification"): "image-classification",
    ("image", "multi-label"): "image-classification",
    ("array", "classification"): "tabular-classification",
    ("array", "regression"): "tabular-regression",
    ("text", "causal-lm"): "text-generation",
}
_LICENCES = frozenset({"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0", "cc-by-nc-4.0", "openrail"})
_MOST_CLASSES = 100


def model_card(source: Source, kind: Kind, classes: tuple[str, ...], record: Mapping[str, Any]) -> ModelCard:
    """The card of an adapted model.

    Args:
        source: What it was adapted from.
        kind: What it predicts.
        classes: Names of its classes or targets.
        record: How it came to be; its `evidence` has scores, counts and the machine.
    """
    from huggingface_hub import ModelCard

    evidence = record.get("evidence", {})
    sections = (
        _what(source, kind, classes, record),
        _use(source, kind),
        _training(record, evidence),
        _scores(record, evidence),
        _by_class(classes, evidence),
        _limits(kind, evidence),
        _environment(evidence),
    )
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{_metadata(source, kind, record, evidence).to_yaml()}\n---\n\n{body}\n")


def _metadata(source: Source, kind: Kind, record: Mapping[str, Any], evidence: Mapping[str, Any]) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    licence, task = source.licence.lower(), str(record.get("task", ""))
    named: dict[str, Any] = (
        {"license": licence} if licence in _LICENCES else {"license": "other", "license_name": licence or "unknown"}
    )
    pipeline, test = _PIPELINES.get((source.modality, kind)), evidence.get("test")
    results = [
        EvalResult(
            task_type=pipeline or kind,
            dataset_type=_slug(task),
            dataset_name=task,
            dataset_split="test",
            metric_type=_slug(name),
            metric_name=f"{name}, mean over {len(found['values'])} seeds",
            metric_value=found["mean"],
        )
        for name, found in ({evidence["metric"]: test, **evidence["metrics"]} if test else {}).items()
    ]
    return ModelCardData(
        **named,
        model_name=f"{task}, {record.get('method', 'adapted')}" if task else source.name,
        base_model=hub_name(source),
        library_name="bequest",
        pipeline_tag=pipeline,
        tags=["bequest", "transfer-learning", *([_slug(str(record["method"]))] if "method" in record else [])],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        eval_results=results or None,
    )


def _what(source: Source, kind: Kind, classes: tuple[str, ...], record: Mapping[str, Any]) -> str:
    task, method = record.get("task"), record.get("method")
    does = {
        "classification": f"It tells {len(classes)} classes apart: {_listed(classes)}.",
        "multi-label": f"It says which of {len(classes)} labels a sample carries: {_listed(classes)}.",
        "regression": f"It predicts {_listed(classes)}.",
        "causal-lm": "It continues texts.",
    }[kind]
    how = f" by `{method}`" if method else ""
    told, name = _plain(task or "An adapted model"), source.name.replace("`", "'")
    return (
        f"# {told}\n\n`{name}`, adapted{how}{f' to {told}' if task else ''}. {does} "
        f"It takes samples of kind {source.modality}."
    )


def _use(source: Source, kind: Kind) -> str:
    sample = {"text": '"some text"', "image": '"photo.jpg"', "array": "array"}[source.modality]
    shown = {
        "classification": "prediction.label, prediction.probability",
        "multi-label": "prediction.labels",
        "regression": "prediction.values",
        "causal-lm": "prediction.text",
    }[kind]
    given = "" if source.description else ", source=source"
    note = "" if given == "" else "\n\n`source` is the `bequest.Source` of your own module: no file holds its code."
    return (
        "## How to use it\n\n```python\nimport bequest\n\n"
        f'model = bequest.load("FOLDER"{given})  # the folder of this file\n[prediction] = model.predict([{sample}])\n'
        f"print({shown})\n```{note}"
    )


def _training(record: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    lines: list[str] = []
    if "labels" in evidence:
        lines.append(
            f"It saw {evidence['labels']:,} labels, {evidence['validation_labels']:,} of them held out to choose by. "
            f"{evidence['trainable_parameters']:,} parameters were trained."
        )
    if record.get("settings"):
        rows = "\n".join(f"| `{name}` | {_cell(value)} |" for name, value in record["settings"].items())
        if evidence.get("tuning"):
            tuning = evidence["tuning"]
            lines.append(
                f"{', '.join(f'`{name}`' for name in tuning['settings'])} were chosen among {tuning['tried']} "
                "settings that were tried on held-out labels of another seed."
            )
        lines.append(f"| setting | value |\n| --- | --- |\n{rows}")
    told = "\n\n".join(lines)
    return f"## How it was trained\n\n{told}" if told else ""


def _scores(record: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    if not evidence.get("test"):
        return ""
    metric = evidence["metric"]
    parts = [(f"{metric} on validation", metric, evidence["validation"]), (metric, metric, evidence["test"])]
    parts += [(name, name, found) for name, found in evidence["metrics"].items()]
    rows = [
        f"| {name} | {found['mean']:.4g} | {_interval(found['values'], metric)} | {len(found['values'])} |"
        for name, metric, found in parts
    ]
    seeds = len(evidence["test"]["values"])
    return (
        f"## Scores\n\nMeans over this method's seeds on {_tested(evidence)}; "
        f"validation is on held-out labels. This model is seed {record['seed']}"
        + (f", the median of {seeds} by validation" if seeds > 1 else "")
        + f"; {_own(evidence)}\n\n"
        "| metric | mean | 95 % t-interval | seeds |\n| --- | ---: | ---: | ---: |\n" + "\n".join(rows)
    )


def _tested(evidence: Mapping[str, Any]) -> str:
    if "folds" not in evidence:
        return f"{evidence['tested']:,} test samples, which chose nothing"
    return (
        f"{evidence['tested']:,} samples in {evidence['folds']} folds, each scored by the network that has not seen it"
    )


def _own(evidence: Mapping[str, Any]) -> str:
    metric, own = evidence["metric"], evidence["own_test"]
    if "folds" not in evidence:
        return f"its own test {metric} is {own:.4g}."
    return f"the {metric} of its folds' networks together is {own:.4g}, and this model is the first fold's."


def _by_class(classes: tuple[str, ...], evidence: Mapping[str, Any]) -> str:
    counts = evidence.get("by_class")
    if not counts or len(counts) > _MOST_CLASSES:
        return ""
    rows = [
        f"| {_cell(name)} | {true} | " + " | ".join(_share(v) for v in class_scores(right, true, taken)) + " |"
        for name, (right, true, taken) in zip(classes, counts, strict=True)
    ]
    whose = "Of all folds' networks of its seed" if "folds" in evidence else "Of this model, on the test part"
    return (
        f"## Class by class\n\n{whose}.\n\n"
        "| class | test samples | precision | recall | F1 |\n| --- | ---: | ---: | ---: | ---: |\n" + "\n".join(rows)
    )


def _limits(kind: Kind, evidence: Mapping[str, Any]) -> str:
    lines: list[str] = []
    if evidence.get("test"):
        lines.append(
            "The scores are for samples drawn as those of the test part; on others nothing was measured.",
        )
        if len(evidence["test"]["values"]) == 1:
            lines.append("With one seed no interval can be told: another seed may score otherwise.")
        if evidence.get("rivals"):
            lines.append(
                f"It was chosen as the best of {evidence['rivals'] + 1} methods by the validation score, which is a "
                "little flattering for that; the test score is not."
            )
    if evidence.get("groups"):
        name, low = min(evidence["groups"].items(), key=lambda group: group[1])
        lines.append(f"Of the groups in the test part {_plain(name)} fares worst, with an accuracy of {low:.4g}.")
    if kind == "multi-label":
        lines.append("It knows no other labels.")
    if kind == "classification":
        lines.append("It knows no other classes: a sample of none of them is given one of them all the same.")
    lines.append("What its source learned, good and bad, it has inherited.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _environment(evidence: Mapping[str, Any]) -> str:
    found = evidence.get("environment")
    if not found:
        return ""
    return "## Environment\n\n" + "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in found.items())


def _interval(values: list[float], metric: str) -> str:
    ends = t_interval(values)
    return "–" if ends is None else " to ".join(f"{within_range(end, metric):.4g}" for end in ends)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _listed(names: tuple[str, ...], most: int = 20) -> str:
    return ", ".join(map(_plain, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _cell(value: Any) -> str:
    return _plain(value) or "none"


def _plain(value: Any) -> str:
    """Text of somebody's data on one line, in which Markdown finds no heading, link, image, HTML or end of a cell."""
    return re.sub(r"([\\`*_\[\]<>|#!&~$])", r"\\\1", " ".join(str(value).split()))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("²", "2")).strip("-")
