"""A pass over data that no disk of ours holds: from shards of samples to shards of features, one file for one.

A worker has the source loaded once, streams a shard's samples through it a few batches at a time, and writes the
shard's file, which appears whole or not at all. A file that is there is not computed again: so a pass that was killed
goes on, a worker that died is replaced, and every sample has one record.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Condition, Event, Semaphore, Thread
from typing import IO, Any, TypeVar

import numpy as np
import torch

from bequest.core import errors
from bequest.core.errors import BequestError, DataError, RunError, SourceError, first_line
from bequest.core.observe import Observer
from bequest.core.results import atomic_open, is_temporary
from bequest.core.typed import check_fields
from bequest.data.addresses import filesystem
from bequest.data.feature_files import MANIFEST, SUFFIX, FeatureWriter, is_out_of_reach, read_whole
from bequest.data.images import decode_image
from bequest.data.messages import counted, listed
from bequest.data.shards import Columns, InputShard, Item, read_items
from bequest.data.text import Texts
from bequest.engine import cluster, workers
from bequest.engine.cluster import Resources
from bequest.engine.features import Work, circumstances, frozen_copy, run_frozen, tap_key
from bequest.engine.memory import LackOfMemory, enough_memory, release
from bequest.engine.runtime import Precision, choose_runtime
from bequest.nn.taps import Apart, Tap, Tapped
from bequest.sources import Source, get

Array = np.ndarray[Any, Any]
Row = tuple[str, str, bytes]
"""A sample's key, label and content hash."""
Record = dict[str, Any]
"""Of a shard: `name`, `file`, `num_samples`, `digest`, `keys`, `columns` and `bad` (pairs of a key and a reason)."""

_DECODERS = 4
"""Threads that read and decode ahead of the network."""
_MOST_WAITING = 2**28
"""Bytes of samples that are read and not yet decoded."""
_TEXT_BATCHES = 16
"""Of texts, that are sorted by length together."""
_MOST_BLOCKS = 4096
"""Of Ray Data's; shards beyond it share one."""
_ABANDONED_S = 24 * 3600
"""A file that nobody has written to for so long is one that a killed process left; others may be at work beside us."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class FeaturePass:
    """What a pass computes; it can be sent to other processes.

    Attributes:
        source: The source, where only an object tells it; None where `request` does.
        request: The arguments of `bequest.sources.get`.
        fingerprint: Of the body that every worker must have.
        preprocess: Fingerprint of the preprocessing.
        taps: Where the body is read.
        columns: What is what in the data.
        out: Folder or address of the files.
        batch_size: Samples in a forward pass.
        precision: As for `choose_runtime`.
        skip_bad: Leave out samples that cannot be read, and say which.
    """

    source: Source | None
    request: dict[str, Any]
    fingerprint: str
    preprocess: str
    taps: tuple[Tap, ...]
    columns: Columns
    out: str
    batch_size: int = 32
    precision: Precision = "auto"
    skip_bad: bool = False

    @classmethod
    def of(cls, source: Source, taps: Sequence[Tap], out: str | Path, columns: Columns, **options: Any) -> FeaturePass:
        """The pass of a source.

        Raises:
            SourceError: The source takes arrays, or its preprocessing has no name beyond this process.
        """
        if source.modality == "array" or not source.preprocess.persistent:
            raise SourceError(
                f"{source.name!r} takes arrays, or is prepared for by a function without a version; expected a source "
                "of images or texts whose preprocessing has a name that other processes know. Give it a version: "
                "FunctionPreprocess(function, modality, version)."
            )
        sent = None if source.request else source
        named = source.fingerprint, source.preprocess.fingerprint
        return cls(sent, source.request, *named, tuple(taps), columns, str(out), **options)

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of each layer, by its name."""
        return {tap.name or "embedding": tap.width for tap in self.taps}


