"""`bequest features`: what lies in the files, and what is refused."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import bequest as library
from bequest.core.errors import DataError, SourceError
from bequest.data import output

Bequest = Callable[..., tuple[int, str, str]]


def expected(table: Path, bert: Path, layers: str = "last") -> np.ndarray:
    task = library.load_task(table)
    texts = [task.samples[i] for i in range(len(task.samples))]
    return library.FeatureExtractor(f"hf:{bert}", layers=layers).fit_transform(texts)


def test_every_format_holds_the_same(bequest: Bequest, table: Path, bert: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(output, "_BLOCK_BYTES", 4 * 32 * 7)  # seven rows a block
    paths = [tmp_path / f"made/features{suffix}" for suffix in (".csv", ".npz", ".parquet")]
    for path in paths:
        words = ("features", table, "--source", f"hf:{bert}", "--layers", "layer.1,embedding", "--out", path, "--quiet")
        status, out, err = bequest(*words)
        assert (status, err) == (0, "")
        assert out == f"Features  {path}   (90 samples, 32 features)\n"

    values = expected(table, bert, "layer.1,embedding")
    with paths[0].open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["id", "label"]
    assert header[2].endswith("layer.1:0") and header[-1] == "embedding:15" and len(header) == 34
    np.testing.assert_array_equal(np.array([row[2:] for row in rows], np.float32), values)
    task = library.load_task(table)
    assert [row[1] for row in rows] == [task.classes[i] for i in task.labels]
    assert [row[0] for row in rows] == [task.samples.describe(i) for i in range(90)]

    arrays = np.load(paths[1])
    assert arrays["features"].dtype == np.float32
    np.testing.assert_array_equal(arrays["features"], values)
    assert arrays["columns"].tolist() == header[2:]
    assert [arrays["id"].tolist(), arrays["label"].tolist()] == [[r[0] for r in rows], [r[1] for r in rows]]

    parquet = pytest.importorskip("pyarrow.parquet")
    file = parquet.ParquetFile(paths[2])
    assert file.metadata.num_row_groups == 13
    read = file.read()
    assert read.column_names == header
    np.testing.assert_array_equal(np.stack([read[n].to_numpy() for n in header[2:]], 1), values)
    assert read["label"].to_pylist() == [r[1] for r in rows]
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == sorted(p.name for p in paths)


def test_split_and_groups_come_along(tmp_path: Path, bert: Path, cache: Path) -> None:
    table = tmp_path / "words.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{w} {i}", "ab"[i % 2], ["train", "test"][i > 7], f"g{i % 3}") for i, w in enumerate(["the a"] * 12)]
        csv.writer(file).writerows([("text", "label", "split", "place"), *rows])
    made = library.features(
        table, f"hf:{bert}", tmp_path / "f.npz", group_column="place", progress=False, label_column="label"
    )
    arrays = np.load(made.path)
    assert made.num_samples == 12 and len(made.columns) == 16
    assert arrays["split"].tolist() == [row[2] for row in rows]
    assert arrays["group"].tolist() == [row[3] for row in rows]


@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_labels_of_several_columns(tiny_tasks: Any, tmp_path: Path, cache: Path, kind: str) -> None:
    task = tiny_tasks[kind]
    made = library.features(task, tiny.image_source(), tmp_path / "f.npz", layers="all", progress=False)
    arrays = np.load(made.path)
    labels = np.stack([arrays[f"label:{name}"] for name in task.classes], 1)
    np.testing.assert_allclose(labels, task.labels)
    assert "label" not in arrays and arrays["features"].shape == (90, 40)


def test_refused_before_anything_is_computed(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    words = ("features", tmp_path / "no data", "--source", "no source", "--out", tmp_path / "features.xlsx")
    status, out, err = bequest(*words)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: Cannot write {tmp_path / 'features.xlsx'}; expected a file that ends in .parquet, ")
    for flag, value, told in (("--pool-to", -1, "0 or more"), ("--batch-size", 0, "1 or more")):
        status, _, err = bequest(*words[:-1], "x.csv", flag, value)
        assert status == 1 and err.startswith(f"error: {flag} is {value}; expected a whole number, {told}.")
    with pytest.raises(SourceError, match=r"no layer 'layer\.9'"):
        library.features(table, f"hf:{bert}", tmp_path / "f.csv", layers="layer.9", progress=False)
    with pytest.raises(SourceError, match="takes samples of kind 'text', but 'tiny images' holds 'array'"):
        library.features(tiny.image_task(), f"hf:{bert}", tmp_path / "f.csv", progress=False)


def test_without_pyarrow_parquet_is_refused_and_told_how_to_get(tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"expected pyarrow. Install it: pip install 'bequest\[tables\]', or write a"):
        library.features(tmp_path / "no data", "no source", tmp_path / "f.parquet")


def test_a_place_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Cannot write .*f\.csv \(.*\); expected a place with room for it"):
        library.features(tiny.image_task(), tiny.image_source(), tmp_path / "file" / "f.csv", progress=False)


def test_a_fitted_extractor_of_a_named_source_is_pickled_without_its_weights(
    table: Path, bert: Path, cache: Path
) -> None:
    task = library.load_task(table)
    texts = [task.samples[i] for i in range(len(task.samples))]
    extractor = library.FeatureExtractor(f"hf:{bert}", layers="layer.1,embedding").fit(texts)
    pickled = pickle.dumps(extractor)
    weights = sum(t.numel() * 4 for t in extractor.source_.body.state_dict().values())
    assert len(pickled) < weights / 10
    np.testing.assert_array_equal(pickle.loads(pickled).transform(texts), extractor.transform(texts))


def test_a_folder_of_shards(bequest: Bequest, bert: Path, tmp_path: Path):
    texts = [f"ball {word} team" for word in ("goal", "soup", "song", "drum", "salt")]
    for i, text in enumerate(texts):
        (tmp_path / f"data/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/{'ab'[i % 2]}/{i}.txt").write_text(text, encoding="utf-8")
    words = ("features", tmp_path / "data", "--source", f"hf:{bert}", "--out", tmp_path / "out", "--quiet")
    status, out, err = bequest(*words, "--shard-size", "2", "--precision", "float32")
    assert (status, err) == (0, "")
    assert out == f"Features  {tmp_path / 'out'}   (5 samples, 16 features)\n"
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3
    task = library.load_task(tmp_path / "out")
    made = {task.samples.describe(i): task.samples[i] for i in range(5)}
    values = library.FeatureExtractor(f"hf:{bert}", precision="float32").fit_transform(texts)
    for i, row in enumerate(values):
        np.testing.assert_allclose(made[f"{'ab'[i % 2]}/{i}.txt"], row, atol=1e-5)

    status, out, err = bequest("cache", "add", tmp_path / "out", "--cache", tmp_path / "links")
    assert (status, err) == (0, "") and out.startswith("Linked 5 samples of ")
    status, out, _ = bequest("cache", "ls", "--cache", tmp_path / "links")
    assert status == 0 and "1 key, 0 B of" in out and "   5 " in out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--out", "f.parquet", "--on", "ray"), "--on given, but --out is one file, f.parquet; expected a folder"),
        (("--out", "folder", "--cache", "c"), "--cache given, but --out is a folder"),
        (("--out", "folder", "--task", "regression", "--encoding", "latin-1"), "--task and --encoding given, but"),
        (("--out", "folder", "--label-column", "a,b"), "--label-column names 2 columns (a, b), but --out is a folder"),
        (("--out", "folder", "--image-column", "a"), "--image-column is given, but the source takes samples of kind"),
        (("--out", "s3://bucket/f.parquet"), "s3://bucket/f.parquet; expected a local file, or the address of a fol"),
        (("--out", "folder", "--resources", "cpus=2"), "--resources is 'cpus=2', but the work is done in this process"),
        (("--out", "folder", "--on", "spark"), "--on is 'spark'; expected ray"),
    ],
)
def test_what_does_not_fit_a_folder_or_a_file_is_refused(
    bequest: Bequest, table: Path, bert: Path, given: tuple[str, ...], told: str, tmp_path: Path
):
    (tmp_path / "1.txt").write_text("ball")
    status, _, err = bequest("features", tmp_path, "--source", f"hf:{bert}", *given)
    assert status == 1 and told in err
    assert not (tmp_path / "folder").exists() and not Path("s3:").exists()


@pytest.mark.parametrize("out", ["", "features", "a/features"])
def test_features_within_the_data_are_refused(bert: Path, tmp_path: Path, out: str):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.txt").write_text("ball")
    with pytest.raises(DataError, match=r"lies within the data, .*expected a folder elsewhere"):
        library.features(tmp_path, f"hf:{bert}", tmp_path / out, progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1.txt", "a"]
