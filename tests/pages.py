"""What tests ask of a page: its words, and that it is sound."""

from __future__ import annotations

import re
from html.parser import HTMLParser


def text_of(page: str) -> str:
    """The page's words without tags."""
    body = page[page.index("<body>") :].replace("<wbr>", "")
    body = re.sub(r"<(script|style)>.*?</\1>", "", body, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


class Balance(HTMLParser):
    """Finds tags that are not closed in order, and collects ids and references."""

    VOID = frozenset({"meta", "link", "wbr", "br", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.references += re.findall(r"url\(#([^)]+)\)", value or "")
            if name in ("href", "src", "xlink:href", "action"):
                (self.references if (value or "").startswith("#") else self.outside).append((value or "").lstrip("#"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def parsed(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    return parser


def assert_sound(page: str) -> None:
    """Tags nest, ids are unique, every reference has its target, nothing is fetched from elsewhere."""
    found = parsed(page)
    assert not found.faults
    assert not found.open
    assert len(found.ids) == len(set(found.ids))
    assert set(found.references) <= set(found.ids)
    assert found.outside[0] == "data:,"
    assert all(re.match("data:image/(png|jpeg);base64,", place) for place in found.outside[1:])
    assert "nan" not in text_of(page).lower().split()
    assert "#fe0" not in page, "a stand-in colour was left"
