"""Features of data as a file, or as a folder of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.api.inputs import Precision, read_source, read_task, read_workers, refuse_language, watching
from bequest.comparison.entries import check_modality
from bequest.core.checks import check_count
from bequest.core.errors import DataError
from bequest.core.observe import Observer
from bequest.core.task import Task
from bequest.data.addresses import takes_from
from bequest.data.labels import TaskChoice
from bequest.data.output import WRITERS, FeatureTable, check_suffix, write_features
from bequest.data.shards import Columns as ShardColumns
from bequest.data.shards import find_shards
from bequest.engine.cluster import Resources, connected
from bequest.engine.context import Context
from bequest.engine.features import embeddings
from bequest.engine.runtime import choose_runtime
from bequest.engine.sharded import Extraction, FeaturePass, OnRay, made_here
from bequest.engine.store import Store
from bequest.nn.taps import Tapped
from bequest.sources import Source
from bequest.sources import get as get_source
from bequest.sources.taps import column_names, named_taps

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FeatureFile:
    """A file of features, or a folder of shards.

    Attributes:
        path: Where it lies; an address as it was given.
        num_samples: Its rows.
        columns: Names of the features' columns; in shards those of one layer are one list.
    """

    path: Path | str
    num_samples: int
    columns: tuple[str, ...]


def features(
    data: Any,
    source: str | Source | nn.Module,
    out: str | Path,
    *,
    layers: str | Sequence[str] = "last",
    pool_to: int = 0,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    batch_size: int = 32,
    precision: Precision = "auto",
    on: str | None = None,
    resources: str | None = None,
    shard_size: int = 4096,
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
) -> FeatureFile:
    """Write what layers of the frozen source make of every sample into a file, or a folder of shards.

    Its columns are `id` (the sample's file or row), `label` (of several targets or labels one column each,
    `label:<name>`), `split` and `group` where the data give them, and `<layer>:<i>` for every feature, float32. An .npz
    file holds the features as one array, `features`, and their names as `columns`. `FeatureExtractor` gives features
    in memory.

    Where `out` is a folder, the data may be larger than any disk of yours: nothing of them is kept, each shard of them
    becomes one Parquet file, and a pass that was killed goes on with the shards that are lacking. Their columns are
    `key`, `label` (where the data give it), `hash` (of the content) and a list of numbers for each layer.
    docs/scale.md has the rest.

    Args:
        data: As for `compare`. For a folder of shards a folder or pattern of images, .txt files, Parquet files or
            WebDataset's tars, at any address that fsspec knows.
        source: As for `compare`.
        out: A file that ends in .parquet, .csv or .npz; or a folder, or the address of one, outside the data.
        layers: `last` for the embedding; `all` for every layer of depth and the embedding; or layers' names, with
            commas between or in a list (`bequest ls layers SOURCE --taps`).
        pool_to: Numbers to pool each layer's output to, about; 0 for the mean over its places.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`.
        image_size: As for `compare`.
        source_head: As for `compare`.
        pooling: As for `compare`.
        cut_at: As for `compare`.
        adapter: As for `compare`.
        batch_size: Samples in a forward pass.
        precision: As for `compare`.
        on: Who makes a folder of shards: `ray`, or `ray://HOST:PORT`, for an actor pool of Ray Data; None for this
            process.
        resources: With `on`, what each worker has for itself, e.g. `cpus=2,gpus=0.5,memory=4GB`; None for one core.
        shard_size: Samples in a shard of a folder, about; a tar is one shard.
        cache: As for `compare`; a folder of shards does not use it.
        observer: As for `compare`.
        progress: As for `compare`.

    Returns:
        The file, or the folder.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`; there is no such layer; the file cannot
            be written.
    """
    path, is_folder = Path(out), _is_folder(out)
    if is_folder:
        given = {"--split-column": split_column, "--group-column": group_column, "--cache": cache}
        given |= {"--task": task if task != "auto" else None, "--encoding": encoding if encoding != "utf-8" else None}
        _refuse_for_shards(given)
    else:
        check_suffix(path)
        _refuse_for_file({"--on": on, "--resources": resources}, path)
    pool_to, batch_size = check_count("--pool-to", pool_to, 0), check_count("--batch-size", batch_size, 1)
    if is_folder:
        options = {"max_tokens": max_tokens, "image_size": image_size, "pooling": pooling, "cut_at": cut_at}
        source = _named_source(source, head=source_head, adapter=adapter, **options)
        sample = _sample_column(source, text_column, image_column)
        with watching(observer, progress) as watcher:
            return _shards_of_features(
                data,
                FeaturePass.of(
                    source,
                    named_taps(source, layers, target=pool_to),
                    str(out) if "://" in str(out) else path.expanduser().absolute(),
                    ShardColumns(sample, _one_label(label_column)),
                    batch_size=batch_size,
                    precision=precision,
                    skip_bad=skip_bad,
                ),
                source,
                check_count("--shard-size", shard_size, 1),
                on,
                read_workers(on, resources),
                watcher,
            )
    columns = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    loaded = read_task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
    refuse_language(loaded, "features")
    source = read_source(source, loaded, max_tokens, image_size, source_head, pooling, cut_at, adapter=adapter)
    check_modality(loaded, source)
    taps = named_taps(source, layers, target=pool_to, task=loaded)
    with watching(observer, progress) as watcher:
        store = Store(Path(cache) if cache is not None else None, note=watcher.note)
        context = Context(source, loaded, store, choose_runtime(precision), watcher, batch_size=batch_size)
        for note in loaded.notes:
            watcher.note(note)
        found = embeddings(context, range(len(loaded.samples)), Tapped(source.body, taps))
    names = column_names(taps)
    table = FeatureTable(len(found), names, partial(_known, loaded), lambda start, stop: found[start:stop].stack())
    write_features(table, path)
    return FeatureFile(path, len(found), tuple(names))


def _is_folder(out: str | Path) -> bool:
    """Whether shards go there: into a name without a suffix, or an address."""
    is_address, suffix = "://" in str(out), Path(out).suffix.lower()
    if is_address and suffix in WRITERS:
        raise DataError(
            f"--out is {out}; expected a local file, or the address of a folder, into which shards of features are "
            f"written. Leave out {suffix}, or write the file here and copy it there."
        )
    return is_address or not suffix


def _sample_column(source: Source, text: str | None, image: str | None) -> str | None:
    """The column that was named for samples of the source's kind."""
    flags = {"image": ("--text-column", text, image), "text": ("--image-column", image, text)}
    flag, wrong, right = flags.get(source.modality, ("", None, None))
    if wrong is not None:
        raise DataError(f"{flag} is given, but the source takes samples of kind {source.modality}. Leave it out.")
    return right


def _one_label(label: str | Sequence[str] | None) -> str | None:
    names = [name for name in label.split(",") if name.strip()] if isinstance(label, str) else list(label or ())
    if len(names) > 1:
        raise DataError(
            f"--label-column names {len(names)} columns ({', '.join(names)}), but --out is a folder, of whose shards "
            "each sample has one label; expected one. Name one, or give a file that ends in .parquet, .csv or .npz as "
            "--out."
        )
    return names[0] if names else None


def _refuse_for_shards(given: Mapping[str, Any]) -> None:
    named = [flag for flag, value in given.items() if value is not None]
    if named:
        raise DataError(
            f"{' and '.join(named)} given, but --out is a folder, of whose shards each sample has a key and a label "
            "alone; expected none of these. Leave it out, or give a file that ends in .parquet, .csv or .npz as --out."
        )


def _refuse_for_file(given: Mapping[str, Any], path: Path) -> None:
    named = [flag for flag, value in given.items() if value is not None]
    if named:
        raise DataError(
            f"{' and '.join(named)} given, but --out is one file, {path}; expected a folder, into which every worker "
            "writes shards. Give a name without a suffix."
        )


def _named_source(source: Any, **options: Any) -> Source:
    """A source that is there before any sample is seen."""
    if isinstance(source, Source):
        return source
    if not isinstance(source, str):
        raise DataError(
            "A module cannot be sent to workers as it is; expected a source's name or a Source. Make one: "
            "bequest.from_module(module, example=batch, preprocess=...)."
        )
    return get_source(source, **options)


def _shards_of_features(
    data: Any,
    work: FeaturePass,
    source: Source,
    size: int,
    on: str | None,
    asked: Resources,
    watcher: Observer,
) -> FeatureFile:
    if not isinstance(data, str | Path):
        raise DataError("For a folder of shards the data are one address; expected a folder, a file or a pattern.")
    if takes_from(str(data), work.out):
        raise DataError(
            f"--out, {work.out}, lies within the data, {data}, so the next pass would take the features for data; "
            "expected a folder elsewhere. Give another --out."
        )
    extraction = Extraction(work, find_shards(data, source.modality, size, watcher), watcher)
    if on is None:
        manifest = extraction.carry_out(made_here)
    else:
        with connected(on, asked) as ray:
            manifest = extraction.carry_out(OnRay(ray, asked))
    place = work.out if "://" in work.out else Path(work.out)
    return FeatureFile(place, manifest["num_samples"], tuple(column_names(work.taps)))


def _known(task: Task, start: int, stop: int) -> dict[str, list[Any]]:
    """What a task says of some samples, as columns."""
    rows = range(start, stop)
    columns: dict[str, list[Any]] = {"id": [task.samples.describe(i) for i in rows]}
    if task.kind == "classification":
        columns["label"] = [task.classes[i] for i in task.labels[start:stop]]
    else:
        values = task.labels[start:stop].astype(np.int64 if task.kind == "multi-label" else np.float64)
        columns |= {f"label:{name}": values[:, i].tolist() for i, name in enumerate(task.classes)}
    if task.split:
        columns["split"] = list(task.split[start:stop])
    if task.groups is not None:
        groups = task.groups[start:stop].tolist()
        columns["group"] = [task.group_names[i] for i in groups] if task.group_names else groups
    return columns
