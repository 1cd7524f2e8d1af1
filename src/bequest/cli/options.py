"""Flags that several commands share, and those that are made from the methods' dataclasses."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

from bequest.core.distillation import DISTILLATION
from bequest.core.errors import BequestError
from bequest.core.registry import Hyperparameter, methods


def add_data(parser: ArgumentParser) -> None:
    """What the labelled data are."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "data",
        metavar="DATA",
        nargs="+",
        help="a folder of class folders (images or .txt files); a table (.csv, .tsv, .jsonl, .json, .parquet), "
        "or several, or a folder of them, given parts by their names (train.csv, test.csv); or a Hugging Face "
        "dataset (hf:NAME)",
    )
    group.add_argument(
        "--task",
        choices=("auto", "classification", "multi-label", "regression", "causal-lm"),
        default="auto",
        help="what is predicted: one class, any number of classes, or numbers (default: auto, by the labels); "
        "causal-lm: the next token, of texts without labels (a .txt file, a folder of them, a column of texts) or of "
        "what completes prompts (columns prompt and completion)",
    )
    group.add_argument("--text-column", metavar="NAME", help="a table's column of texts (default: recognised)")
    group.add_argument(
        "--image-column", metavar="NAME", help="a table's column of paths of images (default: recognised)"
    )
    group.add_argument(
        "--label-column",
        metavar="NAME[,NAME…]",
        help="a table's column of labels; several are a class (0 or 1) or a target (a number) each (default: "
        "recognised)",
    )
    group.add_argument(
        "--split-column",
        metavar="NAME",
        help="a table's column that says train, validation or test (default: one called split)",
    )
    group.add_argument(
        "--group-column", metavar="NAME", help="a table's column of groups, for worst-group accuracy (default: none)"
    )
    group.add_argument(
        "--encoding",
        default="utf-8",
        help="of text files; several with commas between are tried in turn on each (default: utf-8)",
    )
    group.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out images and text files that cannot be decoded, and say which; each image is decoded to find out",
    )


def add_sizes(parser: ArgumentParser) -> None:
    """How many of the data are learnt from and tested on."""
    group = parser.add_argument_group("sizes")
    group.add_argument(
        "--train-size",
        type=int,
        metavar="N",
        help="labels that a method may see before the test, those held out for early stopping included (default: all "
        "that are not test)",
    )
    group.add_argument(
        "--test-size",
        type=_count_or_fraction,
        default=0.25,
        metavar="M",
        help="test samples, or their fraction below 1 (default: 0.25, or the given test split)",
    )
    group.add_argument("--split-seed", type=int, default=0, metavar="S", help="chooses the test part (default: 0)")


def add_source(parser: ArgumentParser, *, several: bool = False, role: str = "source") -> None:
    """What the pretrained model is, or the pretrained models are."""
    group = parser.add_argument_group(role)
    group.add_argument(
        f"--{role}",
        dest="source",
        required=True,
        metavar="A,B,…" if several else "NAME",
        help=("pretrained models, commas between: " if several else "pretrained model: ")
        + "a name of `bequest ls sources`, timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, or the folder of an earlier "
        "run",
    )
    add_source_options(group)
    if not several:
        group.add_argument(
            "--adapter",
            metavar="DIR",
            help="folder of a LoRA adapter in the PEFT library's files, trained on the source: it becomes part of it "
            "(default: none)",
        )


def add_source_options(group: Any) -> None:
    """How the pretrained model is used."""
    group.add_argument("--max-tokens", type=int, metavar="N", help="token limit of a text source (default: 128)")
    group.add_argument(
        "--image-size",
        type=int,
        metavar="PX",
        help="side of an image source's input (default: as it was trained)",
    )
    group.add_argument(
        "--cut-at",
        metavar="LAYER",
        help="the source's body ends at this layer, later ones are removed (`bequest ls layers SOURCE`; default: none)",
    )
    group.add_argument(
        "--pooling",
        choices=("mean", "cls", "last"),
        help="from tokens to one vector: mean, the first, the last (default: as the source was trained)",
    )
    group.add_argument(
        "--source-head", metavar="LAYER", help="the source's own last layer, which is replaced (default: found)"
    )