class ShardWorker:
    """Makes shards of features; the source is loaded once.

    Args:
        work: The pass.
        threads: To compute with; None for as many as this process has.

    Raises:
        SourceError: The source here is another than where the pass began.
    """

    def __init__(self, work: FeaturePass, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.work, self.source = work, work.source or get(**work.request)
        if (self.source.fingerprint, self.source.preprocess.fingerprint) != (work.fingerprint, work.preprocess):
            raise SourceError(
                f"The source {self.source.name!r} has other weights or preprocessing on {platform.node()} than where "
                "the pass was started; expected the same everywhere. Install the same package, or copy the folder."
            )
        self._runtime = choose_runtime(work.precision)
        same = circumstances(self.source.preprocess, self._runtime)
        self._keys = {name: {**tap_key(work.fingerprint, tap), **same} for name, tap in _named(work.taps)}

    @cached_property
    def _module(self) -> Work:
        module = frozen_copy(self._runtime, Apart(Tapped(self.source.body, self.work.taps)))
        ragged = (False,) * len(self.work.taps)
        return Work(module, self.source.preprocess, self.work.batch_size, ragged)

    def make(self, shard: InputShard) -> Record:
        """The record of a shard whose file is there afterwards, computed if it was not.

        Raises:
            DataError: A sample cannot be read, and is not to be left out; or the shard cannot.
        """
        found = finished(self.work.out, shard.name)
        if found is not None:
            return found
        bad: list[tuple[str, str]] = []
        began = time.perf_counter()
        with appearing(self.work.out, shard.name + SUFFIX) as file, FeatureWriter(file, self.work.widths) as writer:
            for rows, encoded in self._windows(shard, bad):
                writer.write(rows, self._features(encoded))
            own = {"keys": self._keys, "columns": asdict(self.work.columns), "bad": bad}
            about = {"name": shard.name, **own, "versions": versions()}
            about["seconds"] = time.perf_counter() - began
            writer.finish(about)
        release()
        made = {"num_samples": writer.num_rows, "digest": writer.digest, "file": shard.name + SUFFIX}
        return {"name": shard.name, **made, **own}

    def _features(self, encoded: list[Array]) -> Array:
        order = np.argsort([len(item) for item in encoded], kind="stable")
        layers = run_frozen(self._module, self._runtime, [encoded[i] for i in order])
        features = np.empty((len(encoded), sum(self.work.widths.values())), np.float32)
        features[order] = np.concatenate([torch.stack(rows).float().numpy() for rows in layers], 1)
        return features

    def _windows(self, shard: InputShard, bad: list[tuple[str, str]]) -> Iterator[tuple[list[Row], list[Array]]]:
        """What goes through the network together; what cannot be read is noted, or raised."""
        size = self.work.batch_size * (1 if self.source.modality == "image" else _TEXT_BATCHES)
        rows, encoded = list[Row](), list[Array]()
        for key, label, future in _ahead(self._encoding(shard), 2 * size):
            try:
                content, array = future.result()
            except DataError as error:
                if not self.work.skip_bad:
                    raise DataError(f"{error} Or leave such samples out: --skip-bad.") from error
                bad.append((key, str(error)))
                continue
            rows.append((key, label, content))
            encoded.append(array)
            if len(rows) == size:
                yield rows, encoded
                rows, encoded = [], []
        if rows:
            yield rows, encoded

    def _encoding(self, shard: InputShard) -> Iterator[tuple[str, str, Future[tuple[bytes, Array]]]]:
        """Key, label, and what will be encoded, without the item, which may hold far more than that."""
        room = _Room(_MOST_WAITING)
        with ThreadPoolExecutor(_DECODERS) as pool:
            for item in read_items(shard, self.source.modality, self.work.columns):
                room.take(item.num_bytes)
                future = pool.submit(self._encode, item)
                future.add_done_callback(partial(room.give, item.num_bytes))
                yield item.key, item.label, future
                del item, future  # else it is held while the next one is read

    def _encode(self, item: Item) -> tuple[bytes, Array]:
        try:
            content = item.read()
        except OSError as error:
            raise DataError(f"{item.key} cannot be read ({error.strerror or error}). Replace or remove it.") from error
        if self.source.modality == "image":
            digest = hashlib.blake2b(content, digest_size=16).digest()
            return digest, self.source.preprocess.encode(decode_image(content, item.key))
        return Texts((content,), (item.key,)).content_hash(0), self.source.preprocess.encode(content)


def _named(taps: Sequence[Tap]) -> list[tuple[str, Tap]]:
    return [(tap.name or "embedding", tap) for tap in taps]


def versions() -> dict[str, str]:
    """Of what computes features."""
    from importlib.metadata import version

    return {"bequest": version("bequest"), "torch": torch.__version__, "python": platform.python_version()}


Run = Callable[[FeaturePass, list[InputShard]], Iterator[Record]]
"""Makes the shards that are to be made, in any order."""


def made_here(work: FeaturePass, todo: list[InputShard]) -> Iterator[Record]:
    """The shards' records, made here, one after another."""
    worker = ShardWorker(work) if todo else None
    for shard in todo:
        assert worker is not None, "there are shards"
        yield worker.make(shard)


@dataclass(frozen=True)
class OnRay:
    """Makes shards by an actor pool of Ray Data.

    Attributes:
        ray: The module, connected.
        asked: What each worker has for itself.
    """

    ray: Any
    asked: Resources

    def __call__(self, work: FeaturePass, todo: list[InputShard]) -> Iterator[Record]:
        """The shards' records as they are made."""
        if not todo:
            return iter(())
        return self._through_a_client(work, todo) if _is_client() else self.from_within(work, todo)

    def from_within(self, work: FeaturePass, todo: list[InputShard]) -> Iterator[Record]:
        """The same by a process of the cluster itself."""
        from ray import data

        with _quiet(data.DataContext.get_current()):
            rows = [{"shard": json.dumps(asdict(shard))} for shard in todo]
            stated: dict[str, Any] = dict(self.asked.describe())
            begun = self.ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Begun).remote(
                workers.RESTARTS + 1
            )
            made = data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map_batches(
                _Actor,
                fn_constructor_args=(work, self.asked.threads, begun, cluster.versions()),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=workers.num_workers(self.ray, self.asked, len(todo))),
                **stated,
            )
            for row in made.iter_rows():
                yield _record(json.loads(row["record"]))

    def _through_a_client(self, work: FeaturePass, todo: list[InputShard]) -> Iterator[Record]:
        driver = self.ray.remote(num_cpus=0)(_Driver).remote(self.asked, work, todo)
        try:
            while record := workers.result(self.ray, driver.next.remote()):
                yield record
        except self.ray.exceptions.RayActorError as error:
            raise RunError(
                f"The process of the cluster that drives the pass was lost ({first_line(error)}). "
                "What is finished is kept: the same command goes on."
            ) from error


