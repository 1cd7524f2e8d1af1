"""Head2Toe's selection and head: proximal path and convex solvers against the paper's recipe, on real features.

    python benchmarks/head2toe_solver.py
    python benchmarks/head2toe_solver.py --samples 400 --repeats 3

EfficientNet-Lite0's layers at 128 px on handwritten digits, pooled to about 1,024 numbers each. The peer is the paper's
recipe (Evci et al. 2022), one thread as ours: a linear head on all features by Adam (rate 0.1 on a cosine, 500 steps of
128 samples) with 1e-4 times the sum of the features' weight norms, the tenth of the features with the largest weights
kept, and a fresh head on those, the same way without penalty.

Two comparisons, features in memory on both sides. *One setting*: the peer's two fits against ours at one λ and F.
*Chosen*: 5-fold cross-validation of λ and F (and of the head's penalty, which is ours alone), and the final fit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, keep, ratio
from torch import Tensor, nn

from bequest import sources
from bequest.cli.demo import images
from bequest.core.observe import Silent
from bequest.core.plan import Features
from bequest.engine.context import Context
from bequest.engine.features import embeddings, encoded
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.nn.taps import Tapped, find_taps
from bequest.optim.design import splits
from bequest.optim.head2toe import Head2ToeSolver, normalised

STEPS, BATCH, RATE = 500, 128, 0.1
PEER_PENALTIES, PEER_FRACTIONS = (1e-3, 1e-4, 1e-5), (0.01, 0.1, 0.2)
ONE = Head2ToeSolver(strengths=(0.01,), fractions=(0.1,), penalties=(1e-4,))


def features(samples: int, target: int) -> Features:
    source, task = sources.get("efficientnet_lite0", image_size=128), images().task
    indices = np.random.default_rng(0).permutation(len(task.labels))[:samples]
    with tempfile.TemporaryDirectory() as folder:
        context = Context(source, task, Store(Path(folder)), choose_runtime("float32"), Silent())
        body = source.network().body.eval()
        batch = source.preprocess.collate([encoded(context, indices[:2])[i] for i in range(2)])
        tapped = Tapped(body, find_taps(body, batch, target=target))
        values = np.array(embeddings(context, indices, tapped).stack())
    widths = tuple(tap.width for tap in tapped.taps)
    return Features(values, task.labels[indices], None, len(task.classes), widths=widths)


def some(part: Features, rows: Any) -> Features:
    return replace(part, values=part.values[rows], labels=part.labels[rows])


def adam(x: Tensor, y: Tensor, num_classes: int, penalty: float, seed: int) -> nn.Linear:
    """The paper's fit: cross-entropy and `penalty` times the sum of the norms of each feature's weights."""
    torch.manual_seed(seed)
    head = nn.Linear(x.shape[1], num_classes)
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.Adam(head.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    order = torch.cat([torch.randperm(len(x)) for _ in range(1 + STEPS * BATCH // len(x))])
    for step in range(STEPS):
        rows = order[step * BATCH : (step + 1) * BATCH]
        loss = nn.functional.cross_entropy(head(x[rows]), y[rows])
        if penalty:
            # The small number keeps the gradient of a norm of 0 a number.
            loss = loss + penalty * (head.weight.square().sum(0) + 1e-12).sqrt().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.requires_grad_(False)


class Peer:
    """The recipe, at one setting or with λ and F chosen by the same folds as ours."""

    def fit(self, part: Features, penalty: float, fraction: float) -> Callable[[Any], Any]:
        [(_, found)] = self.each(part, penalty, (fraction,))
        return found

    def each(self, part: Features, penalty: float, fractions: tuple[float, ...]) -> list[Any]:
        """A classifier for each fraction; they share the selection."""
        x = torch.from_numpy(normalised(part.values, part.widths))
        y = torch.from_numpy(part.labels)
        scores = adam(x, y, part.num_classes, penalty, 0).weight.square().sum(0)
        found = []
        for fraction in fractions:
            kept = scores.topk(round(fraction * len(scores))).indices
            head = adam(x[:, kept], y, part.num_classes, 0.0, 1)
            found.append((fraction, self._classifier(part.widths, kept, head)))
        return found

    def chosen(self, part: Features) -> Callable[[Any], Any]:
        hits = {(p, f): 0 for p in PEER_PENALTIES for f in PEER_FRACTIONS}
        for train, held in splits(part, 5, np.random.default_rng([0, 3])):
            for penalty in PEER_PENALTIES:
                for fraction, classify in self.each(some(part, train), penalty, PEER_FRACTIONS):
                    hits[penalty, fraction] += int((classify(part.values[held]) == part.labels[held]).sum())
        return self.fit(part, *max(hits, key=lambda setting: hits[setting]))

    @staticmethod
    def _classifier(widths: tuple[int, ...], kept: Tensor, head: nn.Linear) -> Callable[[Any], Any]:
        return lambda values: head(torch.from_numpy(normalised(values, widths))[:, kept]).argmax(1).numpy()


def ours(solver: Head2ToeSolver, part: Features) -> Callable[[Any], Any]:
    head, _ = solver(part, seed=0)
    return lambda values: head(torch.from_numpy(values)).argmax(1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--samples", type=int, default=800)
    parser.add_argument("--validated", type=int, default=900)
    parser.add_argument("--target", type=int, default=1024, help="numbers that each layer is pooled to, about")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["one", "chosen"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    everything = features(arguments.samples + arguments.validated, arguments.target)
    part = some(everything, slice(arguments.samples))
    rest = some(everything, slice(arguments.samples, None))
    print(f"{part.values.shape[1]:,} features of {len(part.widths)} layers, {len(part.labels)} samples", flush=True)
    peer, fitted, entries = Peer(), {}, []

    def side(name: str, fit: Callable[[], Callable[[Any], Any]]) -> Callable[[], None]:
        return lambda: fitted.update({name: fit()})

    pairs: dict[str, dict[str, Callable[[], None]]] = {
        "one": {
            "ours, one setting": side("ours, one setting", lambda: ours(ONE, part)),
            "recipe, one setting": side("recipe, one setting", lambda: peer.fit(part, 1e-4, 0.1)),
        },
        "chosen": {
            "ours, chosen": side("ours, chosen", lambda: ours(Head2ToeSolver(), part)),
            "recipe, chosen": side("recipe, chosen", lambda: peer.chosen(part)),
        },
    }
    for name, sides in pairs.items():
        if arguments.only not in (None, name):
            continue
        # Minutes a fit where settings are chosen: warm from the fits at one setting.
        taken = interleaved(sides, arguments.repeats) if name == "one" else interleaved(sides, 1, warm_up=0)
        ours_name, peer_name = sides
        entry = ratio(f"Head2Toe, {name}: recipe's time / ours", taken[peer_name], taken[ours_name], 10.0, "higher")
        accuracy = {n: round(float(np.mean(fitted[n](rest.values) == rest.labels)), 4) for n in sides}
        entries.append(entry | {"accuracy": accuracy, "features": len(part.values.T)})
        print(f"  accuracy on {len(rest.labels)} other samples: {accuracy}", flush=True)
    keep("head2toe_solver", entries)


if __name__ == "__main__":
    main()
