"""Claim: fitting the last layer again on group-balanced labels lifts the worst group (Kirichenko et al. 2023).

    python claims/dfr_dominoes.py --fashion-mnist DIR --mnist DIR

Dominoes whose digit goes with the class in 95 % or 100 % of the training pictures. ERM is full fine-tuning of
EfficientNet-Lite0 at 64 px on 2,000 pictures, 5 seeds; it stops by 400 pictures as biased as those, as whoever knows of
no groups would. DFR is then fitted on the features of that model: DFR-Tr on balanced training pictures, DFR-Val on 400
further pictures that hold all four groups alike, as do the 1,000 of the test. The probe on the untouched source is
given beside them. Numbers go to claims/results/dfr_dominoes.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from pictures import Dominoes, add_folders, joined
from verdicts import Chart, Finding, gain, percent, write

import bequest
from bequest.core.errors import BequestError

RESULT = Path(__file__).parent / "results" / "dfr_dominoes.json"
TRAIN, HELD_OUT, TESTED = 2000, 400, 1000
LEAST = 5.0


def scores(dominoes: Dominoes, correlation: float, seed: int, folder: Path) -> dict[str, Any]:
    """Test accuracy and that of the worst group; None where the method is not defined."""
    train, biased = dominoes.draw(TRAIN, correlation), dominoes.draw(HELD_OUT, correlation)
    balanced, test = dominoes.draw(HELD_OUT, 0.5), dominoes.draw(TESTED, 0.5)
    known = joined("dominoes with known groups", {"train": train, "validation": balanced, "test": test})
    unknown = joined("dominoes", {"train": train, "validation": biased, "test": test})
    common: dict[str, Any] = {"seed": seed, "cache": folder / "cache", "progress": False}

    def one(name: str, data: Any, source: str, method: str, **settings: Any) -> None:
        size = {"image_size": 64} if source == "efficientnet_lite0" else {}
        try:
            run = bequest.adapt(data, source, method, out=folder / name, **size, **common, **settings)
        except BequestError as error:
            found[name] = {"undefined": str(error).splitlines()[-1]}
        else:
            [trial] = run.board.trials
            found[name] = {"test": trial.test, "worst": trial.metrics["worst_group_accuracy"]}
        print(f"{correlation:.0%}, seed {seed}: {name} {found[name]}", flush=True)

    found: dict[str, Any] = {}
    one("ERM", unknown, "efficientnet_lite0", "full", epochs=6)
    one("probe", unknown, "efficientnet_lite0", "linear_probe")
    one("DFR-Tr", known, str(folder / "ERM"), "dfr", fit_on="train")
    one("DFR-Val", known, str(folder / "ERM"), "dfr", fit_on="validation")
    return found


def findings(result: dict[str, Any]) -> list[Finding]:
    return [
        gain(
            f"DFR-Val lifts the worst group where the digit goes with the class in {100 * float(correlation):g} %",
            [seed["DFR-Val"]["worst"] for seed in result[correlation]["scores"]],
            [seed["ERM"]["worst"] for seed in result[correlation]["scores"]],
            LEAST,
        )
        for correlation in correlations(result)
    ]


def chart(result: dict[str, Any]) -> Chart:
    def worst(correlation: str, name: str) -> list[float]:
        return percent([seed[name]["worst"] for seed in result[correlation]["scores"] if "worst" in seed[name]])

    names = ("probe", "ERM", "DFR-Tr", "DFR-Val")
    rows = {
        f"digit and class agree in {100 * float(correlation):g} %": {
            n: w for n in names if (w := worst(correlation, n))
        }
        for correlation in correlations(result)
    }
    return Chart("accuracy in the worst group, %", rows)


def correlations(result: dict[str, Any]) -> list[str]:
    return [name for name in result if name != "verdicts"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", type=float, metavar="SHARE", help="one correlation, 0.95 or 1")
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for correlation in (0.95, 1.0) if options.only is None else (options.only,):
        found: list[dict[str, Any]] = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                dominoes = Dominoes(options.fashion_mnist, options.mnist, seed)
                found.append(scores(dominoes, correlation, seed, Path(folder)))
        result[f"{correlation:.2f}"] = {"scores": found}
        write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
