"""Claim: LoRA cannot reach an optimum of high rank; full fine-tuning can, and ReLoRA comes as near as its cycles go.

    python claims/low_rank_regression.py        half a minute

Linear regression on whitened inputs, y = (W₀ + Δ) x. There the loss is ‖W − W₀ − Δ‖², and the best change of rank r
leaves the energy of all singular values of Δ but the first r (Eckart & Young 1936): a closed form to hold the trained
networks against. Δ is 64 × 64: once of rank 4, once of full rank with slowly falling singular values. All are trained
by AdamW with the layers, restarts and schedules of the methods themselves. Numbers go to
claims/results/low_rank_regression.json.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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


def main() -> None:
    falling = 0.95 ** torch.arange(WIDTH, dtype=torch.float64)
    tasks = {"of full rank": falling, f"of rank {RANK}": falling * (torch.arange(WIDTH) < RANK)}
    result: dict[str, Any] = {"width": WIDTH, "rank": RANK, "steps": STEPS, "tasks": {}, "verdicts": []}
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
    high, low = result["tasks"].values()
    told = {
        "LoRA ends at the closed form of the best change of its rank": abs(
            high["lora"]["left"] / high["lora"]["limit"] - 1
        )
        < NEAR,
        "full fine-tuning reaches the optimum that LoRA cannot": high["full"]["left"] < REACHED,
        "each restart brings ReLoRA below what came before": all(
            high[a]["left"] > high[b]["left"] for a, b in pairwise([label for label in high if label != "full"])
        ),
        "ReLoRA is below any change of LoRA's rank": all(
            row["left"] < high["lora"]["limit"] for label, row in high.items() if "relora" in label
        ),
        "where the change is of LoRA's rank, all reach it": all(row["left"] < REACHED for row in low.values()),
    }
    result["verdicts"] = [f"{claim}: {'holds' if held else 'does not hold'}" for claim, held in told.items()]
    print("\n".join(result["verdicts"]))
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
