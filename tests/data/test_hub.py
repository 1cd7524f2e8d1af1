"""`bequest.data.hub`: Hugging Face datasets by name, by folder and as objects."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bequest.core.errors import DataError
from bequest.data import load

datasets = pytest.importorskip("datasets")

CLASSES = ["neg", "pos", "unused"]


def features(**others: Any) -> Any:
    return datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=CLASSES), **others})


def split(texts: str, labels: list[int]) -> Any:
    return datasets.Dataset.from_dict({"text": list(texts), "label": labels}, features=features())


def whole() -> Any:
    return datasets.DatasetDict(
        train=split("abcd", [1, 0, 1, 0]),
        test=split("ef", [0, 1]),
        validation=split("g", [1]),
        extra=split("h", [0]),
    )


def pictures(folder: Path, num: int = 3) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(num)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    return paths


def test_a_dictionary_of_splits() -> None:
    task = load(whole())
    assert (task.kind, task.modality, task.classes, task.origin) == ("classification", "text", ("neg", "pos"), {})
    found = {task.samples[i]: (part, task.classes[task.labels[i]]) for i, part in enumerate(task.split)}
    assert found == {
        "a": ("train", "pos"),
        "b": ("train", "neg"),
        "c": ("train", "pos"),
        "d": ("train", "neg"),
        "e": ("test", "neg"),
        "f": ("test", "pos"),
        "g": ("validation", "pos"),
    }
    assert [note for note in task.notes if note.startswith(("Ignored", "Left out"))] == [
        "Ignored the splits 'extra': they are not train, validation or test.".replace("'", ""),
        "Left out 1 class without samples: 'unused'.",
    ]
    assert task.samples.describe(4) == "the dataset test row 0"


def test_one_dataset_whose_rows_were_moved() -> None:
    moved = split("abcdef", [0, 1, 0, 1, 0, 1]).select([5, 0, 3])
    task = load(moved)
    assert [task.samples[i] for i in range(3)] == ["f", "a", "d"]
    assert [task.classes[i] for i in task.labels] == ["pos", "neg", "pos"]
    assert task.split == ()


def test_saved_folders_replay(tmp_path: Path) -> None:
    whole().save_to_disk(tmp_path / "all")
    split("abcd", [1, 0, 1, 0]).save_to_disk(tmp_path / "one")
    task = load(tmp_path / "all")
    assert task.fingerprint == load(whole()).fingerprint == load(f"hf:{tmp_path / 'all'}").fingerprint
    assert (task.name, task.origin["path"]) == ("all", str(tmp_path / "all"))
    assert load(**task.origin).fingerprint == task.fingerprint
    assert len(load(tmp_path / "one", task="classification").labels) == 4


def test_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.csv").write_text("text,label\na,1\nb,0\n")
    (tmp_path / "files" / "test.csv").write_text("text,label\nc,1\n")
    monkeypatch.chdir(tmp_path)
    task = load("hf:files")
    assert (task.classes, task.split, task.origin["path"]) == (
        ("0", "1"),
        ("train", "train", "test"),
        f"hf:{tmp_path / 'files'}",
    )


def test_images_are_decoded_on_access(tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])}
    data = datasets.Dataset.from_dict(
        {"image": [str(p) for p in paths], "label": [0, 1, 0]}, features=datasets.Features(kinds)
    )
    data.save_to_disk(tmp_path / "saved")
    for task in (load(data), load(tmp_path / "saved")):
        assert (task.modality, task.labels.tolist()) == ("image", [0, 1, 0])
        assert [task.samples[i].getpixel((0, 0))[0] for i in range(3)] == [0, 1, 2]
        assert task.notes == ("Took images from the column 'image' and labels from 'label'.",)
    csv = tmp_path / "t.csv"
    csv.write_text("image,label\n" + "".join(f"{p},{'xyx'[i]}\n" for i, p in enumerate(paths)))
    assert load(data).fingerprint == load(csv).fingerprint


def test_bad_images_are_named_or_skipped(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 4)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    rows = [{"bytes": p.read_bytes(), "path": None} for p in paths]
    rows[1]["bytes"] = b"no image"
    rows[2]["bytes"] = (tmp_path / "cut.jpg").read_bytes()[:-400]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"image": rows, "label": list("xyyy")}, features=kinds)
    with pytest.raises(DataError, match=r"1 image of 4 cannot be read as images: the dataset row 1 \(not an image"):
        load(data)
    task = load(data, skip_bad=True)
    assert task.labels.tolist() == [0, 1]
    assert task.samples[1].getpixel((0, 0)) == (3, 0, 0)
    assert "Left out 2 unreadable images: the dataset row 1, the dataset row 2 (--skip-bad)." in task.notes


def test_lists_of_classes_are_multi_label() -> None:
    kinds = features(label=datasets.Sequence(datasets.ClassLabel(names=["b", "a", "c"])))
    data = datasets.Dataset.from_dict({"text": list("xyz"), "label": [[0, 1], [], [0]]}, features=kinds)
    task = load(data)
    assert (task.kind, task.classes, task.labels.tolist()) == ("multi-label", ("b", "a"), [[1, 1], [0, 0], [1, 0]])


def test_floats_are_a_regression_and_secret_labels_left_out() -> None:
    data = datasets.Dataset.from_dict({"text": list("xyz"), "label": [0.5, 1.5, 2.0]})
    assert load(data).kind == "regression"
    secret = datasets.DatasetDict(train=split("abcd", [1, 0, 1, 0]), test=split("ef", [-1, -1]))
    task = load(secret)
    assert set(task.split) == {"train"}
    assert "The given test part is not used: it has no labels." in task.notes


def test_faults_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the dataset is empty"):
        load(split("", []))
    with pytest.raises(DataError, match=r"is a stream; expected a dataset that can be read in any order"):
        load(split("ab", [0, 1]).to_iterable_dataset())
    with pytest.raises(DataError, match=r"the splits a, b, none of which is train"):
        load(datasets.DatasetDict(a=split("ab", [0, 1]), b=split("cd", [0, 1])))
    with pytest.raises(DataError, match=r"Cannot load the Hugging Face dataset 'no/such': "):
        load("hf:no/such")
    with pytest.raises(DataError, match=r"has no column 'txt'.* mean 'text'\?"):
        load(whole(), text_column="txt")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"expected datasets\. Install it: pip install 'bequest\[hub\]'"):
        load("hf:imdb")


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("train/state.json", "[]", r"train/state\.json holds no JSON object"),
        ("train/state.json", "{}", r"train/state\.json names 'None'; expected files and folders beside it"),
        ("train/state.json", '{"_data_files": [{"filename": "../test/data.arrow"}]}', r"state\.json names '\.\./test"),
        ("train/state.json", '{"_data_files": [{"filename": "/x.arrow"}]}', r"state\.json names '/x\.arrow'"),
        ("train/state.json", '{"_data_files": []}', "Cannot load the Hugging Face dataset .*all"),
        ("train/dataset_info.json", "[]", r"dataset_info\.json holds no JSON object"),
        ("train/dataset_info.json", "[" * 10**5, r"dataset_info\.json cannot be read as JSON .*nested deeper"),
        ("train/dataset_info.json", '{"features": []}', "Cannot load the Hugging Face dataset .*all"),
        ("dataset_dict.json", '{"splits": ["train", "../all"]}', r"dataset_dict\.json names '\.\./all'"),
        ("dataset_dict.json", '{"splits": 3}', r"dataset_dict\.json names '3'"),
    ],
)
def test_saved_folders_that_nobody_saved(tmp_path: Path, file: str, content: str, told: str) -> None:
    whole().save_to_disk(tmp_path / "all")
    (tmp_path / "all" / file).write_text(content)
    with pytest.raises(DataError, match=told):
        load(tmp_path / "all")


@pytest.mark.parametrize(
    "name", ["{outside}/*.csv", "../secret/s.csv", "https://localhost:1/s.csv", "**/../../secret/*"]
)
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_card_names_no_files_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, card: str) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for place in ("secret", "files"):
        (tmp_path / place).mkdir()
    (tmp_path / "secret" / "s.csv").write_text("text,label\nsecret,1\nb,0\n")
    (tmp_path / "files" / "train.csv").write_text("text,label\na,1\nb,0\n")
    named = name.format(outside=tmp_path / "secret")
    told = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{named}'\n"
    (tmp_path / "files" / card).write_text(f"---\n{told}---\n" if card == "README.md" else told)
    with pytest.raises(DataError, match=rf"{card} names .*; expected the data's files below it"):
        load(f"hf:{tmp_path / 'files'}")


def test_a_card_may_name_files_of_its_folder_and_links_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "files" / "data").mkdir(parents=True)
    (tmp_path / "files" / "data" / "first.csv").write_text("text,label\na,1\nb,0\n")
    (tmp_path / "files" / "other.csv").write_text("text,label\nc,1\nd,0\n")
    told = "configs:\n- config_name: default\n  data_files: data/*.csv\n"
    (tmp_path / "files" / "README.md").write_text(f"---\n{told}---\nWhat it is.\n")
    assert [str(text) for text in load(f"hf:{tmp_path / 'files'}").samples] == ["a", "b"]
    (tmp_path / "s.csv").write_text("text,label\nsecret,1\n")
    (tmp_path / "files" / "data" / "second.csv").symlink_to(tmp_path / "s.csv")
    with pytest.raises(DataError, match=r"files has a link to .*s\.csv; expected files within it"):
        load(f"hf:{tmp_path / 'files'}")
