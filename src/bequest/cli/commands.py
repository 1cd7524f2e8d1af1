"""What each command does; torch is imported here only when work begins."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.cli.options import distillation, hyperparameters, parse_settings
from bequest.core.errors import BequestError
from bequest.core.registry import methods

if TYPE_CHECKING:
    from bequest.api import Run
    from bequest.engine.adapted import AnyPrediction
    from bequest.sources import Source


def compare(options: Namespace) -> int:
    """`bequest compare`."""
    from bequest import api

    names = [n.strip() for n in options.methods.split(",")] if options.methods else None
    settings = parse_settings(options.settings)
    own = {"seeds": options.seeds, "select_by": options.select_by, "out": options.out, **_training(options)}
    own |= {"teacher": options.teacher, "distillation": distillation(options), "unlabelled": options.unlabelled}
    own |= {"temperatures": options.temperatures, "measure_memory": options.measure_memory}
    own["train_sizes"] = options.train_sizes
    own |= {"tune": options.tune, "budget": options.budget, "folds": options.folds}
    own |= {"on": options.on, "resources": options.resources}
    run = api.compare(methods=names, settings=settings, **own, **_start(options), **_shared(options))
    _closing(run)
    return 0


def adapt(options: Namespace) -> int:
    """`bequest adapt`."""
    from bequest import api

    own = {"method": options.method, "seed": options.seed, "out": options.out, **_training(options)}
    run = api.adapt(**own, **_start(options), **{**_shared(options), **hyperparameters(options)})
    _closing(run)
    return 0


def distill(options: Namespace) -> int:
    """`bequest distill`."""
    from bequest import api

    own = {name: getattr(options, name) for name in ("teacher", "method", "temperatures", "unlabelled", "seeds", "out")}
    own |= {name: value for name, value in _training(options).items() if name != "source_data"}
    own |= {"on": options.on, "resources": options.resources}
    shared = _shared(options)
    settings = {**distillation(options), **hyperparameters(options)}
    run = api.distill(student=shared.pop("source"), **own, **_start(options), **{**shared, **settings})
    _closing(run)
    return 0


def probe(options: Namespace) -> int:
    """`bequest probe`."""
    from rich.console import Console

    from bequest import api
    from bequest.report.probing import sentences
    from bequest.ui.probing import agreement_table, probe_table

    shared = _shared(options)
    own = {"taps": options.taps, "linear": not options.no_linear, "seed": options.seed, "out": options.out}
    found = api.probe(sources=shared.pop("source"), **own, **shared)
    console = Console()
    console.print(probe_table(found.record, width=console.width))
    agreement = agreement_table(found.record)
    if agreement is not None:
        console.print("", agreement, sep="\n")
    for sentence in sentences(found.record):
        console.print("", sentence, sep="\n", markup=False, highlight=False)
    words = ["bequest", "compare", *options.data, "--source", found.best.source]
    if found.best.layer != "embedding":
        words += ["--set", f"linear_probe.layer={found.best.layer}"]
    print(f"\nRecords  {found.folder / 'probe.json'}")
    print(f"Page     {found.report}")
    print("To see what adaptation makes of it, with your other flags:\n  " + shlex.join(words))
    return 0


def suggest_lr(options: Namespace) -> int:
    """`bequest suggest-lr`."""
    from bequest import api

    given = hyperparameters(options)
    own = {name: getattr(options, name) for name in ("method", "seed", "start", "end", "num_steps")}
    suggestion = api.suggest_learning_rate(**{**own, **_start(options), **_shared(options), **given})
    plot = Path(options.plot or f"runs/{Path(options.data[0]).stem}-{options.method}-rates.svg")
    suggestion.write_plot(plot)
    settings = {**given, **suggestion.settings}
    flags = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))]
    words = ["bequest", "adapt", *options.data, "--source", options.source, "--method", options.method, *flags]
    steps = len(suggestion.test.rates)
    print(f"Loss by rate  {plot}   ({steps} steps, rates {options.start:g} to {suggestion.test.rates[-1]:.2g})")
    print(f"Suggested     {options.method}: " + ", ".join(f"{n} {v:g}" for n, v in suggestion.settings.items()))
    print("It is the middle of the longest stretch over which the smoothed loss falls.")
    print("To use it, with your other flags:\n  " + shlex.join(words))
    return 0


def features(options: Namespace) -> int:
    """`bequest features`."""
    from bequest import api

    own = {name: getattr(options, name) for name in ("out", "layers", "pool_to", "batch_size")}
    own |= {name: getattr(options, name) for name in ("on", "resources", "shard_size")}
    made = api.features(**own, **_data(options))
    print(f"Features  {made.path}   ({made.num_samples:,} samples, {len(made.columns):,} features)")
    return 0


def predict(options: Namespace) -> int:
    """`bequest predict`."""
    from bequest import api

    names = ("text_column", "image_column", "encoding", "batch_size", "skip_unreadable")
    asked = {**{name: getattr(options, name) for name in names}, "progress": not options.quiet}
    if options.out is not None:
        own = {"out": options.out, "probabilities": options.probabilities}
        made = api.predict_file(options.run, options.inputs, **own, **asked)
        left_out = f", {made.num_skipped:,} left out" if made.num_skipped else ""
        print(f"Predictions  {made.path}   ({made.num_samples:,} samples{left_out})")
        return 0
    for name, prediction in api.predict_each(options.run, options.inputs, **asked):
        if options.json:
            print(json.dumps({"input": name, **vars(prediction)}, ensure_ascii=False))
        else:
            print(f"{_in_words(prediction)}\t{name}")
    return 0


def _in_words(prediction: AnyPrediction) -> str:
    """A prediction as one cell or several with tabs between."""
    from bequest.engine.adapted import LabelsPrediction, TextPrediction, ValuesPrediction

    if isinstance(prediction, TextPrediction):
        return prediction.text
    if isinstance(prediction, ValuesPrediction):
        return "\t".join(f"{target}={value:.6g}" for target, value in prediction.values.items())
    if isinstance(prediction, LabelsPrediction):
        chosen = ", ".join(f"{label} {prediction.probabilities[label]:.3f}" for label in prediction.labels)
        return chosen or "none"
    return f"{prediction.label}\t{prediction.probability:.3f}"


def replay(options: Namespace) -> int:
    """`bequest replay`."""
    from bequest import api

    run = api.replay(options.run, out=options.out, data=options.data)
    _closing(run)
    print("The replay gave the same scores.")
    return 0


def export(options: Namespace) -> int:
    """`bequest export`."""
    from bequest import api

    own = {name: getattr(options, name) for name in ("format", "method", "seed", "data", "tolerance")}
    made = api.export(options.run, options.path, **own)
    trial = f"{made.method}, seed {made.seed}" if made.method else "saved model"
    check = made.check
    print(f"Exported  {made.path}   ({made.format}; {trial})")
    print(
        f"Checked   on {check.num_samples} real samples: outputs differ from PyTorch's by at most "
        f"{check.difference:.2g} ({check.allowed:.2g} allowed)"
    )
    for note in made.notes:
        print(note)
    return 0


def ls(options: Namespace) -> int:
    """`bequest ls`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    if options.what == "methods":
        for column in ("method", "family", "what it does", "paper"):
            table.add_column(column)
        for info in methods().values():
            table.add_row(info.name, info.family, info.summary, info.paper)
    elif options.what == "layers":
        return _layers(options)
    else:
        from bequest import sources

        table.add_column("source", no_wrap=True)
        table.add_column("what it is")
        for name, line in {**sources.names(), **sources.FORMS}.items():
            table.add_row(name, line)
    Console().print(table)
    return 0


