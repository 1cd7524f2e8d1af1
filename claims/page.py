"""Makes docs/claims.md and its drawings from the results of the claims alone."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from verdicts import Chart, Finding, interval

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
PAGE = "claims.md"
COLORS = ("#2f81c7", "#c2571a", "#2e9e6b", "#b0599a", "#8a7a1f", "#76808b")
MARKERS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.5-3.5h7v7h-7z", "M0-4.5l4.5 8h-9z", "M0-5l5 5-5 5-5-5z")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#76808b}.grid{stroke:#8a949e;stroke-width:.5;opacity:.6}"
    ".reach{stroke-width:2}.seed{opacity:.35}"
)
_INTRO = """# The field's claims, put to the test

Made by `python claims/run.py --page` from `claims/results/`. Each claim is one script in `claims/`; `make claims
FASHION_MNIST=DIR MNIST=DIR` runs them all anew, two at a time, on smaller settings than some results here were made
with, and leaves out those whose data are not given.

A figure is a mean over seeds ± half its 95 % interval (Student's t), of differences paired by seed where two ways are
compared: both saw the same labels. A statement *holds* where the whole interval lies above what it claims, it *does not
hold* where the whole interval lies below, and is *undecided* otherwise, as it is with one seed. The test samples are,
unless a claim says otherwise, the same with every seed: a verdict is about them, and how others would move it is not
counted. The intervals are each statement's own: among twenty statements one may be told wrongly. In the drawings a
large sign is a mean, its line the interval, and the small signs are seeds.

What the figures teach, and which were measured with earlier defaults, stands in [finetuning.md](finetuning.md),
[representation.md](representation.md), [efficient.md](efficient.md), [questions.md](questions.md) and
[distillation.md](distillation.md). What Bequest claims of itself has scripts of its own there: `kill_anywhere.py`,
`bigger_than_memory.py` and `tried_sources.py`."""


def pages(names: Iterable[str], results: Path = RESULTS) -> dict[str, str]:
    """Every file by its path in docs/.

    Args:
        names: Of the claims' scripts, in the order of the page.
        results: Folder of one JSON file a claim; one that is missing is shown as not run.
    """
    files: dict[str, str] = {}
    rows, sections = [("claim", "source", "seeds", "verdict"), ("---", "---", "---:", "---")], list[str]()
    for name in names:
        module, path = importlib.import_module(name), results / f"{name}.json"
        claim, source, text = told(module.__doc__ or "")
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        found = module.findings(result) if result else []
        rows.append((f"[{claim}](#{name})", source, _seeds(found), summary(found) if result else "not run"))
        parts = [f"## {name}", f"*{claim}* ({source}).", text]
        if result:
            picture = f"images/claims/{name}.svg"
            files[picture] = drawing(module.chart(result))
            parts += ["\n".join(table(found)), f"![{module.chart(result).unit}: {claim}]({picture})"]
        else:
            parts.append("Not run yet.")
        sections += [part for part in parts if part]
    overview = "\n".join(_row(cells) for cells in rows)
    return {PAGE: "\n\n".join([_INTRO, overview, *sections]) + "\n", **files}


def write(files: Mapping[str, str], docs: Path = DOCS) -> None:
    """Write the files, and remove drawings of claims that are gone."""
    for old in docs.glob("images/claims/*.svg"):
        if old.relative_to(docs).as_posix() not in files:
            old.unlink()
    for name, text in files.items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def told(docstring: str) -> tuple[str, str, str]:
    """A script's docstring as claim, source and description, its commands left out."""
    first, *rest = docstring.strip().split("\n\n")
    matched = re.fullmatch(r"Claim: (.+) \((.+)\)\.", first)
    if matched is None:
        raise ValueError(f"{first!r} is no claim, expected 'Claim: what is claimed (source).'")
    claim, source = matched.groups()
    return claim[:1].upper() + claim[1:], source, "\n\n".join(p for p in rest if not p.startswith("    "))


def summary(findings: Sequence[Finding]) -> str:
    """The verdict that all have, or how many have which."""
    counts = Counter(finding.verdict for finding in findings)
    if len(counts) == 1:
        return next(iter(counts))
    words = {"holds": "hold", "does not hold": "do not", "undecided": "undecided"}
    parts = [f"{counts[verdict]} {plural}" for verdict, plural in words.items() if counts[verdict]]
    return f"of {len(findings)}: {', '.join(parts)}"


def table(findings: Iterable[Finding]) -> list[str]:
    """One row a statement."""
    rows = [(f.statement, f.figure, str(f.seeds), f.verdict) for f in findings]
    return [
        _row(cells) for cells in [("statement", "measured", "seeds", "verdict"), ("---", "---", "---:", "---"), *rows]
    ]


def drawing(chart: Chart) -> str:
    """Means with their intervals and every seed, a row a place on the left, as an SVG file."""
    from matplotlib.ticker import MaxNLocator

    series = list(dict.fromkeys(name for row in chart.values.values() for name in row))
    measured = [
        value for row in chart.values.values() for values in row.values() for value in [*values, *_reach(values)]
    ]
    ticks = [float(tick) for tick in MaxNLocator(5).tick_values(min(measured), max(measured))]
    low, high = ticks[0], ticks[-1]
    left, width, line = 20 + 7 * max(map(len, chart.values)), 420, 13
    top = 12 + (22 if len(series) > 1 else 0)
    block = 10 + line * len(series)
    bottom = top + block * len(chart.values)

    def x(value: float) -> str:
        return f"{left + width * (value - low) / (high - low):.1f}"

    parts = [
        f'<path class="grid" d="M{x(tick)} {top}V{bottom}"/><text x="{x(tick)}" y="{bottom + 16}" '
        f'text-anchor="middle">{tick:g}</text>'.replace(">-", ">−")
        for tick in ticks
    ]
    place = left
    for number, name in enumerate(series if len(series) > 1 else ()):
        parts.append(f'{_sign(number, f"{place}", 10)}<text x="{place + 9}" y="14">{escape(name)}</text>')
        place += 28 + 7 * len(name)
    for index, (label, row) in enumerate(chart.values.items()):
        start = top + index * block
        parts.append(f'<text x="{left - 10}" y="{start + block / 2 + 4:g}" text-anchor="end">{escape(label)}</text>')
        for number, values in ((series.index(name), values) for name, values in row.items()):
            y = start + 5 + line * (number + 0.5)
            ends = [x(end) for end in _reach(values)]
            color = COLORS[number % len(COLORS)]
            parts.append(f'<path class="reach" stroke="{color}" d="M{ends[0]} {y:g}H{ends[-1]}"/>')
            seeds = values if len(values) > 1 else ()
            parts += [f'<circle class="seed" fill="{color}" cx="{x(v)}" cy="{y:g}" r="2"/>' for v in seeds]
            parts.append(_sign(number, x(interval(values)[0]), y))
    parts.append(f'<text x="{left + width / 2:g}" y="{bottom + 34}" text-anchor="middle">{escape(chart.unit)}</text>')
    whole = max(left + width, place) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {bottom + 44}" width="{whole}" '
        f'height="{bottom + 44}">\n<style>{_STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _reach(values: Sequence[float]) -> list[float]:
    """The interval's ends, or twice the mean where there is none."""
    middle, half = interval(values)
    return [middle - (half or 0), middle + (half or 0)]


def _sign(number: int, x: str, y: float) -> str:
    color, path = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    return f'<path fill="{color}" transform="translate({x} {y:g})" d="{path}"/>'


def _seeds(findings: Sequence[Finding]) -> str:
    counts = sorted({finding.seeds for finding in findings})
    return " to ".join(str(count) for count in dict.fromkeys([counts[0], counts[-1]])) if counts else ""


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"
