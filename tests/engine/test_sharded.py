"""Passes over shards: every sample once, whatever is lost meanwhile, here and by an actor pool of Ray Data."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from clusters import one_thread, two_cores
from faulting import fault

import bequest
from bequest.core.distillation import Distillation
from bequest.core.errors import DataError, RunError, SourceError
from bequest.core.observe import Silent
from bequest.data.arrays import read_samples
from bequest.data.feature_files import FeatureWriter, read_features
from bequest.data.shards import Columns, InputShard, find_shards
from bequest.data.views import choose_views
from bequest.engine import sharded, workers
from bequest.engine.cluster import Resources
from bequest.engine.context import Context
from bequest.engine.runtime import choose_runtime
from bequest.engine.sharded import Extraction, FeaturePass, OnRay, finished, made_here
from bequest.engine.store import Store
from bequest.engine.teaching import Teaching, teach_ahead
from bequest.engine.workers import Workers
from bequest.sources import Source, from_module
from bequest.sources.preprocess import ImagePreprocess
from bequest.sources.taps import named_taps

pytestmark = pytest.mark.first

parquet = pytest.importorskip("pyarrow.parquet")

BAD = b"no image at all"


@pytest.fixture(scope="module")
def cluster() -> Generator[Any]:
    import ray

    with two_cores():
        yield ray


@pytest.fixture(autouse=True)
def as_a_worker() -> Generator[None]:
    with one_thread():
        yield


def small() -> Source:
    """A body that other processes can be sent, with a preprocessing that has a name."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    preprocess = ImagePreprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return from_module(network, name="small", head="", preprocess=preprocess, example=torch.zeros(2, 3, 8, 8))


def png(number: int) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folder_of(place: Path, count: int = 20, bad: int = -1) -> Path:
    for i in range(count):
        path = place / f"{'ab'[i % 2]}/{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BAD if i == bad else png(i))
    return place


class Noted(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def work_of(source: Source, out: Path, **options: Any) -> FeaturePass:
    options = {"batch_size": 4, "precision": "float32", **options}
    return FeaturePass.of(source, named_taps(source, "last"), out, Columns(), **options)


def extraction(source: Source, data: Any, out: Path, size: int = 6, **options: Any) -> Extraction:
    return Extraction(work_of(source, out, **options), find_shards(data, "image", size, Silent()), Silent())


def rows(out: Path) -> dict[str, np.ndarray]:
    """Features by key; every key once."""
    found, _ = read_features(out)
    keys = list(found.keys)
    assert len(set(keys)) == len(keys) == len(found)
    return dict(zip(keys, found, strict=True))


def test_the_features_are_those_of_the_extractor(tmp_path: Path):
    source, data = small(), folder_of(tmp_path / "data")
    manifest = extraction(source, data, tmp_path / "out").carry_out(made_here)
    assert manifest["num_samples"] == 20 and [s["num_samples"] for s in manifest["shards"]] == [6, 6, 6, 2]
    found = rows(tmp_path / "out")
    extractor = bequest.FeatureExtractor(source, batch_size=4, cache=tmp_path / "cache", precision="float32")
    expected = extractor.fit_transform([data / key for key in found])
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=1e-6)


