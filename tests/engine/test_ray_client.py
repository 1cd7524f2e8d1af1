"""A cluster that this process is connected to from without, through its client server."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import tiny
from clusters import elsewhere, one_thread
from killing import without_timings

import bequest
from bequest import sources
from bequest.core.errors import DataError, RunError
from bequest.engine.cluster import Resources, connected

pytestmark = [pytest.mark.first, pytest.mark.usefixtures("all_penalties")]


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    with elsewhere() as found, one_thread(), connected(found, Resources()):
        yield found  # what asks for it is connected; Ray's server starts a process for each connection


def photos(folder: Path, *, damaged: bool = False) -> Path:
    task = tiny.photo_task(12, 40)
    folder.mkdir()
    for index in range(12):
        task.samples[index].save(folder / f"{index:02}.png")
    if damaged:
        (folder / "07.png").write_bytes(b"no image at all")
    return folder


@pytest.mark.slow
def test_features_are_those_of_this_process(address: str, tmp_path: Path) -> None:
    data, source = photos(tmp_path / "data"), sources.get("efficientnet_lite0", image_size=32)
    here, there = (
        bequest.features(data, source, tmp_path / name, on=on, precision="float32", progress=False)
        for name, on in (("here", None), ("there", address))
    )
    assert here.num_samples == there.num_samples == 12
    first, second = ((tmp_path / name / "features.json").read_text() for name in ("here", "there"))
    assert first == second and "digest" in first, "of all that is in the files"
    with pytest.raises(DataError, match=r"^Cannot decode the image 07.png"):
        damaged = photos(tmp_path / "damaged", damaged=True)
        bequest.features(damaged, source, tmp_path / "out", on=address, progress=False)


@pytest.mark.slow
def test_the_leaderboard_is_that_of_this_process(address: str, tmp_path: Path) -> None:
    boards: list[Any] = []
    for name, on in (("here", None), ("there", address)):
        options: dict[str, Any] = {"seeds": 2, "train_size": 40, "test_size": 30, "precision": "float32", "cut": False}
        own = {"out": tmp_path / name, "cache": tmp_path / f"{name} store", "on": on, "progress": False}
        run = bequest.compare(
            tiny.text_task(),
            tiny.text_source(),
            ["linear_probe", "full"],
            settings={"full": {"epochs": 1}},
            **options,
            **own,
        )
        boards.append(without_timings(run.board.to_json()))
        del boards[-1]["environment"]
        for trial in boards[-1]["trials"]:
            del trial["frozen_samples"]  # who made a pass that several need
    assert boards[0] == boards[1]


def test_a_token_that_is_lacking_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refused(*_: Any, **__: Any) -> Any:
        raise ray.exceptions.AuthenticationError("No token was found")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    told = r"\(No token was found.*its token where it asks for one \(RAY_AUTH_MODE=token"
    with pytest.raises(RunError, match=told), connected("ray://127.0.0.1:10001", Resources()):
        pass
