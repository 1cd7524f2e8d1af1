"""Claim: augmented views of few images help fine-tuning, the more the better (Cubuk et al. 2020, arXiv:1909.13719).

    python claims/views.py --fashion-mnist DIR

Fashion-MNIST with 1,000 labels, EfficientNet-Lite0 at 64 px, three seeds, `full` and `freeze` with their defaults but
without early stopping, the recipe `light`. Numbers go to claims/results/views.json, the table into docs/finetuning.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from finetuning_family import fashion, fill
from verdicts import Chart, Finding, gain, percent, write

import bequest

RESULT = Path(__file__).parent / "results" / "views.json"
VIEWS, METHODS, SEEDS, RECIPE = (1, 4, 16, "unlimited"), ("full", "freeze"), 3, "light"


def measure(task: Any, views: int | str, method: str, cache: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        run = bequest.compare(
            task,
            "efficientnet_lite0",
            [method],
            settings={method: {"patience": 0}},
            image_size=64,
            train_size=1000,
            test_size=1000,
            seeds=SEEDS,
            views=views,
            augment=RECIPE if views != 1 else None,
            out=Path(out) / "run",
            cache=cache,
            progress=False,
        )
    trials = run.board.trials
    return {
        "validation": [t.validation for t in trials],
        "test": [t.test for t in trials],
        "seconds": [round(t.train_s, 1) for t in trials],
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = ["| views | " + " | ".join(f"{m}: accuracy | seconds" for m in METHODS) + " |"]
    lines.append("| --- |" + " ---: | ---: |" * len(METHODS))
    for views in map(str, VIEWS):
        cells: list[str] = []
        for method in METHODS:
            found = results[method][views]
            scores = np.array(found["test"]) * 100
            cells += [f"{scores.mean():.1f} ± {scores.std(ddof=1) / len(scores) ** 0.5:.1f}"]
            cells += [f"{np.mean(found['seconds']):.0f}"]
        lines.append(f"| {views} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def findings(result: dict[str, Any]) -> list[Finding]:
    return [
        gain(f"{method}: {views} views above the plain image", rows[views]["test"], rows["1"]["test"])
        for method, rows in methods(result).items()
        for views in rows
        if views != "1"
    ]


def chart(result: dict[str, Any]) -> Chart:
    found = methods(result)
    views = dict.fromkeys(v for rows in found.values() for v in rows)
    rows = {f"views: {v}": {m: percent(found[m][v]["test"]) for m in found if v in found[m]} for v in views}
    return Chart("test accuracy, %", rows)


def methods(result: dict[str, Any]) -> dict[str, Any]:
    return {method: result[method] for method in METHODS if method in result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR", help="where its IDX files lie")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between (default: %(default)s)")
    parser.add_argument("--views", default=",".join(map(str, VIEWS)), help="with commas between (default: %(default)s)")
    options = parser.parse_args()
    task, results = fashion(options.fashion_mnist), json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as cache:
        for method in options.methods.split(","):
            for views in options.views.split(","):
                found = measure(task, views if views == "unlimited" else int(views), method, cache)
                results.setdefault(method, {})[views] = found
                print(method, views, found, flush=True)
    write(RESULT, results, findings(results))
    fill("views", table(results))


if __name__ == "__main__":
    main()
