"""Passes of samples through what is frozen, once each: encoding (decode, augment, resize, tokenise) and networks."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bequest.core.errors import DataError
from bequest.core.task import HashArray
from bequest.data.samples import unreadable
from bequest.engine.context import Context, Indices
from bequest.engine.memory import release
from bequest.engine.runtime import Runtime
from bequest.engine.store import Array, Records, Shelf, lengths_of, room_for
from bequest.nn.network import fingerprint
from bequest.nn.taps import Apart, Tap, Tapped, embedding_tap, tapped
from bequest.sources.preprocess import Preprocess

_SHARD = 512
"""Most records in a shard. A whole number of batches: an interrupted pass that goes on then forms the same batches as
an undisturbed one, so its results are the same to the bit."""

_Compute = Callable[[Iterable[Array]], Iterator[tuple[list[list[Any]], float]]]
"""From parts, in order, to what is computed of each and the seconds that it took."""

_SHARD_BYTES = 2**26
"""What a shard is to take at most, in memory before it is written."""


def encoded(context: Context, indices: Indices, view: int = 0) -> Records:
    """The preprocessed samples (token ids, resized pixels), from the store.

    Args:
        context: The run.
        indices: Samples of the task.
        view: Which view of them; 0 is the plain sample.
    """
    preprocess = context.source.preprocess
    shelf = context.store.shelf(
        {"what": "encoded", "preprocess": preprocess.fingerprint, "view": context.views.key(view)},
        persistent=preprocess.persistent,
    )
    indices = np.asarray(indices, dtype=np.int64)

    def compute(positions: Array) -> list[list[Any]]:
        wanted = indices[positions].tolist()
        try:
            if context.task.modality == "image":
                with ThreadPoolExecutor() as pool:
                    return [list(pool.map(lambda index: encode(context, index, view), wanted))]
            return [[encode(context, index, view) for index in wanted]]
        except DataError as error:
            raise unreadable(context.task.samples, error) from error

    [records] = _through(context, [shelf], context.hashes(indices), partial(_in_turn, compute), "reading samples")
    return records


def encode(context: Context, index: int, view: int) -> Array:
    """One preprocessed sample, made anew; arguments as for `encoded`."""
    preprocess, sample = context.source.preprocess, context.task.samples[index]
    if view == 0:
        return preprocess.encode(sample)
    content = context.task.hashes[index].tobytes()
    return preprocess.encode_view(sample, lambda image, side: context.views.recipe.apply(image, content, view, side))


@dataclass(frozen=True)
class Frozen:
    """A frozen function of encoded samples, with one output or several.

    Attributes:
        keys: Each names an output for the store.
        module: From positions in `keys` to a module, ready to run, that gives those outputs: one, or a tuple.
        ragged: Of each output, whether its first dimension after the batch is a sample's tokens.
        num_bytes: What the outputs for one sample take, about.
    """

    keys: tuple[dict[str, Any], ...]
    module: Callable[[Sequence[int]], nn.Module]
    ragged: tuple[bool, ...]
    num_bytes: float = 0.0


def frozen_outputs(
    context: Context,
    frozen: Frozen,
    items: Sequence[Array],
    hashes: HashArray,
    view: Any = 0,
    num_asked: int | None = None,
) -> list[Records]:
    """What a frozen function makes of samples, one `Records` an output, from the store; it runs on those it lacks.

    Args:
        context: The run.
        frozen: The function.
        items: The encoded samples.
        hashes: uint8 (items, 16): what tells the samples apart.
        view: Names the view of them, for the key.
        num_asked: How many of the outputs, from the first, are asked for; None for all. The others are made along
            with these where the function has to run, and not given back.
    """
    keys, shelves = _shelves(context, frozen, view)
    asked = shelves[:num_asked]
    # Asked once of each, for a process that shares the store may fill it at any time; of shelves that are not asked
    # for only what is computed anyway, since a look at what they have opens their files.
    missing = [shelf.missing(hashes) for shelf in asked]
    lacking = _union(missing)
    missing += [shelf.missing(hashes[lacking]) for shelf in shelves[len(asked) :]]
    context.passes.count(_pass_name(keys[:num_asked], hashes), len(hashes), len(lacking))
    wanted = [i for i, absent in enumerate(missing) if len(absent)]
    if not context.ranks.any(len(lacking) > 0):
        return [shelf.read(hashes) for shelf in asked]
    lengths = lengths_of(items)

    def compute(parts: Iterable[Array]) -> Iterator[tuple[list[list[Any]], float]]:
        ragged = tuple(frozen.ragged[i] for i in wanted)
        work = Work(frozen.module(wanted), context.source.preprocess, context.batch_size, ragged)
        if context.workers is not None:
            return context.workers.run(work, context.runtime, ([items[int(i)] for i in part] for part in parts))
        return _in_turn(lambda part: run_frozen(work, context.runtime, [items[int(i)] for i in part]), parts)

    # Samples of like length side by side, so that little padding is computed.
    order = lacking[np.argsort(lengths[lacking], kind="stable")]
    batches = max(1, int(_SHARD_BYTES / max(1, frozen.num_bytes * context.batch_size)))
    size = min(_SHARD, batches * context.batch_size)
    _through(context, [shelves[i] for i in wanted], hashes, compute, "frozen pass", order, size)
    return [shelf.read(hashes) for shelf in asked]


def num_lacking(context: Context, frozen: Frozen, hashes: HashArray, view: Any = 0) -> int:
    """How many of some samples a frozen function has still to run on; arguments as for `frozen_outputs`."""
    return len(_missing(_shelves(context, frozen, view)[1], hashes))


def circumstances(preprocess: Preprocess, runtime: Runtime, view: Any = 0) -> dict[str, Any]:
    """What a frozen function's outputs depend on beside itself and the sample, for the store's keys."""
    return {
        "preprocess": preprocess.fingerprint,
        "view": view,
        "runtime": {k: v for k, v in runtime.describe().items() if k != "training_precision"},
        "torch": torch.__version__,
    }


def tap_key(digest: str, tap: Tap) -> dict[str, Any]:
    """Names what a body, by the digest of its structure and weights, gives at a tap."""
    return {"what": "features", "body": digest, **tap.key}


def _shelves(context: Context, frozen: Frozen, view: Any) -> tuple[list[dict[str, Any]], list[Shelf]]:
    same = circumstances(context.source.preprocess, context.runtime, view)
    keys = [{**key, **same} for key in frozen.keys]
    return keys, [context.store.shelf(key, persistent=context.source.preprocess.persistent) for key in keys]


@dataclass(frozen=True)
class Columns(Sequence[Array]):
    """Features that lie side by side, each part in records of its own.

    Attributes:
        parts: Of the same samples, each record a vector.
    """

    parts: tuple[Records, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Columns(tuple(part[index] for part in self.parts))
        return np.concatenate([part[index] for part in self.parts])

    @property
    def seconds(self) -> float:
        """What computing them took, whenever and wherever that was: one pass made them all."""
        return max(part.seconds for part in self.parts)

    def stack(self) -> Array:
        """Float32 (samples, width); where that would be large, a mapped file without a name."""
        widths = [len(part[0]) for part in self.parts]
        out = room_for(self.parts[0], sum(widths))
        for start in range(0, len(self), _SHARD):
            rows = np.arange(start, min(start + _SHARD, len(self)))
            out[rows] = np.concatenate([part.gather(rows) for part in self.parts], 1)
        return out


def embeddings(
    context: Context, indices: Indices, body: nn.Module | None = None, *, of_source: bool = True
) -> Records | Columns:
    """What a body gives for every sample, float32 (width,), from the store; the body runs on those it lacks.

    Where it has to, the source's body makes along whatever else of it the run will ask for (`Context.taps`).

    Args:
        context: The run.
        indices: Samples of the task.
        body: A frozen body, tapped or not; None for the source's own.
        of_source: Whether it computes what the source's body does, so that its weights need not be looked at.
    """
    return embeddings_of(context, encoded(context, indices), context.hashes(indices), body, of_source=of_source)


def embeddings_of(
    context: Context,
    items: Sequence[Array],
    hashes: HashArray,
    body: nn.Module | None = None,
    view: Any = 0,
    *,
    of_source: bool = False,
) -> Records | Columns:
    """As `embeddings`, of any view of samples; arguments as there and for `frozen_outputs`."""
    base, asked = tapped(context.source.body if body is None else body)
    of_source = of_source or body is None
    # Wrappers that start as the identity are passed by, so that what is stored as the source's is the source's.
    base = context.source.body if of_source else base
    digest = context.source.fingerprint if of_source else fingerprint(base)
    embedding = embedding_tap(context.source.width)
    asked = asked or (embedding,)
    along = (embedding, *context.taps) if of_source else ()
    taps = (*asked, *(tap for tap in dict.fromkeys(along) if tap not in asked))
    frozen = Frozen(
        tuple(tap_key(digest, tap) for tap in taps),
        lambda chosen: frozen_module(context, Apart(Tapped(base, [taps[i] for i in chosen]))),
        (False,) * len(taps),
        sum(4.0 * tap.width for tap in taps),
    )
    found = frozen_outputs(context, frozen, items, hashes, view, num_asked=len(asked))
    return found[0] if len(found) == 1 else Columns(tuple(found))


def frozen_module(context: Context, module: nn.Module) -> nn.Module:
    """A copy of a module for frozen passes: on the device, in the precision for them, in eval mode."""
    return frozen_copy(context.runtime, module)


def frozen_copy(runtime: Runtime, module: nn.Module) -> nn.Module:
    """As `frozen_module`, outside a run."""
    dtype = torch.bfloat16 if runtime.frozen == "bfloat16" else torch.float32
    return runtime.place(copy.deepcopy(module).to(dtype=dtype)).eval().requires_grad_(False)


def forward(
    context: Context,
    module: nn.Module,
    items: Sequence[Any],
    *,
    collate: Callable[[Sequence[Any]], tuple[Tensor, ...]] | None = None,
    label: str = "",
) -> Tensor:
    """A module's outputs in eval mode, float32 (samples, …), in the order of `items`.

    Batches hold samples of like length, so that little padding is computed.

    Args:
        context: The run.
        module: In eval mode, on the device.
        items: One array a sample, or what `collate` takes.
        collate: From some items to inputs; None for the source's preprocessing.
        label: Under which progress is reported; empty for none.
    """
    collate, ranks = collate or context.source.preprocess.collate, context.ranks
    order = np.argsort(lengths_of(items), kind="stable")
    batches = [order[start : start + context.batch_size] for start in range(0, len(order), context.batch_size)]
    parts: list[Tensor] = []
    # Not inference mode: what a divided network puts together in it could not be trained with afterwards.
    with torch.no_grad(), context.lockstep():
        for first in range(0, len(batches), ranks.number):
            # One that has no batch left goes along, since a sharded network needs all: nothing of the last is taken.
            positions = batches[min(first + ranks.rank, len(batches) - 1)]
            batch = collate([items[int(i)] for i in positions])
            with _lower(module):
                outputs = module(*_inputs(context.runtime, module, batch)).float().cpu()
            parts.append(outputs if first + ranks.rank < len(batches) else outputs[:0])
            if label:
                context.observer.progress(
                    label, min((first + ranks.number) * context.batch_size, len(order)), len(order)
                )
    shares = [np.concatenate([order[:0], *batches[rank :: ranks.number]]) for rank in range(ranks.number)]
    outputs = ranks.gather(torch.cat(parts), [len(share) for share in shares])
    result = torch.empty_like(outputs)
    result[torch.from_numpy(np.concatenate(shares))] = outputs
    return result


@dataclass(frozen=True)
class Work:
    """A frozen function as it is run on encoded samples.

    Attributes:
        module: In eval mode, on the device; with one output or a tuple of them.
        preprocess: Makes a batch of encoded samples.
        batch_size: Samples in a forward pass.
        ragged: Of each output, whether its first dimension after the batch is a sample's tokens.
    """

    module: nn.Module
    preprocess: Preprocess
    batch_size: int
    ragged: tuple[bool, ...]


def run_frozen(work: Work, runtime: Runtime, items: Sequence[Array]) -> list[list[Any]]:
    """A frozen function's outputs, a list of one array or tensor a sample for each output."""
    found: list[list[Any]] = [[] for _ in work.ragged]
    with torch.inference_mode():
        for start in range(0, len(items), work.batch_size):
            part = items[start : start + work.batch_size]
            batch = work.preprocess.collate(part)
            with _lower(work.module):
                outputs = work.module(*_inputs(runtime, work.module, batch))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for records, output, cut_short in zip(found, outputs, work.ragged, strict=True):
                output = output.float() if output.dtype == torch.bfloat16 else output
                rows = output.cpu().unbind()
                records += [row[: len(item)] if cut_short else row for row, item in zip(rows, part, strict=True)]
    return found


