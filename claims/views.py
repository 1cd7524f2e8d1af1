"""How many views fine-tuning on few images wants: accuracy and seconds with 1, 4, 16 and fresh ones.

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR", help="where its IDX files lie")
    options = parser.parse_args()
    task, results = fashion(options.fashion_mnist), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as cache:
        for method in METHODS:
            for views in VIEWS:
                found = measure(task, views, method, cache)
                results.setdefault(method, {})[str(views)] = found
                print(method, views, found, flush=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    fill("views", table(results))


if __name__ == "__main__":
    main()
