"""Partial fine-tuning from the cut against a plain loop that freezes the same layers, and against the limit.

    python benchmarks/partial_finetuning.py
    python benchmarks/partial_finetuning.py --only images --repeats 3

EfficientNet-Lite0's last stage at 128 px on handwritten digits, and the last two of six MiniLM layers at 128 tokens on
BBC News: 10 epochs on 1,000 samples, the same batch size and number of optimizer steps on every side, float32, samples
decoded beforehand. The plain loop is PyTorch as anybody writes it, frozen layers in eval mode. The limit is what no
engine can go below: one pass through the frozen layers, and the trained layers' forward and backward alone, from
activations in memory. Ours is timed from an empty store, the export included.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import interleaved, keep, ratio
from torch import Tensor, nn

from bequest import sources
from bequest.cli.demo import images, texts
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.core.task import Draw, Task
from bequest.engine import cut as engine_cut
from bequest.engine.context import Context
from bequest.engine.features import encoded
from bequest.engine.run import run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.nn.head import new_head
from bequest.sources import Source

SAMPLES, EPOCHS, RATE = 1000, 10, 1e-4


@dataclass(frozen=True)
class Case:
    """A network cut by hand.

    Attributes:
        first: The first layer that is trained, as `freeze` takes it.
        batch_size: Samples in a step.
        trained: Whether a parameter of the body is trained, by its name.
        prefix: (body, inputs) → what the trained layers read.
        suffix: (body, that) → embedding.
    """

    source: Source
    task: Task
    first: str
    batch_size: int
    trained: Callable[[str], bool]
    prefix: Callable[[Any, tuple[Tensor, ...]], Any]
    suffix: Callable[[Any, Any], Tensor]


def image_case(image_size: int = 128) -> Case:
    def prefix(body: Any, inputs: tuple[Tensor, ...]) -> Any:
        x = body.bn1(body.conv_stem(*inputs))
        for stage in body.blocks[:-1]:
            x = stage(x)
        return x

    def suffix(body: Any, x: Any) -> Tensor:
        return body.forward_head(body.bn2(body.conv_head(body.blocks[-1](x))), pre_logits=True)

    return Case(
        sources.get("efficientnet_lite0", image_size=image_size),
        images().task,
        "blocks.6.0",
        32,
        lambda name: name.startswith(("blocks.6", "conv_head", "bn2")),
        prefix,
        suffix,
    )


def text_case() -> Case:
    def prefix(body: Any, inputs: tuple[Tensor, ...]) -> Any:
        ids, mask = inputs
        x = body.encoder.embeddings(ids)
        wide = torch.where(mask[:, None, None].bool(), 0.0, torch.finfo(x.dtype).min).expand(-1, 1, ids.shape[1], -1)
        for layer in body.encoder.encoder.layer[:4]:
            x = _hidden(layer(x, wide))
        return x, wide, mask

    def suffix(body: Any, read: Any) -> Tensor:
        x, wide, mask = read
        for layer in body.encoder.encoder.layer[4:]:
            x = _hidden(layer(x, wide))
        weights = mask[..., None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1)

    task = texts().task
    return Case(
        sources.get("minilm_l6", max_tokens=128),
        task,
        "layer.4",
        16,
        lambda name: ".layer.4." in name or ".layer.5." in name,
        prefix,
        suffix,
    )


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


class Sides:
    """The same samples and batches for everybody."""

    def __init__(self, case: Case, num_samples: int, epochs: int = EPOCHS) -> None:
        self.case, self.epochs = case, epochs
        order = np.random.default_rng(0).permutation(len(case.task.labels))[: num_samples + 16]
        self.draw = Draw(order[:num_samples], order[num_samples : num_samples + 8], order[num_samples + 8 :])
        with tempfile.TemporaryDirectory() as folder:
            context = self.context(folder)
            self.items = [np.array(item) for item in encoded(context, self.draw.train)]
        self.labels = torch.from_numpy(case.task.labels[self.draw.train])

    def context(self, folder: str) -> Context:
        return Context(self.case.source, self.case.task, Store(Path(folder)), choose_runtime("float32"), Silent())

    def network(self) -> tuple[Any, list[nn.Parameter]]:
        network = self.case.source.network()
        network.head = new_head("linear", self.case.source.width, len(self.case.task.classes))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("head.") or self.case.trained(name.removeprefix("body.")))
        for module in network.modules():
            own = list(module.parameters())
            module.training = any(p.requires_grad for p in own) if own else False
        choose_runtime("float32").place(network)
        return network, [p for p in network.parameters() if p.requires_grad]

    def batches(self) -> list[np.ndarray]:
        """Batches of like length, as ours forms them."""
        rng, size = np.random.default_rng(1), self.case.batch_size
        order = rng.permutation(len(self.items))
        lengths = np.array([len(item) for item in self.items])
        chunks = [order[i : i + 8 * size] for i in range(0, len(order), 8 * size)]
        chunks = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks]
        return [chunk[i : i + size] for chunk in chunks for i in range(0, len(chunk), size)]

    def inputs(self, batch: np.ndarray) -> tuple[Tensor, ...]:
        return choose_runtime("float32").inputs(self.case.source.preprocess.collate([self.items[i] for i in batch]))

    def plain(self) -> None:
        network, trained = self.network()
        optimizer = torch.optim.AdamW(trained, lr=RATE)
        for _ in range(self.epochs):
            for batch in self.batches():
                loss = F.cross_entropy(network(*self.inputs(batch)), self.labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()

    def limit(self) -> None:
        network, trained = self.network()
        optimizer = torch.optim.AdamW(trained, lr=RATE)
        batches = self.batches()
        with torch.no_grad():
            read = [self.case.prefix(network.body, self.inputs(batch)) for batch in batches]
        for _ in range(self.epochs):
            for batch, activations in zip(batches, read, strict=True):
                loss = F.cross_entropy(network.head(self.case.suffix(network.body, activations)), self.labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()

    def ours(self, *, warm: bool) -> None:
        """With `warm`, the graphs are there already, as from a comparison's second seed on."""
        if not warm:
            engine_cut._graphs.clear()
        settings = {"from_depth": self.case.first, "epochs": self.epochs, "batch_size": self.case.batch_size}
        settings |= {"patience": 0, "head_init": "random", "learning_rate": RATE, "head_learning_rate": RATE}
        with tempfile.TemporaryDirectory() as folder:
            context = self.context(folder)
            labelled = np.concatenate([self.draw.labelled, self.draw.test])
            encoded(context, labelled)
            began = _clock()
            outcome = run(context, get_method("freeze").build(settings), self.draw, seed=0)
            self.seconds = _clock() - began
        assert outcome.frozen_shares, "nothing was cut"


