"""Distillation from stored teacher outputs: seconds an epoch against the student alone and against online loops.

    python benchmarks/distill.py            EfficientNet-Lite2 → Lite0, all layers trained
    python benchmarks/distill.py --texts    MiniLM-L6 → L3

The same pair, samples, batches and optimizer on all sides. `student alone` and `stored` are Bequest's: its training
loop without a teacher, and with one whose outputs are stored. `online` is the loop that anybody would write: in every
step the teacher's forward pass, then the student's, the same loss, AdamW, the gradient's norm limited to 1.
`torchdistill` is its training box with its KDLoss, which does the same (torchdistill 1.1.5: `pip install --no-deps
torchdistill`). For both, samples are encoded beforehand, as ours are. The teacher's passes are not part of an epoch of
`stored`: they are run once before the clock starts, and their seconds are printed. Ours score a few samples after each
epoch.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import interleaved, keep, ratio, seconds
from torch.utils.data import RandomSampler

from bequest import sources
from bequest.cli.demo import images, texts
from bequest.core.distillation import Distillation
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.core.task import Draw
from bequest.engine.context import Context
from bequest.engine.features import encoded
from bequest.engine.run import run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.engine.teaching import Teaching, teacher_logits
from bequest.nn.head import new_head

SAMPLES, EPOCHS, BATCH, RATE, VALIDATED = 512, 2, 32, 1e-4, 8
PAIRS = {"images": ("efficientnet_lite2", "efficientnet_lite0"), "texts": ("minilm_l6", "minilm_l3")}


class Side(torch.nn.Module):
    """A network that takes its own part of a batch for student and teacher, which differ in size."""

    def __init__(self, network: torch.nn.Module, part: int) -> None:
        super().__init__()
        self.network, self.part = network, part

    def forward(self, batch: Any) -> torch.Tensor:
        return self.network(*batch[self.part])


class Sides:
    """The same pair and samples for everybody."""

    def __init__(self, kind: str, num_samples: int, epochs: int, folder: str) -> None:
        self.epochs = epochs
        self.task = (texts() if kind == "texts" else images()).task
        teacher, student = map(sources.get, PAIRS[kind])
        network = teacher.network()
        torch.manual_seed(0)
        network.head = new_head("linear", teacher.width, len(self.task.classes))
        self.teacher = replace(teacher, pretrained=lambda: network, classes=self.task.classes)
        self.drawn = self.task.draw(0, train_size=num_samples).labelled
        teaching = Teaching(Distillation(), (self.teacher,))
        self.context = Context(
            student, self.task, Store(Path(folder)), choose_runtime("float32"), Silent(), teaching=teaching
        )
        self.items = [encoded(replace(self.context, source=s), self.drawn) for s in (student, self.teacher)]
        print(f"teacher passes, once: {seconds(lambda: teacher_logits(self.context, self.drawn)):.2f} s", flush=True)

    def ours(self, *, taught: bool) -> None:
        context = self.context if taught else replace(self.context, teaching=None)
        settings = {"epochs": self.epochs, "batch_size": BATCH, "learning_rate": RATE, "head_learning_rate": RATE}
        settings |= {"patience": 0, "head_init": "random", "layer_decay": 1.0, "batch_norm": "trained"}
        draw = Draw(self.drawn, self.drawn[:VALIDATED], self.drawn[:VALIDATED])
        run(context, get_method("full").build(settings), draw, seed=0)

    def online(self) -> None:
        student, teacher = self.context.source.network().requires_grad_(True).train(), self.teacher.network()
        student.head = new_head("linear", self.context.source.width, len(self.task.classes))
        for network in (student, teacher):
            self.context.runtime.place(network)
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
        labels, rng = self.context.labels(self.drawn), np.random.default_rng(0)
        for _ in range(self.epochs):
            order = rng.permutation(len(labels))
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                with torch.inference_mode():
                    soft = (teacher(*self.inputs(self.teacher, 1, batch)) / 4).softmax(1)
                soft = soft.clone()
                outputs = student(*self.inputs(self.context.source, 0, batch))
                cross = -(soft * (outputs / 4).log_softmax(1)).sum(1).mean()
                loss = 0.1 * F.cross_entropy(outputs, labels[batch]) + 0.9 * 16 * cross
                loss.backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    def torchdistill(self) -> None:
        from torchdistill.core.distillation import get_distillation_box
        from torchdistill.datasets.registry import register_collate_func

        student = self.context.source.network().requires_grad_(True)
        student.head = new_head("linear", self.context.source.width, len(self.task.classes))
        teacher = self.teacher.network().eval()

        @register_collate_func(key="both")
        def both(batch: Any) -> Any:
            positions = np.array([position for position, _, _ in batch])
            pair = [self.inputs(s, i, positions) for i, s in enumerate((self.context.source, self.teacher))]
            return pair, torch.stack([label for _, label, _ in batch]), {}

        loss = {"student_module_path": ".", "student_module_io": "output", "temperature": 4.0, "alpha": 0.1}
        loss |= {"teacher_module_path": ".", "teacher_module_io": "output"}
        loader = {"sampler": {"class_or_func": RandomSampler}, "kwargs": {"batch_size": BATCH}, "collate_fn": "both"}
        term = {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}
        config = {
            "num_epochs": self.epochs,
            "train_data_loader": {"dataset_id": "train", **loader},
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE}, "max_grad_norm": 1.0},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": term}}},
        }
        labels, device = self.context.labels(self.drawn), self.context.runtime.device
        data = {"train": list(enumerate(labels))}
        networks = (Side(self.context.runtime.place(n), i) for n, i in ((teacher, 1), (student, 0)))
        box = get_distillation_box(*networks, data, config, device, None, False, 1.0)
        for epoch in range(self.epochs):
            box.pre_epoch_process(epoch=epoch)
            for batch, targets, extra in box.train_data_loader:
                box.pre_forward_process()
                box.post_forward_process(loss=box.forward_process(batch, targets, extra))
            box.post_epoch_process()
        box.clean_modules()

    def inputs(self, source: Any, side: int, batch: np.ndarray) -> tuple[torch.Tensor, ...]:
        return self.context.runtime.inputs(source.preprocess.collate([self.items[side][int(i)] for i in batch]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", action="store_true")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-keep", action="store_true", help="leave the figures of the last full run")
    options = parser.parse_args()
    kind = "texts" if options.texts else "images"
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(kind, options.samples, options.epochs, folder)
        work = {
            "student alone": lambda: sides.ours(taught=False),
            "stored": lambda: sides.ours(taught=True),
            "online": sides.online,
            "torchdistill": sides.torchdistill,
        }
        taken = interleaved(work, options.repeats)
    for name, found in taken.items():
        print(f"{name}: {float(np.median(found)) / options.epochs:.2f} s an epoch")
    pair = " → ".join(PAIRS[kind])
    stored, alone, online, peer = (taken[name] for name in ("stored", "student alone", "online", "torchdistill"))
    entries = [
        ratio(f"{pair}: an epoch from stored outputs / of the student alone", stored, alone, 1.1, "lower"),
        ratio(f"{pair}: an epoch of the online loop / from stored outputs", online, stored, 1.0, "higher"),
        ratio(f"{pair}: an epoch of torchdistill / from stored outputs", peer, stored, 1.0, "higher"),
    ]
    if not options.no_keep:
        keep(f"distill_{kind}", entries)


if __name__ == "__main__":
    main()
