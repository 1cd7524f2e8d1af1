"""Passes of samples through what is frozen: encoding (decode, resize, tokenise) and the body, each once a sample."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bequest.engine.context import Context, Indices
from bequest.engine.store import Array, Records, Shelf, lengths_of
from bequest.nn.network import fingerprint

_SHARD = 512
"""Records in a shard, a multiple of any sensible batch size: an interrupted pass that goes on forms the same batches
as an undisturbed one, so its results are the same to the bit."""

_VIEW = 0


def encoded(context: Context, indices: Indices) -> Records:
    """The preprocessed samples (token ids, resized pixels), from the store."""
    preprocess = context.source.preprocess
    shelf = context.store.shelf(
        {"what": "encoded", "preprocess": preprocess.fingerprint, "view": _VIEW},
        persistent=preprocess.persistent,
    )
    samples = context.task.samples

    def compute(part: Sequence[int]) -> list[Array]:
        if context.task.modality == "image":
            with ThreadPoolExecutor() as pool:
                return list(pool.map(lambda i: preprocess.encode(samples[i]), part))
        return [preprocess.encode(samples[i]) for i in part]

    return _through(context, shelf, indices, compute, "reading samples")


def embeddings(context: Context, indices: Indices, body: nn.Module | None = None) -> Records:
    """The embedding of every sample, float32 (width,), from the store; the body runs on those it lacks.

    Args:
        context: The run.
        indices: Samples of the task.
        body: A frozen body; None for the source's own.
    """
    frozen = context.source.body if body is None else body
    preprocess = context.source.preprocess
    shelf = context.store.shelf(
        {
            "what": "features",
            "body": context.source.fingerprint if body is None else fingerprint(body),
            "preprocess": preprocess.fingerprint,
            "view": _VIEW,
            "tap": "embedding",
            "runtime": {k: v for k, v in context.runtime.describe().items() if k != "training_precision"},
            "torch": torch.__version__,
        },
        persistent=preprocess.persistent,
    )
    ready: list[nn.Module] = []

    def compute(part: Sequence[int]) -> list[Array]:
        ready[:] = ready or [frozen_module(context, frozen)]
        items = encoded(context, part)
        return list(forward(context, ready[0], items).numpy())

    context.passes.asked += len(indices)
    lacking = shelf.missing(context.hashes(indices))
    if len(lacking):
        wanted = np.asarray(indices, dtype=np.int64)[lacking]
        wanted = wanted[np.argsort(encoded(context, wanted).lengths, kind="stable")]
        context.passes.computed += len(wanted)
        _through(context, shelf, wanted, compute, "frozen pass")
    return shelf.read(context.hashes(indices))


def frozen_module(context: Context, module: nn.Module) -> nn.Module:
    """A copy of a module for frozen passes: on the device, in the precision for them, in eval mode."""
    dtype = torch.bfloat16 if context.runtime.frozen == "bfloat16" else torch.float32
    return context.runtime.place(copy.deepcopy(module).to(dtype=dtype)).eval().requires_grad_(False)


def forward(
    context: Context,
    module: nn.Module,
    items: Sequence[Array],
    *,
    collate: Callable[[Sequence[Any]], tuple[Tensor, ...]] | None = None,
    label: str = "",
) -> Tensor:
    """A module's outputs in eval mode, float32 (samples, …), in the order of `items`.

    Batches hold samples of like length, so that little padding is computed.

    Args:
        context: The run.
        module: In eval mode, on the device.
        items: One array a sample.
        collate: From some items to inputs; None for the source's preprocessing.
        label: Under which progress is reported; empty for none.
    """
    collate = collate or context.source.preprocess.collate
    order = np.argsort(lengths_of(items), kind="stable")
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(order), context.batch_size):
            batch = collate([items[i] for i in order[start : start + context.batch_size]])
            batch = context.runtime.inputs(tuple(t.to(dtype) if t.is_floating_point() else t for t in batch))
            parts.append(module(*batch).float().cpu())
            if label:
                context.observer.progress(label, min(start + context.batch_size, len(order)), len(order))
    outputs = torch.cat(parts)
    result = torch.empty_like(outputs)
    result[torch.from_numpy(order)] = outputs
    return result


def _through(
    context: Context,
    shelf: Shelf,
    indices: Indices,
    compute: Callable[[Sequence[int]], list[Any]],
    label: str,
) -> Records:
    hashes = context.hashes(indices)
    lacking = shelf.missing(hashes)
    for start in range(0, len(lacking), _SHARD):
        part = lacking[start : start + _SHARD]
        began = time.perf_counter()
        records = compute([int(indices[i]) for i in part])
        shelf.add(hashes[part], records, time.perf_counter() - began)
        context.observer.progress(label, min(start + _SHARD, len(lacking)), len(lacking))
    return shelf.read(hashes)
