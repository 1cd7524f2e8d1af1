"""`bequest`: compare, adapt, distill, probe, suggest-lr, features, predict, replay, export, ls, cache, demo."""

from __future__ import annotations

import io
import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from typing import Any

import bequest
from bequest.cli import commands
from bequest.cli.cache import add_cache
from bequest.cli.options import (
    add_cluster,
    add_data,
    add_distillation,
    add_hyperparameters,
    add_measures,
    add_passes,
    add_run,
    add_sizes,
    add_source,
    add_source_data,
    add_source_options,
    add_start,
    add_training,
)
from bequest.core.errors import BequestError, nearest
from bequest.core.processes import launched

_EXAMPLES = """examples:
  bequest demo                                              the whole thing on real texts, a few minutes
  bequest compare reviews.csv --source minilm_l6            four methods on your texts
  bequest compare photos/ --source efficientnet_lite0 --train-size 100 --seeds 5
  bequest adapt photos/ --source efficientnet_lite0 --method lora --rank 4
  bequest distill reviews.csv --teacher runs/reviews --student minilm_l3
  bequest probe reviews.csv --source minilm_l6,minilm_l3    which source and layer, before any training
  bequest predict runs/photos photo.jpg                     with the best model of a run
  bequest export runs/reviews model.onnx                    for other tools, checked on real samples
"""

_TOGETHER = (commands.compare, commands.adapt, commands.distill, commands.replay, commands.demo)
"""Commands that several processes carry out together, as accelerate launches them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        arguments: Words after `bequest`; None for the process's own.
    """
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if not hasattr(options, "command"):
        parser.print_help()
        return 0
    if unknown:
        print(f"error: {_unknown(options.usage, unknown)}", file=sys.stderr)
        return 2
    this = launched()
    if this.number > 1 and options.command not in _TOGETHER:
        return _said(_only_one(options) if this.is_main else None, 2)
    try:
        # Of several processes one talks.
        with nullcontext() if this.is_main else redirect_stdout(io.StringIO()):
            return options.command(options)
    except BequestError as error:
        return _said(error if this.number == 1 else _to_tell(error), 1)
    except (MemoryError, RuntimeError) as error:
        return _said(_lack_of_memory(error), 1)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one was.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _said(error: object, status: int) -> int:
    """Print an error that ends this process, and return the status.

    Where another process says it, and so there is nothing to say here, the status is 0: launchers stop all others as
    soon as one fails, and the one that speaks has to finish.
    """
    if error is None:
        return 0
    print(f"error: {error}", file=sys.stderr)
    return status


def _only_one(options: Namespace) -> str:
    """What to say where several processes were launched for a command that one carries out."""
    known = ", ".join(command.__name__ for command in _TOGETHER)
    return (
        f"`bequest {options.command.__name__.replace('_', '-')}` runs in one process, but several were launched; "
        f"expected one of {known}. Start it without accelerate launch."
    )


def _lack_of_memory(error: Exception) -> Exception:
    """What to say where memory did not suffice; any other error is a fault of ours, and raised again."""
    from bequest.engine.memory import LackOfMemory, enough_memory

    try:
        with enough_memory():
            raise error
    except LackOfMemory as told:
        return told


def _to_tell(error: BequestError) -> BequestError | None:
    """What this one of several processes is to say of an error, so that it is said once."""
    from bequest.comparison.ranks import to_tell

    return to_tell(error)


