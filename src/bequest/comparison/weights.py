"""What a finished trial did to the weights: spectra of the changes, and what merging them is worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from bequest.comparison.spectra import num_multiplications, spectra
from bequest.core.plan import Plan
from bequest.core.questions import Merging, Pace, Spectrum, Weights
from bequest.engine.context import Context, Indices
from bequest.engine.features import encoded, forward, frozen_module
from bequest.engine.run import finished, reassemble
from bequest.nn.network import Network

_MAX_MULTIPLICATIONS = 10**12
"""For spectra: a minute or two on a processor's cores, of networks up to some hundred million parameters."""

_ALONE, _ROUNDS = 16, 3
"""Samples that are timed alone, and passes of a batch."""


def examine(context: Context, plan: Plan, trained: dict[str, Tensor], head: dict[str, Any], test: Indices) -> Weights:
    """Look at what an earlier trial trained.

    Args:
        context: The run.
        plan: The trial's, made again with the same seed.
        trained: Its tensors.
        head: Description of its head.
        test: Samples of the task that the network is timed on.
    """
    network = reassemble(plan, trained, head)
    if plan.finish is None:
        return Weights(_spectra(context, network), None)
    unmerged = frozen_module(context, network)
    network = finished(plan, network)
    before, after = _paces(context, (unmerged, frozen_module(context, network)), test)
    adapter, whole = _num_bytes(trained), _num_bytes(network.state_dict())
    return Weights(_spectra(context, network), Merging(before, after, adapter, whole))


def _spectra(context: Context, network: Network) -> list[Spectrum]:
    source = context.source.body
    if num_multiplications(source) > _MAX_MULTIPLICATIONS:
        context.say(f"{context.source.name} is too large for singular values of what training adds: left out.")
        return []
    return spectra(source, network.body)


def _paces(context: Context, modules: Sequence[nn.Module], indices: Indices) -> list[Pace]:
    """How fast each of some networks predicts, median of passes that take turns."""
    items = encoded(context, indices[: context.batch_size])
    alone = [items[i : i + 1] for i in range(min(_ALONE, len(items)))]
    latencies = _seconds(context, modules, [alone[0], *alone])
    batches = _seconds(context, modules, [items] * (1 + _ROUNDS))
    return [Pace(one, len(items) / batch) for one, batch in zip(latencies, batches, strict=True)]


def _seconds(context: Context, modules: Sequence[nn.Module], inputs: Sequence[Any]) -> list[float]:
    """Of each module the median over the inputs, of which the first only warms up."""
    taken: list[list[float]] = []
    for items in inputs:
        taken.append([])
        for module in modules:
            began = time.perf_counter()
            forward(context, module, items)
            taken[-1].append(time.perf_counter() - began)
    return np.median(taken[1:], axis=0).tolist()


def _num_bytes(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())
