"""Writes the pages of methods, schedules and scores from their docstrings, draws the schedules (`make docs`).

The table of faults comes from the tests that declare its rows.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from bequest.core.plan import Schedule
from bequest.core.registry import Hyperparameter, MethodInfo, methods
from bequest.optim.schedules import SCHEDULES
from bequest.scores import scores as all_scores

FOLDER = Path(__file__).parent
_STEPS = 200
_RISING = {"linear": 0.1, "cosine": 0.1, "one_cycle": 0.25, "slanted": 0.1, "constant": 0.1}
_SECTION = re.compile(r"^([A-Z][A-Za-z ]*):\n(?= {4}\S)((?:(?: {4}.*)?\n)+)", re.M)


def pages() -> dict[str, str]:
    """Every file that is made here by its path in docs/; methods of other packages have their own docs."""
    ours = [m for m in methods().values() if m.cls.__module__.startswith("bequest.methods.")]
    drawings = {f"images/schedules/{name}.svg": drawing(SCHEDULES[name](_RISING[name])) for name in SCHEDULES}
    return {
        "methods/index.md": index(ours),
        **{f"methods/{m.name}.md": page(m) for m in ours},
        "schedules.md": schedules(),
        "scores.md": scores(),
        "reliability.md": reliability(),
        **drawings,
    }


def made_before() -> dict[str, Path]:
    """The files in docs/ that an earlier run made, by their paths in docs/."""
    patterns = ("methods/*.md", "schedules.md", "scores.md", "reliability.md", "images/schedules/*.svg")
    found = (path for pattern in patterns for path in FOLDER.glob(pattern))
    return {path.relative_to(FOLDER).as_posix(): path for path in found}


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


def schedules() -> str:
    """The page of all schedules, each with its drawing."""
    parts = [
        "# Learning-rate schedules",
        "Made by `make docs` from the schedules' docstrings.",
        "`--schedule` names one for any method that trains by gradient descent. It gives a factor on every group's "
        "peak rate at each optimizer step of a stage; `--warmup` is the fraction of the steps over which the rates "
        f"rise. The drawings show {_STEPS} steps.",
    ]
    for name, make in SCHEDULES.items():
        schedule = make(_RISING[name])
        parts += [
            f"## {name}",
            f"![{name}, warm-up {_RISING[name]:g}](images/schedules/{name}.svg)",
            markdown(inspect.getdoc(schedule) or "", skip=("Attributes",)),
        ]
    return "\n\n".join(parts) + "\n"


def scores() -> str:
    """The page of all scores."""
    known = all_scores().values()
    rows = [(f"[`{i.name}`](#{i.name})", i.summary, i.needs, ", ".join(i.kinds)) for i in known]
    parts = [
        "# Scores before training",
        "Made by `make docs` from the scores' docstrings.",
        "A score says from one pass of the frozen network which source, and which of its layers, suits a task. Higher "
        "is better; only scores of the same name, on the same samples, compare. No single one is reliable: their rank "
        "correlations with fine-tuned accuracy on Aircraft run from 0.66 to −0.26. So look at several, and at whether "
        "they agree (Kendall's τ between them). `bequest probe` computes all of them for every layer of several "
        "sources, and a linear probe beside them: [probe.md](probe.md).",
        "\n".join(_table(("score", "what it measures", "needs", "kinds of task"), rows)),
        "`features` are one layer's vectors, pooled; `probabilities` are what the source's own head gives to its "
        "classes. A score that is not defined for a task, or lacks what it needs, is left empty. N is the number of "
        "samples, D the width of the layer.",
    ]
    for info in known:
        text = markdown(inspect.getdoc(info.function) or "", skip=("Args", "Raises"))
        parts += [f"## {info.name}", f"{info.paper}.", text]
    return "\n\n".join(parts) + "\n"


def reliability() -> str:
    """The page of faults, its table put in anew: a row for each test that declares one (tests/faulting.py)."""
    rows = [row for file in sorted((FOLDER.parent / "tests").rglob("*.py")) for row in _faults(file)]
    table = "\n".join(_table(("fault", "what happens", "outcome", "test"), rows))
    page = (FOLDER / "reliability.md").read_text(encoding="utf-8")
    begin, end = "<!-- faults, from the tests: make docs -->", "<!-- end of faults -->"
    return f"{page[: page.index(begin)]}{begin}\n\n{table}\n\n{page[page.index(end) :]}"


def _faults(file: Path) -> Iterable[tuple[str, ...]]:
    for test in ast.parse(file.read_text(encoding="utf-8")).body:
        for call in getattr(test, "decorator_list", ()):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "fault":
                said = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
                place = file.relative_to(FOLDER.parent / "tests").as_posix()
                suite = "; `make faults`" if said.get("slow") else ""
                yield ast.literal_eval(call.args[0]), said["happens"], said["outcome"], f"`{place}`{suite}"


def drawing(schedule: Schedule) -> str:
    """A schedule's factor over the steps as an SVG file."""
    left, top, width, height = 40, 14, 500, 140
    points = " ".join(
        f"{left + width * step / (_STEPS - 1):.1f},{top + height * (1 - schedule(step, _STEPS)):.1f}"
        for step in range(_STEPS)
    )
    levels = "".join(
        f'<path d="M{left} {top + height * (1 - level):g}h{width}"/>'
        f'<text x="{left - 6}" y="{top + height * (1 - level) + 4:g}" text-anchor="end">{level:g}</text>\n'
        for level in (0, 0.5, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 188" width="560" height="188">\n'
        "<style>path{stroke:#8a949e;stroke-width:.6}polyline{fill:none;stroke:#2f81c7;stroke-width:2.2}"
        "text{font:12px system-ui,sans-serif;fill:#76808b}</style>\n"
        f'{levels}<polyline points="{points}"/>\n'
        f'<text x="{left}" y="176">step 0</text><text x="{left + width}" y="176" text-anchor="end">{_STEPS}</text>\n'
        "</svg>\n"
    )


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
    """Write every file anew and remove those of what is gone."""
    made = pages()
    for name, old in made_before().items():
        if name not in made:
            old.unlink()
    for name, text in made.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"Wrote {len(made)} files into {FOLDER}.")


if __name__ == "__main__":
    main()