def _lower(module: nn.Module) -> torch.autocast:
    """Lets a module in bfloat16 go on where it makes float32 of something by itself; of no effect on others."""
    first = next(module.parameters(), None)
    device = "cpu" if first is None else first.device.type
    return torch.autocast(device, torch.bfloat16, enabled=first is not None and first.dtype == torch.bfloat16)


def _inputs(runtime: Runtime, module: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    return runtime.inputs(tuple(t.to(dtype) if t.is_floating_point() else t for t in batch))


def _add(shelf: Shelf, hashes: HashArray, records: Sequence[Any], seconds: float) -> None:
    """Write what the shelf lacks; each of several outputs is said to have cost the whole pass, as alone it would."""
    lacking = shelf.missing(hashes)
    if len(lacking):
        shelf.add(hashes[lacking], [records[int(i)] for i in lacking], seconds * len(lacking) / len(hashes))


def _pass_name(keys: Sequence[dict[str, Any]], hashes: HashArray) -> str:
    digest = hashlib.blake2b(json.dumps(keys, sort_keys=True).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(hashes).data)
    return digest.hexdigest()


def _missing(shelves: Sequence[Shelf], hashes: HashArray) -> Array:
    """Positions of the samples that any shelf lacks."""
    return _union([shelf.missing(hashes) for shelf in shelves])


def _union(positions: Sequence[Array]) -> Array:
    """What is in any of the arrays, int64, ascending; nothing of no array."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *positions]))


def _in_turn(
    compute: Callable[[Array], list[list[Any]]], parts: Iterable[Array]
) -> Iterator[tuple[list[list[Any]], float]]:
    """What is computed of each part, and the seconds that it took."""
    for part in parts:
        began = time.perf_counter()
        found = compute(part)
        yield found, time.perf_counter() - began


def _through(
    context: Context,
    shelves: Sequence[Shelf],
    hashes: HashArray,
    compute: _Compute,
    label: str,
    lacking: Array | None = None,
    size: int = _SHARD,
) -> list[Records]:
    """Compute what the shelves lack, a shard of `size` at a time, divided among the processes.

    `compute` keeps the order of the parts.
    """
    lacking = _missing(shelves, hashes) if lacking is None else lacking
    for share in context.ranks.rounds():
        if not context.ranks.any(len(lacking) > 0):
            break
        with context.ranks.agreed():
            _fill(context, shelves, hashes, compute, label, share(lacking, context.batch_size), size)
        # What another process has computed is there now, if it shares this one's store.
        lacking = lacking[np.isin(lacking, _missing(shelves, hashes))]
    return [shelf.read(hashes) for shelf in shelves]


def _fill(
    context: Context,
    shelves: Sequence[Shelf],
    hashes: HashArray,
    compute: _Compute,
    label: str,
    lacking: Array,
    size: int,
) -> None:
    """Compute some samples' records and write them, a shard at a time."""
    if not len(lacking):
        return
    parts = [lacking[start : start + size] for start in range(0, len(lacking), size)]
    began, done = time.perf_counter(), 0
    for part, (found, seconds) in zip(parts, compute(parts), strict=True):
        for shelf, records in zip(shelves, found, strict=True):
            _add(shelf, hashes[part], records, seconds)
        release()
        done += len(part)
        context.passes.seconds += time.perf_counter() - began
        context.observer.progress(label, done, len(lacking))
        began = time.perf_counter()