def add_start(parser: ArgumentParser) -> None:
    """Which larger network the source starts from."""
    group = parser.add_argument_group(
        "weight selection", "The source starts from some of the weights of a larger network of its family."
    )
    group.add_argument("--init-from", metavar="LARGE", help="the larger network, as for --source (default: none)")
    group.add_argument(
        "--init-layers",
        type=int,
        metavar="N",
        help="instead, of a transformers network as --source: its own first layers (default: all)",
    )
    group.add_argument(
        "--init-width",
        type=int,
        metavar="N",
        help="instead, of a transformers network as --source: itself with tokens of this width (default: all)",
    )
    group.add_argument(
        "--selection",
        choices=("uniform", "first", "random", "inconsistent"),
        help="which units are kept: spread evenly, the first, drawn, or drawn for each tensor anew (default: uniform)",
    )


def add_run(parser: ArgumentParser, *, seeds: bool, folder: bool = True) -> None:
    """How the run goes, and where it is kept if it is."""
    group = parser.add_argument_group("run")
    if seeds:
        group.add_argument(
            "--seeds",
            "--repeats",
            type=int,
            default=3,
            metavar="K",
            help="repetitions; each redraws labels, initialisation and order (default: 3)",
        )
    else:
        group.add_argument("--seed", type=int, default=0, help="chooses labels, initialisation and order (default: 0)")
    if folder:
        group.add_argument(
            "--out", metavar="DIR", help="the run's folder (default: one under runs/, named after the run)"
        )
    add_passes(group)


def add_measures(parser: ArgumentParser) -> None:
    """What is measured beside what a run measures by itself."""
    group = parser.add_argument_group("measures")
    group.add_argument(
        "--train-sizes",
        metavar="N,N,…",
        help="learning curves: the same comparison at each of these numbers of labels, on the same test part, in one "
        "folder; the leaderboard is that of the largest (default: one number, --train-size)",
    )
    group.add_argument(
        "--measure-memory",
        action="store_true",
        help="run each method once more, at one seed, in a process of its own with nothing stored, and record its peak "
        "memory (default: only how far a trial raises the memory of the whole run)",
    )


def add_passes(group: Any) -> None:
    """How frozen passes go, and where what they make is kept."""
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: bfloat16 where the hardware multiplies it (default: auto)",
    )
    group.add_argument("--cache", metavar="DIR", help="folder of stored frozen outputs (default: $BEQUEST_CACHE)")
    group.add_argument("--quiet", action="store_true", help="show errors and the outcome only")


def add_cluster(parser: ArgumentParser) -> None:
    """Where the work is done, and what a part of it asks for."""
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--on",
        metavar="ray[://HOST:PORT]",
        help="do the work as tasks of Ray: ray for the cluster that this machine is part of, or else one of this "
        "machine alone; ray://HOST:PORT for one elsewhere (default: in this process; needs bequest[ray])",
    )
    group.add_argument(
        "--resources",
        metavar="cpus=N,gpus=N,memory=SIZE",
        help="with --on, what one task has for itself: cores, which it computes with as many threads as, accelerators, "
        "main memory, e.g. cpus=2,gpus=0.5,memory=4GB (default: cpus=1)",
    )


def add_source_data(parser: ArgumentParser) -> None:
    """What the pretrained model was trained on."""
    parser.add_argument(
        "--source-data",
        metavar="DATA",
        help="labelled data that the source was trained on, or like them, in the form of DATA: pro2 learns its "
        "directions from them (default: from DATA's training labels)",
    )


