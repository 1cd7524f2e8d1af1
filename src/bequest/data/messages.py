"""Pieces of messages about data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence


def listed(items: Sequence[str], most: int = 10) -> str:
    """The items with commas; beyond `most` of them, 'and N more'."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def counted(num: int, one: str, many: str = "") -> str:
    """A number with its noun, '1 file' or '2 files'; `many` where the plural is not in -s."""
    return f"{num:,} {one if num == 1 else many or one + 's'}"


def told_links(root: object, links: Collection[str]) -> str:
    """What to say of links that were not followed; empty where there are none."""
    if not links:
        return ""
    lead = counted(len(links), "link that leads", "links that lead")
    return f"Did not follow {lead} out of {root}, e.g. {min(links)}: copy there what is meant."


def tally(kinds: Iterable[str]) -> str:
    """How often each kind occurs, most frequent first: '12 .md, 1 .pyc'."""
    return ", ".join(f"{num:,} {kind}" for kind, num in Counter(kinds).most_common())
