"""`bequest.data.folders`: what it reads, and what it refuses in which words."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bequest.core.errors import DataError
from bequest.data import load


def write(root: Path, *names: str) -> None:
    """Files whose text is their name; images of a colour of their own."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg"):
            Image.new("RGB", (8, 8), zlib.crc32(name.encode()) % 2**24).save(path)
        else:
            path.write_text(name)


def labels_of(root: Path) -> list[tuple[str, str]]:
    task = load(root)
    places = [Path(task.samples.describe(i)).relative_to(root).as_posix() for i in range(len(task.labels))]
    return list(zip(places, [task.classes[i] for i in task.labels], strict=True))


def test_class_folders_of_texts(tmp_path: Path) -> None:
    write(tmp_path, "ham/2.txt", "ham/1.TXT", "ham/deep/er/3.txt", "spam/1.txt")
    task = load(tmp_path)
    assert (task.name, task.modality, task.classes, task.split) == (
        tmp_path.name,
        "text",
        ("ham", "spam"),
        (),
    )
    assert labels_of(tmp_path) == [
        ("ham/1.TXT", "ham"),
        ("ham/2.txt", "ham"),
        ("ham/deep/er/3.txt", "ham"),
        ("spam/1.txt", "spam"),
    ]
    assert task.samples[2] == "ham/deep/er/3.txt"


def test_class_folders_of_images(tmp_path: Path) -> None:
    write(tmp_path, "dog/b.PNG", "dog/a.png", "cat/c.jpg")
    task = load(tmp_path)
    assert task.modality == "image"
    assert [name for name, _ in labels_of(tmp_path)] == ["cat/c.jpg", "dog/a.png", "dog/b.PNG"]
    assert task.samples[0].size == (8, 8)


def test_numbered_classes_are_in_numeric_order(tmp_path: Path) -> None:
    write(tmp_path, "10/a.txt", "9/b.txt")
    assert load(tmp_path).classes == ("9", "10")


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "a/1.txt", "b/2.txt", "README.md", ".hidden.txt", "a/.DS_Store", "b/note.md", "a/.git/x.txt")
    write(tmp_path, "__pycache__/m.pyc", "a/__pycache__/m.pyc", ".cache/x.txt", "b/LICENSE", "__init__.py")
    task = load(tmp_path)
    assert len(task.labels) == 2
    (note,) = task.notes
    assert note.startswith("Ignored 8 other files: 4 hidden, ")
    assert all(kind in note for kind in ("2 .md", "1 .py", "1 without suffix"))


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "Val"])
def test_given_splits(tmp_path: Path, validation: str) -> None:
    write(tmp_path, "train/a/1.txt", "train/b/2.txt", "test/a/3.txt", "test/b/4.txt", f"{validation}/a/5.txt")
    write(tmp_path, "train/readme.md")
    task = load(tmp_path)
    assert task.classes == ("a", "b")
    by_name = {task.samples[i]: part for i, part in enumerate(task.split)}
    assert by_name == {
        "train/a/1.txt": "train",
        "train/b/2.txt": "train",
        "test/a/3.txt": "test",
        "test/b/4.txt": "test",
        f"{validation}/a/5.txt": "validation",
    }
    assert task.notes == ("Ignored 1 other file: 1 .md.",)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    write(tmp_path, "train/1.txt", "bus/2.txt", "train/steam/3.txt")
    assert load(tmp_path).classes == ("bus", "train")
    assert load(tmp_path).split == ()


