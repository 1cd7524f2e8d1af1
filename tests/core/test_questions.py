import json
from dataclasses import asdict, replace

import pytest

from bequest.core.errors import RunError
from bequest.core.questions import (
    Gap,
    Merging,
    Pace,
    Parity,
    Questions,
    Race,
    Ranks,
    Ratio,
    Reached,
    Spectrum,
    Weights,
)
from bequest.core.results import Epoch, Leaderboard, TrialRecord

MERGING = Merging(Pace(0.004, 300.0), Pace(0.003, 350.0), 9000, 90_000)
SPECTRUM = Spectrum("encoder.weight", 4, 6, True, 0.01, 2, 1.75, 1, 2, [0.9, 1.0, 1.0], [1.0, 0.3333])
QUESTIONS = Questions(
    metric="accuracy",
    higher_is_better=True,
    tolerance=0.005,
    relative=False,
    gaps=[Gap("lora", -0.01, -0.02, 0.0, 3), Gap("bitfit", 0.1, None, None, 1)],
    parities=[
        Parity(
            "lora",
            [
                Race(0, 0.9, Reached(26, 9.5), Reached(13, 6.0), Reached(130, 50.0)),
                Race(1, 0.9, None, Reached(13, 6.0), Reached(130, 50.0)),
            ],
            Ratio(10.0, False, 2),
            None,
        )
    ],
    ranks=[Ranks("full", 0, 12, 7.5, 5.0, 10.0, 3.0, 9.5, [0.6, 0.9, 1.0])],
    suggested_rank=2,
    merging={"lora": MERGING},
)
TRIAL = TrialRecord("lora", 0, {}, epochs=[Epoch(0, 1, 0.6, 0.5, 0.75, 1e-3, 2.5, 13)])


@pytest.mark.parametrize("merging", [None, MERGING])
def test_what_training_did_to_weights_survives_json(merging: Merging | None):
    trial = replace(TRIAL, weights=Weights([SPECTRUM], merging))
    assert TrialRecord.from_json(json.loads(json.dumps(asdict(trial)))) == trial


def test_questions_survive_json():
    board = Leaderboard([], {}, {}, {}, {}, {}, [TRIAL], QUESTIONS)
    data = json.loads(json.dumps(board.to_json()))
    assert data["questions"]["parities"][0]["races"][1]["own"] is None
    assert Leaderboard.from_json(data) == board


def test_older_records_load_without_them():
    data = json.loads(json.dumps(Leaderboard([], {}, {}, {}, {}, {}, [TRIAL]).to_json()))
    del data["questions"], data["trials"][0]["weights"], data["trials"][0]["epochs"][0]["steps"]
    board = Leaderboard.from_json(data)
    assert board.questions is None and board.trials[0].weights is None
    assert board.trials[0].epochs[0].steps is None


def test_foreign_fields_are_a_run_error():
    data = json.loads(json.dumps(Leaderboard([], {}, {}, {}, {}, {}, [], QUESTIONS).to_json()))
    data["questions"]["gaps"][0]["colour"] = "red"
    with pytest.raises(RunError, match=r"not a leaderboard that this version.*'colour'"):
        Leaderboard.from_json(data)
