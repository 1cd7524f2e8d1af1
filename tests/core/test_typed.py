"""Records against their annotations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from bequest.core.typed import check_fields


@dataclass(frozen=True)
class Inner:
    score: float
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    rows: list[Inner] = field(default_factory=list)
    named: dict[str, float | None] = field(default_factory=dict)
    matrix: list[list[int]] = field(default_factory=list)
    anything: Any = None
    is_set: bool = True


def test_what_fits_is_let_through() -> None:
    check_fields(Outer(1))
    check_fields(Outer(1, "b", Inner(1), [Inner(0.5, "x")], {"a": 1, "b": None}, [[1], []], object(), False))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (Outer("1"), r"count is '1', expected int"),  # pyright: ignore[reportArgumentType]
        (Outer(True), r"count is True, expected int"),
        (Outer(1, "c"), r"kind is 'c', expected typing\.Literal\['a', 'b'\]"),  # pyright: ignore[reportArgumentType]
        (Outer(1, inner=Inner(float("nan"))), r"inner\.score is nan, expected float"),
        (Outer(1, inner=Inner(1.0, 2)), r"inner\.name is 2, expected str \| None"),  # pyright: ignore[reportArgumentType]
        (Outer(1, inner={"score": 1}), r"inner is \{'score': 1\}"),  # pyright: ignore[reportArgumentType]
        (Outer(1, rows=[Inner(1.0), Inner("x")]), r"rows\[1\]\.score is 'x'"),  # pyright: ignore[reportArgumentType]
        (Outer(1, named={"a": "b"}), r"named\['a'\] is 'b'"),  # pyright: ignore[reportArgumentType]
        (Outer(1, matrix=[[1, 1.5]]), r"matrix\[0\]\[1\] is 1\.5, expected int"),  # pyright: ignore[reportArgumentType]
        (Outer(1, is_set=1), r"is_set is 1, expected bool"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_the_first_field_that_does_not_fit_is_named(record: Outer, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        check_fields(record)
