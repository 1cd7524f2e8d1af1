"""Claim: after the head is replaced, pretrained layers want a small learning rate (Girshick et al. 2014).

    python claims/body_rates.py --fashion-mnist DIR         about 10 minutes on one core
    python claims/body_rates.py --quick

Full fine-tuning with a new head of random weights. The head's rate stays what it is by default; the body's is a tenth
of the default, the default (5e-5 for texts, 3e-4 for images), and 10 and 100 times as much, the last two what one would
train random weights with, or more. Girshick et al. (arXiv:1311.2524) fine-tune at a tenth of the pretraining's rate,
lest what was learned be lost. BBC News with 100 labels, Fashion-MNIST with 400, 600 test samples. Numbers go to
claims/results/body_rates.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from trials import add_options, measure, tasks
from verdicts import Chart, Finding, gain, percent, write

from bequest.methods.full import Full

RESULT = Path(__file__).parent / "results" / "body_rates.json"
LABELS = {"BBC News": 100, "Fashion-MNIST": 400}
MODALITY = {"BBC News": "text", "Fashion-MNIST": "image"}
FACTORS = (0.1, 1, 10, 100)


def findings(result: dict[str, Any]) -> list[Finding]:
    return [
        gain(
            f"{name}: {small:g} times the default rate above {large:g} times",
            found[f"{small:g}"]["test"],
            found[f"{large:g}"]["test"],
        )
        for name, found in result["tasks"].items()
        for small, large in ((1, 10), (1, 100), (1, 0.1))
        if f"{large:g}" in found
    ]


def chart(result: dict[str, Any]) -> Chart:
    rows = {
        f"{name}, {float(factor) * rate(name):.0e}": {"accuracy": percent(row["test"])}
        for name, found in result["tasks"].items()
        for factor, row in found.items()
    }
    return Chart("test accuracy by the body's learning rate, %", rows)


def rate(name: str) -> float:
    return Full.defaults[MODALITY[name]].learning_rate or 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seeds=5, result=RESULT)
    options = parser.parse_args()
    result: dict[str, Any] = {"tasks": {}}
    with tempfile.TemporaryDirectory() as cache:
        for name, task in tasks(options).items():
            for factor in (1, 100) if options.quick else FACTORS:
                settings = {"head_init": "random", "learning_rate": factor * rate(name)}
                found = measure(task, "full", LABELS[name], options.seeds, Path(cache), **settings)
                print(name, factor, found, flush=True)
                result["tasks"].setdefault(name, {})[f"{factor:g}"] = found
    write(options.result, result, findings(result))


if __name__ == "__main__":
    main()
