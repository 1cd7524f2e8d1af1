"""What several processes agree on before a comparison begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bequest.comparison.ranks import Team
from bequest.core.errors import RunError


class Second:
    """The second process of two, as far as it tells and hears."""

    def __init__(self, main: dict[str, str]) -> None:
        self.main = main

    def from_main(self, make: Callable[[], Any]) -> Any:
        return self.main

    def exchange(self, error: Exception | None) -> None:
        if error is not None:
            raise error


def test_processes_that_read_other_files_do_not_begin() -> None:
    own = {"data": "abc", "source": "def"}
    Team(Second(dict(own))).meet(own)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match=r"^The data that the processes of this run have read differ, those on "):
        Team(Second({**own, "data": "xyz"})).meet(own)  # pyright: ignore[reportArgumentType]
