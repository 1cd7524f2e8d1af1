"""JSON of others: what is one value everywhere, and what is refused."""

from __future__ import annotations

import pytest

from bequest.core.parse import parse_item, parse_json


def test_ordinary_json_is_read() -> None:
    text = '{"a": [1, 2.5, null, true, "é", "\\ud83d\\ude00"], "b": {"a": {}}}'
    assert parse_json(text) == parse_json(text.encode()) == {"a": [1, 2.5, None, True, "é", "😀"], "b": {"a": {}}}
    assert parse_item("  [1, 2], 3", 2) == ([1, 2], 8)


@pytest.mark.parametrize("levels", [99, 100, 101, 100_000])
def test_one_hundred_levels_are_enough(levels: int) -> None:
    text = "[" * levels + "]" * levels
    if levels <= 100:
        assert parse_json(text) == parse_item(text, 0)[0]
        return
    for read in (lambda: parse_json(text), lambda: parse_json(text.encode()), lambda: parse_item(text, 0)):
        with pytest.raises(ValueError, match="nested deeper than 100 levels"):
            read()


def test_a_key_stands_once_in_an_object() -> None:
    assert parse_json('[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match="the key 'b' stands twice in one object"):
        parse_json('{"a": {"b": 1, "c": 2, "b": 1}}')


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\uDFFF": 1}', '["\\ud83d a"]'])
def test_half_a_character_is_none(text: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            parse_json(given)


@pytest.mark.parametrize("half", ["\ud800", "a\udce9"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-32-le"])
def test_half_a_character_as_bytes_is_no_text(half: str, codec: str) -> None:
    with pytest.raises(UnicodeDecodeError):
        parse_json(f'["{half}"]'.encode(codec, "surrogatepass"))
    assert parse_json('["é"]'.encode(codec)) == ["é"]
