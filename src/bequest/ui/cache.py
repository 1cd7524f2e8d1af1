"""What a store holds, as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.table import Table

from bequest.engine.quota import StoredShelf
from bequest.report import units

KEY_DIGITS = 8
_FINGERPRINT_DIGITS = 8


def cache_table(shelves: Sequence[StoredShelf]) -> Table:
    """One row a key, in the order given."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("key", "what", "network", "prepared"):
        table.add_column(header, no_wrap=True)
    for header in ("samples", "size", "last used"):
        table.add_column(header, justify="right", no_wrap=True)
    now = time.time()
    for shelf in shelves:
        table.add_row(
            shelf.folder.name[:KEY_DIGITS],
            units.shorten(str(shelf.key.get("tap") or shelf.key.get("what", units.NONE)), 20),
            _short(shelf.key.get("body") or shelf.key.get("prefix")),
            _short(shelf.key.get("preprocess")),
            units.count(shelf.num_records),
            units.size(shelf.num_bytes),
            ago(now - shelf.used),
        )
    return table


def ago(seconds: float) -> str:
    """How long ago something was, e.g. `3 days ago`."""
    for length, noun in ((24 * 3600, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return f"{units.plural(int(seconds // length), noun)} ago"
    return "just now"


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:_FINGERPRINT_DIGITS] if fingerprint else units.NONE
