"""A small source that starts from a larger one of its family, by weight selection."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from bequest.core.errors import SourceError
from bequest.nn.network import Network
from bequest.nn.weight_selection import Selection, select_weights
from bequest.sources import transformers
from bequest.sources.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from bequest.sources.source import Source


def initialise(smaller: Source, larger: Source, selection: Selection = "uniform", seed: int = 0) -> Source:
    """The smaller source with a body whose weights are some of the larger one's, and no head of its own.

    Images are scaled as the larger source expects them; all else of the preprocessing is the smaller one's. The
    from-scratch twin stays random.

    Args:
        smaller: Its own weights are not used, nor fetched.
        larger: Of the same family.
        selection: Which units are kept (`bequest.nn.weight_selection`).
        seed: For `random` and `inconsistent`.

    Raises:
        SourceError: The two are not of one family; the text names the tensors, or says that the tokenizers differ.
    """
    body = smaller.scratch(0).body
    try:
        select_weights(larger.body, body, selection, seed)
    except SourceError as error:
        raise SourceError(f"{smaller.name!r} cannot start from {larger.name!r}. {error}") from None
    told = "" if selection == "uniform" else f" ({selection}{f' {seed}' if seed else ''})"
    return replace(
        smaller,
        name=f"{smaller.name} from {larger.name}{told}",
        preprocess=_preprocess(smaller, larger),
        pretrained=lambda: Network(body, nn.Identity()),
        licence=larger.licence,
        request={},
        learned=larger.learned,
    )


def member(source: Source, num_layers: int | None = None, width: int | None = None) -> Source:
    """A smaller member of a source's family, with random weights: the first layers, of fewer units.

    Args:
        source: A transformers encoder.
        num_layers: None for as many as the source has.
        width: Units of a token's vector; a head keeps its width, so that there are fewer of them. None for the
            source's.

    Raises:
        SourceError: The source is of another kind, or there is no such member.
    """
    if source.description.get("kind") != "transformers" or "cuts" in source.description:
        raise SourceError(
            f"--init-layers and --init-width make a smaller member of a whole transformers network, which "
            f"{source.name!r} is not. Name the smaller network: --source SMALL --init-from {source.name}."
        )
    description = transformers.smaller(source.name, source.description, num_layers, width)
    shape = [f"{num_layers} layers"] * (num_layers is not None) + [f"width {width}"] * (width is not None)
    name = f"{source.name} of {', '.join(shape)}"
    return transformers.from_description(name, description, source.preprocess)


def _preprocess(smaller: Source, larger: Source) -> Preprocess:
    here, there = smaller.preprocess, larger.preprocess
    if isinstance(here, TextPreprocess) and isinstance(there, TextPreprocess) and here.words != there.words:
        raise SourceError(
            f"{smaller.name!r} cannot start from {larger.name!r}: their tokenizers differ, so that a row of the "
            "embedding stands for another word. Choose a larger network with the same tokenizer."
        )
    if isinstance(here, ImagePreprocess) and isinstance(there, ImagePreprocess):
        return replace(here, mean=there.mean, std=there.std)
    return here
