"""Claim: first layers transfer as they are: freezing them costs nothing, freezing all does (Yosinski et al. 2014).

    python claims/freezing_depth.py --fashion-mnist DIR         about 8 minutes on one core
    python claims/freezing_depth.py --quick

The first third, two thirds, or all of a pretrained network's layers frozen, what lies above trained with a new head
that is solved first, against training all of it (arXiv:1411.1792). Freezing is said to cost nothing where the interval
of the paired difference lies above −1 point. BBC News with 100 labels from MiniLM-L6, Fashion-MNIST with 400 from
EfficientNet-Lite0, a source whose pictures look otherwise; 600 test samples. Numbers go to
claims/results/freezing_depth.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from trials import add_options, measure, tasks
from verdicts import Chart, Finding, gain, percent, write

RESULT = Path(__file__).parent / "results" / "freezing_depth.json"
LABELS = {"BBC News": 100, "Fashion-MNIST": 400}
DEPTHS = {"nothing": "0", "the first third": "0.34", "two thirds": "0.67", "all but the head": "1"}
COST = -1.0


def findings(result: dict[str, Any]) -> list[Finding]:
    told: list[Finding] = []
    for name, found in result["tasks"].items():
        tests = {frozen: row["test"] for frozen, row in found.items()}
        for frozen in list(DEPTHS)[1:3]:
            if frozen in tests:
                told.append(gain(f"{name}: {frozen} frozen against nothing", tests[frozen], tests["nothing"], COST))
        told.append(gain(f"{name}: training all above the head alone", tests["nothing"], tests["all but the head"]))
    return told


def chart(result: dict[str, Any]) -> Chart:
    names = result["tasks"]
    rows = {
        f"{frozen} frozen": {name: percent(found[frozen]["test"]) for name, found in names.items() if frozen in found}
        for frozen in DEPTHS
    }
    return Chart("test accuracy, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seeds=5, result=RESULT)
    options = parser.parse_args()
    chosen = {f: d for f, d in DEPTHS.items() if d in ("0", "1") or not options.quick}
    result: dict[str, Any] = {"tasks": {}}
    with tempfile.TemporaryDirectory() as cache:
        for name, task in tasks(options).items():
            for frozen, depth in chosen.items():
                found = measure(task, "freeze", LABELS[name], options.seeds, Path(cache), from_depth=depth)
                print(name, frozen, found, flush=True)
                result["tasks"].setdefault(name, {})[frozen] = found
    write(options.result, result, findings(result))


if __name__ == "__main__":
    main()
