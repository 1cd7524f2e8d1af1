"""Adapters in the two files of the PEFT library: read as part of a source, and written from a trained network."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from bequest.core.errors import RunError, SourceError
from bequest.core.parse import parse_json
from bequest.core.results import atomic_open, write_json
from bequest.nn.adapters import Adapters
from bequest.nn.head import build_head, count_described, describe_head
from bequest.nn.lowrank import merge_low_rank
from bequest.nn.network import Network
from bequest.nn.peft_layout import Adapter, apply, merge_first, to_adapter
from bequest.sources.cut import CutBody
from bequest.sources.source import Source

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
"""Beside PEFT's two files: a head that has no place in the original network."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of the PEFT library."""
    return (folder / CONFIG_FILE).is_file()


def read(folder: str | Path) -> Adapter:
    """The adapter that PEFT, or `write`, left in a folder.

    Raises:
        SourceError: There is none, its files are damaged, or its weights are a pickle.
    """
    folder = Path(folder)
    if not is_adapter(folder):
        raise SourceError(
            f"There is no adapter in {folder}; expected {CONFIG_FILE} and {TENSORS_FILE}, as PEFT's save_pretrained "
            "writes them. Name their folder: --adapter FOLDER."
        )
    if not (folder / TENSORS_FILE).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        told = "its weights are in adapter_model.bin, a pickle, which can run any code when it is read; " * pickled
        raise SourceError(
            f"{folder / TENSORS_FILE} is missing; {told}expected safetensors. Load the adapter with PEFT where you "
            "trust it, and save it again: save_pretrained(FOLDER, safe_serialization=True)."
        )
    try:
        config = parse_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder / CONFIG_FILE} is no JSON ({error}); expected what PEFT writes.") from None
    if not isinstance(config, dict):
        raise SourceError(f"{folder / CONFIG_FILE} holds a {type(config).__name__}; expected what PEFT writes.")
    return Adapter(config, _load(folder / TENSORS_FILE)[0], str(folder))


def with_adapter(source: Source, folder: str | Path, adapter: Adapter | None = None) -> Source:
    """The source with an adapter written into its weights, and the adapter's head for its own.

    Args:
        source: What the adapter was trained on.
        folder: With PEFT's two files.
        adapter: What they hold, where it is known already.

    Raises:
        SourceError: As for `read`; or the adapter does not fit the source.
    """
    network = source.network()
    load(folder, network, adapter)
    width = getattr(network.head, "in_features", source.width)
    if width != source.width:
        raise SourceError(
            f"The adapter in {folder} has a head for embeddings of {width} numbers, but {source.name!r} makes "
            f"{source.width}. Choose the source that it was trained on."
        )
    merge_low_rank(network.body)
    network.requires_grad_(False)
    return replace(source, name=f"{source.name} with {Path(folder).name}", pretrained=lambda: network)


def load(folder: str | Path, network: Network, adapter: Adapter | None = None) -> None:
    """Put an adapter into a network, in place: low-rank layers around those that it adapts, and its head.

    Args:
        folder: With PEFT's two files.
        network: As a source makes it.
        adapter: What they hold, where it is known already.

    Raises:
        SourceError: As for `read`; or the adapter does not fit the network.
    """
    apply(adapter or read(folder), network)
    network.head = read_head(folder) or network.head
    network.eval()


def read_head(folder: str | Path) -> nn.Module | None:
    """The head that lies beside an adapter; None where there is none.

    Raises:
        SourceError: Its file is damaged.
    """
    file = Path(folder) / HEAD_FILE
    return _read_head(file) if file.is_file() else None


def add(adapters: Adapters, name: str, folder: str | Path) -> None:
    """Put an adapter beside others around one network; `adapters.use(name)` then computes with it.

    Args:
        adapters: Of a network as the source makes it.
        name: For `use`.
        folder: With PEFT's two files.

    Raises:
        SourceError: As for `load`; or the adapter changes more than low-rank layers can.
    """
    adapters.off()
    network = copy.deepcopy(adapters.network)
    load(folder, network)
    adapters.add(name, network)


def write(folder: str | Path, network: Network, source: Source, classes: tuple[str, ...]) -> list[str]:
    """Write a network's low-rank updates and its head, for the PEFT library.

    Args:
        folder: New or empty.
        network: With low-rank layers in its body.
        source: What it was made from.
        classes: Names of the outputs.

    Returns:
        What the user should know of the files.

    Raises:
        RunError: The folder cannot be written, or the network has low-rank layers that PEFT has no place for.
    """
    folder, pretrained = Path(folder), source.network()
    if network.origin.head and not isinstance(pretrained.head, nn.Linear):
        pretrained.head = source.scratch(0).head
    try:
        adapter, with_head = to_adapter(network, pretrained, _base(source))
    except ValueError as error:
        raise RunError(
            f"The updates of {source.name!r} cannot be written for PEFT: {error}. Adapt other layers: --targets."
        ) from None
    beside = not with_head and any(True for _ in network.head.state_dict())
    notes = _notes(network, source, beside)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, dict(adapter.config))
        _save(folder / TENSORS_FILE, dict(adapter.tensors), {"format": "pt"})
        if beside:
            _save(folder / HEAD_FILE, network.head.state_dict(), {"head": json.dumps(describe_head(network.head))})
        with atomic_open(folder / "README.md") as file:
            file.write(_readme(network, source, classes, notes, beside=beside).encode())
    except OSError as error:
        raise RunError(
            f"The adapter cannot be written to {folder} ({error.strerror}); expected a folder with room for it. Free "
            "space or choose another."
        ) from error
    return notes