def test_given_splits_beside_other_folders(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.txt", "train/b/2.txt", "test/a/3.txt", "extra/a/4.txt")
    with pytest.raises(DataError, match=r"holds test/, train/ but also extra/\. Expected either given parts or"):
        load(tmp_path)


def test_part_without_class_folders(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.txt", "train/b/2.txt", "test/3.txt")
    with pytest.raises(DataError, match=r"test holds no class folders\. Expected class folders of images"):
        load(tmp_path)


def test_mixed_kinds_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/labels.txt")
    with pytest.raises(DataError, match=r"holds 3 images and 1 text; expected one kind\. .* e\.g\. .*b/labels\.txt"):
        load(tmp_path)


def test_empty_class_folders_are_all_named(tmp_path: Path) -> None:
    write(tmp_path, "a/1.txt", "b/2.txt", "c/notes.md")
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert f"2 class folders without .txt files: {tmp_path / 'c'}, {tmp_path / 'd'}. Expected" in str(caught.value)


def test_folder_without_anything_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no class folders\. Expected class folders of images or of \.txt"):
        load(tmp_path)
    write(tmp_path, "a/1.npy", "b/2.npy")
    with pytest.raises(DataError, match=r"no images and no \.txt files in class folders\. There are: 2 \.npy\."):
        load(tmp_path)


def test_folder_one_level_too_high(tmp_path: Path) -> None:
    write(tmp_path, "data/a/1.txt", "data/b/2.txt")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert f"Did you mean {tmp_path / 'data'}?" in str(caught.value)


def test_links_within_the_folder_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(tmp_path, "root/.kept/1.txt", "root/b/2.txt")
    (root / "a").symlink_to(root / ".kept", target_is_directory=True)
    (root / "b" / "up").symlink_to(root / "b", target_is_directory=True)
    assert labels_of(root) == [("a/1.txt", "a"), ("b/2.txt", "b")]


def test_encoding_reaches_the_files(tmp_path: Path) -> None:
    write(tmp_path, "a/1.txt", "b/2.txt")
    (tmp_path / "a" / "3.txt").write_bytes(b"\xa35")
    with pytest.raises(DataError, match=r"1 file of 3 is not utf-8 text.*a/3\.txt \(byte 0\)"):
        load(tmp_path)
    assert load(tmp_path, encoding="latin-1").samples[1] == "£5"


def test_duplicate_images_across_parts(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/3.png")
    (tmp_path / "test" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a" / "copy.png").write_bytes((tmp_path / "train/a/1.png").read_bytes())
    task = load(tmp_path)
    assert sorted(task.split) == ["test", "train", "train"]
    assert task.notes[0].startswith("Dropped 1 exact duplicate, keeping one of each; 1 stood in more than one")


def test_bad_files_are_skipped_and_told(tmp_path: Path) -> None:
    write(tmp_path, "a/1.txt", "b/2.txt", "b/4.txt")
    (tmp_path / "a" / "3.txt").write_bytes(b"\xa35")
    with pytest.raises(DataError, match=r"1 file of 4 is not utf-8 text.* or leave them out: --skip-bad"):
        load(tmp_path)
    task = load(tmp_path, skip_bad=True)
    assert [task.samples[i] for i in range(3)] == ["a/1.txt", "b/2.txt", "b/4.txt"]
    assert task.samples.describe(2) == str(tmp_path / "b" / "4.txt")
    assert task.notes == (f"Left out 1 unreadable text: {tmp_path / 'a' / '3.txt'} (--skip-bad).",)
    (tmp_path / "a" / "1.txt").unlink()
    with pytest.raises(DataError, match="No samples of 'a'"):
        load(tmp_path, skip_bad=True)


def test_images_that_are_cut_off_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/2.png")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a" / "cut.jpg")
    (tmp_path / "a" / "cut.jpg").write_bytes((tmp_path / "a" / "cut.jpg").read_bytes()[:-400])
    task = load(tmp_path)  # the header is sound
    with pytest.raises(DataError, match=r"Cannot decode the image .*cut\.jpg: .* or load with --skip-bad"):
        task.samples[1]
    task = load(tmp_path, skip_bad=True)
    assert len(task.labels) == 2
    assert task.notes == (f"Left out 1 unreadable image: {tmp_path / 'a' / 'cut.jpg'} (--skip-bad).",)
    assert load(**task.origin).fingerprint == task.fingerprint


def test_names_of_files_that_are_no_text_are_escaped_and_those_of_classes_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(3):
            (root / label / os.fsdecode(b"\xe9%d.txt" % i)).write_text(f"{label} {i}")
    (root / "a" / os.fsdecode(b"x.\xe9")).touch()
    (root / "a" / "out.txt").symlink_to(tmp_path / os.fsdecode(b"\xe9.txt"))
    task = load(root)
    assert task.samples.describe(0) == f"{root}/a/\\udce90.txt"
    assert json.dumps([task.name, task.notes, task.origin], ensure_ascii=False).encode()
    (root / "b").rename(root / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"1 name of classes or groups not in UTF-8: caf\\udce9\. Expected names"):
        load(root)
    root.rename(tmp_path / os.fsdecode(b"\xe9"))
    with pytest.raises(DataError, match=r"The path .*/\\udce9 is not in UTF-8; expected a name that can be written"):
        load(tmp_path / os.fsdecode(b"\xe9"))


def test_folders_a_thousand_deep(tmp_path: Path, deepest: Path) -> None:
    write(tmp_path / "data", "spam/1.txt", "ham/2.txt")
    (deepest / "3.txt").write_text("deep")
    task = load(tmp_path / "data")
    assert sorted(task.classes[label] for label in task.labels) == ["ham", "ham", "spam"]
