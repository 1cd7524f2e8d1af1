"""A probe as tables that fit the terminal."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bequest.core.probing import LINEAR, LayerRow, ProbeRecord
from bequest.report import units
from bequest.report.probing import short_names, shown, tau, value

_GAP = 2
_NAMES = 28
"""Characters of a source's or a layer's name."""


def probe_table(record: ProbeRecord, *, width: int | None = None, num_layers: int = 3) -> Group:
    """Each source's best layers and its embedding, best source first.

    Args:
        record: What to show.
        width: Columns of the terminal; the last of the scores give way. None shows all.
        num_layers: How many layers a source shows.
    """
    rows = [row for found in record.by_source.values() for row in _shown(found, num_layers)]
    cells = {name: [value(row, name, record) for row in rows] for name in shown(record)}
    heads = {name: units.metric_name(record.metric) if name == LINEAR else name for name in cells}
    known = short_names(record)
    names = [(_end(row.source), _end(known[row.source, row.layer])) for row in rows]
    columns = _that_fit(names, cells, heads, width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for head in ("source", "layer"):
        table.add_column(head, no_wrap=True)
    for name in columns:
        table.add_column(Text(heads[name]), justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        alike = i > 0 and rows[i - 1].source == row.source
        texts = ["" if alike else names[i][0], names[i][1], *(cells[name][i] for name in columns)]
        table.add_row(*map(Text, texts), style="bold green" if row is record.best else "")
    return Group(table, _caption(record, len(rows), [heads[name] for name in cells if name not in columns]))


def agreement_table(record: ProbeRecord) -> Group | None:
    """Kendall's τ between measures; None where there are fewer than two."""
    if len(record.names) < 2:
        return None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    table.add_column("Kendall’s τ", no_wrap=True)
    for name in record.names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for i, (name, line) in enumerate(zip(record.names[:-1], record.agreement, strict=False)):
        table.add_row(name, *(tau(t) if i <= j else "" for j, t in enumerate(line[1:])))
    return Group(
        table, Text("1: the same order of all layers, 0: no relation, −1: the opposite order", style="dim italic")
    )


def _shown(rows: list[LayerRow], num_layers: int) -> list[LayerRow]:
    return [row for i, row in enumerate(rows) if i < num_layers or row.layer == "embedding"]


def _that_fit(
    names: list[tuple[str, str]], cells: dict[str, list[str]], heads: dict[str, str], width: int | None
) -> list[str]:
    """Measures from the first on, as long as there is room; the first always."""
    first = zip(("source", "layer"), *names, strict=True)
    used = _GAP + sum(max(map(cell_len, column)) for column in first)
    chosen: list[str] = []
    for name, texts in cells.items():
        used += _GAP + max(map(cell_len, (heads[name], *texts)))
        if width is not None and chosen and used > width:
            break
        chosen.append(name)
    return chosen


def _end(name: str) -> str:
    """A name, or the end of one that is long: that is where layers differ, and `--taps` understands it."""
    return name if len(name) <= _NAMES else "…" + name[1 - _NAMES :]


def _caption(record: ProbeRecord, num_rows: int, hidden: list[str]) -> Text:
    held, seen = record.protocol["validation"], record.protocol["train_size"]
    parts = [f"scores on {units.plural(seen, 'label')}, test part unread"]
    if record.ranked_by == LINEAR:
        parts.insert(0, f"{units.metric_name(record.metric)} of a linear probe on {held} held out")
    if hidden:
        parts.append(f"not shown: {', '.join(hidden)}")
    if num_rows < len(record.rows):
        parts.append(f"{len(record.rows) - num_rows} more layers")
    return _note("; ".join(parts))


def _note(text: str) -> Text:
    return Text(text, style="dim italic")