def test_a_pass_that_was_killed_goes_on_with_what_is_lacking(tmp_path: Path):
    source, data, out = small(), folder_of(tmp_path / "data"), tmp_path / "out"

    def killed(work: FeaturePass, todo: list[InputShard]) -> Iterator[Any]:
        yield from made_here(work, todo[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction(source, data, out).carry_out(killed)
    left, others = out / ".half.parquet.0000abcd.tmp", out / ".other.parquet.0000abce.tmp"
    for path in (left, others):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    assert len(before) == 2 and not (out / "features.json").exists()
    asked: list[str] = []

    def noted(work: FeaturePass, todo: list[InputShard]) -> Iterator[Any]:
        asked.extend(shard.name for shard in todo)
        return made_here(work, todo)

    extraction(source, data, out).carry_out(noted)
    assert len(asked) == 2
    assert not left.exists() and others.exists(), "what was written to of late may be another process's"
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert sorted(rows(out)) == sorted(f"{'ab'[i % 2]}/{i:02}.png" for i in range(20))
    whole = tmp_path / "whole"
    extraction(source, data, whole).carry_out(made_here)
    for key, values in rows(whole).items():
        np.testing.assert_array_equal(rows(out)[key], values)


def flipped(content: bytes, place: bytes) -> bytes:
    at = content.index(place)
    return content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :]


@pytest.mark.parametrize("damage", ["cut", "number", "key", "label", "foreign"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str):
    source, data, out = small(), folder_of(tmp_path / "data"), tmp_path / "out"
    extraction(source, data, out).carry_out(made_here)
    expected = rows(out)
    first, second = sorted(out.glob("*.parquet"))[:2]
    sound, key = first.read_bytes(), next(iter(parquet.read_table(first, columns=["key"]).column(0).to_pylist()))
    damaged = {
        "cut": sound[:-20],
        "number": flipped(sound, expected[key].tobytes()),
        "key": flipped(sound, key.encode()),
        "label": flipped(sound, b"\1\0\0\0" + key[:1].encode()),
        "foreign": second.read_bytes(),
    }
    first.write_bytes(damaged[damage])
    told = Noted()
    Extraction(work_of(source, out), find_shards(data, "image", 6, Silent()), told).carry_out(made_here)
    assert told.notes[0] == f"{first.name} in {out} is damaged; it is computed again."
    assert {key: values.tobytes() for key, values in rows(out).items()} == {k: v.tobytes() for k, v in expected.items()}


def test_a_file_that_is_out_of_reach_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, data, out = small(), folder_of(tmp_path / "data"), tmp_path / "out"
    extraction(source, data, out).carry_out(made_here)
    before = sorted(out.iterdir())
    for error in (OSError(errno.EIO, "Input/output error"), TimeoutError("no answer")):

        def unreachable(file: Any, name: str, error: OSError = error) -> Any:
            raise DataError(f"{name} is no whole file of features") from error

        monkeypatch.setattr(sharded, "read_whole", unreachable)
        told = r"cannot be read now \(.*(error|answer)\); expected all .*Nothing was removed"
        with pytest.raises(RunError, match=told):
            extraction(source, data, out).carry_out(made_here)
    assert sorted(out.iterdir()) == before


def test_large_samples_wait_one_by_one():
    room, done = sharded._Room(10), Event()
    room.take(8)

    def large() -> None:
        room.take(50)
        done.set()

    thread = Thread(target=large)
    thread.start()
    assert not done.wait(0.05), "8 of 10 are taken"
    room.give(8)
    thread.join(10)
    assert done.is_set(), "what is larger than all room waits for all of it, not for ever"


def test_a_worker_of_other_versions_computes_nothing():
    told = rf"A worker of Ray has bequest {bequest.__version__}.*began with, bequest 0\.0\.1"
    worker = workers._Worker(torch.get_num_threads())
    with pytest.raises(RunError, match=told):
        worker.run(1, [None], {"bequest": "0.0.1", "torch": torch.__version__}, None, {}, [])


@pytest.mark.parametrize(
    "about",
    [{}, {"name": 3}, {"keys": [1]}, {"keys": {"embedding": 2}}, {"bad": 7}, {"bad": [["a"]]}, {"bad": [[1, 2]]}],
)
def test_a_file_that_does_not_say_what_made_it_is_no_shard(tmp_path: Path, about: dict[str, Any]):
    with (tmp_path / "x.parquet").open("wb") as file, FeatureWriter(file, {"embedding": 2}) as writer:
        writer.write([("a", "", bytes(16))], np.zeros((1, 2), np.float32))
        told: dict[str, Any] = {"name": "x", "keys": {}, "bad": [], "seconds": 1.0}
        writer.finish({**told, **about} if about else {"seconds": 1.0})
    with pytest.raises(DataError, match=r"x\.parquet does not say what made it \(.*expected"):
        finished(str(tmp_path), "x")


def test_one_folder_holds_one_pass(tmp_path: Path):
    source, data, out = small(), folder_of(tmp_path / "data"), tmp_path / "out"
    extraction(source, data, out).carry_out(made_here)
    other = replace(source, preprocess=replace(source.preprocess, crop=0.5))  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match=r"made otherwise .*differs: preprocess.*another --out"):
        extraction(other, data, out).carry_out(made_here)
    torch.manual_seed(4)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    preprocess: Any = source.preprocess
    third = from_module(body, name="other", head="", preprocess=preprocess, example=torch.zeros(2, 3, 8, 8))
    with pytest.raises(RunError, match="differs: body"):
        extraction(third, data, out).carry_out(made_here)
    with pytest.raises(RunError, match=r"holds 4 files of other data.*another --out"):
        extraction(source, folder_of(tmp_path / "more", 5), out).carry_out(made_here)


def test_one_folder_holds_what_was_made_of_the_same_columns(tmp_path: Path):
    import pyarrow

    (tmp_path / "data").mkdir()
    images = [png(i) for i in range(3)]
    table = {"image": images, "other": images[::-1], "label": list("abc"), "more": list("xyz")}
    parquet.write_table(pyarrow.table(table), tmp_path / "data/a.parquet")
    source, shards = small(), find_shards(tmp_path / "data", "image", 6, Silent())

    def carried_out(columns: Columns, out: Path) -> Any:
        work = replace(work_of(source, out), columns=columns)
        return Extraction(work, shards, Silent()).carry_out(made_here)

    first = Columns("image", "more")
    manifest = carried_out(first, tmp_path / "out")
    assert manifest["columns"] == {"sample": "image", "label": "more"}
    assert list(read_features(tmp_path / "out")[1]) == ["x", "y", "z"]
    for other, told in (
        (Columns("image", "label"), "column of labels"),
        (Columns("other", "more"), "column of samples"),
        (Columns("other"), "column of samples, column of labels"),
    ):
        with pytest.raises(RunError, match=rf"made otherwise .*differs: {told}\).*another --out"):
            carried_out(other, tmp_path / "out")
    assert carried_out(first, tmp_path / "out") == manifest


def test_unreadable_samples_are_named_or_left_out(tmp_path: Path):
    source, data, out = small(), folder_of(tmp_path / "data", bad=3), tmp_path / "out"
    with pytest.raises(DataError, match=r"Cannot decode the image b/03.png.*--skip-bad"):
        extraction(source, data, out).carry_out(made_here)
    manifest = extraction(source, data, out, skip_bad=True).carry_out(made_here)
    assert manifest["num_samples"] == 19
    [[key, reason]] = [pair for shard in manifest["shards"] for pair in shard["bad"]]
    assert key == "b/03.png" and "Cannot decode" in reason
    assert "b/03.png" not in rows(out)
    with pytest.raises(DataError, match=r"written without 1 sample.*b/03.png"):
        extraction(source, data, out).carry_out(made_here)


def test_a_source_that_other_processes_cannot_name_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match="a version"):
        work_of(tiny.image_source(), tmp_path)