def add_training(parser: ArgumentParser) -> None:
    """What training sees of each sample, how frozen layers are run, and who is told."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--views",
        metavar="K|unlimited",
        help="augmented views of each image that training sees, the plain one among them, each computed once; "
        "unlimited: fresh ones in every epoch, and frozen layers computed anew (default: 1)",
    )
    group.add_argument(
        "--augment",
        metavar="RECIPE",
        help="how views are made: light, standard, strong, with changes as in light,flip=0 (default: light)",
    )
    group.add_argument(
        "--no-cut",
        action="store_true",
        help="compute frozen layers anew in every epoch: slower, with the same result",
    )
    group.add_argument(
        "--track",
        metavar="A,B,…",
        help="trackers that are told each trial's course and result: tensorboard, mlflow (an SQLite file), wandb "
        "(offline); they write into the run's folder",
    )


def add_distillation(parser: ArgumentParser, *, required: bool = False) -> None:
    """Who teaches, and what."""
    group = parser.add_argument_group("distillation")
    group.add_argument(
        "--teacher",
        required=required,
        metavar="A,B,…",
        help="what the student learns from: the folder of an earlier run, or a source whose own head knows the task's "
        "classes; several teach the mean of their soft targets"
        + ("" if required else ". Each method that trains then has two rows, without the teacher and with it"),
    )
    group.add_argument(
        "--unlabelled",
        metavar="DIR",
        help="a folder of images or .txt files without labels, of which the student learns what the teacher makes",
    )
    group.add_argument(
        "--temperatures",
        metavar="ρ,ρ,…",
        help="a distilled row at each of these, e.g. 1,2,4,8, with a plot; the teacher's passes are made once "
        "(default: one row at --temperature)",
    )
    for h in DISTILLATION.hyperparameters:
        group.add_argument(
            h.flag,
            dest="distil_" + h.name,
            metavar="|".join(h.choices) or h.type.__name__.upper(),
            help=f"{h.help.rstrip('.')} (default: {h.default_text})".replace("%", "%%"),
        )


def distillation(options: Namespace) -> dict[str, str]:
    """Those settings of distillation that were set."""
    given = {k.removeprefix("distil_"): v for k, v in vars(options).items() if k.startswith("distil_")}
    return {k: v for k, v in given.items() if v is not None}


def add_hyperparameters(parser: ArgumentParser) -> None:
    """One flag for every hyperparameter of any method; one that several methods share stands once."""
    owners: dict[str, list[tuple[str, Hyperparameter]]] = {}
    for name, info in methods().items():
        for h in info.hyperparameters:
            owners.setdefault(h.name, []).append((name, h))
    groups: dict[tuple[str, ...], Any] = {}
    for found in owners.values():
        names = tuple(name for name, _ in found)
        if names not in groups:
            groups[names] = parser.add_argument_group("hyperparameters of " + ", ".join(names))
        first = found[0][1]
        groups[names].add_argument(
            first.flag,
            dest="hyper_" + first.name,
            metavar="|".join(first.choices) or first.type.__name__.upper(),
            help=f"{_sentence(found)} (default: {_defaults(found)})".replace("%", "%%"),
        )


def hyperparameters(options: Namespace) -> dict[str, str]:
    """Those hyperparameters that were set."""
    given = {k.removeprefix("hyper_"): v for k, v in vars(options).items() if k.startswith("hyper_")}
    return {k: v for k, v in given.items() if v is not None}


def parse_settings(texts: list[str]) -> dict[str, dict[str, str]]:
    """`lora.rank=4` → `{"lora": {"rank": "4"}}`.

    Raises:
        BequestError: A text is not of that form.
    """
    settings: dict[str, dict[str, str]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        method, dot, name = target.partition(".")
        if not (equals and dot and method and name):
            raise BequestError(f"--set {text!r} is not of the form METHOD.NAME=VALUE, e.g. --set lora.rank=4.")
        settings.setdefault(method, {})[name.replace("-", "_")] = value
    return settings


def _sentence(found: list[tuple[str, Hyperparameter]]) -> str:
    texts = {h.help.rstrip(".") for _, h in found}
    if len(texts) == 1:
        return texts.pop()
    return "; ".join(f"{name}: {h.help.rstrip('.')}" for name, h in found)


def _defaults(found: list[tuple[str, Hyperparameter]]) -> str:
    texts = {h.default_text for _, h in found}
    if len(texts) == 1:
        return texts.pop()
    return "; ".join(f"{name}: {h.default_text}" for name, h in found)


def _count_or_fraction(text: str) -> int | float:
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}, expected a whole number, or a fraction between 0 and 1") from None
    return int(value) if value.is_integer() else value
