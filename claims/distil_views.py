"""Claim: one stored view of a teacher is too few: more views bring the student nearer to it (Beyer et al. 2022).

    python claims/distil_views.py --fashion-mnist DIR                      about half an hour on a core
    python claims/distil_views.py --fashion-mnist DIR --seeds 1 --labels 60 --epochs 2 --no-write           a try

EfficientNet-Lite2, adapted to Fashion-MNIST with 2,000 labels, teaches EfficientNet-Lite0, which has 300 of them, five
draws; 48 px, 1,000 test pictures that neither has seen, `full` with its defaults but 20 epochs, the recipe `light`.
With fresh views in every epoch the teacher runs in every step (online). Beyer et al. (arXiv:2106.05237) find that one
stored view overfits in long training. Numbers go to claims/results/distil_views.json, the table into
docs/distillation.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from finetuning_family import ROOT, fashion, fill
from verdicts import Chart, Finding, gain, interval, percent, write

import bequest
from bequest import sources
from bequest.core.distillation import Distillation
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.data.views import choose_views
from bequest.engine.context import Context
from bequest.engine.run import run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.engine.teaching import Teaching

RESULT = ROOT / "claims" / "results" / "distil_views.json"
PAGE = ROOT / "docs" / "distillation.md"
VIEWS, RECIPE, SIDE, TESTED = (1, 4, 16, "unlimited"), "light", 48, 1000


def accuracy(context: Context, outputs: Any, draw: Any) -> float:
    return float((outputs.argmax(1) == context.labels(draw.test)).double().mean())


def measure(task: Any, options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Test accuracies of the teacher, and of the student at each number of views and seed."""
    large, small = (sources.get(name, image_size=SIDE) for name in ("efficientnet_lite2", "efficientnet_lite0"))
    context = Context(large, task, Store(Path(folder)), choose_runtime("float32"), Silent())
    draw = task.draw(0, train_size=options.teacher_labels, test_size=TESTED)
    outcome = run(context, get_method("full").build({}), draw, seed=0)
    teacher = replace(large, name="teacher", pretrained=lambda: outcome.network, classes=task.classes)
    found: dict[str, Any] = {"teacher": accuracy(context, outcome.test, draw)}
    print(found, flush=True)
    teaching = Teaching(Distillation(), (teacher,))
    teaching.check(task, small)
    student = replace(context, source=small, teaching=teaching)
    method = get_method("full").build({"epochs": options.epochs})
    for seed in range(options.seeds):
        draw = task.draw(seed, train_size=options.labels, test_size=TESTED)
        for views in VIEWS:
            chosen = choose_views(views, None if views == 1 else RECIPE, "image")
            outcome = run(replace(student, views=chosen), method, draw, seed=seed)
            found.setdefault("student", {}).setdefault(str(views), []).append(
                {"test": accuracy(student, outcome.test, draw), "seconds": round(outcome.own_s + outcome.shared_s, 1)}
            )
            print(seed, views, found["student"][str(views)][-1], flush=True)
    return found


def tests(found: dict[str, Any], views: int | str) -> list[float]:
    return [trial["test"] for trial in found["student"][str(views)]]


def findings(result: dict[str, Any]) -> list[Finding]:
    return [gain(f"{views} views above 1", tests(result, views), tests(result, 1)) for views in VIEWS[1:]]


def chart(result: dict[str, Any]) -> Chart:
    rows = {"teacher": {"Fashion-MNIST": [100 * result["teacher"]]}}
    rows |= {f"{views} views": {"Fashion-MNIST": percent(tests(result, views))} for views in VIEWS}
    return Chart("test accuracy, %", rows)


def table(found: dict[str, Any]) -> str:
    lines = ["| views | accuracy of the student | gap to the teacher | seconds |", "| --- | ---: | ---: | ---: |"]
    for views, trials in found["student"].items():
        mean, half = interval(percent(tests(found, views)))
        gap, seconds = 100 * found["teacher"] - mean, np.mean([trial["seconds"] for trial in trials])
        name = "unlimited (online)" if views == "unlimited" else views
        lines.append(f"| {name} | {mean:.1f} ± {half or 0:.1f} | {gap:.1f} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR", help="where its IDX files lie")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=300, help="of the student")
    parser.add_argument("--teacher-labels", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--no-write", action="store_true", help="print the table alone")
    options = parser.parse_args()
    images, labels = fashion(options.fashion_mnist)
    task = bequest.task_from_arrays(images, labels, name="clothes")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(task, options, folder)
    print(table(found))
    if options.seeds > 1 and not options.no_write:
        write(RESULT, found, findings(found))
        fill("views", table(found), PAGE)


if __name__ == "__main__":
    main()
