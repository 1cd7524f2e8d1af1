"""Files of features: what is written is what is mapped and what every reader of Parquet sees, and damage is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bequest.core.errors import DataError, RunError
from bequest.data import feature_files
from bequest.data.feature_files import FeatureWriter, read_end, read_features, row_groups

parquet = pytest.importorskip("pyarrow.parquet")

WIDTHS = {"layer.1": 3, "embedding": 5}


def written(path: Path, monkeypatch: pytest.MonkeyPatch, count: int = 25) -> np.ndarray:
    monkeypatch.setattr(feature_files, "_ROWS", 10)  # of a row group
    features = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    rows = [(f"key {i}", "ab"[i % 2], i.to_bytes(16, "little")) for i in range(count)]
    with path.open("wb") as file, FeatureWriter(file, WIDTHS) as writer:
        for start in range(0, count, 7):
            writer.write(rows[start : start + 7], features[start : start + 7])
        writer.finish({"seconds": 50.0, "name": "one"})
    return features


def test_the_numbers_lie_end_to_end_and_every_reader_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.parquet"
    features = written(path, monkeypatch)
    end = read_end(path, "a")
    assert (end.widths, end.num_rows, end.about["name"]) == (WIDTHS, (10, 10, 5), "one")
    for layer, columns in (("layer.1", slice(3)), ("embedding", slice(3, 8))):
        groups = row_groups(path, layer)
        np.testing.assert_array_equal(np.concatenate([group.values() for group in groups]), features[:, columns])
        assert not groups[0].values().flags.owndata and not groups[0].values().flags.writeable
        assert [g.seconds for g in groups] == [2.0] * 3
        plain = parquet.read_table(path, columns=[layer]).column(0).to_pylist()
        np.testing.assert_array_equal(np.array(plain, np.float32), features[:, columns])
    assert groups[1].hashes[0].tobytes() == (10).to_bytes(16, "little")
    table = parquet.read_table(path)
    assert table.column("key").to_pylist()[:2] == ["key 0", "key 1"]
    assert table.column("label").to_pylist()[:2] == ["a", "b"]


def test_a_file_whose_numbers_are_encoded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.parquet"
    written(path, monkeypatch)
    parquet.write_table(parquet.read_table(path), path, row_group_size=10, compression="zstd")
    with pytest.raises(DataError, match="no whole file of features"):
        row_groups(path, "embedding")
    table = parquet.read_table(path)
    about = {b"bequest": b'{"checksums": [{}, {}, {}], "seconds": 1}'}
    parquet.write_table(table.replace_schema_metadata(about), path, row_group_size=10, compression="zstd")
    with pytest.raises(DataError, match="do not lie end to end"):
        row_groups(path, "embedding")


@pytest.mark.parametrize("cut", [0, 5, 200, -9])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int):
    path = tmp_path / "a.parquet"
    written(path, monkeypatch)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"no whole file of features .*Remove it"):
        read_end(path, str(path))


def test_a_folder_without_its_files_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="is missing"):
        read_features(tmp_path)
    (tmp_path / "features.json").write_text(
        '{"layers": {}, "keys": {}, "num_samples": 1, "shards": [{"file": "../a"}]}'
    )
    with pytest.raises(RunError, match=rf"no {tmp_path}/a, which"):
        read_features(tmp_path)
    (tmp_path / "features.json").write_text("[]")
    with pytest.raises(RunError, match="lists no features"):
        read_features(tmp_path)