def test_the_store_reads_the_shards_where_they_lie(tmp_path: Path):
    source, data, out = small(), folder_of(tmp_path / "data", 40), tmp_path / "out"
    extraction(source, data, out).carry_out(made_here)
    cache = tmp_path / "cache"
    assert Store(cache).take(out) == 40
    [shelf] = Store(cache).shelves()
    assert shelf.num_records == 40 and shelf.num_bytes == 0
    settings: dict[str, Any] = {"seeds": [0], "progress": False, "precision": "float32"}
    linked = bequest.compare(data, source, ["linear_probe"], cache=cache, out=tmp_path / "linked", **settings)
    plain = bequest.compare(data, source, ["linear_probe"], cache=tmp_path / "own", out=tmp_path / "plain", **settings)
    assert (linked.board.trials[0].frozen_samples, plain.board.trials[0].frozen_samples) == (0, 40)
    assert linked.board.trials[0].test_loss == pytest.approx(plain.board.trials[0].test_loss, abs=1e-4)

    # A flipped bit among the numbers: the file is not used, its samples are computed again.
    first = sorted(out.glob("*.parquet"))[0]
    content = bytearray(first.read_bytes())
    place = content.index(np.ascontiguousarray(read_features(out)[0][0]).tobytes())
    content[place] ^= 1
    first.write_bytes(content)
    notes: list[str] = []
    store = Store(cache, note=notes.append)
    shelf = store.shelf(json.loads((out / "features.json").read_text())["keys"]["embedding"])
    assert len(shelf.missing(bequest.load_task(data).hashes)) == 6
    assert any("computed again" in note for note in notes)
    assert first.exists()


