"""Claim: a pretrained start beats random weights, the more so the fewer the labels are (He et al. 2019).

    python claims/pretrained_or_scratch.py --fashion-mnist DIR          about 25 minutes on one core
    python claims/pretrained_or_scratch.py --quick

Full fine-tuning of the pretrained network against the same network from random weights, each by its own recipe (the
latter with a larger rate and two to three times the epochs), as labels become more: BBC News from MiniLM-L6 at 32
tokens, Fashion-MNIST from EfficientNet-Lite0 at 32 px, 600 test samples. He et al. (arXiv:1811.08883) find that with
enough data and epochs random weights draw level; so the gain at the fewest labels is held against that at the most.
Numbers go to claims/results/pretrained_or_scratch.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from trials import add_options, measure, tasks
from verdicts import Chart, Finding, gain, percent, write

RESULT = Path(__file__).parent / "results" / "pretrained_or_scratch.json"
LABELS = {"BBC News": (25, 100, 800), "Fashion-MNIST": (50, 200, 1600)}
STARTS = {"pretrained": "full", "random weights": "from_scratch"}


def findings(result: dict[str, Any]) -> list[Finding]:
    told: list[Finding] = []
    for name, sizes in result["tasks"].items():
        starts = {labels: [found[start]["test"] for start in STARTS] for labels, found in sizes.items()}
        told += [gain(f"{name}, {n} labels: pretrained above random weights", *pair) for n, pair in starts.items()]
        few, *_, many = ([a - b for a, b in zip(*pair, strict=True)] for pair in starts.values())
        told.append(gain(f"{name}: the gain is larger with the fewest labels than with the most", few, many))
    return told


def chart(result: dict[str, Any]) -> Chart:
    rows = {
        f"{name}, {labels} labels": {start: percent(found[start]["test"]) for start in STARTS}
        for name, sizes in result["tasks"].items()
        for labels, found in sizes.items()
    }
    return Chart("test accuracy, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seeds=3, result=RESULT)
    options = parser.parse_args()
    result: dict[str, Any] = {"tasks": {}}
    with tempfile.TemporaryDirectory() as cache:
        for name, task in tasks(options).items():
            for labels in LABELS[name][:2] if options.quick else LABELS[name]:
                found = {s: measure(task, m, labels, options.seeds, Path(cache)) for s, m in STARTS.items()}
                print(name, labels, found, flush=True)
                result["tasks"].setdefault(name, {})[str(labels)] = found
    write(options.result, result, findings(result))


if __name__ == "__main__":
    main()
