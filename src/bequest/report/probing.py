"""A probe's records in words, and as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from bequest.core.probing import LINEAR, LayerRow, ProbeRecord
from bequest.core.results import atomic_open
from bequest.report import canvas, plots, units
from bequest.report.html import fill
from bequest.report.plots import LayerValue

_LONG = ("class_counts", "notes", "targets", "classes", "groups", "group_counts")
_SCALED = "score, from its lowest (0) to its highest (1)"


def write(record: ProbeRecord, path: Path) -> None:
    """Write a probe's page to `path`, whole or not at all."""
    with atomic_open(path) as file:
        file.write(render(record).encode())


def render(record: ProbeRecord) -> str:
    """A probe as one HTML page without any outside reference; the same record gives the same text."""
    return fill("probe.html.j2", _page(record))


def sentences(record: ProbeRecord) -> list[str]:
    """What to start from, how sure that is, and how far the scores can be trusted."""
    return [_first(record), *_certainty(record), _trust(record), *_left_out(record)]


def title(name: str, record: ProbeRecord) -> str:
    """A measure's name in words."""
    return f"linear probe’s {units.metric_name(record.metric)}" if name == LINEAR else name


def value(row: LayerRow, name: str, record: ProbeRecord) -> str:
    """A row's measure as people read it."""
    metric = {LINEAR: record.metric, "ridge_loo": "accuracy"}.get(name, name)
    return units.score(row.measures[name], metric)


def shown(record: ProbeRecord) -> list[str]:
    """Names of the measures that any row has, those that more rows have first."""
    lacking = {name: sum(row.measures[name] is None for row in record.rows) for name in record.best.measures}
    return sorted((name for name in lacking if lacking[name] < len(record.rows)), key=lambda name: lacking[name])


def short_names(record: ProbeRecord) -> dict[tuple[str, str], str]:
    """By source and layer, the layer's name without the beginning that all layers of its source share."""
    found: dict[tuple[str, str], str] = {}
    for source, rows in record.by_source.items():
        parts = [row.layer.split(".") for row in rows if row.layer != "embedding"]
        # The last part of a name stays, whatever is shared.
        levels = zip(*(names[:-1] for names in parts), strict=False) if len(parts) > 1 else ()
        shared = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]
        while shared and any(names[len(shared)].isdigit() for names in parts):  # a number alone is no name
            shared.pop()
        for row in rows:
            found[source, row.layer] = row.layer.removeprefix("".join(f"{part}." for part in shared))
    return found


def tau(number: float | None) -> str:
    """Kendall's τ, e.g. `0.62`."""
    return units.NONE if number is None else f"{number + 0.0:.2f}".replace("-0.00", "0.00")


def _first(record: ProbeRecord) -> str:
    best = record.best
    found = f"{_named(best)} comes first by {_by(record)}: {value(best, record.ranked_by, record)}"
    whole = next((r for r in record.rows if r.source == best.source and r.layer == "embedding"), best)
    if whole is best:
        return found + "."
    if whole.measures[record.ranked_by] == best.measures[record.ranked_by]:
        return f"{found}, which that source’s embedding reaches too."
    return f"{found}, against {value(whole, record.ranked_by, record)} for that source’s embedding."


def _named(row: LayerRow) -> str:
    return f"The embedding of {row.source}" if row.layer == "embedding" else f"Layer {row.layer} of {row.source}"


def _by(record: ProbeRecord) -> str:
    if record.ranked_by == LINEAR:
        held = record.protocol["validation"]
        return f"the {title(LINEAR, record)} on {units.plural(held, 'held-out label')}"
    return f"{record.ranked_by}, as no linear probe was fitted"


def _certainty(record: ProbeRecord) -> list[str]:
    """How many layers a held-out accuracy does not tell from the first one."""
    best, held = record.best, record.protocol["validation"]
    if record.ranked_by != LINEAR or record.metric != "accuracy" or best.linear is None:
        return []
    # At 0 and at 1 the plain formula would give none: two failures and two successes are added (Agresti, Coull 1998).
    share = (best.linear * held + 2) / (held + 4)
    sem = math.sqrt(share * (1 - share) / (held + 4))
    near = sum(row.linear is not None and best.linear - row.linear <= sem for row in record.rows) - 1
    text = f"With {units.plural(held, 'held-out label')}, the standard error is {units.gap(sem, record.metric)}"
    if near == 0:
        return [f"{text}: no other layer is so near."]
    return [
        f"{text}, and {units.plural(near, 'other layer')} {'is' if near == 1 else 'are'} no further away than that."
    ]


def _trust(record: ProbeRecord) -> str:
    text = "No single score is reliable."
    if LINEAR in record.names:
        line = record.agreement[record.names.index(LINEAR)]
        known = {n: t for n, t in zip(record.names, line, strict=True) if n != LINEAR and t is not None}
        if known:
            low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            span = f"from {tau(known[low])} ({low}) to " if low != high else "at "
            text += f" Here they agree with the linear probe {span}{tau(known[high])} ({high}), by Kendall’s τ."
    return text + " Go by the linear probe first, by several scores next, and let a comparison decide."


