"""JSON that others wrote, whatever it holds: what Python's parser takes but no file of ours needs is refused."""

from __future__ import annotations

import json
from typing import Any, cast

_DEEPEST = 100
"""Levels of lists and objects in each other: far more than any file has, far fewer than end Python's stack."""


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text stands for.

    Args:
        text: Bytes are UTF-8, -16 or -32.

    Raises:
        ValueError: It is no JSON, is nested deeper than 100 levels, names a key twice in one object, or holds half of
            a character (a lone surrogate), which no file can.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))  # the json module would let surrogates pass
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise _too_deep() from None
    return _checked(value, text)


def parse_item(text: str, at: int) -> tuple[Any, int]:
    """As `parse_json`, of the value that begins at a place in a text, and the place where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise _too_deep() from None
    return _checked(value, text[at:end]), end


def _checked(value: Any, text: str) -> Any:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, list | dict)]
        if not level:
            break
    else:
        raise _too_deep()
    if r"\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast(dict[str, Any], value).values())
    return cast(list[Any], value) if isinstance(value, list) else []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return found


def _too_deep() -> ValueError:
    return ValueError(f"lists and objects are nested deeper than {_DEEPEST} levels")


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
