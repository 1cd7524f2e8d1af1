"""Claim: with few labels under a flipped correlation, Pro² beats probing all features (Chen et al. 2024).

    python claims/pro2_shift.py --fashion-mnist DIR --mnist DIR

The source's data are dominoes whose digit goes with the class in 95 % of the pictures; in the target's it goes with
the other class in 95 %. EfficientNet-Lite0 at 64 px is frozen throughout. Pro² learns its directions on 2,000 of the
source's pictures, both heads are fitted on 2, 8 or 32 of the target's a class, 5 seeds, 1,000 test pictures. Numbers go
to claims/results/pro2_shift.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from pictures import Dominoes, add_folders
from verdicts import Chart, Finding, gain, percent, write

import bequest

RESULT = Path(__file__).parent / "results" / "pro2_shift.json"
SHOTS, SEEDS, METHODS = (2, 8, 32), 5, ("linear_probe", "pro2")


def scores(options: Any, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    dominoes = Dominoes(options.fashion_mnist, options.mnist, seed)
    own = dominoes.task("source", {"train": (2000, 0.95)})
    target = dominoes.task("target", {"train": (200, 0.05), "test": (1000, 0.05)})
    found: dict[str, dict[str, float]] = {}
    for shots in SHOTS:
        run = bequest.compare(
            target,
            "efficientnet_lite0",
            METHODS,
            image_size=64,
            seeds=[seed],
            train_size=2 * shots,
            source_data=own,
            out=folder / f"{seed}-{shots}",
            cache=folder / "cache",
            progress=False,
        )
        found[str(shots)] = {trial.method: float(trial.test or 0) for trial in run.board.trials}
        print(f"seed {seed}, {shots} a class: {found[str(shots)]}", flush=True)
    return found


def findings(result: dict[str, Any]) -> list[Finding]:
    def tests(shots: str, method: str) -> list[float]:
        return [seed[shots][method] for seed in result["scores"]]

    return [
        gain(f"Pro² above probing, {shots} labels a class", tests(shots, "pro2"), tests(shots, "linear_probe"))
        for shots in result["scores"][0]
    ]


def chart(result: dict[str, Any]) -> Chart:
    found = result["scores"]
    rows = {f"{s} labels a class": {m: percent([seed[s][m] for seed in found]) for m in METHODS} for s in found[0]}
    return Chart("test accuracy, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [scores(options, seed, Path(folder)) for seed in range(options.seeds)]
    result: dict[str, Any] = {"scores": found}
    write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
