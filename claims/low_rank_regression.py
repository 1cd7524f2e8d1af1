"""Claim: LoRA cannot reach an optimum of high rank; ReLoRA comes as near as its cycles go (Lialin et al. 2024).

    python claims/low_rank_regression.py        half a minute

Linear regression on whitened inputs, y = (W₀ + Δ) x. There the loss is ‖W − W₀ − Δ‖², and the best change of rank r
leaves the energy of all singular values of Δ but the first r (Eckart & Young 1936): a closed form to hold the trained
networks against. Δ is 64 × 64: once of rank 4, once of full rank with slowly falling singular values. All are trained
by AdamW with the layers, restarts and schedules of the methods themselves. Numbers go to
claims/results/low_rank_regression.json.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from verdicts import Chart, Finding, fact, percent, write

from bequest.core.plan import TrainState
from bequest.nn.lowrank import add_low_rank
from bequest.nn.network import Network
from bequest.optim.relora import Cycles, Jagged, Restart
from bequest.optim.schedules import WarmupCosine

RESULT = Path(__file__).parent / "results" / "low_rank_regression.json"
WIDTH, SAMPLES, RANK, STEPS, RATE = 64, 256, 4, 2000, 0.02
RESTARTS = (1, 2, 4)
NEAR, REACHED = 0.02, 1e-4


def problem(values: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whitened inputs (samples, width), the starting weight, and a change with these singular values."""
    generator = torch.Generator().manual_seed(seed)

    def orthonormal(rows: int) -> Tensor:
        return torch.linalg.qr(torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64))[0]

    start = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
    inputs = orthonormal(SAMPLES) * SAMPLES**0.5
    return inputs, start, orthonormal(WIDTH) * values @ orthonormal(WIDTH).T


def left(inputs: Tensor, start: Tensor, change: Tensor, rank: int | None, restarts: int) -> float:
    """The share of the change's energy that training leaves; rank None trains the weight itself."""
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)), nn.Identity())
    layer: Any = network.body[0]
    with torch.no_grad():
        layer.weight.copy_(start)
    cycles, targets = Cycles(restarts + 1), inputs @ (start + change).T
    if rank is not None:
        layer.requires_grad_(False)
        add_low_rank(network.body, ("0",), rank, 2.0 * rank)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], weight_decay=0.0)
    schedule, event = Jagged(WarmupCosine(0.02), cycles), Restart(("0",) if rank else (), cycles)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * schedule(step, STEPS)
        ((network(inputs) - targets).square().sum() / SAMPLES).backward()
        optimizer.step()
        optimizer.zero_grad()
        event(TrainState(network, optimizer, step + 1, STEPS))
    with torch.no_grad():
        return float((network(inputs) - targets).square().sum() / SAMPLES / change.square().sum())


def findings(result: dict[str, Any]) -> list[Finding]:
    high, low = result["tasks"].values()
    lora, restarted = high["lora"], {label: row for label, row in high.items() if "relora" in label}
    steps = [lora, *restarted.values()]
    left_by = ", ".join(f"{100 * row['left']:.1f}" for row in steps)
    return [
        fact(
            "LoRA ends at the closed form of the best change of its rank",
            abs(lora["left"] / lora["limit"] - 1) < NEAR,
            f"it leaves {100 * lora['left']:.1f} % of the change, the closed form {100 * lora['limit']:.1f} %",
        ),
        fact(
            "full fine-tuning reaches the optimum that LoRA cannot",
            high["full"]["left"] < REACHED,
            f"it leaves {100 * high['full']['left']:.1f} %",
        ),
        fact(
            "each restart brings ReLoRA below what came before",
            all(before["left"] > after["left"] for before, after in pairwise(steps)),
            f"{left_by} % are left",
        ),
        fact(
            "ReLoRA is below any change of LoRA's rank",
            all(row["left"] < lora["limit"] for row in restarted.values()),
            f"{100 * max(row['left'] for row in restarted.values()):.1f} % are left at the most",
        ),
        fact(
            "where the change is of LoRA's rank, all reach it",
            all(row["left"] < REACHED for row in low.values()),
            f"{100 * max(row['left'] for row in low.values()):.1f} % are left at the most",
        ),
    ]


def chart(result: dict[str, Any]) -> Chart:
    high = result["tasks"]["of full rank"]
    rows = {label: {"left": percent([row["left"]]), "limit": percent([row["limit"]])} for label, row in high.items()}
    return Chart("share of the change's energy that is left, %", rows)


def main() -> None:
    falling = 0.95 ** torch.arange(WIDTH, dtype=torch.float64)
    tasks = {"of full rank": falling, f"of rank {RANK}": falling * (torch.arange(WIDTH) < RANK)}
    result: dict[str, Any] = {"width": WIDTH, "rank": RANK, "steps": STEPS, "tasks": {}}
    for name, values in tasks.items():
        inputs, start, change = problem(values, 0)
        energy = values.square() / values.square().sum()
        rows: dict[str, Any] = {"full": {"left": left(inputs, start, change, None, 0), "limit": 0.0}}
        for restarts in (0, *RESTARTS):
            limit = float(energy[RANK * (restarts + 1) :].sum())
            label = f"relora, {restarts} restarts" if restarts else "lora"
            rows[label] = {"left": left(inputs, start, change, RANK, restarts), "limit": limit}
        for label, row in rows.items():
            print(f"change {name}: {label:20s} leaves {row['left']:.6f}, no less than {row['limit']:.6f}", flush=True)
        result["tasks"][name] = rows
    write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
