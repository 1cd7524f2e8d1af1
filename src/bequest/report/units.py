"""Numbers in words that people read."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from bequest.core.intervals import within_range
from bequest.core.results import Interval, Versus

NONE = "–"


def is_share(metric: str) -> bool:
    """Whether the metric is shown in per cent: an accuracy, an F1, an agreement or a calibration error."""
    return any(name in metric.lower() for name in ("accuracy", "f1", "agreement", "calibration"))


def is_in_target_units(metric: str) -> bool:
    """Whether the metric has the units of a regression's target, and so any size."""
    return "rmse" in metric.lower()


def has_any_size(metric: str) -> bool:
    """Whether values may be of any size, so that digits that count are shown rather than places."""
    return is_in_target_units(metric) or metric == "perplexity"


def metric_name(metric: str) -> str:
    """The metric's name in words."""
    return metric.replace("worst_group", "worst-group").replace("_", " ")


def score(value: float | None, metric: str, digits: int = 1) -> str:
    """A metric's value, e.g. `97.3 %`."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{100 * value:z.{digits}f} %" if is_share(metric) else f"{value:z,.{_places(value, metric, digits + 2)}f}"
    return text.replace("-", "−")


def gap(value: float, metric: str, *, signed: bool = False) -> str:
    """A difference between two values of a metric, e.g. `0.3 points`, `+0.3 points` where signed."""
    sign = "+" if signed else "-"
    if is_share(metric):
        return f"{100 * value:{sign}z.1f} points".replace("-", "−")
    return f"{value:{sign}z,.{_places(value, metric, 3)}f}".replace("-", "−")


def spread(value: float, half: float, metric: str) -> str:
    """A difference between two values of a metric and how far it may be off, e.g. `0.3 ± 0.5 points`."""
    if is_share(metric):
        return f"{100 * value:.1f} ± {100 * half:.1f} points"
    return f"{gap(value, metric)} ± {gap(half, metric)}"


def mean_sem(interval: Interval | None, metric: str) -> str:
    """A mean with its standard error where there is one, e.g. `97.3 ± 0.4 %`."""
    if interval is None:
        return NONE
    if interval.sem is None:
        return score(interval.mean, metric)
    scale, unit, digits = (100.0, " %", 1) if is_share(metric) else (1.0, "", _places(interval.mean, metric, 3))
    # A standard error that is not zero must not read as zero.
    if 0 < scale * interval.sem < 0.5 * 10**-digits:
        digits += 1
    return f"{scale * interval.mean:z,.{digits}f} ± {scale * interval.sem:,.{digits}f}{unit}".replace("-", "−")


def bounds(interval: Interval, metric: str) -> str:
    """Ends of a mean's 95 % t-interval, e.g. `94.5 to 99.5 %`; empty where there is none.

    They are cut off at what the metric can be, which costs no coverage.
    """
    if interval.low is None or interval.high is None:
        return ""
    low, high = (score(within_range(end, metric), metric) for end in (interval.low, interval.high))
    return f"{low.removesuffix(' %')} to {high}"


def probability(value: float) -> str:
    """A probability with two digits, e.g. `= 0.034`; `< 0.0001` below that."""
    return f"= {value:.2g}" if value >= 0.0001 else "< 0.0001"


def against(versus: Versus | None, metric: str) -> str:
    """A row against the best: its difference, with ≈ where that may be chance, e.g. `-0.3 points ≈`."""
    if versus is None:
        return NONE
    return gap(versus.difference, metric, signed=True) + (" ≈" if versus.indistinguishable else "")


def count(value: float | None) -> str:
    """A whole number with separators, e.g. `12,345`."""
    return NONE if value is None else f"{round(value):,}"


def rough(value: float) -> str:
    """A whole number of which two digits count, e.g. `160` of 163.2."""
    return f"{float(f'{value:.2g}'):,.0f}"


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """A number and its noun, e.g. `3 seeds`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def quantity(value: float, unit: str = "") -> str:
    """A number of things in thousands, millions or billions, e.g. `1.8 M`."""
    return _scaled(value, ["", "k", "M", "G", "T"], unit)


def size(num_bytes: float) -> str:
    """Bytes in decimal units, e.g. `1.5 MB`; a dash where none were recorded."""
    return _scaled(num_bytes, ["", "k", "M", "G", "T"], "B") if num_bytes else NONE


def duration(seconds: float) -> str:
    """Seconds, minutes or hours with two or three digits that count, e.g. `2.4 s`, `12.3 min`."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 300:
        return f"{seconds / 60:.1f} min"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 0.095 else f"{seconds:.2g} s"


def milliseconds(seconds: float) -> str:
    """A short time, e.g. `2.4 ms`."""
    return f"{1000 * seconds:.3g} ms"


def rate(per_second: float | None) -> str:
    """Samples a second, e.g. `410 /s`."""
    if per_second is None:
        return NONE
    return f"{per_second:,.0f} /s" if per_second >= 10 else f"{per_second:.1f} /s"


def latency(p50_ms: float | None, p95_ms: float | None) -> str:
    """Milliseconds of a sample alone, median and 95th percentile, e.g. `8.1 / 9.7 ms`."""
    if p50_ms is None or p95_ms is None:
        return NONE
    return f"{_ms(p50_ms)} / {_ms(p95_ms)} ms"


def operations(flops: float | None) -> str:
    """Floating-point operations, e.g. `1.2 GFLOPs`."""
    return NONE if not flops else quantity(flops, "FLOPs")


def fraction(part: float, whole: float) -> str:
    """How much `part` is of `whole`: `1/40` where small, else `72 %`."""
    if whole >= 1.95 * part > 0:
        return f"1/{round(whole / part):,}"
    return f"{100 * part / whole:.0f} %"


def plain(value: Any) -> str:
    """Any recorded value on one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, str):
        return value or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(of)}" for name, of in cast("dict[str, Any]", value).items()) or "none"
    if isinstance(value, (list, tuple)):
        items = list(cast("list[Any]", value))
        if not any(isinstance(v, (list, tuple, dict)) for v in items):
            return ", ".join(map(plain, items)) or "none"
    return json.dumps(value, ensure_ascii=False, default=str)


def shorten(text: str, length: int) -> str:
    """One line of at most `length` characters, its middle left out where it is longer."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return f"{text[: length - 1 - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"


def _places(value: float, metric: str, digits: int) -> int:
    """Places after the point: `digits`, or as many as show so many digits that count where values have any size."""
    if not has_any_size(metric) or value == 0:
        return digits
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 99.5 else f"{milliseconds:.{1 if milliseconds >= 0.95 else 2}f}"


def _scaled(value: float, prefixes: list[str], unit: str) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:
        value, power = value / 1000, power + 1
    number = f"{value:.0f}" if power == 0 or abs(value) >= 99.5 else f"{value:.1f}"
    return f"{number} {prefixes[power]}{unit}".strip()