def test_features_are_a_task_of_arrays(tmp_path: Path):
    data, out = folder_of(tmp_path / "data"), tmp_path / "out"
    extraction(small(), data, out).carry_out(made_here)
    task = bequest.load_task(out)
    assert (task.modality, task.classes, len(task.samples)) == ("array", ("a", "b"), 20)
    assert task.samples.describe(0) == "a/00.png"
    np.testing.assert_array_equal(task.samples[3], rows(out)[task.samples.describe(3)])


def test_features_of_the_same_data_by_two_sources_are_two_tasks(tmp_path: Path):
    source, data = small(), folder_of(tmp_path / "data", 40)
    torch.manual_seed(4)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    preprocess: Any = source.preprocess
    other = from_module(body, name="other", head="", preprocess=preprocess, example=torch.zeros(2, 3, 8, 8))
    for name, made_by in (("one", source), ("again", source), ("two", other)):
        extraction(made_by, data, tmp_path / name).carry_out(made_here)
    one, again, two = (bequest.load_task(tmp_path / name) for name in ("one", "again", "two"))
    assert one.fingerprint == again.fingerprint != two.fingerprint
    settings: dict[str, Any] = {"seeds": [0], "progress": False, "precision": "float32", "cache": tmp_path / "cache"}
    as_they_are = from_module(torch.nn.Identity(), head="", example=torch.zeros(2, 4))
    runs = [
        bequest.compare(task, as_they_are, ["linear_probe"], out=tmp_path / f"run {i}", **settings)
        for i, task in enumerate((one, two, again))
    ]
    assert [run.board.trials[0].frozen_samples for run in runs] == [40, 40, 0]


def test_an_address_elsewhere(tmp_path: Path):
    import fsspec

    name = f"memory://{tmp_path.name}"
    system = fsspec.filesystem("memory")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for i in range(5):
            member, content = tarfile.TarInfo(f"{i:03}.png"), png(i)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    system.pipe(f"/{tmp_path.name}/in/a.tar", file.getvalue())
    made = bequest.features(f"{name}/in/*.tar", small(), f"{name}/out", progress=False)
    assert (made.path, made.num_samples) == (f"{name}/out", 5)
    system.get(f"/{tmp_path.name}/out/", str(tmp_path / "copy/"), recursive=True)
    assert list(rows(tmp_path / "copy")) == [f"a.tar/00{i}" for i in range(5)]


def test_ray_makes_the_same_shards(cluster: Any, tmp_path: Path):
    source, data = small(), folder_of(tmp_path / "data", 24)
    here = extraction(source, data, tmp_path / "here").carry_out(made_here)
    there = extraction(source, data, tmp_path / "there")
    elsewhere = there.carry_out(OnRay(cluster, Resources()))
    assert elsewhere == here  # digests of all that is in the files among it