def _clock() -> float:
    import time

    return time.perf_counter()


def measure(name: str, case: Case, num_samples: int, repeats: int) -> list[dict[str, Any]]:
    sides = Sides(case, num_samples)
    kept: dict[str, list[float]] = {"first seed": [], "later seeds": []}

    def ours(kind: str, warm: bool) -> Callable[[], None]:
        def work() -> None:
            sides.ours(warm=warm)
            kept[kind].append(sides.seconds)

        return work

    works: dict[str, Callable[[], Any]] = {
        "plain loop": sides.plain,
        "ours, first seed": ours("first seed", False),
        "ours, later seeds": ours("later seeds", True),
        "limit": sides.limit,
    }
    taken = interleaved(works, repeats)
    entries = []
    for kind in kept:
        # Decoding is beforehand for everybody, so ours is what run() itself took.
        took = kept[kind][-repeats:]
        allowed = float(np.median(np.array(taken["plain loop"]) / np.array(taken["limit"])))
        print(f"{name}: the limit allows {allowed:.2f} times the plain loop's speed")
        entries.append(ratio(f"{name}, {kind}: ours / limit", took, taken["limit"], 1.15, "lower"))
        goal = round(0.85 * allowed, 2)
        entries.append(ratio(f"{name}, {kind}: plain loop / ours", taken["plain loop"], took, goal, "higher"))
        entries[-1]["limit_allows"] = round(allowed, 3)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("images", "texts"))
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    for kind, case in (("images", image_case), ("texts", text_case)):
        if options.only in (None, kind):
            title = {"images": "EfficientNet-Lite0, last stage", "texts": "MiniLM-L6, last two layers"}[kind]
            entries = measure(title, case(), options.samples, options.repeats)
            keep(f"partial_finetuning_{kind}", entries)


if __name__ == "__main__":
    main()
