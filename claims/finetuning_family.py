"""Claim: fine-tuning beats random weights and a probe, its refinements beat the plain way (Yosinski et al. 2014).

    python claims/finetuning_family.py                        all three; some hours on 2 cores
    python claims/finetuning_family.py --only bbc-50
    python claims/finetuning_family.py --only fashion-1000 --fashion-mnist DIR     where the IDX files lie

BBC News with 50 and with 200 labels from MiniLM-L6 at 128 tokens, and Fashion-MNIST with 1,000 labels from
EfficientNet-Lite0 at 64 px, each method with its defaults. Numbers go to claims/results/finetuning_family.json, the
table into docs/finetuning.md. Fashion-MNIST is read from train-images-idx3-ubyte.gz and its companions, as its authors
publish it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pictures import clothes
from verdicts import Chart, Finding, gain, percent, write

import bequest
from bequest.core.registry import methods

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "claims" / "results" / "finetuning_family.json"
PAGE = ROOT / "docs" / "finetuning.md"
TASKS = ("bbc-50", "bbc-200", "fashion-1000")
SEEDS = 3
BASELINES = {"from_scratch": "random weights", "linear_probe": "the linear probe"}
REFINED = ("head_then_all", "staged", "ulmfit", "l2_sp")


def family() -> list[str]:
    """All methods but DFR, which needs groups: the probe and the baseline say what the others are worth."""
    return sorted(set(methods()) - {"dfr"}, key=lambda name: (methods()[name].family, name))


def fashion(folder: Path) -> tuple[list[Any], list[str]]:
    from PIL import Image

    pixels, labels = clothes(folder)
    chosen = np.random.default_rng(0).permutation(len(labels))[:6000]
    return [Image.fromarray(pixels[i]) for i in chosen], [f"class {labels[i]}" for i in chosen]


def task(name: str, folder: Path | None) -> dict[str, Any]:
    if name == "fashion-1000":
        if folder is None:
            raise SystemExit("give the folder of Fashion-MNIST's IDX files: --fashion-mnist DIR")
        return {"data": fashion(folder), "source": "efficientnet_lite0", "image_size": 64, "train_size": 1000}
    from bequest.cli.demo import texts

    return {"data": texts().task, "source": "minilm_l6", "train_size": int(name.removeprefix("bbc-"))}


def measure(name: str, method: str, settings: dict[str, Any], cache: str) -> dict[str, Any]:
    size = 1000 if name.startswith("fashion") else 400
    with tempfile.TemporaryDirectory() as out:
        fixed = {"seeds": SEEDS, "test_size": size, "out": Path(out) / "run", "cache": cache, "progress": False}
        run = bequest.compare(methods=[method], **fixed, **settings)
    [row] = run.board.rows
    trials = run.board.trials
    shares = [share for t in trials for share in t.frozen_shares]
    return {
        "test": [t.test for t in trials],
        "seconds": [round(t.train_s or 0, 1) for t in trials],
        "trainable": row.trainable_parameters,
        "frozen_share": round(float(np.mean(shares)), 2) if shares else None,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    columns = [name for name in TASKS if name in results]
    lines = ["| method | " + " | ".join(f"{c}: accuracy | seconds" for c in columns) + " |"]
    lines.append("| --- |" + " ---: | ---: |" * len(columns))
    for method in dict.fromkeys(m for name in columns for m in results[name]):
        cells: list[str] = []
        for name in columns:
            found = results[name].get(method)
            if found is None:
                cells += ["not tried", ""]
                continue
            scores = np.array(found["test"]) * 100
            error = scores.std(ddof=1) / len(scores) ** 0.5
            mark = " †" if found.get("earlier") else ""
            cells += [f"{scores.mean():.1f} ± {error:.1f}{mark}", f"{np.mean(found['seconds']):.0f}"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(name: str, content: str, page: Path = PAGE) -> None:
    """Put a table into its place on a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def findings(result: dict[str, Any]) -> list[Finding]:
    told: list[Finding] = []
    for task in TASKS:
        rows = result.get(task, {})
        pairs = [("full", "full fine-tuning", other, words) for other, words in BASELINES.items()]
        pairs += [(name, name, "full", "full fine-tuning") for name in REFINED]
        for name, words, other, other_words in pairs:
            if name in rows and other in rows and rows[name].get("earlier") == rows[other].get("earlier"):
                told.append(gain(f"{task}: {words} above {other_words}", rows[name]["test"], rows[other]["test"]))
    return told


def chart(result: dict[str, Any]) -> Chart:
    tasks = [task for task in TASKS if task in result]
    rows = {m: {t: percent(result[t][m]["test"]) for t in tasks if m in result[t]} for t in tasks for m in result[t]}
    return Chart("test accuracy, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--methods", help="some of the family, with commas between (default: all)")
    parser.add_argument("--fashion-mnist", type=Path, metavar="DIR")
    options = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as cache:
        for name in (options.only,) if options.only else TASKS:
            settings = task(name, options.fashion_mnist)
            for method in options.methods.split(",") if options.methods else family():
                found = measure(name, method, settings, cache)
                results.setdefault(name, {})[method] = found
                print(name, method, found, flush=True)
                write(RESULT, results)
                fill("table", table(results))
    write(RESULT, results, findings(results))


if __name__ == "__main__":
    main()
