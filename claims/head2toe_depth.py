"""Claim: features of all layers make up for fine-tuning, near to the source's task and far (Evci et al. 2022).

    python claims/head2toe_depth.py --fashion-mnist DIR --mnist DIR

Linear probe, Head2Toe and full fine-tuning of EfficientNet-Lite0 at 64 px on tasks near to ImageNet (clothes by class)
and farther from it (digits; by how many eighths a garment is turned; how many digits are in the picture), 400 labels
(`--labels`), 5 seeds, 1,000 test pictures. Evci et al. 2022 (arXiv:2201.03529) claim that Head2Toe matches fine-tuning
on average. Numbers go to claims/results/head2toe_depth.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pictures import FASHION, SIDE, add_folders, clothes, digits, task
from PIL import Image
from verdicts import Chart, Finding, gain, percent, write

import bequest

RESULT = Path(__file__).parent / "results" / "head2toe_depth.json"
METHODS = ("linear_probe", "head2toe", "full")
COUNT, LABELS, TESTED = 2000, 400, 1000


def tasks(options: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    worn, kinds = clothes(options.fashion_mnist)
    written, numbers = digits(options.mnist)
    some, other = rng.permutation(len(worn))[:COUNT], rng.permutation(len(written))[:COUNT]
    eighths = rng.integers(0, 8, COUNT)
    turned = [np.asarray(Image.fromarray(worn[i]).rotate(45 * int(e))) for i, e in zip(some, eighths, strict=True)]
    counts = rng.integers(1, 5, COUNT)
    pages = [page(written[rng.integers(0, len(written), count)], rng) for count in counts]
    return {
        "clothes": task("clothes", worn[some], [FASHION[k] for k in kinds[some]]),
        "digits": task("digits", written[other], [str(n) for n in numbers[other]]),
        "turned clothes": task("turned clothes", np.stack(turned), [f"{45 * e} degrees" for e in eighths]),
        "how many digits": task("how many digits", np.stack(pages), [str(c) for c in counts]),
    }


def page(chosen: Any, rng: Any) -> Any:
    """Digits at half their size in different corners of a picture, each moved by some pixels."""
    picture = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
    for corner, digit in zip(rng.permutation(4), chosen, strict=False):
        small = np.asarray(Image.fromarray(digit).resize((SIDE - 8, SIDE - 8)))
        top, left = (SIDE * (corner // 2) + rng.integers(0, 9), SIDE * (corner % 2) + rng.integers(0, 9))
        picture[top : top + len(small), left : left + len(small)] = small
    return picture


def findings(result: dict[str, Any]) -> list[Finding]:
    return [
        gain(f"{name}: Head2Toe above {other}", result[name]["test"]["head2toe"], result[name]["test"][method])
        for name in result
        if name != "verdicts"
        for method, other in (("linear_probe", "the linear probe"), ("full", "full fine-tuning"))
    ]


def chart(result: dict[str, Any]) -> Chart:
    rows = {n: {m: percent(result[n]["test"][m]) for m in METHODS} for n in result if n != "verdicts"}
    return Chart("test accuracy, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=LABELS)
    parser.add_argument("--only", metavar="WORD", default="", help="tasks whose name contains it")
    options = parser.parse_args()
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, made in tasks(options).items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            run = bequest.compare(
                made,
                "efficientnet_lite0",
                METHODS,
                image_size=64,
                seeds=options.seeds,
                train_size=options.labels,
                test_size=TESTED,
                out=Path(folder) / "run",
                cache=Path(folder) / "cache",
                progress=False,
            )
        rows = {row.method: row for row in run.board.rows}
        tests = {m: [t.test for t in run.board.trials if t.method == m] for m in METHODS}
        seconds = {m: round(rows[m].train_s, 1) for m in METHODS}
        result[name] = {"test": tests, "seconds": seconds}
        write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