def _is_client() -> bool:
    """Whether this process is connected through a client server (`ray://`), and no process of the cluster itself."""
    from ray.util.client import ray

    return ray.is_connected()


class _Driver:
    """Carries a pass out from within the cluster, for one that is connected from without: Ray Data cannot."""

    def __init__(self, asked: Resources, work: FeaturePass, todo: list[InputShard]) -> None:
        import ray

        self.records = OnRay(ray, asked).from_within(work, todo)

    def next(self) -> Record | None:
        """The next shard's record; None where there is none."""
        return next(self.records, None)


class _Begun:
    """Lives on the cluster and counts the times that a shard was begun and not ended: deaths of its workers.

    Ray Data replaces a worker that died without end, and has no limit to set.
    """

    def __init__(self, most: int) -> None:
        self.most, self.times = most, Counter[str]()

    def begin(self, name: str) -> int:
        """How often its workers died, if that is as often as may be; 0 if it may be begun."""
        if self.times[name] >= self.most:
            return self.times[name]
        self.times[name] += 1
        return 0

    def end(self, name: str) -> None:
        """It is made, or fails for another reason than a death."""
        del self.times[name]


class _Actor:
    """A worker of Ray Data's pool. Faults that the user can mend come back as records, whole and once."""

    def __init__(self, work: FeaturePass, threads: int, begun: Any, versions: Mapping[str, str]) -> None:
        self.work, self.threads, self.begun, self.versions = work, threads, begun, versions

    @cached_property
    def worker(self) -> ShardWorker:
        return ShardWorker(self.work, self.threads)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"record": np.array([json.dumps(self._make(text)) for text in batch["shard"]], dtype=object)}

    def _make(self, text: str) -> Record:
        import ray

        shard = _input_shard(json.loads(text))
        try:
            cluster.check_versions(self.versions)
            deaths: Any = ray.get(self.begun.begin.remote(shard.name))
            if deaths:
                raise workers.died(f"at {shard.name} of the data", deaths)
            with enough_memory():
                record = self.worker.make(shard)
        except (BequestError, LackOfMemory) as error:
            record = {"error": type(error).__name__, "text": str(error)}
        self.begun.end.remote(shard.name)
        return record


def _input_shard(content: dict[str, Any]) -> InputShard:
    first, end = content["groups"]
    return InputShard(content["name"], content["kind"], content["base"], tuple(content["keys"]), (first, end))


