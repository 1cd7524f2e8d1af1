"""Sources by name, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from bequest.core.checks import as_whole
from bequest.core.errors import SourceError, nearest
from bequest.nn.weight_selection import Selection
from bequest.sources import adapter as adapters
from bequest.sources import embedded, timm, torchvision, transformers
from bequest.sources.checks import refuse
from bequest.sources.cut import cut_source
from bequest.sources.initialise import initialise, member
from bequest.sources.module import from_module
from bequest.sources.preprocess import FunctionPreprocess
from bequest.sources.saved import from_run, model_folder
from bequest.sources.source import Source

if TYPE_CHECKING:
    from torch import nn

    from bequest.core.task import Kind, Task

EMBEDDED: dict[str, Callable[..., Source]] = {
    "minilm_l6": embedded.minilm_l6,
    "minilm_l3": embedded.minilm_l3,
    "smollm2": embedded.smollm2,
    "efficientnet_lite0": embedded.efficientnet_lite0,
    "efficientnet_lite1": embedded.efficientnet_lite1,
    "efficientnet_lite2": embedded.efficientnet_lite2,
}
FORMS: dict[str, str] = {
    "timm:NAME": "an image network of timm with its published weights, e.g. timm:resnet18",
    "torchvision:NAME": "an image classifier of torchvision, e.g. torchvision:convnext_tiny",
    "hf:NAME": "a text or image model of Hugging Face's hub, e.g. hf:distilbert-base-uncased",
    "hf:FOLDER": "the same from a folder that save_pretrained wrote, e.g. hf:./my-bert",
    "hf:FILE.gguf": "a language model of a GGUF file, its weights in float32, e.g. hf:./model.Q4_1.gguf",
    "RUN": "the folder of an earlier run, or of a saved model: what it learned is the source for the next task",
}


def names() -> dict[str, str]:
    """Every embedded source by name, with one line on each."""
    return {name: (make.__doc__ or "").split("\n", 1)[0] for name, make in EMBEDDED.items()}


def get(
    name: str,
    *,
    max_tokens: int | None = None,
    image_size: int | None = None,
    head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
    pretrained: bool = True,
    kind: Kind = "classification",
) -> Source:
    """The source of that name.

    Args:
        name: One of `names()`, `timm:NAME`, `torchvision:NAME`, `hf:NAME`, `hf:FOLDER`, or an earlier run's folder.
        max_tokens: Token limit of a text model; None for its default.
        image_size: Side of an image network's input, pixels; None for its default.
        head: Name of the layer that is the network's own head, a Linear; None to find it by structure.
        pooling: From tokens to one vector: `mean`, `cls` (the first) or `last`; None as the model was trained.
        cut_at: Name of the layer at which the body ends (`bequest ls layers`); None for the whole body.
        adapter: Folder of a LoRA adapter in the PEFT library's files, trained on this network: it is written into the
            weights, and its head, if it has one, is the source's own.
        init_from: Name of a larger source of the same family from which the weights are selected
            (docs/weight_selection.md); None for the source's own weights.
        init_layers: Instead of `init_from`: the first layers of this source, a transformers network.
        init_width: Instead of `init_from`: this source, a transformers network, with fewer units.
        selection: Which units a smaller network keeps: `uniform` (the default), `first`, `random`, or `inconsistent`,
            which shows what it is worth that all layers keep the same ones.
        pretrained: False for the same network with random weights, the same ones at each call: for trying things out
            where weights cannot be had.
        kind: What it will be adapted to. For `causal-lm` a language model stays one, with its own last layer; for all
            other kinds it is a body without a head.

    Raises:
        SourceError: The name is unknown (the nearest ones are given), an option does not apply, the weights cannot be
            had, or the adapter does not fit.
        RunError: The folder's model is damaged.
    """
    max_tokens, image_size = _whole("--max-tokens", max_tokens), _whole("--image-size", image_size)
    init_layers, init_width = _whole("--init-layers", init_layers), _whole("--init-width", init_width)
    found = None if adapter is None else adapters.read(adapter)
    source = _named(
        name,
        max_tokens=max_tokens,
        image_size=image_size,
        head=head,
        pooling=pooling,
        classifier=found is not None and found.has_classifier,
        kind=kind,
    )
    if kind == "causal-lm":
        if source.head_kind != kind:
            raise SourceError(
                f"{name!r} is no language model, which --task causal-lm needs; expected e.g. smollm2, or hf:NAME of "
                "one. Choose another source."
            )
        refuse(f"{name} as a language model", "--cut-at", cut_at)
    if source.modality != "text":
        refuse(name, "--max-tokens", max_tokens)
    if cut_at is None and pooling is not None and pooling != source.description.get("pooling"):
        raise SourceError(
            f"--pooling does not apply to {name!r}, which pools by itself. Leave it out, or name the layer whose "
            "tokens are pooled: --cut-at."
        )
    if source.modality != "image":
        refuse(name, "--image-size", image_size)
    if found is not None and not pretrained:
        raise SourceError("adapter is given, but pretrained is False; expected pretrained weights to write it into.")
    if found is not None and adapter is not None:
        source = adapters.with_adapter(source, adapter, found)
    if (init_from, init_layers, init_width) != (None, None, None):
        smaller, larger = _pair(source, init_from, init_layers, init_width, image_size, pretrained)
        source = initialise(smaller, larger, _selection(selection))
    elif selection is not None:
        raise SourceError(
            "--selection says which units of a larger network are kept, but none was named. Name one: --init-from "
            "LARGE, or give --init-layers or --init-width."
        )
    elif not pretrained:
        whole = source
        source = replace(source, name=f"{name} (untrained)", pretrained=lambda: whole.scratch(0))
    if cut_at is not None:
        source = cut_source(source, cut_at, pooling)
    request = {
        "name": _absolute(name),
        "max_tokens": max_tokens,
        "image_size": image_size,
        "head": head,
        "pooling": pooling,
        "cut_at": cut_at,
        "adapter": adapter and str(Path(adapter).resolve()),
        "init_from": None if init_from is None else _absolute(init_from),
        "init_layers": init_layers,
        "init_width": init_width,
        "selection": selection,
        "pretrained": pretrained,
        "kind": kind,
    }
    return replace(source, request=request)


def resolve(
    source: str | Source | nn.Module,
    task: Task,
    *,
    max_tokens: int | None = None,
    image_size: int | None = None,
    head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
) -> Source:
    """The source that a user means by a name, a `Source` or a module.

    Args:
        source: For `get`; a `Source` as it is; or a module for `from_module`, with arrays of the task as its batch.
        task: What it will be adapted to.
        max_tokens: As for `get`; not for a module.
        image_size: As for `get`; not for a module.
        head: As for `get`.
        pooling: As for `get`; for a module only where it is cut.
        cut_at: As for `get`.
        adapter: As for `get`.
        init_from: As for `get`; not for a module, as the other three.
        init_layers: As for `get`.
        init_width: As for `get`.
        selection: As for `get`.

    Raises:
        SourceError: An option does not apply; or as for `get` and `from_module`.
    """
    start = {
        "init_from": init_from,
        "init_layers": init_layers,
        "init_width": init_width,
        "selection": selection,
    }
    options = {"max_tokens": max_tokens, "image_size": image_size, "head": head, "pooling": pooling, "cut_at": cut_at}
    options |= start
    options["adapter"] = adapter
    if isinstance(source, str):
        return get(source, **options, kind=task.kind)  # pyright: ignore[reportArgumentType]
    if isinstance(source, Source):
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise SourceError(
                f"{', '.join(given)} is for a source's name, but {source.name!r} is a Source already. Give it to "
                "bequest.sources.get."
            )
        return source
    name = type(source).__name__
    refuse(name, "max_tokens", max_tokens)
    refuse(name, "image_size", image_size)
    refuse(name, "pooling", None if cut_at else pooling)
    for flag, value in start.items():
        refuse(name, flag, value)
    example = None
    if task.modality == "array":
        plain = FunctionPreprocess()
        [example] = plain.collate([plain.encode(task.samples[i]) for i in range(min(3, len(task.samples)))])
    whole = from_module(source, modality=task.modality, head=head, example=example)
    if adapter is not None:
        whole = adapters.with_adapter(whole, adapter)
    return whole if cut_at is None else cut_source(whole, cut_at, pooling)


def _named(
    name: str,
    *,
    max_tokens: int | None,
    image_size: int | None,
    head: str | None,
    pooling: str | None,
    classifier: bool,
    kind: Kind,
) -> Source:
    library, _, rest = name.partition(":")
    if name in EMBEDDED:
        refuse(name, "--source-head", head)
        return EMBEDDED[name](
            max_tokens=max_tokens, image_size=image_size, pooling=pooling, classifier=classifier, kind=kind
        )
    if library == "timm":
        return timm.from_name(name, rest, image_size=image_size, head=head)
    if library == "torchvision":
        return torchvision.from_name(name, rest, image_size=image_size, head=head)
    if library == "hf":
        return transformers.from_pretrained(
            name,
            rest,
            pooling=pooling,
            max_tokens=max_tokens,
            image_size=image_size,
            head=head,
            classifier=classifier,
            kind=kind,
        )
    if model_folder(Path(name)) is not None:
        refuse(name, "--image-size", image_size)
        refuse(name, "--source-head", head)
        return from_run(name, name, max_tokens=max_tokens)
    told = nearest(name, EMBEDDED)
    if adapters.is_adapter(Path(name)):
        told = f"The folder holds an adapter; give what it was trained on: --source hf:BASE --adapter {name}. {told}"
    elif Path(name).is_dir():
        told = f"The folder holds no model of a run; of a model that transformers saved, write hf:{name}. {told}"
    raise SourceError(
        f"There is no source {name!r}. {told} Others: {', '.join(FORMS)}. `bequest ls sources` explains them."
    )


def _pair(
    source: Source,
    init_from: str | None,
    num_layers: int | None,
    width: int | None,
    image_size: int | None,
    pretrained: bool,
) -> tuple[Source, Source]:
    """The smaller source and the larger one that it starts from."""
    if init_from is None:
        larger = source if pretrained else replace(source, pretrained=lambda: source.scratch(0))
        return member(source, num_layers, width), larger
    if num_layers is not None or width is not None:
        raise SourceError(
            "--init-layers and --init-width make a smaller member of --source itself, --init-from names a larger "
            "network. Give one or the other."
        )
    # A run keeps the size that it was trained at.
    size = None if model_folder(Path(init_from)) is not None or source.modality != "image" else image_size
    return source, get(init_from, image_size=size, pretrained=pretrained)


def _selection(selection: str | None) -> Selection:
    if selection is not None and selection not in get_args(Selection):
        raise SourceError(f"--selection is {selection!r}. {nearest(selection, get_args(Selection))}")
    return selection or "uniform"  # pyright: ignore[reportReturnType]


def _whole(flag: str, value: int | None) -> int | None:
    whole = as_whole(value)
    if value is not None and whole is None:
        raise SourceError(f"{flag} is {value!r}, expected a whole number. Leave it out for the source's own.")
    return whole


def _absolute(name: str) -> str:
    """The name, folders in full, so that it means the same from elsewhere."""
    library, colon, rest = name.partition(":")
    folder = Path(rest if library == "hf" else name)
    if name in EMBEDDED or not folder.exists():
        return name
    return f"hf:{folder.resolve()}" if library == "hf" and colon else str(folder.resolve())


def hub_name(source: Source) -> str | None:
    """What the Hugging Face Hub calls a source's weights; None where they are not known to be there."""
    name = str(source.request.get("name", source.name))
    library, _, own = name.rpartition(":")
    if name in embedded.HUB_NAMES:
        return embedded.HUB_NAMES[name]
    if library == "timm":
        return f"timm/{own}"
    return own if library == "hf" and not Path(own).exists() else None
