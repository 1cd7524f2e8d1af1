"""Claim: merging and starting again lets updates of rank r add up to a change of higher rank (Lialin et al. 2024).

    python claims/relora_rank.py
    python claims/relora_rank.py --source minilm_l3 --max-tokens 32         an eighth of the work

MiniLM-L6 on BBC News, 200 labels, 64 tokens, one seed: LoRA of rank 8, and ReLoRA of rank 8 with 1, 2 and 4 restarts,
10 epochs each without early stopping. After the last step the change of each of the 36 adapted weights is decomposed.
Its rank is the number of singular values above what rounding makes of merging (1e-6 of the weight's largest); the
effective rank is exp of the entropy of the singular values (Roy & Vetterli 2007). Numbers go to
claims/results/relora_rank.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verdicts import Chart, Finding, fact, write

from bequest import sources
from bequest.cli.demo import texts
from bequest.core.observe import Silent
from bequest.core.plan import Plan, TrainState
from bequest.core.registry import get_method
from bequest.engine.context import Context
from bequest.engine.run import run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store

RESULT = Path(__file__).parent / "results" / "relora_rank.json"
RANK, RESTARTS, LABELS, TESTED = 8, (0, 1, 2, 4), 200, 400
SHOWN = 64


@dataclass(frozen=True)
class AtTheEnd:
    """An event after the last step, which tells of the network as it is then."""

    tell: Callable[[Any], None]

    def is_due(self, step: int, num_steps: int) -> bool:
        """After the last step alone."""
        return step == num_steps

    def __call__(self, state: TrainState) -> None:
        """Tell of it."""
        self.tell(state.network.body)


@dataclass(frozen=True)
class Watched:
    """A method whose last stage tells of its network after the last step."""

    method: Any
    tell: Callable[[Any, tuple[str, ...]], None]

    def plan(self, source: Any, task: Any) -> Plan:
        plan = self.method.plan(source, task)
        *before, stage = plan.stages
        event = AtTheEnd(lambda body: self.tell(body, plan.merged))
        return replace(plan, stages=(*before, replace(stage, events=(*stage.events, event))))


def spectra(source: Any, body: Any, merged: tuple[str, ...]) -> dict[str, Tensor]:
    """Singular values of each weight's change, and what counts as none, by the layer's name."""
    found: dict[str, Tensor] = {}
    for name in merged:
        path = name.removeprefix("body.").removesuffix(".base.weight")
        layer, start = body.get_submodule(path), source.body.get_submodule(path).weight.double()
        update = layer.scale * layer.B.detach().double() @ layer.A.detach().double()
        values = torch.linalg.svdvals(layer.base.weight.detach().double() - start + update)
        noise = 1e-6 * float(torch.linalg.matrix_norm(start, 2))
        found[path] = values[values > noise]
    return found


def effective(values: Tensor) -> float:
    share = values / values.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def measure(context: Context, restarts: int, epochs: int) -> dict[str, Any]:
    common = {"rank": RANK, "epochs": epochs, "patience": 0}
    settings = {**common, "cycles": restarts + 1} if restarts else common
    method = get_method("relora" if restarts else "lora").build(settings)
    changes: dict[str, Tensor] = {}
    watched = Watched(method, lambda body, merged: changes.update(spectra(context.source, body, merged)))
    draw = context.task.draw(0, train_size=LABELS, test_size=TESTED)
    outcome = run(context, watched, draw, seed=0)
    ranks = [len(values) for values in changes.values()]
    shapes = [torch.nn.functional.pad(v / v[0], (0, SHOWN))[:SHOWN] for v in changes.values()]
    best = min(outcome.history, key=lambda epoch: epoch.validation_loss)
    return {
        "restarts": restarts,
        "rank": {"lowest": min(ranks), "mean": float(np.mean(ranks)), "highest": max(ranks)},
        "effective_rank": round(float(np.mean([effective(v) for v in changes.values()])), 2),
        "spectrum": [float(f"{value:.3g}") for value in torch.stack(shapes).mean(0)],
        "best_epoch": best.epoch,
        "validation_loss": round(best.validation_loss, 4),
        "test": round(float((outcome.test.argmax(1) == context.labels(draw.test)).float().mean()), 4),
    }


def findings(result: dict[str, Any]) -> list[Finding]:
    plain, *restarted = result["rows"]
    ranks = ", ".join(f"{row['rank']['mean']:g}" for row in restarted)
    effective_ranks = ", ".join(f"{row['effective_rank']:.1f}" for row in result["rows"])
    return [
        fact(
            f"LoRA changes each weight by rank {RANK}",
            plain["rank"]["highest"] == RANK,
            f"rank {plain['rank']['highest']} at the most",
        ),
        fact(
            f"with restarts every weight's change has a rank above {RANK}",
            all(row["rank"]["lowest"] > RANK for row in restarted),
            f"rank {min(row['rank']['lowest'] for row in restarted)} at the least",
        ),
        fact(
            f"n restarts come to rank {RANK} (n + 1)",
            all(row["rank"]["mean"] > 0.95 * RANK * (row["restarts"] + 1) for row in restarted),
            f"mean ranks {ranks} with {', '.join(str(row['restarts']) for row in restarted)} restarts",
        ),
        fact(
            "more restarts, higher effective rank",
            bool(np.all(np.diff([row["effective_rank"] for row in result["rows"]]) > 0)),
            f"effective ranks {effective_ranks}",
        ),
    ]


def chart(result: dict[str, Any]) -> Chart:
    rows = {
        f"{row['restarts'] or 'no'} restart{'' if row['restarts'] == 1 else 's'}": {
            "rank": [row["rank"]["mean"]],
            "effective rank": [row["effective_rank"]],
        }
        for row in result["rows"]
    }
    return Chart("rank of a weight's change, mean over the weights", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="minilm_l6")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    result: dict[str, Any] = {**vars(options), "rank": RANK, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        source = sources.get(options.source, max_tokens=options.max_tokens)
        context = Context(source, texts().task, Store(Path(folder)), choose_runtime("float32"), Silent())
        for restarts in RESTARTS:
            row = measure(context, restarts, options.epochs)
            result["rows"].append(row)
            print({key: value for key, value in row.items() if key != "spectrum"}, flush=True)
            write(RESULT, result)
    write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
