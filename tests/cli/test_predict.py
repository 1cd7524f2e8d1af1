"""`bequest predict` on files, folders, tables and standard input, into the terminal and into files."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

import bequest as package
from bequest.engine.adapted import AdaptedModel
from bequest.sources import timm as timm_sources
from bequest.sources.preprocess import ImagePreprocess

Bequest = Callable[..., tuple[int, str, str]]
TEXTS = ["goal ball the team", "soup bread salt " * 5, "violin choir"]


def saved(folder: Path, source: Any, classes: tuple[str, ...], kind: Any = "classification") -> AdaptedModel:
    torch.manual_seed(2)
    network = source.scratch(3)
    network.head = nn.Linear(source.width, len(classes))
    model = AdaptedModel(network.eval().requires_grad_(False), source, classes, {}, kind)
    model.save(folder)
    return package.load(folder)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdaptedModel]:
    """A model of texts."""
    folder = tmp_path_factory.mktemp("reader")
    return folder, saved(folder, tiny.text_source(), ("sport", "food", "music"))


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdaptedModel]:
    """A model of images."""
    folder = tmp_path_factory.mktemp("seer")
    preprocess = ImagePreprocess(32, (0.5,) * 3, (0.2,) * 3)
    description = {"kind": "timm", "architecture": "test_resnet", "arguments": {}, "head": None}
    return folder, saved(folder, timm_sources.from_description("tiny_timm", description, preprocess), ("dark", "light"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, one below a folder, and one file that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    task = tiny.photo_task(40, 36)
    for index, name in enumerate(("b.png", "more/a.png", "c.jpg")):
        task.samples[index].save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def write_table(path: Path) -> Path:
    """The texts with a number, a truth value and something missing beside them."""
    columns = {"id": [7, 8, 9], "text": TEXTS, "label": ["x", None, "y"], "seen": [True, False, True]}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(lines))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_keeps_its_columns(suffix: str, reader: Any, bequest: Bequest, tmp_path: Path) -> None:
    folder, model = reader
    given, out = write_table(tmp_path / f"given{suffix}"), tmp_path / f"out{suffix}"
    status, told, error = bequest("predict", folder, given, "--out", out, "--quiet")
    assert (status, error) == (0, "") and told == f"Predictions  {out}   (3 samples)\n"
    before, after = rows_of(given), rows_of(out)
    assert list(after[0]) == ["id", "text", "label", "seen", "predicted", "probability"]
    assert [{k: v for k, v in row.items() if k in before[0]} for row in after] == before
    for row, wanted in zip(after, model.predict(TEXTS), strict=True):
        assert row["predicted"] == wanted.label
        assert float(row["probability"]) == pytest.approx(wanted.probability, abs=1e-6)


def test_every_class_has_a_column_where_asked(reader: Any, bequest: Bequest, tmp_path: Path) -> None:
    folder, model = reader
    out = tmp_path / "out.jsonl"
    bequest("predict", folder, write_table(tmp_path / "a.csv"), "--out", out, "--probabilities", "--quiet")
    for row, wanted in zip(rows_of(out), model.predict(TEXTS), strict=True):
        assert {k: row[f"probability:{k}"] for k in model.classes} == pytest.approx(wanted.probabilities, abs=1e-6)
    again = bequest("predict", folder, out, "--out", tmp_path / "twice.csv")
    assert again[0] == 1 and "have a column 'predicted' already; expected none of predicted, probability" in again[2]


def test_folders_of_images_are_read_to_the_bottom(seer: Any, photos: Path, bequest: Bequest, tmp_path: Path) -> None:
    folder, model = seer
    names = [str(photos / name) for name in ("b.png", "c.jpg", "more/a.png")]
    wanted = model.predict([Image.open(name) for name in names])
    status, out, error = bequest("predict", folder, photos)
    assert (status, error) == (0, "")
    assert out == "".join(f"{p.label}\t{p.probability:.3f}\t{n}\n" for n, p in zip(names, wanted, strict=True))
    # A table's paths are relative to its folder; beside a folder it has columns of its own.
    (photos / "list.csv").write_text("file,weight\nb.png,3\nmore/a.png,4\n")
    out = tmp_path / "out.csv"
    status, _, error = bequest("predict", folder, photos / "list.csv", photos / "c.jpg", "--out", out, "--quiet")
    assert (status, error) == (0, "")
    found = rows_of(out)
    assert [row["file"] for row in found] == ["b.png", "more/a.png", ""]
    assert [row["weight"] for row in found] == ["3", "4", ""]
    assert [row["input"] for row in found] == ["", "", str(photos / "c.jpg")]
    assert [row["predicted"] for row in found] == [wanted[0].label, wanted[2].label, wanted[1].label]


def test_what_cannot_be_read_ends_it_unless_it_is_left_out(
    seer: Any, photos: Path, bequest: Bequest, tmp_path: Path
) -> None:
    folder, _ = seer
    whole = (photos / "b.png").read_bytes()
    (photos / "broken.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out.csv"
    status, _, error = bequest("predict", folder, photos, "--out", out)
    assert status == 1 and not out.exists()
    assert f"Cannot decode the image {photos / 'broken.png'}" in error and "--skip-unreadable" in error
    status, told, error = bequest("predict", folder, photos, "--out", out, "--skip-unreadable")
    assert status == 0 and "3 samples, 1 left out" in told
    assert f"Left out: Cannot decode the image {photos / 'broken.png'}" in error
    assert [Path(row["input"]).name for row in rows_of(out)] == ["b.png", "c.jpg", "a.png"]


def test_standard_input(reader: Any, bequest: Bequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = reader
    wanted = [p.label for p in model.predict(TEXTS)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(TEXTS) + "\n\n"))
    status, out, _ = bequest("predict", folder, "-")
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines()] == wanted
    lines = [json.dumps({"id": i, "body": text}) for i, text in enumerate(TEXTS)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    status, _, _ = bequest("predict", folder, "-", "--text-column", "body", "--out", tmp_path / "out.jsonl", "--quiet")
    assert [(r["id"], r["predicted"]) for r in rows_of(tmp_path / "out.jsonl")] == list(enumerate(wanted))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    status, _, error = bequest("predict", folder, "-")
    assert status == 1 and "Standard input is empty; expected a text" in error


def test_a_blank_line_is_a_sample_that_is_missing_but_for_the_end(
    reader: Any, seer: Any, photos: Path, bequest: Bequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, lines in ((reader[0], TEXTS[:2]), (seer[0], [str(photos / "b.png"), str(photos / "c.jpg")])):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n\n".join(lines) + "\n\n\n"))
        status, _, error = bequest("predict", folder, "-")
        assert status == 1 and "Line 2 of standard input holds no text" in error
        monkeypatch.setattr("sys.stdin", io.StringIO("\n\n".join(lines) + "\n\n\n"))
        status, out, error = bequest("predict", folder, "-", "--skip-unreadable")
        assert status == 0 and len(out.splitlines()) == 2 and error.count("Left out") == 1


def test_columns_that_are_guessed_are_told_and_equal_ones_refused(
    reader: Any, bequest: Bequest, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("id,label\n1,x\n2,y\n")
    status, _, error = bequest("predict", reader[0], tmp_path / "a.csv")
    assert status == 0 and "Took texts from the column 'id' of a.csv." in error
    (tmp_path / "b.csv").write_text("score,text,score\n1,hello,2\n")
    status, _, error = bequest("predict", reader[0], tmp_path / "b.csv")
    assert status == 1 and "has two columns of one name (score)" in error


def test_text_files_and_their_folders(reader: Any, bequest: Bequest, tmp_path: Path) -> None:
    folder, model = reader
    (tmp_path / "letters").mkdir()
    for name, text in zip("cab", TEXTS, strict=True):
        (tmp_path / "letters" / f"{name}.txt").write_text(text)
    status, out, _ = bequest("predict", folder, tmp_path / "letters", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [Path(row["input"]).stem for row in rows] == ["a", "b", "c"]
    assert [row["label"] for row in rows] == [p.label for p in model.predict([TEXTS[1], TEXTS[2], TEXTS[0]])]
    (tmp_path / "letters" / "a.txt").write_bytes("soup é".encode("latin-1"))
    (tmp_path / "letters" / "b.txt").write_text(" \n")
    status, _, error = bequest("predict", folder, tmp_path / "letters")
    assert status == 1 and "is not utf-8 text" in error
    words = ("predict", folder, tmp_path / "letters", "--encoding", "utf-8,latin-1")
    status, _, error = bequest(*words)
    assert status == 1 and "b.txt holds no text; expected some" in error
    status, out, _ = bequest(*words, "--skip-unreadable")
    assert status == 0 and len(out.splitlines()) == 2


def test_columns_that_cannot_be_told(reader: Any, bequest: Bequest, tmp_path: Path) -> None:
    folder, _ = reader
    table = tmp_path / "a.csv"
    table.write_text("first,second\na,b\n")
    status, _, error = bequest("predict", folder, table)
    assert status == 1 and "Cannot tell which column of a.csv holds the texts" in error and "--text-column" in error
    status, _, error = bequest("predict", folder, table, "--text-column", "frist")
    assert status == 1 and "has no column 'frist'" in error and "'first'" in error
    status, _, error = bequest("predict", folder, table, "--image-column", "first")
    assert status == 1 and "--image-column is given, but the model takes samples of kind text" in error
    status, _, error = bequest("predict", folder, tmp_path / "none.csv")
    assert status == 1 and "There is no" in error
    status, _, error = bequest("predict", folder, table, "--out", tmp_path / "a.xlsx")
    assert status == 1 and "expected a file that ends in .csv, .tsv, .jsonl, .parquet" in error
    (tmp_path / "empty").mkdir()
    status, _, error = bequest("predict", folder, tmp_path / "empty")
    assert status == 1 and "holds no .txt files" in error


def test_a_few_samples_are_in_memory_at_a_time(reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = reader
    sizes: list[int] = []
    forward = type(model.network).forward

    def counted(network: Any, *inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs[0]))
        return forward(network, *inputs)

    monkeypatch.setattr(type(model.network), "forward", counted)
    (tmp_path / "many.csv").write_text("text\n" + "".join(f"{text.strip()} {i}\n" for i in range(20) for text in TEXTS))
    each = package.predict_each(model, tmp_path / "many.csv", batch_size=2, progress=False)
    assert not sizes
    name, _ = next(each)
    assert name == "many.csv line 2" and sizes == [2] * 8
    assert len(list(each)) == 59


def test_kinds_of_task_have_columns_of_their_own(reader: Any, tmp_path: Path) -> None:
    source, given = tiny.text_source(), write_table(tmp_path / "given.csv")
    several = saved(tmp_path / "several", source, ("a", "b"), "multi-label")
    package.predict_file(several, given, tmp_path / "several.jsonl", progress=False)
    for row, wanted in zip(rows_of(tmp_path / "several.jsonl"), several.predict(TEXTS), strict=True):
        assert row["predicted"] == "|".join(wanted.labels)
        assert row["probability:a"] == pytest.approx(wanted.probabilities["a"], abs=1e-6)
    values = saved(tmp_path / "values", source, ("x", "y"), "regression")
    package.predict_file(values, given, tmp_path / "values.parquet", progress=False)
    for row, wanted in zip(rows_of(tmp_path / "values.parquet"), values.predict(TEXTS), strict=True):
        assert (row["predicted:x"], row["predicted:y"]) == pytest.approx(tuple(wanted.values.values()), abs=1e-5)


def test_cells_of_mixed_kinds_become_texts(tmp_path: Path) -> None:
    from bequest.data.output import write_rows

    rows = [[1, "a", [1, 2], None], [2.5, 3, [3], None]]
    assert write_rows(["n", "mixed", "list", "none"], rows, tmp_path / "a.parquet") == 2
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == [
        {"n": 1.0, "mixed": "a", "list": [1, 2], "none": None},
        {"n": 2.5, "mixed": "3", "list": [3], "none": None},
    ]


def test_a_folder_does_not_lead_out_of_itself(seer: Any, photos: Path, bequest: Bequest, tmp_path: Path) -> None:
    folder, _ = seer
    outside = tmp_path / "outside"
    outside.mkdir()
    (photos / "c.jpg").rename(outside / "c.jpg")
    (photos / "secret.jpg").symlink_to(outside / "c.jpg")
    (photos / "all").symlink_to(outside, target_is_directory=True)
    os.mkfifo(photos / "pipe.png")
    (photos / "again.png").symlink_to(photos / "pipe.png")
    (photos / os.fsdecode(b"\xe9.png")).write_bytes((photos / "b.png").read_bytes())
    out = tmp_path / "out.csv"
    status, _, error = bequest("predict", folder, photos, "--out", out)
    assert status == 0 and "Did not follow 2 links that lead out of" in error
    assert [Path(row["input"]).name for row in rows_of(out)] == ["b.png", "a.png", "\\udce9.png"]
    (photos / "list.csv").write_text("file\nb.png\npipe.png\n")
    status, _, error = bequest("predict", folder, photos / "list.csv", "--out", out)
    assert status == 1 and "pipe.png: not a regular file" in error


def test_standard_input_that_is_no_text(
    reader: Any, bequest: Bequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = reader

    def given(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    given(b"goal ball\ncaf\xe9 one\n")
    status, _, error = bequest("predict", folder, "-")
    assert status == 1 and "Text 2 of standard input is not UTF-8: caf\\udce9 one. Expected UTF-8" in error
    given(b"goal ball\ncaf\xe9 one\n")
    status, out, _ = bequest("predict", folder, "-", "--skip-unreadable")
    assert status == 0 and len(out.splitlines()) == 1
    given(b'{"text": "caf\xe9"}\n')
    status, _, error = bequest("predict", folder, "-")
    assert status == 1 and "line 1" in error and "surrogates not allowed" in error
    given(b"[" * 200_000 + b"\ngoal\n")
    status, out, _ = bequest("predict", folder, "-", "--out", tmp_path / "out.jsonl", "--quiet")
    assert status == 0 and len(rows_of(tmp_path / "out.jsonl")) == 2