def _unknown(usage: str, words: list[str]) -> str:
    """What to say of words that a command does not know."""
    known = re.findall(r"--[a-z-]+", usage)
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    if not flags:
        return f"Too many words: {' '.join(words)}. Put names with spaces in quotes."
    return "\n".join(f"There is no option {flag}. {nearest(flag, known)}" for flag in flags)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="bequest",
        description="Hand a pretrained model's knowledge down to your task: compare the ways, get the evidence and the "
        "best model.",
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bequest {bequest.__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", title="commands")

    def verb_in(parent: Any, name: str, line: str, examples: str) -> ArgumentParser:
        return parent.add_parser(
            name,
            help=line,
            description=line[0].upper() + line[1:] + ".",
            epilog="examples:\n" + examples,
            formatter_class=RawDescriptionHelpFormatter,
        )

    verb = partial(verb_in, verbs)

    compare = verb(
        "compare",
        "run several methods on the same labels and splits, and rank them",
        "  bequest compare reviews.csv --source minilm_l6 --train-size 200 --seeds 3 --out runs/reviews\n"
        "  bequest compare photos/ --source efficientnet_lite0 --methods linear_probe,lora --set lora.rank=4\n"
        "  bequest compare reviews.csv --source minilm_l6 --methods full,galore --measure-memory\n"
        "  bequest compare reviews.csv --source minilm_l6 --train-sizes 25,50,100,200,400\n"
        "  bequest compare reviews.csv --source minilm_l6 --train-size 200 --tune 20\n"
        "  bequest compare reviews.csv --source minilm_l6 --folds 5 --repeats 3\n"
        "  bequest compare reviews.csv --source minilm_l6 --seeds 10 --on ray --resources cpus=2,memory=4GB\n",
    )
    add_data(compare)
    add_sizes(compare)
    add_source(compare)
    add_start(compare)
    add_source_data(compare)
    compare.add_argument(
        "--methods",
        metavar="A,B,…",
        help="which methods, by name (default: linear_probe,full,freeze,lora, as far as they apply; `bequest ls "
        "methods` lists all)",
    )
    compare.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        dest="settings",
        help="a hyperparameter of one method, e.g. lora.rank=4; may be repeated",
    )
    compare.add_argument(
        "--select-by",
        choices=("metric", "worst-group"),
        default="metric",
        help="the score on held-out labels that ranks the methods; worst-group is the lowest accuracy of a group, and "
        "needs --group-column (default: metric)",
    )
    compare.add_argument(
        "--tune",
        type=int,
        metavar="N",
        help="try N settings of each method on held-out labels of a seed of its own, then compare the best of each "
        "(default: none are tried; needs bequest[tune])",
    )
    compare.add_argument(
        "--budget", metavar="TIME", help="instead of --tune: how long each method may try settings, e.g. 10m"
    )
    compare.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="cross-validation: each repetition divides the samples into K folds, and each of them is tested on by a "
        "network trained on the others, so that every sample is (default: one test part, --test-size)",
    )
    add_training(compare)
    add_distillation(compare)
    add_run(compare, seeds=True)
    add_measures(compare)
    add_cluster(compare)
    compare.set_defaults(command=commands.compare)

    adapt = verb(
        "adapt",
        "adapt a source by one method, every hyperparameter within reach",
        "  bequest adapt reviews.csv --source minilm_l6 --method lora --rank 4 --epochs 5\n"
        "  bequest adapt photos/ --source efficientnet_lite0 --method freeze --from-depth 0.8\n"
        "  bequest adapt letters/ --source smollm2 --task causal-lm --method lora\n"
        "  accelerate launch --multi_gpu --num_processes 2 -m bequest adapt reviews.csv --source minilm_l6\n"
        "  accelerate launch --use_fsdp --num_processes 2 -m bequest adapt reviews.csv --source minilm_l6\n",
    )
    add_data(adapt)
    add_sizes(adapt)
    add_source(adapt)
    add_start(adapt)
    add_source_data(adapt)
    adapt.add_argument(
        "--method",
        help="which method (default: linear_probe, for a language model full; `bequest ls methods`)",
    )
    add_training(adapt)
    add_run(adapt, seeds=False)
    add_hyperparameters(adapt)
    adapt.set_defaults(command=commands.adapt)

    distill = verb(
        "distill",
        "train a small student with a teacher, and without one beside it",
        "  bequest distill reviews.csv --teacher runs/reviews-l6 --student minilm_l3\n"
        "  bequest distill photos/ --teacher runs/a,runs/b --student efficientnet_lite0 --temperature 2 --views 4\n"
        "  bequest distill photos/ --teacher runs/photos --student efficientnet_lite0 --unlabelled more/\n",
    )
    add_data(distill)
    add_sizes(distill)
    add_source(distill, role="student")
    add_start(distill)
    add_distillation(distill, required=True)
    distill.add_argument(
        "--method", default="full", help="how the student is trained (default: full; `bequest ls methods`)"
    )
    add_training(distill)
    add_run(distill, seeds=True)
    add_cluster(distill)
    add_hyperparameters(distill)
    distill.set_defaults(command=commands.distill)

    probe = verb(
        "probe",
        "say before any training which source, and which of its layers, suits your data",
        "  bequest probe reviews.csv --source minilm_l6,minilm_l3\n"
        "  bequest probe photos/ --source efficientnet_lite0,timm:resnet18 --train-size 200 --out runs/probe\n"
        "  bequest probe reviews.csv --source minilm_l6 --taps all --no-linear\n"
        "  bequest probe reviews.csv --source minilm_l6 --taps layer.2,layer.3.attention\n",
    )
    add_data(probe)
    add_sizes(probe)
    add_source(probe, several=True)
    probe.add_argument(
        "--taps",
        default="layers",
        metavar="layers|all|A,B,…",
        help="where to read: one tap a step of depth, every place that can be read, or modules by name (`bequest ls "
        "layers SOURCE --taps`); the embedding is always among them (default: layers)",
    )
    probe.add_argument("--no-linear", action="store_true", help="no linear probe of each layer: the scores alone")
    add_run(probe, seeds=False)
    probe.set_defaults(command=commands.probe)

    suggest = verb(
        "suggest-lr",
        "suggest a method's learning rate by a range test: the rate rises from step to step, the loss tells where it "
        "serves",
        "  bequest suggest-lr reviews.csv --source minilm_l6 --method full\n"
        "  bequest suggest-lr photos/ --source efficientnet_lite0 --method lora --rank 4 --plot rates.svg\n",
    )
    add_data(suggest)
    add_sizes(suggest)
    add_source(suggest)
    add_start(suggest)
    suggest.add_argument("--method", default="full", help="which method (default: full; `bequest ls methods`)")
    suggest.add_argument(
        "--from", dest="start", type=float, default=1e-7, metavar="RATE", help="first rate (default: 1e-07)"
    )
    suggest.add_argument("--to", dest="end", type=float, default=1.0, metavar="RATE", help="last rate (default: 1)")
    suggest.add_argument(
        "--steps", dest="num_steps", type=int, default=100, metavar="N", help="optimizer steps (default: 100)"
    )
    suggest.add_argument(
        "--plot", metavar="FILE", help="where the drawing goes, an SVG (default: one under runs/, named after the test)"
    )
    add_run(suggest, seeds=False, folder=False)
    add_hyperparameters(suggest)
    suggest.set_defaults(command=commands.suggest_lr)

    features = verb(
        "features",
        "write what layers of the frozen source make of every sample into a file, or into shards",
        "  bequest features reviews.csv --source minilm_l6 --out features.parquet\n"
        "  bequest features photos/ --source timm:resnet18 --layers layer3,layer4,embedding --out features.npz\n"
        "  bequest features photos/ --source efficientnet_lite0 --layers all --pool-to 512 --out features.csv\n"
        "  bequest features 's3://bucket/*.tar' --source efficientnet_lite0 --on ray --out features    shards\n",
    )
    add_data(features)
    add_source(features)
    group = features.add_argument_group("features")
    group.add_argument(
        "--layers",
        default="last",
        metavar="A,B,…",
        help="names of layers (`bequest ls layers SOURCE --taps`), embedding among them; last for the embedding alone; "
        "all for every layer of depth and the embedding (default: last)",
    )
    group.add_argument(
        "--pool-to",
        type=int,
        default=0,
        metavar="N",
        help="numbers to pool each layer's output to, about (default: 0, the mean over its places)",
    )
    group.add_argument(
        "--out",
        required=True,
        metavar="FILE|DIR",
        help="a file that ends in .parquet, .csv or .npz; or a folder (or its address), for data that no disk holds: "
        "DATA is then a folder or pattern of images, .txt files, Parquet files or WebDataset's tars, local or s3:// "
        "and the like, and each shard of it becomes a Parquet file; what is there is not computed again",
    )
    group.add_argument(
        "--shard-size",
        type=int,
        default=4096,
        metavar="N",
        help="for a folder: samples in a shard, about; a tar is one shard (default: 4096)",
    )
    group.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="samples in a forward pass (default: 32)"
    )
    add_cluster(features)
    add_passes(features.add_argument_group("run"))
    features.set_defaults(command=commands.features)

    predict = verb(
        "predict",
        "predict with the best model of a run",
        "  bequest predict runs/photos a.jpg b.jpg holiday/\n"
        "  bequest predict runs/reviews letter.txt\n"
        "  bequest predict runs/reviews new.csv --out predictions.csv    keeps the columns, adds two\n"
        "  echo 'arrived broken' | bequest predict runs/reviews -\n"
        "  echo 'Dear Sir' | bequest predict runs/letters -      a language model goes on\n",
    )
    predict.add_argument("run", metavar="RUN", help="folder of a run, or of a saved model")
    predict.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE",
        help="images; text files, each one text; folders, with all that lies below; tables (.csv, .tsv, .jsonl, .json, "
        ".parquet); or - for standard input: one text, one image's path, or one JSON object a line",
    )
    predict.add_argument(
        "--out", metavar="FILE", help="into a .csv, .tsv, .jsonl or .parquet file (default: to the terminal)"
    )
    predict.add_argument("--json", action="store_true", help="one JSON object a line, with all probabilities")
    predict.add_argument(
        "--probabilities", action="store_true", help="in --out, a column for every class's probability"
    )
    predict.add_argument("--text-column", metavar="NAME", help="a table's column of texts (default: recognised)")
    predict.add_argument("--image-column", metavar="NAME", help="a table's column of paths (default: recognised)")
    predict.add_argument("--encoding", default="utf-8", help="of text files (default: utf-8)")
    predict.add_argument("--batch-size", type=int, default=32, metavar="N", help="samples in a pass (default: 32)")
    predict.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out samples that cannot be read, and say which (default: the first one ends it)",
    )
    predict.add_argument("--quiet", action="store_true", help="show errors and the outcome only")
    predict.set_defaults(command=commands.predict)

    replay = verb(
        "replay",
        "run again what a run's folder records, and check that the scores are the same",
        "  bequest replay runs/reviews --out runs/reviews-again\n",
    )
    replay.add_argument("run", metavar="RUN", help="folder of the earlier run")
    replay.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    replay.add_argument("--data", metavar="PATH", help="where the data lie now, if they were moved")
    replay.set_defaults(command=commands.replay)

    export = verb(
        "export",
        "write what a run trained for other tools, checked on real samples; nothing is trained again",
        "  bequest export runs/reviews model.onnx\n"
        "  bequest export runs/photos model.pt2 --method full --seed 1\n"
        "  bequest export runs/photos for-timm --format timm\n"
        "  bequest export runs/reviews adapter --format peft\n",
    )
    export.add_argument("run", metavar="RUN", help="folder of a run, or of a saved model")
    export.add_argument("path", metavar="PATH", help="the file, or a new folder")
    export.add_argument(
        "--format",
        choices=("onnx", "torch-export", "safetensors", "hf", "timm", "peft"),
        help="onnx (.onnx), torch-export (.pt2: a program of PyTorch's), safetensors (.safetensors: a state dict), or "
        "into a folder: hf (transformers' from_pretrained), timm (timm.create_model), peft (the PEFT library's "
        "adapter, of a method with low-rank layers) (default: by the suffix of PATH)",
    )
    export.add_argument("--method", help="of which method (default: the best one that the format can hold)")
    export.add_argument("--seed", type=int, metavar="N", help="of which trial (default: the median one)")
    export.add_argument("--data", metavar="PATH", help="samples to try the file on (default: the run's own data)")
    export.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="T",
        help="how far outputs may be from PyTorch's, as a part of the largest, or of 1 where that is more (default: "
        "0.0001)",
    )
    export.set_defaults(command=commands.export)

    ls = verb(
        "ls",
        "list the methods, the sources, or the layers of a source",
        "  bequest ls methods\n"
        "  bequest ls sources\n"
        "  bequest ls layers timm:resnet18\n"
        "  bequest ls layers minilm_l6 --cut-at layer.3\n"
        "  bequest ls layers minilm_l6 --taps\n",
    )
    ls.add_argument("what", choices=("methods", "sources", "layers"))
    ls.add_argument("source", nargs="?", metavar="SOURCE", help="for layers: as for --source elsewhere")
    ls.add_argument("--taps", action="store_true", help="of layers, every place inside that methods can read")
    add_source_options(ls.add_argument_group("source, for layers"))
    ls.set_defaults(command=commands.ls)

    cache = verb(
        "cache",
        "list or delete what is stored of frozen outputs",
        "  bequest cache ls\n  bequest cache clear --older-than 7d --dry-run\n",
    )
    add_cache(cache, verb_in)

    demo = verb(
        "demo",
        "compare four methods on real data that install as packages",
        "  bequest demo            BBC News, 100 labels, MiniLM-L6\n"
        "  bequest demo --images   handwritten digits, 100 labels, EfficientNet-Lite0\n",
    )
    demo.add_argument("--images", action="store_true", help="images instead of texts")
    demo.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/demo or runs/demo-images)")
    demo.set_defaults(command=commands.demo)
    for each in verbs.choices.values():
        each.set_defaults(usage=each.format_usage())
    return parser


if __name__ == "__main__":
    sys.exit(main())
