"""The open questions about parameter-efficient fine-tuning, in words and tables: no more than was measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bequest.core.questions import FULL, Gap, Merging, Parity, Questions, Race, Ranks, Ratio
from bequest.core.results import Leaderboard
from bequest.report import canvas, question_plots, units

_AGAINST = "full fine-tuning"
_ITS = f"{_AGAINST}'s"


def in_words(board: Leaderboard) -> list[str]:
    """One line for each question that was answered."""
    found = board.questions
    if found is None:
        return []
    lines = [_gap_line(found), _parity_line(found), _rank_line(found), _merging_line(found)]
    return [line for line in lines if line]


def section(board: Leaderboard) -> dict[str, Any] | None:
    """What the report shows of the questions; None where there are none."""
    found = board.questions
    if found is None:
        return None
    return {
        "gaps": {
            "plot": _drawn(question_plots.gaps, board),
            "told": [_gap_told(gap, found) for gap in found.gaps],
        },
        "parity": {
            "plot": _drawn(question_plots.parity, board),
            "told": [*_parity_told(found), *_batches(board, found)],
            "key": canvas.key(board, (FULL, *(parity.method for parity in found.parities))),
            "seeds": _seeds(found),
            "rows": [_parity_row(parity, _seeds(found)) for parity in found.parities],
        },
        "ranks": {
            "plot": _drawn(question_plots.spectra, board),
            "told": _ranks_told(board, found),
            "rows": [_rank_row(ranks) for ranks in found.ranks],
            "layers": _layers(board, found),
        },
        "merging": {
            "told": [_merging_told(method, merging) for method, merging in found.merging.items()],
            "rows": [_merging_row(method, merging) for method, merging in found.merging.items()],
        },
    }


def _drawn(draw: Any, board: Leaderboard) -> dict[str, str | None]:
    return {size.name: draw(board, size) for size in (canvas.WIDE, canvas.NARROW)}


# Gap in accuracy


def _gap_line(found: Questions) -> str:
    told = (f"{gap.method} {_signed(gap.mean, found)}, {_judged(gap, found)}" for gap in found.gaps)
    start = f"Against {_AGAINST}, test {units.metric_name(found.metric)}: "
    return start + "; ".join(told) + "." if found.gaps else ""


def _gap_told(gap: Gap, found: Questions) -> str:
    over = "one seed" if gap.seeds == 1 else f"mean over {gap.seeds} seeds"
    start = f"{gap.method}: {_signed(gap.mean, found)} against {_AGAINST}, {over}"
    if gap.low is None or gap.high is None:
        same = "" if gap.seeds == 1 else ", the same with each"
        return f"{start}{same}, which gives no interval. Undecided: it may be chance."
    low, high = (_signed(end, found).removesuffix(" points") for end in (gap.low, gap.high))
    unit = " points" if units.is_share(found.metric) else ""
    text = f"{start}, 95 % interval from {low} to {high}{unit}."
    return f"{text} {_WHY[_judged(gap, found)]}"


_WHY = {
    "better": "The interval lies on the better side of 0: it is better here.",
    "worse": "The interval lies on the worse side of 0: it is worse here.",
    "undecided": "Undecided: the interval holds 0.",
}


def _judged(gap: Gap, found: Questions) -> str:
    """By the ends as they are read: one that reads as zero is not called different from it."""
    if gap.low is None or gap.high is None or round(gap.low, 3) <= 0 <= round(gap.high, 3):
        return "undecided"
    return "better" if (gap.mean > 0) == found.higher_is_better else "worse"


def _signed(value: float, found: Questions) -> str:
    return units.gap(value, found.metric, signed=True)


# Steps and seconds to parity


def _mark(found: Questions, whose: str) -> str:
    near = f"{100 * found.tolerance:g} %" if found.relative else units.gap(found.tolerance, found.metric)
    return f"within {near} of {whose} best validation {units.metric_name(found.metric)}"


def _parity_line(found: Questions) -> str:
    told = [f"{parity.method} {_times(parity)}" for parity in found.parities if parity.steps]
    if told:
        return f"Optimizer steps to come {_mark(found, _ITS)}, as multiples of its own: {'; '.join(told)}."
    return _nothing_to_reach(found) if found.parities else ""


def _nothing_to_reach(found: Questions) -> str:
    return (
        f"Steps to parity: {_AGAINST} is {_mark(found, 'its')} before its first optimizer step with every seed, so "
        "there is no ratio to tell."
    )


def _times(parity: Parity) -> str:
    ratio = parity.steps
    assert ratio is not None
    if ratio.reached:
        return f"{ratio.value:.3g} times"
    return f"not reached within {_most_steps(parity)} steps, more than {ratio.value:.3g} times"


def _most_steps(parity: Parity) -> str:
    return units.count(max(race.end.steps for race in parity.races if race.own is None))


def _parity_told(found: Questions) -> list[str]:
    if not found.parities:
        return []
    told = [
        f"Lines are means over the seeds of the best so far, and the dashed one of the mark: {_mark(found, _ITS)}. "
        "Training is looked at after each epoch, so steps are known to an epoch; seconds are those of training and "
        "validation, without a head that was solved before."
    ]
    at_once = {race.seed for parity in found.parities for race in parity.races if race.full.steps == 0}
    seeds = _seeds(found)
    if at_once:
        count = "every seed" if len(at_once) == len(seeds) else f"{len(at_once)} of {len(seeds)} seeds"
        told.append(
            f"With {count}, {_AGAINST} is at the mark before its first step: the head alone, on the source's features, "
            "is enough. Such seeds give no ratio."
        )
    return told + [_parity_sentence(parity) for parity in found.parities if parity.steps]


def _batches(board: Leaderboard, found: Questions) -> list[str]:
    """That a step is not the same for all, where it is not."""
    methods = (FULL, *(parity.method for parity in found.parities))
    sizes = {row.method: row.settings.get("batch_size") for row in board.rows if row.method in methods}
    if len(set(sizes.values())) < 2:
        return []
    told = ", ".join(f"{method} {sizes[method]}" for method in methods if sizes.get(method))
    return [f"A step is of as many samples as the method's batch: {told}."]


def _parity_sentence(parity: Parity) -> str:
    steps, seconds = parity.steps, parity.seconds
    assert steps is not None and seconds is not None
    over = "one seed" if steps.seeds == 1 else f"the middle one of {steps.seeds} seeds"
    late = sum(race.own is None for race in parity.races if race.full.steps)
    missed = f" with {late} of {steps.seeds} seeds" if steps.seeds > 1 else ""
    if not steps.reached:
        return (
            f"{parity.method} does not reach the mark within its {_most_steps(parity)} steps{missed}: it takes more "
            f"than {steps.value:.3g} times the steps ({over})."
        )
    text = (
        f"{parity.method} takes {steps.value:.3g} times the optimizer steps and {seconds.value:.3g} times the seconds "
        f"of {_AGAINST} to reach the mark ({over})."
    )
    return f"{text} It did not get there{missed}." if late else text


def _seeds(found: Questions) -> list[int]:
    return sorted({race.seed for parity in found.parities for race in parity.races})


def _parity_row(parity: Parity, seeds: list[int]) -> dict[str, Any]:
    races = {race.seed: race for race in parity.races}
    return {
        "method": parity.method,
        "steps": _ratio(parity.steps),
        "seconds": _ratio(parity.seconds),
        "races": [_race(races.get(seed)) for seed in seeds],
    }


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return units.NONE
    return f"{'' if ratio.reached else '> '}{ratio.value:.3g} ×"


def _race(race: Race | None) -> dict[str, str]:
    if race is None:
        return {"own": units.NONE, "full": ""}
    own = f"not within {race.end.steps:,}" if race.own is None else f"{race.own.steps:,}"
    return {"own": own, "full": f"{FULL} {race.full.steps:,}"}


# Rank of the change


def _rank_line(found: Questions) -> str:
    if not found.ranks:
        return ""
    told = ", ".join(f"{ranks.method} {ranks.effective_rank:.3g}" for ranks in found.ranks)
    most = units.plural(max(ranks.layers for ranks in found.ranks), "matrix", "matrices")
    line = f"Effective rank of what training adds to a matrix, median over {most}: {told}."
    if found.suggested_rank is not None:
        line += f" Suggested rank for low-rank updates: {found.suggested_rank}."
    return line


def _ranks_told(board: Leaderboard, found: Questions) -> list[str]:
    if not found.ranks:
        return []
    told = [
        "Each thin line is a matrix's singular values, largest first, as shares of the largest; the bold line is their "
        "median. Values that rounding alone would make are left out, so the lines of a low-rank update end at its "
        f"rank. Measured at seed {found.ranks[0].seed}."
    ]
    told += _ranks_sentences(found)
    told += _suggestion(found)
    silent = [gap.method for gap in found.gaps if _changed_nothing(board, gap.method)]
    if silent:
        told.append(f"{_join(silent)} {'changes' if len(silent) == 1 else 'change'} no such matrix.")
    return told


def _ranks_sentences(found: Questions) -> list[str]:
    full = [ranks for ranks in found.ranks if ranks.method == FULL]
    others = [f"{ranks.method} {ranks.effective_rank:.3g}" for ranks in found.ranks if ranks.method != FULL]
    told = [
        f"Full fine-tuning changes {units.plural(ranks.layers, 'matrix', 'matrices')}, with an effective rank of "
        f"{ranks.effective_rank:.3g} in the median, from {ranks.lowest:.3g} to {ranks.highest:.3g}; 90 % of the energy "
        f"lie in {ranks.rank_90:g} directions."
        for ranks in full
    ]
    return [*told, f"Median effective rank of the others: {', '.join(others)}."] if others else told


def _suggestion(found: Questions) -> list[str]:
    full = next((ranks for ranks in found.ranks if ranks.method == FULL), None)
    if full is None or found.suggested_rank is None:
        return []
    shown = [(2**i, share) for i, share in enumerate(full.energy) if 2**i <= found.suggested_rank][-4:]
    evidence = ", ".join(f"{rank} hold {100 * share:.0f} %" for rank, share in shown)
    return [
        f"Suggested rank for low-rank updates: {found.suggested_rank}, the smallest of 1, 2, 4, 8, … directions that "
        f"hold 90 % of the energy of {_AGAINST}'s change in the median matrix ({evidence}). That is what copying the "
        "change would take; the accuracy may need less, which the gap tells."
    ]


def _changed_nothing(board: Leaderboard, method: str) -> bool:
    looked_at = [t.weights for t in board.trials if t.method == method and t.weights is not None]
    return bool(looked_at) and not any(s.adaptable for weights in looked_at for s in weights.spectra)


def _rank_row(ranks: Ranks) -> dict[str, str]:
    return {
        "method": ranks.method,
        "layers": units.count(ranks.layers),
        "effective": f"{ranks.effective_rank:.3g}",
        "range": f"{ranks.lowest:.3g} to {ranks.highest:.3g}",
        "rank_90": f"{ranks.rank_90:g}",
        "rank_99": f"{ranks.rank_99:g}",
    }


def _layers(board: Leaderboard, found: Questions) -> dict[str, Any]:
    """Effective rank of each matrix, a column a method."""
    columns = [
        {s.layer: s for s in question_plots.spectra_of(board, ranks.method, ranks.seed)} for ranks in found.ranks
    ]
    known = {layer: spectrum for column in columns[::-1] for layer, spectrum in column.items()}
    rows = [
        {
            "name": layer,
            "shape": f"{some.rows:,} × {some.columns:,}",
            "cells": [f"{column[layer].effective_rank:.3g}" if layer in column else units.NONE for column in columns],
        }
        for layer, some in known.items()
    ]
    return {"methods": [ranks.method for ranks in found.ranks], "rows": rows}


# Before and after merging


def _merging_line(found: Questions) -> str:
    told = [f"{method} {_faster(merging)}" for method, merging in found.merging.items()]
    return f"After merging, one sample alone takes: {'; '.join(told)}." if told else ""


def _faster(merging: Merging) -> str:
    share = merging.after.latency_s / merging.before.latency_s
    return f"{100 * share:.0f} % of the time before ({_milliseconds(merging.after.latency_s)})"


def _merging_told(method: str, merging: Merging) -> str:
    alone = merging.before.latency_s / merging.after.latency_s
    batch = merging.after.inference_per_s / merging.before.inference_per_s
    return (
        f"{method}: before merging, one sample alone takes {alone:.2f} times and a batch {batch:.2f} times as long as "
        f"after it. Before merging {units.size(merging.adapter_bytes)} are stored beside the source, "
        f"{units.fraction(merging.adapter_bytes, merging.network_bytes)} of the merged network's "
        f"{units.size(merging.network_bytes)}."
    )


def _merging_row(method: str, merging: Merging) -> dict[str, str]:
    return {
        "method": method,
        "latency_before": _milliseconds(merging.before.latency_s),
        "latency_after": _milliseconds(merging.after.latency_s),
        "rate_before": units.rate(merging.before.inference_per_s),
        "rate_after": units.rate(merging.after.inference_per_s),
        "size_before": units.size(merging.adapter_bytes),
        "size_after": units.size(merging.network_bytes),
    }


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _join(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