def _layers(options: Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from bequest import sources
    from bequest.nn.depth import layers
    from bequest.report.units import quantity

    if options.source is None:
        raise BequestError("`bequest ls layers` needs a source, e.g. bequest ls layers minilm_l6.")
    wanted = ("max_tokens", "image_size", "pooling", "cut_at")
    # The weights are not needed, so they are not fetched.
    source = sources.get(
        options.source, head=options.source_head, pretrained=False, **{n: getattr(options, n) for n in wanted}
    )
    if options.taps:
        return _taps(source)
    body = source.scratch(0).body
    sizes = {name: parameter.numel() for name, parameter in body.named_parameters()}
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("depth", justify="right")
    table.add_column("layer", no_wrap=True)
    table.add_column("kind")
    table.add_column("parameters", justify="right")
    table.add_column("from the input", justify="right")
    passed = 0
    for index, layer in enumerate(layers(body, source.example())):
        own = sum(sizes[name] for name in layer.parameters)
        passed += own
        kind = type(body.get_submodule(layer.name)).__name__
        table.add_row(str(index), layer.name, kind, quantity(own), f"{passed / sum(sizes.values()):.0%}")
    Console().print(table)
    print(f"Embedding: {source.width} numbers. {quantity(sum(sizes.values()))} parameters without the head.")
    print("Name a layer, or the end of its name: --cut-at LAYER (the body ends there), --from-depth LAYER (freeze).")
    return 0


def _taps(source: Source) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("tap", "kind", "output"):
        table.add_column(column, no_wrap=True)
    table.add_column("channels", justify="right")
    for tap in source.taps():
        kind = type(source.body.get_submodule(tap.name)).__name__ if tap.name else ""
        table.add_row(tap.name or "embedding", kind, tap.shape, str(tap.channels))
    Console().print(table)
    print("Each is averaged over its places, or pooled to more numbers. Any module of the body can be named as well.")
    return 0


def demo(options: Namespace) -> int:
    """`bequest demo`."""
    from bequest import api
    from bequest.cli.demo import images, texts
    from bequest.engine.adapted import Prediction

    demonstration = images() if options.images else texts()
    print(demonstration.story)
    default = "runs/demo-images" if options.images else "runs/demo"
    run = api.compare(demonstration.task, seeds=3, out=options.out or default, **demonstration.settings)
    _closing(run)
    [prediction] = run.predict([demonstration.example])
    assert isinstance(prediction, Prediction)
    print(f"\nOne prediction with it:\n  {demonstration.example_text}")
    print(f"  → {prediction.label} ({prediction.probability:.0%})")
    return 0


def _shared(options: Namespace) -> dict[str, Any]:
    return {**_data(options), **{n: getattr(options, n) for n in ("train_size", "test_size", "split_seed")}}


def _start(options: Namespace) -> dict[str, Any]:
    return {n: getattr(options, n) for n in ("init_from", "init_layers", "init_width", "selection")}


def _data(options: Namespace) -> dict[str, Any]:
    names = ("source", "task", "text_column", "image_column", "label_column", "split_column", "group_column")
    more = ("encoding", "skip_bad", "max_tokens", "image_size", "source_head", "pooling", "cut_at")
    shared = {n: getattr(options, n) for n in (*names, *more, "precision", "cache")}
    data = options.data[0] if len(options.data) == 1 else options.data
    if "adapter" in options:
        shared["adapter"] = options.adapter
    return {"data": data, **shared, "progress": not options.quiet}


def _training(options: Namespace) -> dict[str, Any]:
    return {
        "views": options.views,
        "augment": options.augment,
        "cut": not options.no_cut,
        "track": options.track,
        "source_data": getattr(options, "source_data", None),
    }


def _closing(run: Run) -> None:
    from rich.console import Console

    from bequest.report import affinity, distilling, learning, questions
    from bequest.report.verdict import criterion
    from bequest.ui.terminal import leaderboard_table

    console = Console()
    console.print(leaderboard_table(run.board, width=console.width))
    told = [*affinity.in_words(run.board), *distilling.in_words(run.board), *questions.in_words(run.board)]
    told += learning.in_words(run.board)
    if run.board.advice:
        told.append("What to take from it:\n" + "\n".join(f"  {sentence}" for sentence in run.board.advice))
    for paragraph in told:
        console.print("", paragraph, sep="\n", markup=False, highlight=False)
    best = run.board.best
    print(f"\nBest by {criterion(run.board)}: {best.method if best else 'none'}")
    print(f"Leaderboard  {run.folder / 'leaderboard.json'}")
    print(f"Report       {run.report}")
    print(f"Best model   {run.folder / 'best'}   (bequest predict {run.folder} …)")