def _record(content: Record) -> Record:
    if "error" in content:
        raise getattr(errors, content["error"], RunError)(content["text"])
    return content


@contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Ray Data says nothing of itself meanwhile."""
    logger, before = logging.getLogger("ray.data"), context.enable_progress_bars
    level = logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before
        logger.setLevel(level)


@dataclass
class Extraction:
    """A pass over shards, with what earlier ones have left.

    Attributes:
        work: The pass.
        shards: All of the data's.
        observer: Hears of progress.
        records: Of the shards that are finished, by name.
    """

    work: FeaturePass
    shards: Sequence[InputShard]
    observer: Observer
    records: dict[str, Record] = field(default_factory=dict[str, Record])

    def carry_out(self, run: Run) -> Record:
        """Make what is lacking, and the manifest.

        Raises:
            DataError: A sample cannot be read, or a name stands for two.
            RunError: The folder holds features of another pass.
        """
        self._find()
        todo = [shard for shard in self.shards if shard.name not in self.records]
        if self.records:
            self.observer.note(f"{counted(len(self.records), 'shard')} of {len(self.shards):,} are there already.")
        self.observer.progress("shards of features", len(self.records), len(self.shards))
        for record in run(self.work, todo):
            self._enter(record)
            self.observer.progress("shards of features", len(self.records), len(self.shards))
        return self._finish()

    def _find(self) -> None:
        """Enter what is there; refuse what is not of this pass."""
        system, folder = filesystem(self.work.out)
        known = {shard.name + SUFFIX for shard in self.shards}
        present = system.ls(folder, detail=False) if system.isdir(folder) else []
        names = sorted(Path(path).name for path in present if path.endswith(SUFFIX))
        names = [name for name in names if not name.startswith(".")]
        foreign = [name for name in names if name not in known]
        if foreign:
            raise RunError(
                f"{self.work.out} holds {counted(len(foreign), 'file')} of other data: {listed(foreign, 3)}; "
                "expected a new folder, or one of a pass over these data. Give another --out."
            )
        _remove_abandoned(self.work.out)
        with ThreadPoolExecutor(_DECODERS) as pool:
            for name, record in zip(names, pool.map(self._found, names), strict=True):
                if record is None:
                    self.observer.note(f"{name} in {self.work.out} is damaged; it is computed again.")
                    system.rm_file(f"{folder}/{name}")
                else:
                    self._enter(record)

    def _found(self, name: str) -> Record | None:
        try:
            return finished(self.work.out, name.removesuffix(SUFFIX))
        except DataError as error:
            if not is_out_of_reach(error):
                return None
            raise RunError(
                f"{name} in {self.work.out} cannot be read now ({first_line(error.__cause__ or error)}); expected all "
                "that an earlier pass has left there. Nothing was removed: run this again when it can be."
            ) from error

    def _enter(self, record: Record) -> None:
        self._check_same(record)
        if record["bad"] and not self.work.skip_bad:
            raise DataError(
                f"{record['file']} in {self.work.out} was written without {counted(len(record['bad']), 'sample')} that "
                f"cannot be read, e.g. {record['bad'][0][0]}. Go on with --skip-bad, or remove the file."
            )
        self.records[record["name"]] = record

    def _check_same(self, record: Record) -> None:
        """Refuse what another source, preprocessing or device made, or what was made of other columns."""
        same = {"preprocess": self.work.preprocess, "torch": torch.__version__}
        asked = {name: {**tap_key(self.work.fingerprint, tap), **same} for name, tap in _named(self.work.taps)}
        first = next(iter(self.records.values()), record)["keys"]
        differing = sorted({*_differing(record["keys"], asked), *_differing(first, record["keys"])})
        columns = asdict(self.work.columns)
        differing += [f"column of {name}s" for name in columns if record["columns"].get(name) != columns[name]]
        if differing:
            raise RunError(
                f"{record['file']} in {self.work.out} was made otherwise than this pass makes features (what differs: "
                f"{', '.join(differing)}); expected the same in one folder. Give another --out."
            )

    def _finish(self) -> Record:
        records = [self.records[shard.name] for shard in self.shards]
        bad = [pair for record in records for pair in record["bad"]]
        if bad:
            shown = [f"{key} ({reason})" for key, reason in bad[:3]]
            self.observer.note(f"Left out {counted(len(bad), 'unreadable sample')}: {listed(shown, 3)} (--skip-bad).")
        manifest = {
            "num_samples": sum(record["num_samples"] for record in records),
            "layers": self.work.widths,
            "keys": records[0]["keys"],
            "columns": records[0]["columns"],
            "versions": versions(),
            "shards": [{k: v for k, v in record.items() if k not in ("keys", "columns", "name")} for record in records],
        }
        with appearing(self.work.out, MANIFEST) as file:
            file.write((json.dumps(manifest, indent=1) + "\n").encode())
        return manifest


def _differing(keys: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What of the keys of layers is not as it is asked for."""
    if keys.keys() != asked.keys():
        return ["layers"]
    return [name for layer, told in asked.items() for name, value in told.items() if keys[layer].get(name) != value]


