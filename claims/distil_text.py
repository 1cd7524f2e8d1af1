"""Claim: a teacher lifts a student of half its layers, which reads a text in less time (Sanh et al. 2019).

    python claims/distil_text.py                                                  about an hour on 2 cores
    python claims/distil_text.py --seeds 2 --labels 30 --tested 40 --epochs 1 --no-write                 a try

BBC News with 200 labels at 128 tokens: MiniLM-L6, adapted by `full`, teaches MiniLM-L3 (`minilm_l3`), on the same
labels; beside it the same student without a teacher, all with their defaults. 600 texts to test on that none of them
has seen, 5 seeds. *The share of the gap* is the mean gain over the mean gap, and is told where the gap is there at all:
where its 95 % t-interval over the seeds lies above 0. *Latency* is from text to outputs, of both networks in turn on
the same test texts, the fastest of five times. Numbers go to claims/results/distil_text.json, a sentence into
docs/distillation.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from finetuning_family import ROOT, fill
from verdicts import Chart, Finding, above, gain, percent, write

import bequest
from bequest.cli.demo import texts

RESULT = ROOT / "claims" / "results" / "distil_text.json"
PAGE = ROOT / "docs" / "distillation.md"
TEACHER, STUDENT = "minilm_l6", "minilm_l3"
TIMED, TIMES = 128, 5


def one_seed(task: Any, seed: int, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Test accuracies of teacher, student and distilled student, and milliseconds a text of the networks."""
    common = {"train_size": options.labels, "test_size": options.tested, "cache": cache, "progress": False}
    settings = {} if options.epochs is None else {"epochs": options.epochs}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        teacher = bequest.adapt(task, TEACHER, "full", seed=seed, out=out / "teacher", **common, **settings)
        run = bequest.distill(task, teacher, STUDENT, seeds=[seed], out=out / "run", **common, **settings)
        test = task.draw(seed, train_size=options.labels, test_size=options.tested).test[:TIMED]
        spent = milliseconds([teacher.best, run.best], [task.samples[int(i)] for i in test])
    rows = {row.method: row.test.mean for row in run.board.rows}
    return {
        "teacher": teacher.board.rows[0].test.mean,
        "student": rows["full"],
        "distilled": rows["full, distilled"],
        "teacher_ms": spent[0],
        "student_ms": spent[1],
    }


def milliseconds(models: list[Any], samples: list[Any]) -> list[float]:
    """Of each model, a text; in turn, so that another load on the machine meets all."""
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(TIMES):
        for model, found in zip(models, taken, strict=True):
            began = time.perf_counter()
            model.outputs(samples)
            found.append(1000 * (time.perf_counter() - began) / len(samples))
    return [min(found) for found in taken]


def column(found: list[dict[str, Any]], name: str) -> list[float]:
    return [seed[name] for seed in found]


def findings(result: dict[str, Any]) -> list[Finding]:
    teacher, student, distilled = (column(result["seeds"], name) for name in ("teacher", "student", "distilled"))
    times = zip(column(result["seeds"], "teacher_ms"), column(result["seeds"], "student_ms"), strict=True)
    return [
        gain("the teacher above the student without it", teacher, student),
        gain("the distilled student above the one without a teacher", distilled, student),
        above("the student's speed, of the teacher's", [own / less for own, less in times], 1, "times"),
    ]


def chart(result: dict[str, Any]) -> Chart:
    names = ("teacher", "student", "distilled")
    return Chart("test accuracy, %", {name: {"BBC News": percent(column(result["seeds"], name))} for name in names})


def sentence(result: dict[str, Any]) -> str:
    """What came out, for the page."""
    found, (gap, *_) = result["seeds"], findings(result)
    means = {name: float(np.mean(column(found, name))) for name in found[0]}
    accuracy = {name: f"{100 * means[name]:.1f} %" for name in ("teacher", "student", "distilled")}
    spent = {name: float(np.median(column(found, name))) for name in ("teacher_ms", "student_ms")}
    told = "a gap that the seeds do not tell from none"
    if gap.verdict == "holds":
        share = (means["distilled"] - means["student"]) / (means["teacher"] - means["student"])
        told = f"{100 * share:.0f} % of the gap"
    lines = [
        f"Over {len(found)} seeds the teacher has {accuracy['teacher']} of the test texts right, the student without",
        f"it {accuracy['student']} and with it {accuracy['distilled']}: {told}. A text takes",
        f"{spent['student_ms']:.1f} ms instead of {spent['teacher_ms']:.1f} (medians over the seeds).",
        "",
        *(f"- {finding}" for finding in findings(result)),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--tested", type=int, default=600)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--no-write", action="store_true", help="print the verdicts alone")
    options = parser.parse_args()
    if options.seeds < 2:
        raise SystemExit(f"--seeds is {options.seeds}; expected 2 or more, since verdicts go by intervals.")
    task, found = texts().task, list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as cache:
        for seed in range(options.seeds):
            found.append(one_seed(task, seed, options, cache))
            print(f"seed {seed}: {found[-1]}", flush=True)
    result = {"seeds": found}
    print(sentence(result))
    if not options.no_write:
        write(RESULT, result, findings(result))
        fill("text", sentence(result), PAGE)


if __name__ == "__main__":
    main()
