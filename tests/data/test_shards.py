"""Samples by shards, from any address: which there are, that each comes once, and what is said of damage."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bequest.core.errors import DataError, RunError
from bequest.core.observe import Silent
from bequest.data import tars
from bequest.data.addresses import takes_from
from bequest.data.shards import Columns, Item, find_shards, read_items

pyarrow = pytest.importorskip("pyarrow")


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def items_at(address: Any, modality: Any = "image", size: int = 4, columns: Columns | None = None) -> list[Item]:
    shards = find_shards(address, modality, size, Silent())
    assert len({shard.name for shard in shards}) == len(shards)
    return [item for shard in shards for item in read_items(shard, modality, columns or Columns())]


def table_at(path: Path, columns: dict[str, Any], group: int = 3) -> None:
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)


def test_files_in_sorted_order_with_the_folder_as_label(tmp_path: Path):
    for name in ("b/2.png", "a/1.JPG", "a/.hidden.png", "a/notes.md", "top.png", ".cache/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = [(item.key, item.label, item.read()) for item in items_at(tmp_path, size=2)]
    assert found == [("a/1.JPG", "a", b"a/1.JPG"), ("b/2.png", "b", b"b/2.png"), ("top.png", "", b"top.png")]


def test_names_of_shards_depend_on_what_lies_in_the_data_not_on_where_they_lie(tmp_path: Path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        for i in range(5):
            (tmp_path / place / f"{i}.png").write_bytes(b"x" * i)
    one, two = ([s.name for s in find_shards(tmp_path / place, "image", 2, Silent())] for place in ("one", "two"))
    assert one == two and len(one) == 3
    (tmp_path / "two/3.png").write_bytes(b"longer")
    changed = [s.name for s in find_shards(tmp_path / "two", "image", 2, Silent())]
    assert [a == b for a, b in zip(one, changed, strict=True)] == [True, False, True]


def test_tars_hold_samples_of_several_members(tmp_path: Path):
    members = {"x/1.jpg": b"one", "x/1.cls": b"7\n", "x/1.json": b"{}", "2.png": b"two", "3.seg.txt": b"no image"}
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    (tmp_path / "b.tar.gz").write_bytes(tar_of({"1.webp": b"other"}, "w:gz"))
    found = items_at(tmp_path)
    assert [(item.key, item.label) for item in found] == [
        ("a.tar/x/1", "7"),
        ("a.tar/2", ""),
        ("a.tar/3", ""),
        ("b.tar.gz/1", ""),
    ]
    assert [found[i].read() for i in (0, 1, 3)] == [b"one", b"two", b"other"]
    with pytest.raises(DataError, match=r"sample a.tar/3 has the members seg.txt; expected one image"):
        found[2].read()
    found = items_at(tmp_path / "*.tar", columns=Columns(None, "json"))
    assert (found[0].label, found[0].read()) == ("{}", b"one")
    with pytest.raises(DataError, match=r"sample a.tar/2 has the members png; expected the label json among them"):
        found[1].read()


def test_a_tar_that_is_cut_short_says_where(tmp_path: Path):
    content = tar_of({f"{i}.png": b"x" * 2000 for i in range(5)})
    (tmp_path / "a.tar").write_bytes(content[:6000])
    with pytest.raises(DataError, match=r"a.tar cannot be read as a tar after its sample \d .*Replace it"):
        items_at(tmp_path / "a.tar")


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_a_tar_that_ends_early_or_has_a_damaged_header_is_no_shorter_one(tmp_path: Path, compression: str):
    content = tar_of({f"{i}.png": b"x" * 512 for i in range(4)})
    header = 2 * 1024  # of the third member; a member is a header and a block
    flipped = bytearray(content)
    flipped[header + 3] ^= 1
    zeros = content[:header] + bytes(1024) + content[header:]
    pack = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[compression]
    for damaged, told in (
        (content[:header], "ends without a tar's end mark"),
        (content[: 4 * 1024], "ends without a tar's end mark"),
        (content[: header + 200], "header is damaged: truncated header"),
        (bytes(flipped), "header is damaged: bad checksum"),
        (zeros, "more follows after its end mark"),
        (content + content, "more follows after its end mark"),
    ):
        (tmp_path / "a.tar").write_bytes(pack(damaged))
        with pytest.raises(DataError, match=rf"a\.tar cannot be read as a tar after its sample \d \(.*{told}"):
            items_at(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(pack(content[: 4 * 1024 + 512]))
    assert len(items_at(tmp_path)) == 4, "one block of zeros is an end mark"


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_packed_tar_is_compared_with_its_checksum(tmp_path: Path, compression: str):
    content = tar_of({f"{i}.png": bytes([i]) * 512 for i in range(4)})
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[compression]
    packed = bytearray(pack(content))
    (tmp_path / "a.tar").write_bytes(packed)
    assert len(items_at(tmp_path / "a.tar")) == 4
    for place in (len(packed) // 2, len(packed) - 7):
        packed[place] ^= 1
        (tmp_path / "a.tar").write_bytes(packed)
        with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar after its sample .*Replace it"):
            items_at(tmp_path / "a.tar")
        packed[place] ^= 1
    for end in (1, 2, 9, len(packed) // 2, len(packed) - 1):
        (tmp_path / "a.tar").write_bytes(packed[:end])
        with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar"):
            items_at(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(bytes.fromhex("1f8b08f6006b334a096b00"))  # its further fields are lacking
    with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar"):
        items_at(tmp_path / "a.tar")


def test_a_sample_is_bounded_by_all_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tars, "LARGEST", 10_000)
    members = {"1.a": bytes(6000), "1.b": bytes(6000), "1.png": b"one", "2.png": b"two", "3.png": bytes(10_001)}
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        (tmp_path / name).write_bytes(tar_of({**members, **{f"4.{i}": b"" for i in range(30)}}, mode))
        one, two, three, four = items_at(tmp_path / name)
        assert two.read() == b"two"
        for item in (one, three, four):
            with pytest.raises(DataError, match=rf"sample {name}/\d takes [\d,]+ bytes; expected 10,000 at most"):
                item.read()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("kind", "fields", "size", "told"),
    [
        (tarfile.GNUTYPE_SPARSE, {}, 0, "a sparse member"),
        (tarfile.REGTYPE, {"GNU.sparse.map": "0,4", "GNU.sparse.size": "9"}, 4, "a sparse member"),
        (tarfile.REGTYPE, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, 4, "a sparse member"),
        (tarfile.REGTYPE, {"GNU.sparse.map": "x,y"}, 4, "invalid literal"),
        (tarfile.REGTYPE, {"GNU.sparse.map": "0,4", "GNU.sparse.size": "zz"}, 4, "invalid literal"),
        (tarfile.REGTYPE, {"size": "9" * 19}, 4, "unexpected end"),
        (b"Z", {"size": "9" * 19}, 4, "unexpected end"),
        (tarfile.GNUTYPE_LONGNAME, {}, 2**21, "a header of 2,097,152 bytes; expected 1,048,576 at most"),
    ],
)
def test_members_that_stand_for_more_than_they_are_are_refused(
    tmp_path: Path, mode: str, kind: bytes, fields: dict[str, str], size: int, told: str
):
    member = tarfile.TarInfo("2.png")
    member.size, member.type, member.pax_headers = size, kind, fields
    header = member.tobuf(tarfile.PAX_FORMAT if fields else tarfile.GNU_FORMAT)
    content = tar_of({"1.png": b"one"})[:1024] + header + bytes(512)
    path = tmp_path / ("a.tar" if mode == "w" else "a.tar.gz")
    path.write_bytes(content if mode == "w" else gzip.compress(content))
    with pytest.raises(DataError, match=rf"a.tar.* cannot be read as a tar after its sample .*{told}.*Replace it"):
        items_at(path)


def test_many_headers_before_a_member_are_refused(tmp_path: Path):
    member = tarfile.TarInfo("1.png")
    member.type = tarfile.GNUTYPE_LONGNAME
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) * 5000)
    with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar"):
        items_at(tmp_path)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(tar_of({"1.png": b"a", "2.png": b"b", "1.jpg": b"c"}))
    with pytest.raises(DataError, match=r"a.tar/1 is there twice"):
        items_at(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("0.png", "0.cls", "0.png", "0.cls"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match=r"0.png is there twice"):
        items_at(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE])
def test_links_in_tars_are_no_samples_that_were_never_there(tmp_path: Path, kind: bytes):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, its in (("x", tarfile.DIRTYPE), ("x/1.png", tarfile.REGTYPE), ("x/2.png", kind), ("x/3.cls", kind)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = its, "x/1.png"
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("x/3.png"))
    found = items_at(tmp_path)
    assert [item.key for item in found] == ["a.tar/x/1", "a.tar/x/2", "a.tar/x/3"] and found[0].read() == b""
    for item, name in ((found[1], "png"), (found[2], "cls")):
        with pytest.raises(DataError, match=rf"member {name} of the sample {item.key} is a link or a device"):
            item.read()


def test_rows_of_parquet_files_by_runs_of_row_groups(tmp_path: Path):
    cells = [f"image {i}".encode() for i in range(10)]
    table_at(tmp_path / "a.parquet", {"n": list(range(10)), "image": cells, "label": [i % 2 for i in range(10)]})
    (tmp_path / "b").mkdir()
    table_at(tmp_path / "b/c.parquet", {"image": [{"bytes": b"in a struct", "path": "p"}, None]})
    assert [s.groups for s in find_shards(tmp_path, "image", 4, Silent())] == [(0, 2), (2, 4), (0, 1)]
    found = items_at(tmp_path)
    assert [item.key for item in found] == [*(f"a.parquet#{i}" for i in range(10)), "b/c.parquet#0", "b/c.parquet#1"]
    assert [item.read() for item in found[:11]] == [*cells, b"in a struct"]
    assert [item.label for item in found[:3]] == ["0", "1", "0"]
    with pytest.raises(DataError, match=r"b/c.parquet#1 .*is NoneType; expected an image's bytes"):
        found[11].read()


def test_columns_that_cannot_be_told_are_to_be_named(tmp_path: Path):
    table_at(tmp_path / "a.parquet", {"left": [b"l"], "right": [b"r"], "text": ["t"], "label": ["yes"]})
    with pytest.raises(DataError, match=r"2 columns of images' bytes \(left, right\).*--image-column"):
        items_at(tmp_path)
    [item] = items_at(tmp_path, columns=Columns("right"))
    assert (item.read(), item.label) == (b"r", "yes")
    with pytest.raises(DataError, match=r"no column 'middle'; there are: left, right"):
        items_at(tmp_path, columns=Columns("middle"))
    [item] = items_at(tmp_path, "text")
    assert item.read() == "t"


def test_labels_are_never_the_samples(tmp_path: Path):
    texts = pyarrow.array(["one", "two", "one"])
    table_at(tmp_path / "a.parquet", {"text": texts.dictionary_encode(), "label": ["x", "y", "z"]})
    assert [(item.read(), item.label) for item in items_at(tmp_path, "text")] == [
        ("one", "x"),
        ("two", "y"),
        ("one", "z"),
    ]
    table_at(tmp_path / "a.parquet", {"n": [1], "label": ["x"]})
    with pytest.raises(DataError, match=r"0 columns of texts \(none\).*--text-column"):
        items_at(tmp_path, "text")
    table_at(tmp_path / "a.parquet", {"n": [1], "text": ["a label's name"]})
    with pytest.raises(DataError, match=r"0 columns of texts"):
        items_at(tmp_path, "text", columns=Columns(None, "text"))
    table_at(tmp_path / "a.parquet", {"target": [b"mask"], "n": [1]})
    with pytest.raises(DataError, match=r"0 columns of images' bytes"):
        items_at(tmp_path)


@pytest.mark.parametrize(("modality", "kind"), [("text", "string_view"), ("image", "binary_view")])
def test_columns_of_views(tmp_path: Path, modality: Any, kind: str):
    told = "one" if modality == "text" else b"one"
    table_at(tmp_path / "a.parquet", {"x": pyarrow.array([told], getattr(pyarrow, kind)()), "label": ["a"]})
    [item] = items_at(tmp_path, modality)
    assert (item.read(), item.label) == (told, "a")


def test_parquet_without_rows_is_no_data(tmp_path: Path):
    table_at(tmp_path / "a.parquet", {"text": pyarrow.array([], pyarrow.string())})
    with pytest.raises(DataError, match=r"holds no rows \(a.parquet\)"):
        items_at(tmp_path, "text")
    table_at(tmp_path / "b.parquet", {"text": ["one"]})
    assert [item.key for item in items_at(tmp_path, "text")] == ["b.parquet#0"]


def test_other_places(tmp_path: Path):
    import fsspec

    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/a.tar", tar_of({"1.png": b"one"}))
    assert [item.key for item in items_at(f"memory://{tmp_path.name}")] == ["a.tar/1"]
    with pytest.raises(RunError, match="a protocol that fsspec knows"):
        items_at("nowhere://bucket/a.tar")
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}-2/x/1.png", b"one")
    [item] = items_at(f"memory://{tmp_path.name}-2")
    assert (item.key, item.label, item.read()) == ("x/1.png", "x", b"one")
    with pytest.raises(DataError, match="There is nothing at"):
        items_at(tmp_path / "*.tar")
    with pytest.raises(DataError, match="expected data there"):
        items_at(tmp_path / "none.tar")


def test_names_that_look_like_patterns_or_chains(tmp_path: Path):
    folder = tmp_path / "photos [2020]"
    for name in ("a::b.png", "c*.png", "d[1].png"):
        (folder / "cat").mkdir(parents=True, exist_ok=True)
        (folder / "cat" / name).write_bytes(name.encode())
    for address in (folder, f"file://{folder}"):
        found = {item.key: item.read() for item in items_at(address)}
        assert found == {f"cat/{name}": name.encode() for name in ("a::b.png", "c*.png", "d[1].png")}
    [item] = items_at(folder / "cat/d[1].png")
    assert item.key == "d[1].png"
    for address in (f"zip://*.png::file://{tmp_path}/a.zip", f"simplecache::memory://{tmp_path}", "zip://x::/a.zip"):
        with pytest.raises(RunError, match=r"is a chain of addresses\. Expected one"):
            items_at(address)
    with pytest.raises(DataError, match=r"Cannot list .*Invalid pattern"):
        items_at(tmp_path / "**.tar")


def test_names_with_colons_elsewhere(tmp_path: Path):
    import fsspec

    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}-3/x/a::b.png", b"one")
    [item] = items_at(f"memory://{tmp_path.name}-3")
    assert (item.key, item.read()) == ("x/a::b.png", b"one")


def test_folders_that_data_are_taken_from(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.tar").touch()
    (tmp_path / "link").symlink_to(data)
    for address in (data, f"file://{data}", tmp_path / "link", tmp_path, data / "**/*.parquet", data / "*.parquet"):
        assert takes_from(str(address), str(data))
    for out in (data / "features", tmp_path / "link/a/b", f"file://{data}/x"):
        assert takes_from(str(data), str(out))
    for address in (data / "a.tar", data / "*.tar", data / "x", tmp_path / "dat"):
        assert not takes_from(str(address), str(data / "features"))
    assert not takes_from(str(data), str(tmp_path / "data features"))
    assert not takes_from(str(data), f"memory://{data}")
    assert takes_from("memory://bucket", "memory://bucket/out")
    assert not takes_from("memory://bucket/*.tar", "memory://bucket/out")


def test_one_kind_of_data(tmp_path: Path):
    (tmp_path / "notes.md").write_text("none")
    with pytest.raises(DataError, match=r"holds no data; expected tars, Parquet files, or images"):
        items_at(tmp_path)
    (tmp_path / "1.png").write_bytes(b"x")
    (tmp_path / "a.tar").write_bytes(tar_of({"1.png": b"one"}))
    with pytest.raises(DataError, match=r"several kinds: files, tar; .*pattern"):
        items_at(tmp_path)


class Noted(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_links_that_lead_out_and_pipes_are_left_out(tmp_path: Path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (data / "a", outside):
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"one")
    (data / "a/inside.png").symlink_to(data / "a/1.png")
    (data / "a/out.png").symlink_to(outside / "1.png")
    (data / "a/gone.png").symlink_to(outside / "none.png")
    (data / "b").symlink_to(outside)
    (data / "a/back").symlink_to(data)
    os.mkfifo(data / "a/pipe.png")
    told = Noted()
    [shard] = find_shards(data, "image", 9, told)
    assert shard.keys == ("a/1.png", "a/inside.png")
    assert told.notes == [f"Did not follow 1 link that leads out of {data}, e.g. a/out.png: copy there what is meant."]
    assert find_shards(data / "*/*.png", "image", 9, told)[0].keys == shard.keys and len(told.notes) == 2
    (data / "a/1.png").unlink()
    (data / "a/inside.png").unlink()
    with pytest.raises(DataError, match=r"holds no data; .* Did not follow 1 link that leads out .*out\.png"):
        items_at(data)
    [item] = items_at(data / "a/out.png")
    assert (item.key, item.read()) == ("out.png", b"one"), "one that is named is meant"
    (outside / "x.tar").write_bytes(tar_of({"1.png": b"in a tar"}))
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/linked.tar").symlink_to(outside / "x.tar")
    assert [item.key for item in items_at(tmp_path / "tars")] == ["linked.tar/1"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from fsspec.implementations.local import LocalFileSystem

    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    honest = LocalFileSystem.ls

    def ls(self: Any, path: str, **options: Any) -> Any:
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return honest(self, path, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    with pytest.raises(DataError, match="Permission denied"):
        items_at(tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match=r"a.parquet cannot be read as a Parquet file"):
        items_at(tmp_path)


def test_samples_of_tars_and_rows_hold_what_is_asked_for_alone(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(tar_of({"1.jpg": b"one", "1.raw": b"x" * 10_000, "1.cls": b"7"}))
    table_at(tmp_path / "b.parquet", {"image": [b"four"], "other": [b"x" * 10_000], "label": ["7"]})
    for name, content in (("a.tar", b"one"), ("b.parquet", b"four")):
        [item] = items_at(tmp_path / name, columns=Columns("image" if name == "b.parquet" else None, None))
        assert (item.read(), item.num_bytes, item.label) == (content, len(content), "7")


def test_folders_a_thousand_deep(tmp_path: Path, deepest: Path):
    (deepest / "1.png").write_bytes(b"one")
    [item] = items_at(tmp_path / "data")
    assert item.read() == b"one" and item.key.count("/") == 1201
