"""NOLA against LoRA at the same rank, and against drawing its random matrices anew for each layer.

    python benchmarks/nola.py

MiniLM-L6, 16 texts of 128 tokens, 36 linear layers, rank 8, 256 random matrices a factor, one thread. A step is
forward, backward and AdamW, in the modes of training, of the networks that the two methods plan. Building the weights
is the A and B of all layers from their coefficients: ours is one matrix product a shape over bases that are kept, the
other side draws each layer's matrices from a seed and combines them, as the paper's code does in every forward pass.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from harness import interleaved, keep, ratio
from torch.nn.functional import cross_entropy

from bequest import sources
from bequest.core.registry import get_method
from bequest.nn.network import Network, require_grad_only, set_modes
from bequest.nn.nola import Nola

SHAPE, CLASSES = (16, 128), 5


def prepared(name: str) -> tuple[Network, Any]:
    plan = get_method(name).build({}).plan(sources.get("minilm_l6"), SimpleNamespace(classes=range(CLASSES)))
    stage = plan.stages[-1]
    require_grad_only(plan.network, [n for group in stage.groups for n in group.names])
    set_modes(plan.network)
    parameters = dict(plan.network.named_parameters())
    groups = [{"params": [parameters[n] for n in g.names], "lr": g.learning_rate} for g in stage.groups]
    return plan.network, stage.optimizer(groups, 1)


def stepper(name: str, steps: int) -> Callable[[], None]:
    network, optimizer = prepared(name)
    ids, labels = torch.randint(1000, 20000, SHAPE), torch.randint(CLASSES, SHAPE[:1])
    inputs = (ids, torch.ones_like(ids))
    trained = sum(p.numel() for p in network.body.parameters() if p.requires_grad)
    print(f"{name}: {trained:,} numbers trained in the body", flush=True)

    def run() -> None:
        for _ in range(steps):
            cross_entropy(network(*inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def drawn_anew(body: Nola) -> dict[str, torch.Tensor]:
    """A and B of every layer, each from matrices of its own."""
    found: dict[str, torch.Tensor] = {}
    for number, name in enumerate(body.names):
        layer: Any = body.body.get_submodule(name)
        for factor, coefficients in (("A", layer.alpha), ("B", layer.beta)):
            start = getattr(layer, factor)
            generator = torch.Generator().manual_seed(number)
            basis = torch.empty(len(coefficients), start.numel()).uniform_(-1, 1, generator=generator)
            found[f"{name}.{factor}"] = start + (coefficients / math.sqrt(len(basis)) @ basis).view(start.shape)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="in each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    taken = interleaved({name: stepper(name, options.steps) for name in ("nola", "lora")}, options.repeats)
    entries = [ratio("step of NOLA / step of LoRA", taken["nola"], taken["lora"], 1.1, "lower")]
    body: Any = prepared("nola")[0].body
    sides = {"drawn anew": lambda: drawn_anew(body), "shared": lambda: [body.factors() for _ in range(10)]}
    with torch.no_grad():
        assert drawn_anew(body).keys() == body.factors().keys()
        taken = interleaved(sides, options.repeats)
    shared = [t / 10 for t in taken["shared"]]
    entries.append(ratio("building weights: drawn anew / shared", taken["drawn anew"], shared, 10.0, "higher"))
    keep("nola", entries)


if __name__ == "__main__":
    main()
