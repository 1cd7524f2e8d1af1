import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bequest.core.errors import RunError
from bequest.core.results import (
    Epoch,
    GroupScore,
    Interval,
    Leaderboard,
    Row,
    TrialRecord,
    atomic_open,
    is_temporary,
    read_json,
    write_json,
)

EPOCHS = [Epoch(0, 0, None, 0.7, 0.5, None, 0.1), Epoch(0, 1, 0.6, 0.5, 0.75, 1e-3, 2.5)]
TRIAL = TrialRecord(
    "lora", 3, {"rank": 8}, validation=0.75, test=0.7, confusion=[[3, 1], [2, 4]], epochs=EPOCHS, merged=True
)
ROW = Row(
    method="lora",
    family="low-rank",
    metric="accuracy",
    validation=Interval(0.75, None, 1, [0.75]),
    validation_loss=0.5,
    test=None,
    epochs_planned=2,
    epochs_run=1.0,
    trainable_parameters=1000,
    stored_bytes=4000,
    train_s=2.6,
    shared_s=0.5,
    peak_memory_bytes=10**9,
    inference_per_s=114.0,
    labels=80,
    settings={"rank": 8},
    errors=[],
    median_seed=3,
    metrics={"macro-F1": Interval(0.6, 0.1, 2, [0.5, 0.7])},
)
BOARD = Leaderboard([ROW], {"name": "pets"}, {"name": "tiny"}, {"seeds": 1}, {}, {"asked": 10}, [TRIAL])


def test_leaderboard_survives_json(tmp_path: Path):
    write_json(tmp_path / "leaderboard.json", BOARD.to_json())
    assert Leaderboard.from_json(read_json(tmp_path / "leaderboard.json")) == BOARD


def test_trial_survives_json_and_old_trials_lack_only_what_has_a_default():
    assert TrialRecord.from_json(json.loads(json.dumps(asdict(TRIAL)))) == TRIAL
    assert TrialRecord.from_json({"method": "full", "seed": 0, "settings": {}}) == TrialRecord("full", 0, {})


def test_groups_survive_json(tmp_path: Path):
    scores = {"sport / red": GroupScore(0.5, 4), "sport / blue": GroupScore(1.0, 9)}
    trial = replace(TRIAL, groups=scores, validation_worst_group=0.25, metrics={"worst_group_accuracy": 0.5})
    worst = Interval(0.25, None, 1, [0.25])
    row = replace(ROW, groups={"sport / red": Interval(0.5, None, 1, [0.5])}, validation_worst_group=worst)
    board = replace(BOARD, rows=[row], trials=[trial], protocol={"select_by": "worst-group"})
    write_json(tmp_path / "leaderboard.json", board.to_json())
    assert Leaderboard.from_json(read_json(tmp_path / "leaderboard.json")) == board
    [judged] = board.judged()
    assert (judged.metric, judged.validation, judged.test) == ("worst_group_accuracy", worst, None)
    assert replace(board, protocol={}).judged() == [row]


def test_best_is_the_first_row_with_a_result():
    failed = replace(ROW, method="full", validation=None, errors=["out of memory"])
    assert replace(BOARD, rows=[failed, ROW]).best == ROW
    assert replace(BOARD, rows=[failed]).best is None
    assert replace(BOARD, rows=[]).best is None


def test_a_foreign_field_of_a_trial_is_a_run_error():
    with pytest.raises(RunError, match=r"not a trial's record that this version.*'colour'.*run again"):
        TrialRecord.from_json({**asdict(TRIAL), "colour": "red"})


@pytest.mark.parametrize("data", [{}, [], {**BOARD.to_json(), "rows": [{}]}, {**BOARD.to_json(), "trials": None}])
def test_what_is_no_leaderboard_is_a_run_error(data: object):
    with pytest.raises(RunError, match=r"not a leaderboard that this version of bequest wrote \(.+\)"):
        Leaderboard.from_json(data)  # pyright: ignore[reportArgumentType]


def test_atomic_open_replaces_only_when_all_went_well(tmp_path: Path):
    path = tmp_path / "new" / "file"
    with atomic_open(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_open(path) as file:
        file.write(b"second")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["file"]


def test_atomic_open_names_the_file_whatever_part_of_writing_fails(tmp_path: Path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_open(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file")
    (tmp_path / "plain").touch()
    with pytest.raises(FileExistsError) as exists, atomic_open(tmp_path / "plain" / "file"):
        pass
    assert exists.value.filename == str(tmp_path / "plain" / "file")


def test_what_a_killed_process_was_writing_is_known_by_its_name(tmp_path: Path):
    with atomic_open(tmp_path / "file.json"):
        [temporary] = tmp_path.iterdir()
        assert is_temporary(temporary)
    assert not any(is_temporary(Path(name)) for name in ("file.json", ".lock", ".mine.tmp", ".gitignore"))


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_atomic_open_respects_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "file", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_write_json_refuses_what_json_has_not(tmp_path: Path, bad: float):
    write_json(tmp_path / "file", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"loss": bad})
    assert read_json(tmp_path / "file") == {"loss": 1.0}
    assert os.listdir(tmp_path) == ["file"]


def test_read_json_says_what_is_missing(tmp_path: Path):
    (tmp_path / "file").write_text("1")
    for path in (tmp_path / "none.json", tmp_path / "file" / "none.json"):
        with pytest.raises(RunError, match=r"none\.json is missing; .* Name the folder of a run\."):
            read_json(path)


@pytest.mark.parametrize("content", [b'{"rows": [', b"\xff\xfe"])
def test_read_json_says_what_is_broken(tmp_path: Path, content: bytes):
    (tmp_path / "cut.json").write_bytes(content)
    with pytest.raises(RunError, match=r"cut\.json is not the JSON that bequest wrote .* run again\."):
        read_json(tmp_path / "cut.json")