def _left_out(record: ProbeRecord) -> list[str]:
    return [
        f"Left out of {source}: {', '.join(f'{layer} ({why})' for layer, why in layers.items())}."
        for source, layers in record.left_out.items()
    ]


def _page(record: ProbeRecord) -> dict[str, Any]:
    names = shown(record)
    return {
        "task": str(record.task["name"]),
        "modality": str(record.task["modality"]),
        "sources": list(record.by_source),
        "verdict": sentences(record),
        "tiles": _tiles(record),
        "titles": {name: title(name, record) for name in names},
        "tables": [_table(record, source, rows, names) for source, rows in record.by_source.items()],
        "linear": _drawings(_linear_lines(record), record.metric, "linear"),
        "scaled": [
            {"source": source, **_drawings(lines, _SCALED, f"scores-{i}")}
            for i, (source, lines) in enumerate(_scaled_lines(record).items())
        ],
        "agreement": _agreement(record),
        "choices": _choices(record),
        "protocol": record.protocol,
        "notes": [str(note) for note in record.task["notes"]],
        "facts": _facts(record),
    }


def _tiles(record: ProbeRecord) -> list[dict[str, str]]:
    best = record.best
    passed = sum(found["computed"] for found in record.passes.values())
    return [
        {"label": "Source", "value": best.source, "note": f"of {units.plural(len(record.sources), 'source')} probed"},
        {"label": "Layer", "value": best.layer, "note": f"of {units.plural(len(record.rows), 'layer')} in all"},
        {
            "label": title(record.ranked_by, record),
            "value": value(best, record.ranked_by, record),
            "note": f"on {record.protocol['validation']} held-out labels" if record.ranked_by == LINEAR else "",
        },
        {
            "label": "Passes of samples",
            "value": units.count(passed),
            "note": f"computed, one a source for each of {record.protocol['train_size']} labels",
        },
    ]


def _table(record: ProbeRecord, source: str, rows: Sequence[LayerRow], names: Sequence[str]) -> dict[str, Any]:
    """A source's layers in order of depth, the highest value of each measure marked."""
    best = {n: max((v for r in rows if (v := r.measures[n]) is not None), default=None) for n in names}
    return {
        "source": source,
        "rows": [
            {
                "layer": row.layer,
                "width": units.count(row.width),
                "first": row is record.best,
                "cells": [
                    (value(row, n, record), row.measures[n] is not None and row.measures[n] == best[n]) for n in names
                ],
            }
            for row in sorted(rows, key=lambda row: row.depth)
        ],
    }


def _linear_lines(record: ProbeRecord) -> dict[str, list[LayerValue]]:
    names = short_names(record)
    return {
        source: [LayerValue(names[source, row.layer], row.depth, row.linear) for row in rows]
        for source, rows in record.by_source.items()
    }


def _scaled_lines(record: ProbeRecord) -> dict[str, dict[str, list[LayerValue]]]:
    """By source, each score that several of its layers have, scaled by its range over all sources."""
    found: dict[str, dict[str, list[LayerValue]]] = {}
    names = short_names(record)
    for name in record.names:
        values = [v for row in record.rows if (v := row.measures[name]) is not None]
        low, high = min(values), max(values)
        for source, rows in record.by_source.items():
            line = [
                LayerValue(names[source, row.layer], row.depth, (v - low) / (high - low))
                for row in rows
                if (v := row.measures[name]) is not None and high > low
            ]
            if len(line) > 1:
                found.setdefault(source, {})["linear probe" if name == LINEAR else name] = line
    return found


def _drawings(lines: Mapping[str, Sequence[LayerValue]], metric: str, name: str) -> dict[str, str | None]:
    return {size.name: plots.by_depth(lines, metric, size, name) for size in (canvas.WIDE, canvas.NARROW)}


def _agreement(record: ProbeRecord) -> dict[str, Any]:
    return {
        "names": [title(name, record) for name in record.names],
        "rows": [
            {
                "name": title(name, record),
                "cells": [{"text": tau(t), "share": max(0, round(100 * (t or 0)))} for t in line],
            }
            for name, line in zip(record.names, record.agreement, strict=True)
        ],
    }


def _choices(record: ProbeRecord) -> list[dict[str, str]]:
    """Which layer each measure that has a choice would take, and what the linear probe finds there."""
    return [
        {
            "name": title(name, record),
            "source": chosen.source,
            "layer": chosen.layer,
            "value": value(chosen, name, record),
            "linear": value(chosen, LINEAR, record),
        }
        for name in record.names
        for chosen in [record.choice(name)]
    ]


def _facts(record: ProbeRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    task = {k: v for k, v in record.task.items() if k not in _LONG}
    classes = "targets" if "targets" in record.task else "classes"
    return [
        ("Task", _pairs({**task, classes: len(record.task["classes"])})),
        *((f"Source {s['name']}", _pairs({**s, **_passes(record, s["name"])})) for s in record.sources),
        ("Protocol", _pairs(record.protocol)),
        ("Environment", _pairs(record.environment)),
    ]


def _passes(record: ProbeRecord, source: str) -> dict[str, int]:
    return {f"samples {name}": number for name, number in record.passes[source].items()}


def _pairs(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key).replace("_", " "), units.plain(found)) for key, found in data.items()]
