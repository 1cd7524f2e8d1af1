"""Names that others gave."""

from __future__ import annotations

import pytest

from bequest.core.names import is_text, leads_out, shown


@pytest.mark.parametrize("name", ["model-1.safetensors", "parts/a.arrow", "..a", "a..b", "é"])
def test_names_that_stay_in_their_folder(name: str) -> None:
    assert not leads_out(name)


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../../b", "a\\..\\b", "\\a", "C:\\a", "file:a", ".."])
def test_names_that_lead_out(name: str) -> None:
    assert leads_out(name)


def test_half_characters_are_escaped() -> None:
    assert shown("caf\udce9.txt") == "caf\\udce9.txt" and not is_text("caf\udce9")
    assert shown("café 😀") == "café 😀" and is_text("café 😀")