@fault(
    "a worker of Ray Data dies in a shard of features, once or each time",
    happens="the shard is made again, by 4 workers at most; then an error names it",
    outcome="every sample once; of the second, the shards that were made are kept, and the command goes on",
    slow=True,
)
@pytest.mark.parametrize("once", [True, False], ids=["once", "each time"])
def test_a_worker_that_dies(once: bool, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    killed = tmp_path / "killed"

    class Deadly(ImagePreprocess):
        """Ends its process in the midst of the third shard."""

        def encode(self, sample: Any) -> Any:
            from bequest.engine import sharded  # where the worker is

            if len(list((tmp_path / "out").glob("*.parquet"))) >= 2 and not (once and killed.exists()):
                killed.touch()
                os._exit(1)
            assert sharded is not None
            return super().encode(sample)

    monkeypatch.setattr(workers, "RESTARTS", 1)
    plain: Any = small().preprocess
    source = replace(small(), preprocess=Deadly(plain.size, plain.mean, plain.std))
    passed, on_ray = extraction(source, folder_of(tmp_path / "data", 24), tmp_path / "out"), OnRay(cluster, Resources())
    if once:
        passed.carry_out(on_ray)
        assert sorted(rows(tmp_path / "out")) == sorted(f"{'ab'[i % 2]}/{i:02}.png" for i in range(24))
    else:
        with pytest.raises(RunError, match=r"A worker died 2 times \(.*--resources memory=8GB"):
            passed.carry_out(on_ray)
        assert len(list((tmp_path / "out").glob("*.parquet"))) == 2, "what was made is kept"
    assert killed.exists()


def test_what_the_user_can_mend_comes_back_from_workers_as_it_is(cluster: Any, tmp_path: Path):
    data = folder_of(tmp_path / "data", 6, bad=3)
    with pytest.raises(DataError, match=r"^Cannot decode the image b/03.png.*--skip-bad\.$"):
        extraction(small(), data, tmp_path / "out").carry_out(OnRay(cluster, Resources()))


def test_a_worker_with_another_source_is_refused(tmp_path: Path):
    wrong = replace(work_of(small(), tmp_path / "out"), fingerprint="0" * 32)
    with pytest.raises(SourceError, match=r"'small' has other weights or preprocessing on"):
        Extraction(wrong, find_shards(folder_of(tmp_path / "data"), "image", 6, Silent()), Silent()).carry_out(
            made_here
        )


@pytest.mark.parametrize(("kind", "views"), [("text", None), ("image", 2)])
def test_workers_make_of_the_teacher_what_this_process_makes(
    cluster: Any, tmp_path: Path, tiny_sources: Any, tiny_tasks: Any, kind: str, views: int | None
):
    source, task = tiny_sources[kind], tiny_tasks[kind]
    if views:  # views are of images
        task = bequest.task_from_arrays(np.uint8(task.samples.values.transpose(0, 2, 3, 1) * 40 + 90), task.labels)
        source = replace(small(), name="student")
    samples = task.samples[0] if kind == "text" else None
    transfer = read_samples([f"{samples} {i}" for i in range(9)], "transfer") if kind == "text" else None
    teaching = Teaching(Distillation(), (tiny.teacher_of(source, task),), transfer)
    draws = [task.draw(seed, test_size=0.25) for seed in (0, 1)]
    trained, hashes = [draw.train for draw in draws], teaching.extend(task).hashes
    found: list[dict[str, np.ndarray]] = []
    for elsewhere in (False, True):
        store = Store(tmp_path / str(elsewhere))
        options: dict[str, Any] = {"views": choose_views(views, None, task.modality), "teaching": teaching}
        context = Context(source, task, store, choose_runtime("float32"), Silent(), **options)
        with closing(Workers(cluster, Resources())) as workers:
            teach_ahead(replace(context, workers=workers if elsewhere else None), trained, draws[0].test)
        shelves = [store.shelf(s.key) for s in store.shelves() if s.key["what"] == "teacher"]
        had = [np.setdiff1d(np.arange(len(hashes)), shelf.missing(hashes)) for shelf in shelves]
        found.append({json.dumps(s.key): s.read(hashes[i]).stack() for s, i in zip(shelves, had, strict=True)})
    assert len(found[0]) == (views or 1) and found[0].keys() == found[1].keys()
    assert sum(map(len, found[0].values())) > len(draws[0].train)
    for key, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][key])


@pytest.mark.slow
def test_distill_finds_the_teachers_outputs(cluster: Any, tmp_path: Path, tiny_sources: Any, tiny_tasks: Any):
    source, task = tiny_sources["text"], tiny_tasks["text"]
    teacher = tiny.teacher_of(source, task)
    settings: dict[str, Any] = {"seeds": [0], "epochs": 1, "progress": False, "precision": "float32"}
    boards = [
        bequest.distill(task, teacher, source, out=tmp_path / name, cache=tmp_path / f"{name} store", on=on, **settings)
        for name, on in (("here", None), ("there", "ray"))
    ]
    here, there = ([(t.method, t.test, t.test_loss) for t in run.board.trials] for run in boards)
    assert here == there
    stored = [s.num_records for s in Store(tmp_path / "there store").shelves() if s.key["what"] == "teacher"]
    assert stored == [len(task.draw(0).train) + len(task.draw(0).test)]
