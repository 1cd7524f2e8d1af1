"""Writes docs/methods/: one page a method from its docstrings, and an index. Run it with `make docs`."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from bequest.core.registry import Hyperparameter, MethodInfo, methods

FOLDER = Path(__file__).parent / "methods"
_SECTION = re.compile(r"^([A-Z][A-Za-z ]*):\n(?= {4}\S)((?:(?: {4}.*)?\n)+)", re.M)


def pages() -> dict[str, str]:
    """The text of every page by its file's name; methods of other packages have their own docs."""
    ours = [m for m in methods().values() if m.cls.__module__.startswith("bequest.methods.")]
    return {"index.md": index(ours)} | {f"{m.name}.md": page(m) for m in ours}


def index(infos: Iterable[MethodInfo]) -> str:
    """Tables of all methods, one a family."""
    lines = ["# Methods", "", "Made by `make docs` from the methods' docstrings.", ""]
    by_family: dict[str, list[MethodInfo]] = {}
    for info in infos:
        by_family.setdefault(info.family, []).append(info)
    for family, members in by_family.items():
        rows = [(f"[`{m.name}`]({m.name}.md)", m.summary, _linked(m.paper)) for m in members]
        lines += [f"## {_capital(family)}", "", *_table(("method", "what it does", "paper"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def page(info: MethodInfo) -> str:
    """A method's page: where it comes from, how it works, its hyperparameters."""
    module = sys.modules[info.cls.__module__]
    own = [h for h in info.hyperparameters if not h.owner]
    shared = [h for h in info.hyperparameters if h.owner]
    parts = [
        f"# {info.name}",
        f"Family: {info.family}. Paper: {_linked(info.paper)}.",
        markdown(inspect.getdoc(module) or ""),
        "## The method",
        markdown(inspect.getdoc(info.cls) or "", skip=("Attributes",)),
    ]
    for title, settings in (("Hyperparameters", own), ("Head and training", shared)):
        if settings:
            parts += [f"## {title}", "\n".join(_settings(settings))]
    return "\n\n".join(p for p in parts if p) + "\n"


def markdown(docstring: str, skip: tuple[str, ...] = ()) -> str:
    """A Google-style docstring as Markdown: its sections become headings.

    Args:
        docstring: As `inspect.getdoc` returns it.
        skip: Sections to leave out.
    """

    def heading(match: re.Match[str]) -> str:
        title, body = match.groups()
        return "" if title in skip else f"### {title}\n\n{textwrap.dedent(body).strip()}\n\n"

    text = _SECTION.sub(heading, docstring + "\n")
    return _linked(re.sub(r"\n{3,}", "\n\n", text).strip())


def _linked(text: str) -> str:
    return re.sub(r"(?<!\[)arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _settings(settings: list[Hyperparameter]) -> list[str]:
    rows = [(f"`{h.flag}`", _values(h), h.default_text, h.help) for h in settings]
    return _table(("flag", "values", "default", "meaning"), rows)


def _values(h: Hyperparameter) -> str:
    return ", ".join(f"`{c}`" for c in h.choices) or h.type.__name__


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in cells]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def main() -> None:
    """Write every page anew and remove those of methods that are gone."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"Wrote {len(made)} pages into {FOLDER}.")


if __name__ == "__main__":
    main()
