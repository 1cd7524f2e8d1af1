"""Files of features: what is written is what is mapped and what every reader of Parquet sees, and damage is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulting import fault

from bequest.core.errors import DataError, RunError
from bequest.data import feature_files
from bequest.data.feature_files import FeatureWriter, read_end, read_features, read_whole, row_groups

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
    whole = parquet.read_table(path)
    told = parquet.ParquetFile(path).metadata.metadata
    monkeypatch.setattr(feature_files, "_check_end", lambda file: None)  # as if the sum were forged too
    parquet.write_table(whole, path, row_group_size=10, compression="zstd")
    with pytest.raises(DataError, match="no whole file of features"):
        row_groups(path, "embedding")
    for encoded in ({"compression": "zstd"}, {"compression": "none", "use_dictionary": True}):
        parquet.write_table(whole.replace_schema_metadata(told), path, row_group_size=10, **encoded)
        with pytest.raises(DataError, match="do not lie end to end"):
            row_groups(path, "embedding")
    parquet.write_table(whole.append_column("more", [[1.0] * 25]).replace_schema_metadata(told), path)
    with pytest.raises(DataError, match="no whole file of features"):
        row_groups(path, "embedding")


def content(path: Path) -> list[bytes]:
    """All that is used of a file."""
    groups = [group for layer in WIDTHS for group in row_groups(path, layer)]
    texts = [repr(parquet.read_table(path, columns=[name]).to_pydict()).encode() for name in ("key", "label")]
    return texts + [group.hashes.tobytes() + group.values().tobytes() for group in groups]


@fault(
    "a bit flips in a file of a folder of features: in a number, a key, a label, a hash, or in what tells of them",
    happens="a row group is compared with its checksums before its first use, and on resuming the whole file",
    outcome="an error that names the file; the same command again computes it anew",
)
def test_a_flipped_bit_anywhere_is_known_or_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.parquet"
    written(path, monkeypatch)
    sound, expected = path.read_bytes(), content(path)
    refused = 0
    for at in range(0, len(sound), 3):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            read_whole(path, "a")
        except DataError as error:
            refused += 1
            assert "no whole file of features" in str(error)
        else:
            assert content(path) == expected
    assert refused > len(sound) / 6


@pytest.mark.parametrize("damaged", ["number", "key", "label"])
def test_damage_is_refused_before_its_row_group_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str):
    path = tmp_path / "a.parquet"
    features = written(path, monkeypatch)
    about = {"layers": WIDTHS, "keys": {name: {} for name in WIDTHS}, "num_samples": 25}
    about["shards"] = [{"file": path.name}]
    (tmp_path / "features.json").write_text(json.dumps(about))
    place = {"number": features[12, 3:].tobytes(), "key": b"key 12", "label": b"\1\0\0\0a\1\0\0\0b"}[damaged]
    found = bytearray(path.read_bytes())
    found[found.index(place) + len(place) - 1] ^= 64
    path.write_bytes(found)
    if damaged != "number":
        with pytest.raises(DataError, match=rf"a.parquet is no whole file .*'{damaged}' of its row group \d is not"):
            read_features(tmp_path)
        return
    rows, _ = read_features(tmp_path)
    np.testing.assert_array_equal(rows[3], features[3])
    with pytest.raises(DataError, match=r"a\.parquet is damaged: its features are not those .*Run `bequest features`"):
        rows[15]  # of the same row group as the one that is damaged
    path.unlink()
    with pytest.raises(DataError, match=r"a\.parquet cannot be read \(No such file"):
        rows[21]


@pytest.mark.parametrize("cut", [0, 5, 200, -9])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int):
    path = tmp_path / "a.parquet"
    written(path, monkeypatch)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"no whole file of features .*Remove it"):
        read_end(path, str(path))


MANIFEST = {"layers": {"embedding": 5}, "keys": {"embedding": {}}, "num_samples": 1, "shards": [{"file": "../a"}]}


def test_a_folder_without_its_files_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="is missing"):
        read_features(tmp_path)
    (tmp_path / "features.json").write_text(json.dumps(MANIFEST))
    with pytest.raises(RunError, match=rf"no {tmp_path}/a, which"):
        read_features(tmp_path)


@pytest.mark.parametrize(
    ("forged", "told"),
    [
        ([], "it has no num_samples, layers, keys, shards"),
        (3, "it has no num_samples, layers, keys, shards"),
        ({"layers": {}}, "it has no num_samples, keys, shards"),
        ({**MANIFEST, "shards": 5}, r"shards is 5, expected list"),
        ({**MANIFEST, "shards": [{}]}, r"shards\[0\]\.file is None, expected str"),
        ({**MANIFEST, "shards": [3]}, r"shards\[0\] is 3, expected dict"),
        ({**MANIFEST, "layers": 3}, "layers is 3, expected dict"),
        ({**MANIFEST, "layers": {"other": 5}}, "keys has embedding, layers other"),
        ({**MANIFEST, "layers": {}, "keys": {}}, "layers none"),
        ({**MANIFEST, "keys": [1]}, r"keys is \[1\], expected dict"),
        ({**MANIFEST, "num_samples": "x"}, "num_samples is 'x', expected int"),
        ({**MANIFEST, "shards": [{"file": "x" * 300}]}, "which .*features.json lists"),
        ({**MANIFEST, "shards": [{"file": "a\0"}, {"file": ".."}]}, "which .*features.json lists"),
    ],
)
def test_a_manifest_that_is_forged_is_refused_by_its_field(tmp_path: Path, forged: Any, told: str):
    (tmp_path / "features.json").write_text(json.dumps(forged))
    with pytest.raises(RunError, match=rf"features\.json.*{told}|{told}"):
        read_features(tmp_path)


def test_a_layer_of_another_width_than_the_manifest_says_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path / "a", monkeypatch)
    (tmp_path / "features.json").write_text(json.dumps({**MANIFEST, "layers": {"embedding": 6}}))
    with pytest.raises(DataError, match=r"'embedding' in .*a has 5 numbers, in features\.json 6"):
        read_features(tmp_path)