def finished(out: str, name: str) -> Record | None:
    """The record of a shard whose file is there, after all that is in it was checked; None where it is not.

    Raises:
        DataError: It is damaged, or that of another shard.
    """
    system, folder = filesystem(out)
    path = f"{folder}/{name}{SUFFIX}"
    if not system.isfile(path):
        return None
    with system.open(path, "rb") as file:
        end = read_whole(file, path)
    told: dict[str, Any] = {field: end.about.get(field) for field in ("name", "keys", "columns", "bad")}
    try:
        check_fields(_Told(**told))
        if any(len(pair) != 2 for pair in told["bad"]):
            raise TypeError("bad has others than a key and a reason, expected pairs")
    except TypeError as error:
        raise DataError(f"{path} does not say what made it ({error}). Remove it, and run this again.") from error
    if told["name"] != name:
        raise DataError(f"{path} is the file of the shard {told['name']}. Remove it, and run this again.")
    bad = [(key, why) for key, why in told["bad"]]
    made = {"num_samples": sum(end.num_rows), "digest": end.about["digest"], "file": name + SUFFIX}
    return {"name": name, **made, "keys": told["keys"], "columns": told["columns"], "bad": bad}


@dataclass(frozen=True)
class _Told:
    name: str
    keys: dict[str, dict[str, Any]]
    columns: dict[str, str | None]
    bad: list[list[str]]


def _remove_abandoned(folder: str) -> None:
    """What processes that were killed left half-written in a local folder."""
    from fsspec.implementations.local import LocalFileSystem

    system, path = filesystem(folder)
    if not isinstance(system, LocalFileSystem):
        return
    for file in filter(is_temporary, list(Path(path).glob(".*"))):
        with suppress(OSError):  # another process may remove it first
            if time.time() - file.stat().st_mtime > _ABANDONED_S:
                file.unlink()


@contextmanager
def appearing(folder: str, name: str) -> Iterator[IO[bytes]]:
    """A file in a folder of any file system, which appears whole or not at all.

    Elsewhere than on a local disk it is written here first, and put there in one go, which object stores do whole or
    not at all.

    Raises:
        RunError: It cannot be written.
    """
    from fsspec.implementations.local import LocalFileSystem

    system, path = filesystem(folder)
    try:
        if isinstance(system, LocalFileSystem):
            with atomic_open(Path(path) / name) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile() as file:
            yield file  # pyright: ignore[reportReturnType]
            file.flush()
            system.makedirs(path, exist_ok=True)
            system.put_file(file.name, f"{path}/{name}")
    except OSError as error:
        raise RunError(
            f"Cannot write {name} into {folder} ({error.strerror or error}); expected a place with room for it."
        ) from error


class _Room:
    """Bytes that may wait at once; what takes more than all of them waits alone."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._changed = most, 0, Condition()

    def take(self, count: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self._most)
            self._taken += count

    def give(self, count: int, _: Any = None) -> None:
        """Give room back."""
        with self._changed:
            self._taken -= count
            self._changed.notify_all()


def _ahead(items: Iterator[_T], depth: int) -> Iterator[_T]:
    """The same items; a thread is ahead of whoever asks by so many."""
    slots, found = Semaphore(depth), SimpleQueue[Any]()
    over = Event()

    def fill() -> None:
        try:
            for item in items:
                slots.acquire()
                if over.is_set():
                    break
                found.put((item, None))
            found.put((None, StopIteration()))
        except BaseException as error:
            found.put((None, error))

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            item, error = found.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            slots.release()
            yield item
    finally:
        over.set()
        slots.release()
        thread.join()
