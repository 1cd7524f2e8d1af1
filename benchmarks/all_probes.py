"""Every probe from one pass over the backbone, against one script for each, as their authors published them.

    python benchmarks/all_probes.py
    python benchmarks/all_probes.py --samples 200 --repeats 1

EfficientNet-Lite0 at 160 px on handwritten digits; half of them count as bright, which gives DFR its groups. Ours is
`bequest.compare` with the linear probe, Head2Toe, Pro² and DFR, then `bequest.probe` with a linear probe on every layer
and all scores, from an empty store. The other side is six scripts, each with a pass of its own over the images that it
needs, in float32, decoded beforehand, and with what its paper tunes: scikit-learn's logistic regression over eleven
penalties; the same at one penalty on each layer, read by hooks; Head2Toe with Adam, λ and F chosen by 5 folds; Pro²
by AdamW, rate and weight decay from three each, chosen on validation; DFR by scikit-learn's saga (seven C, then
twenty refits); the scores, computed by our own functions. Ours does more: penalties are chosen by cross-validation on
every layer too, and every head is fitted again on all labels, with the settings chosen before.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, keep, ratio
from head2toe_solver import Peer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

import bequest
from bequest import sources
from bequest.cli.demo import images
from bequest.core.plan import Features
from bequest.nn.taps import Tapped
from bequest.scores import score_all

SIZE, TESTED = 160, 200
METHODS = ("linear_probe", "head2toe", "pro2", "dfr")
COSTS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
GRID = (0.1, 0.01, 0.001)


def task(samples: int) -> Any:
    """Digits, each of them bright or dark by the median of its class."""
    whole = images().task
    chosen = np.random.default_rng(0).permutation(len(whole.labels))[: samples + TESTED]
    light = np.array([np.asarray(whole.samples[int(i)]).mean() for i in chosen])
    labels = whole.labels[chosen]
    middle = np.array([np.median(light[labels == label]) for label in range(len(whole.classes))])
    pictures = np.stack([np.asarray(whole.samples[int(i)]) for i in chosen])
    groups = ["bright" if bright else "dark" for bright in light > middle[labels]]
    return bequest.task_from_arrays(pictures, labels, groups=groups, name="digits")


class Scripts:
    """What the papers' scripts do; every one begins with its own pass."""

    def __init__(self, data: Any, source: Any, draw: Any) -> None:
        self.data, self.source, self.draw = data, source, draw
        self.passes = 0
        indices = np.concatenate([draw.train, draw.validation])
        encode = source.preprocess.encode
        self.items = {int(i): encode(data.samples[int(i)]) for i in indices}

    def features(self, indices: Any, body: nn.Module | None = None) -> Any:
        self.passes += 1
        body, parts = body or self.source.network().body.eval(), []
        with torch.inference_mode():
            for start in range(0, len(indices), 32):
                batch = [self.items[int(i)] for i in indices[start : start + 32]]
                parts.append(body(*self.source.preprocess.collate(batch)))
        return torch.cat(parts)

    def labels(self, indices: Any) -> Any:
        return self.data.labels[indices]

    def linear(self) -> None:
        train, held = self.draw.train, self.draw.validation
        x = self.features(np.concatenate([train, held])).numpy()
        scaler = StandardScaler().fit(x[: len(train)])
        for cost in np.logspace(-3, 2, 11):
            fitted = LogisticRegression(C=cost, max_iter=1000).fit(
                scaler.transform(x[: len(train)]), self.labels(train)
            )
            fitted.score(scaler.transform(x[len(train) :]), self.labels(held))

    def per_layer(self) -> None:
        taps = self.source.taps([layer.name for layer in self.source.layers[1:]])
        body = Tapped(self.source.network().body.eval(), taps)
        train = self.draw.train
        for part in self.features(train, body).split([tap.width for tap in taps], 1):
            LogisticRegression(max_iter=1000).fit(StandardScaler().fit_transform(part.numpy()), self.labels(train))

    def head2toe(self) -> None:
        taps = self.source.taps(target=512)
        values = self.features(self.draw.train, Tapped(self.source.network().body.eval(), taps)).numpy()
        widths = tuple(tap.width for tap in taps)
        labels = self.labels(self.draw.train)
        Peer().chosen(Features(values, labels, None, len(self.data.classes), widths=widths))

    def pro2(self) -> None:
        train, held = self.draw.train, self.draw.validation
        x = self.features(np.concatenate([train, held]))
        x = (x - x[: len(train)].mean(0)) / x[: len(train)].norm(dim=1).mean()
        x, held_x = x[: len(train)], x[len(train) :]
        y, held_y = torch.from_numpy(self.labels(train)), torch.from_numpy(self.labels(held))
        best = 0.0
        for setting in [(rate, decay) for rate in GRID for decay in GRID]:
            directions = torch.empty(x.shape[1], 0)
            for _ in range(4):
                left = x - x @ directions @ directions.T
                block = torch.linalg.qr(self.adamw(left, y, *setting).weight.T).Q
                directions = torch.linalg.qr(torch.cat([directions, block], 1)).Q
            head = self.adamw(x @ directions, y, *setting)
            best = max(best, float((head(held_x @ directions).argmax(1) == held_y).float().mean()))

    def adamw(self, x: Any, y: Any, rate: float, decay: float) -> nn.Linear:
        head = nn.Linear(x.shape[1], len(self.data.classes))
        optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=decay)
        for _ in range(100):
            for rows in torch.randperm(len(x)).split(64):
                loss = nn.functional.cross_entropy(head(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return head.requires_grad_(False)

    def dfr(self) -> None:
        held = self.draw.validation
        x, y, groups = self.features(held).numpy(), self.labels(held), self.data.groups[held]
        x, rng = StandardScaler().fit_transform(x), np.random.default_rng(0)

        def fit(cost: float) -> None:
            cells = [np.flatnonzero((y == c) & (groups == g)) for c in np.unique(y) for g in np.unique(groups)]
            least = max(1, min(len(cell) for cell in cells))
            rows = np.concatenate([rng.permutation(cell)[:least] for cell in cells])
            # Penalty l1, spelled as scikit-learn has it now.
            LogisticRegression(l1_ratio=1, C=cost, solver="saga", max_iter=200).fit(x[rows], y[rows])

        for cost in (*COSTS, *[0.1] * 20):
            fit(cost)

    def scores(self) -> None:
        taps = self.source.taps([layer.name for layer in self.source.layers[1:]])
        body = Tapped(self.source.network().body.eval(), taps)
        train = self.draw.train
        for part in self.features(train, body).split([tap.width for tap in taps], 1):
            score_all(part.numpy(), self.labels(train), num_classes=len(self.data.classes), kind="classification")

    def all(self) -> None:
        for script in (self.linear, self.per_layer, self.head2toe, self.pro2, self.dfr, self.scores):
            script()


def ours(data: Any, samples: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {"image_size": SIZE, "train_size": samples, "test_size": TESTED, "progress": False}
        common |= {"cache": Path(folder) / "cache", "precision": "float32"}
        run = bequest.compare(data, "efficientnet_lite0", METHODS, seeds=[0], out=Path(folder) / "run", **common)
        bequest.probe(data, "efficientnet_lite0", out=Path(folder) / "probe", **common)
    return {**run.board.passes, "test": {row.method: row.test.mean for row in run.board.rows if row.test}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    data = task(options.samples)
    source = sources.get("efficientnet_lite0", image_size=SIZE)
    draw = data.draw(0, train_size=options.samples, test_size=TESTED)
    scripts = Scripts(data, source, draw)
    told: dict[str, Any] = {}
    works = {"scripts": scripts.all, "ours": lambda: told.update(ours(data, options.samples))}
    taken = interleaved(works, options.repeats)
    num_passes = scripts.passes // (options.repeats + 1)
    print(f"scripts: {num_passes} passes; ours: {told['computed']} samples computed of {told['asked']} asked for")
    entry = ratio("all probes: scripts / ours", taken["scripts"], taken["ours"], 5.0, "higher")
    keep("all_probes", [{**entry, "script_passes": num_passes, **told}])


if __name__ == "__main__":
    main()
