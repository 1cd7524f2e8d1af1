"""Claim: weights selected from a larger network are a better start than random ones (Xu et al. 2024).

    python claims/weight_selection.py --fashion-mnist DIR               both tasks; some hours on 2 cores
    python claims/weight_selection.py --only bbc                        needs no Fashion-MNIST
    python claims/weight_selection.py --only bbc --labels 40 --epochs 1 --seeds 1 --no-write        a try

Fashion-MNIST with 1,000 labels at 64 px, EfficientNet-Lite2 → Lite0; BBC News with 500 labels at 128 tokens, MiniLM-L6
→ 3 layers of width 192. All starts are trained whole by the recipe of `from_scratch` for 15 epochs; the weights of the
best epoch on held-out labels count. `uniform, distilled` starts as `uniform` does and learns from the larger network,
fine-tuned on the same labels, as well (temperature 4). *Epochs* are those until the held-out accuracy has come to the
highest that random weights reached at the same seed, over all epochs; a start that never does is counted as `never`.
Numbers go to claims/results/weight_selection.json, the tables into docs/weight_selection.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from finetuning_family import ROOT, fashion, fill
from verdicts import Chart, Finding, gain, percent, write

import bequest
from bequest import sources
from bequest.methods.from_scratch import FromScratch

RESULT = ROOT / "claims" / "results" / "weight_selection.json"
PAGE = ROOT / "docs" / "weight_selection.md"
EPOCHS = 15
LABELS, TESTED = {"fashion": 1000, "bbc": 500}, {"fashion": 2000, "bbc": 600}
STARTS = ("random weights", "uniform", "uniform, distilled", "first", "random", "inconsistent")


def recipe(modality: str, epochs: int) -> dict[str, Any]:
    """What `from_scratch` does by default, for any method that trains."""
    chosen = {name: v for name, v in asdict(FromScratch.defaults[modality]).items() if v not in (None, "")}
    return {**chosen, "epochs": epochs}


def pair(task: str, max_tokens: int | None) -> tuple[sources.Source, sources.Source]:
    """The smaller network, and the larger one."""
    if task == "fashion":
        return sources.get("efficientnet_lite0", image_size=64), sources.get("efficientnet_lite2", image_size=64)
    large = sources.get("minilm_l6", max_tokens=max_tokens)
    return sources.member(large, 3, 192), large


def measure(task: str, data: Any, start: str, seed: int, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    smaller, larger = pair(task, options.max_tokens)
    settings = recipe(smaller.modality, options.epochs)
    common: dict[str, Any] = {
        "train_size": options.labels or LABELS[task],
        "test_size": options.labels or TESTED[task],
        "cache": cache,
        "progress": False,
    }
    selection, _, distilled = start.partition(", ")
    with tempfile.TemporaryDirectory() as out:
        teacher, student = Path(out) / "teacher", Path(out) / "student"
        if start == "random weights":
            run = bequest.adapt(data, smaller, "from_scratch", seed=seed, out=student, **common, **settings)
        else:
            source = sources.initialise(smaller, larger, selection, seed)  # pyright: ignore[reportArgumentType]
            if distilled:
                lesson = bequest.adapt(data, larger, "full", seed=seed, out=teacher, **common)
                run = bequest.distill(data, lesson, source, seeds=[seed], out=student, **common, **settings)
            else:
                run = bequest.adapt(data, source, "full", seed=seed, out=student, **common, **settings)
    trial = next(t for t in run.board.trials if t.method.endswith("distilled") == bool(distilled))
    held_out = [e.validation_metric for e in trial.epochs if e.train_loss is not None]
    return {"test": trial.test, "held_out": held_out, "seconds": round(trial.train_s, 1)}


def epochs_to(found: dict[str, Any], baseline: dict[str, Any]) -> int | None:
    """Epochs until the held-out accuracy is the best that the baseline had; None where it never is."""
    mark = max(baseline["held_out"])
    return next((epoch for epoch, score in enumerate(found["held_out"], 1) if score >= mark), None)


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| start | test accuracy | epochs to the best of random weights |", "| --- | ---: | ---: |"]
    for start in results:
        scores = np.array([trial["test"] for trial in results[start]]) * 100
        error = f" ± {scores.std(ddof=1) / len(scores) ** 0.5:.1f}" if len(scores) > 1 else ""
        epochs = [epochs_to(t, b) for t, b in zip(results[start], results["random weights"], strict=True)]
        lines.append(f"| {start} | {scores.mean():.1f}{error} | {', '.join(str(e or 'never') for e in epochs)} |")
    return "\n".join(lines)


def setting(task: str, options: argparse.Namespace) -> str:
    """What the table below it was made with."""
    tokens = "" if options.max_tokens is None else f"; texts of {options.max_tokens} tokens at most"
    return f"{options.labels or LABELS[task]:,} labels, {options.epochs} epochs{tokens}:"


def load(task: str, folder: Path | None) -> Any:
    if task == "fashion":
        if folder is None:
            raise SystemExit("give the folder of Fashion-MNIST's IDX files: --fashion-mnist DIR")
        return fashion(folder)
    from bequest.cli.demo import texts

    return texts().task


def tests(trials: list[dict[str, Any]]) -> list[float]:
    return [trial["test"] for trial in trials]


def findings(result: dict[str, Any]) -> list[Finding]:
    plain, *selected = STARTS
    return [
        gain(f"{task}: {start} selection above {plain}", tests(result[task][start]), tests(result[task][plain]))
        for task in ("fashion", "bbc")
        for start in selected
        if start in result.get(task, {})
    ]


def chart(result: dict[str, Any]) -> Chart:
    tasks = [task for task in ("fashion", "bbc") if task in result]
    rows = {start: {t: percent(tests(result[t][start])) for t in tasks if start in result[t]} for start in STARTS}
    return Chart("test accuracy, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("fashion", "bbc"))
    parser.add_argument("--fashion-mnist", type=Path, metavar="DIR", help="where its IDX files lie")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, help="instead of 1,000 and 500, and as many test samples")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--max-tokens", type=int, help="of a text, instead of 128")
    parser.add_argument("--starts", help=f"some of them, with semicolons between (default: {'; '.join(STARTS)})")
    parser.add_argument("--no-write", action="store_true", help="print the tables alone")
    options = parser.parse_args()
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as cache:
        for task in [options.only] if options.only else ["fashion", "bbc"]:
            data = load(task, options.fashion_mnist)
            starts = options.starts.split("; ") if options.starts else STARTS
            results: dict[str, list[dict[str, Any]]] = {start: [] for start in starts}
            for seed in range(options.seeds):
                for start in starts:
                    results[start].append(measure(task, data, start, seed, options, cache))
                    print(task, start, seed, results[start][-1], flush=True)
            print(table(results))
            if not options.no_write:
                kept[task] = results
                write(RESULT, kept, findings(kept))
                fill(task, f"{setting(task, options)}\n\n{table(results)}", PAGE)


if __name__ == "__main__":
    main()