def _load(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{file} is damaged or no safetensors file ({error}); expected what PEFT writes. Copy it again."
        ) from error


def _read_head(file: Path) -> nn.Module:
    tensors, metadata = _load(file)
    try:
        description = parse_json(metadata["head"])
        if count_described(description) > file.stat().st_size:
            raise ValueError("it describes a head of more numbers than the file has bytes")
        head = build_head(description)
        head.load_state_dict(tensors)
    except Exception as error:  # a description may lead a head to whatever
        raise SourceError(
            f"{file} holds no head as bequest writes them ({error}); expected its description and its tensors. Export "
            "the adapter again."
        ) from error
    return head.eval().requires_grad_(False)


def _save(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_open(file) as opened:
        opened.write(save(plain, metadata))


def _base(source: Source) -> str | None:
    """The name by which transformers finds the original; None where it is not one of its models as they are."""
    kind, name = source.description.get("kind"), str(source.request.get("name", ""))
    found = kind == "transformers" and name.startswith("hf:") and not source.request.get("adapter")
    return name.removeprefix("hf:") if found else None


def _notes(network: Network, source: Source, beside: bool) -> list[str]:
    notes: list[str] = []
    earlier = source.request.get("adapter")
    if earlier:
        notes.append(
            f"The updates add to the network with the adapter {Path(earlier).name} in it: merge that one first."
        )
    if beside:
        notes.append(
            f"The original network has no place for this head, so it lies in {HEAD_FILE}: PEFT adapts the network, and "
            "the head takes its embedding."
        )
    convolutions = merge_first(network.body)
    if convolutions:
        notes.append(
            f"{len(convolutions)} convolutions ({convolutions[0]}, …) pad or change their kernels in a way of their "
            "own, which PEFT does not know: call merge_and_unload() before anything else."
        )
    return notes


def _readme(network: Network, source: Source, classes: tuple[str, ...], notes: list[str], *, beside: bool) -> str:
    """A page that says which network the adapter is for, and how it is loaded."""
    title = f"# A low-rank adapter of {source.name}\n"
    outputs = f"Its outputs, in order: {', '.join(classes)}.\n"
    library, made = _original(source, len(classes))
    imports = [f"import {library}", "from peft import PeftModel"] if library else ["from peft import PeftModel"]
    code = [*imports, "", f"network = {made}", 'model = PeftModel.from_pretrained(network, "FOLDER").eval()']
    lines = [title, outputs, "```python", *code, "```", ""]
    if beside:
        lines += [_pooled(network), ""]
    return "\n".join([*lines, *notes, ""])


def _original(source: Source, num_outputs: int) -> tuple[str, str]:
    """The library that makes the original network, and the call."""
    about = source.description
    if about.get("kind") == "timm":
        arguments = {"pretrained": True, "num_classes": num_outputs, **about.get("arguments", {})}
        given = "".join(f", {name}={value!r}" for name, value in arguments.items())
        return "timm", f"timm.create_model({about['architecture']!r}{given})"
    if about.get("kind") == "transformers":
        form = about.get("form", "pooled")
        made = {
            "image": "AutoModelForImageClassification",
            "classifier": "AutoModelForSequenceClassification",
            "causal-lm": "AutoModelForCausalLM",
        }
        is_sized = form in ("image", "classifier")
        sized = f", num_labels={num_outputs}, ignore_mismatched_sizes=True" if is_sized else ""
        name = _base(source) or f"the folder of {source.name}"
        return "transformers", f"transformers.{made.get(form, 'AutoModel')}.from_pretrained({name!r}{sized})"
    return "", f"…  # {source.name} with pretrained weights, its last layer with {num_outputs} outputs"


def _pooled(network: Network) -> str:
    pooling = getattr(network.body, "pooling", None)
    ways = {
        "mean": "the mean of `last_hidden_state` over the tokens that the attention mask keeps",
        "cls": "the first token of `last_hidden_state`",
        "last": "the last token of `last_hidden_state` that the attention mask keeps",
    }
    embedding = ways.get(str(pooling), "what the network makes without its last layer")
    if isinstance(network.body, CutBody):
        embedding = f"the output of the layer `{network.origin.original(f'body.{network.body.cut.at}')}`, pooled"
    linear = " (`weight` and `bias` of a linear layer)" if isinstance(network.head, nn.Linear) else ""
    return f"The embedding is {embedding}; the head{linear} takes it."
