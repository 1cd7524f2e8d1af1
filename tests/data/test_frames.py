"""DataFrames: the same task as the same table in a file, and their faults by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import bequest
from bequest.core.errors import DataError
from bequest.data import from_arrays, load
from bequest.engine.adapted import AdaptedModel
from bequest.nn.network import Network

TEXTS = [f"a text about {i}" for i in range(12)]
FRAME = pd.DataFrame({"text": TEXTS, "label": ["cat", "dog"] * 6, "split": ["train"] * 8 + ["test"] * 4})


def test_the_same_task_as_a_file(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "pets.csv", index=False)
    filed, framed = load(tmp_path / "pets.csv"), load(FRAME)
    assert framed.fingerprint == filed.fingerprint and framed.split == filed.split
    assert framed.classes == ("cat", "dog") and framed.labels.tolist() == filed.labels.tolist()
    assert framed.samples.describe(3) == "the frame row 3" and framed.origin == {}


def test_columns_are_named_or_numbers_and_paths_are_paths(tmp_path: Path) -> None:
    from PIL import Image

    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.new("RGB", (4, 4), (60 * i, 0, 0)).save(path)
    task = load(pd.DataFrame({"where": paths, 5: [0, 1, 0, 1]}), image_column="where", label_column="5")
    assert task.modality == "image" and task.classes == ("0", "1")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_what_pandas_holds_missing_is_missing(missing: object) -> None:
    frame = FRAME.astype(object)
    frame.loc[7, "label"] = missing
    with pytest.raises(DataError, match=r"1 sample without a label: the frame row 7"):
        load(frame)


def test_faults_by_name() -> None:
    with pytest.raises(DataError, match="several columns 'label'"):
        load(pd.DataFrame([["a", 0, 1]], columns=["text", "label", "label"]))
    with pytest.raises(DataError, match="the frame is empty"):
        load(FRAME.iloc[:0])


def test_compare_takes_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the frame.*'verdict'"):
        bequest.compare(FRAME, source="minilm_l6", label_column="verdict", out=tmp_path)


def test_predict_refuses_one_rather_than_read_its_columns_names(tiny_sources: Any, tiny_tasks: Any) -> None:
    source, task = tiny_sources["text"], tiny_tasks["text"]
    model = AdaptedModel(
        Network(source.body, torch.nn.Linear(source.width, len(task.classes))), source, task.classes, {}
    )
    assert len(model.predict(FRAME["text"])) == len(FRAME)
    for predict in (model.predict, model.outputs):
        with pytest.raises(TypeError, match=r"not a DataFrame; give its column"):
            predict(FRAME)


def test_a_tables_only_column_is_its_samples() -> None:
    one = from_arrays(FRAME[["text"]], FRAME["label"])
    assert one.fingerprint == from_arrays(TEXTS, FRAME["label"].tolist()).fingerprint
