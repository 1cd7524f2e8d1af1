"""Whether a record that was read from a file holds what its fields say: dataclasses do not look."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints


def check_fields(record: Any) -> None:
    """Compare every value of a dataclass, and of those in it, with its annotation.

    Args:
        record: Of plain data: numbers (finite ones), strings, lists, dicts, and dataclasses of these.

    Raises:
        TypeError: One does not fit; the first is named, as `rows[0].test.mean`.
    """
    for fault in _faults(record, type(record), ""):
        raise TypeError(fault)


def _faults(value: Any, hint: Any, name: str) -> Iterator[str]:
    """What is wrong with a value, in order."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return
    if origin in (Union, UnionType):
        kinds = [kind for kind in inner if _is_of(value, kind)]
        yield from _faults(value, kinds[0], name) if kinds else [_fault(value, hint, name)]
    elif not _is_of(value, hint):
        yield _fault(value, hint, name)
    elif origin is list:
        for i, item in enumerate(value):
            yield from _faults(item, inner[0], f"{name}[{i}]")
    elif origin is dict:
        for key, item in value.items():
            yield from _faults(item, inner[1], f"{name}[{key!r}]")
    elif is_dataclass(hint):
        hints = _hints(cast(type, hint))
        for field in fields(hint):
            yield from _faults(getattr(value, field.name), hints[field.name], f"{name}.{field.name}".lstrip("."))


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a kind, whatever it holds."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in get_args(hint)
    if hint is None or hint is NoneType:
        return value is None
    if hint in (int, float):
        kinds = int if hint is int else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, origin or hint)


def _fault(value: Any, hint: Any, name: str) -> str:
    kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return f"{name} is {repr(value)[:60]}, expected {kind}"


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)
