"""Hyperparameters tuned on held-out labels: the same budget for each, nothing of the test part, and resumable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import bequest
from bequest.comparison.local import advance
from bequest.comparison.tuning import TUNING_FILE, Budget, attempted, ranges, tune
from bequest.core.errors import DataError, RunError, TrainingError
from bequest.core.registry import get_method

LORA = get_method("lora")
RESOLVED = LORA.resolve(LORA.build({}), "text")


def test_ranges_come_from_the_declarations() -> None:
    found = ranges(LORA.hyperparameters, RESOLVED, {})
    assert {name: ends for name, (_, *ends) in found.items()} == {
        "rank": [2, 64],
        "epochs": [5, 20],
        "learning_rate": pytest.approx([3e-5, 3e-3]),
        "head_learning_rate": pytest.approx([1e-4, 1e-2]),
        "weight_decay": [0, 0.1],
    }
    assert "rank" not in ranges(LORA.hyperparameters, RESOLVED, {"rank": 4}), "what the user set stays"
    probe = get_method("linear_probe")
    assert ranges(probe.hyperparameters, probe.resolve(probe.build({}), "text"), {}) == {}


def carried_out(search: Any, attempt: Any) -> Any:
    """A search whose settings are tried at once."""
    chosen, found = advance(search)
    while chosen is not None:
        chosen, found = advance(search, attempted(attempt, chosen))
    return found


def bowl(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Best at a rank of 32; settings of ranks above 50 fail."""
    if settings["rank"] > 50:
        raise TrainingError("The training loss became nan.")
    return -abs(settings["rank"] - 32) / 10, settings["weight_decay"]


def test_a_search_finds_better_settings_and_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    searched = ranges(LORA.hyperparameters, RESOLVED, {})
    seen: dict[str, list[dict[str, Any]]] = {"whole": [], "stopped": []}

    def search(name: str, trials: int, stop_at: int | None = None) -> Any:
        def attempt(settings: Mapping[str, Any]) -> tuple[float, float]:
            if len(seen[name]) == stop_at:
                raise KeyboardInterrupt
            seen[name].append(dict(settings))
            return bowl(settings)

        return carried_out(tune(tmp_path / name, "a", searched, RESOLVED, Budget(trials=trials)), attempt)

    whole = search("whole", 14)
    assert seen["whole"][0] == {name: RESOLVED[name] for name in searched}, "the defaults come first"
    assert whole.tried == 14 and whole.default_score == -2.4 and whole.score > -1.5
    assert bowl(whole.settings)[0] == whole.score
    assert whole.failed == sum(settings["rank"] > 50 for settings in seen["whole"])
    with pytest.raises(KeyboardInterrupt):
        search("stopped", 14, stop_at=7)
    stopped = search("stopped", 14)
    assert seen["stopped"] == seen["whole"] and stopped.settings == whole.settings
    assert search("stopped", 14).seconds == stopped.seconds and len(seen["stopped"]) == 14, "nothing is tried again"


def test_of_equal_scores_the_lower_loss_counts(tmp_path: Path) -> None:
    searched = ranges(LORA.hyperparameters, RESOLVED, {})
    losses: list[float] = []

    def attempt(settings: Mapping[str, Any]) -> tuple[float, float]:
        losses.append(settings["weight_decay"] + (not losses))
        return 0.9, losses[-1]

    found = carried_out(tune(tmp_path, "a", searched, RESOLVED, Budget(trials=5)), attempt)
    assert found.settings["weight_decay"] == min(losses)


def test_a_budget_of_time(tmp_path: Path) -> None:
    searched = ranges(LORA.hyperparameters, RESOLVED, {})
    assert carried_out(tune(tmp_path, "a", searched, RESOLVED, Budget(seconds=1e-9)), bowl).tried == 1
    assert Budget(seconds=10).is_spent(3, 10.0) and not Budget(seconds=10).is_spent(3, 9.0)


def test_a_comparison_of_tuned_methods(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bequest.comparison import ranks

    labels: list[Any] = []
    honest = ranks.run

    def watched(context: Any, method: Any, draw: Any, **options: Any) -> Any:
        outcome = honest(context, method, draw, **options)
        if options.get("tested") is False:
            labels.append((options["seed"], len(outcome.test)))
        return outcome

    monkeypatch.setattr(ranks, "run", watched)

    def compare(**changes: Any) -> bequest.Run:
        return bequest.compare(
            tiny_tasks["text"],
            tiny_sources["text"],
            ["linear_probe", "full"],
            settings={"full": {"epochs": 1}},
            seeds=2,
            train_size=40,
            test_size=30,
            out=tmp_path / "run",
            cache=tmp_path / "cache",
            progress=False,
            **changes,
        )

    board = compare(tune=2).board
    assert labels == [(2, 0), (2, 0)], "a seed that no row is of, and the test part is not looked at"
    told = board.protocol["tuning"]
    assert told["budget"] == {"trials": 2} and told["seed"] == 2 and list(told["methods"]) == ["full"]
    chosen = told["methods"]["full"]
    row = next(r for r in board.rows if r.method == "full")
    assert {name: row.settings[name] for name in chosen["settings"]} == chosen["settings"]
    assert row.settings["epochs"] == 1 and row.notes[0].startswith("tuned over 2 settings, took ")
    assert "tuned over 2 settings" in (tmp_path / "run" / "report.html").read_text()
    again = compare(tune=2).board
    assert len(labels) == 2 and again.trials == board.trials and again.protocol == board.protocol


def test_both_budgets_are_refused(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    for given, message in (
        ({"tune": 2, "budget": "1m"}, r"--tune is 2 and --budget is 1m; expected one of them\. Leave the other out\."),
        ({"tune": 0}, r"--tune is 0; expected a whole number, 1 or more\."),
        ({"budget": "soon"}, r"--budget is 'soon'; expected a time above 0, e\.g\. 90s, 10m or 1\.5h\."),
    ):
        with pytest.raises(DataError, match=message):
            bequest.compare(tiny_tasks["text"], tiny_sources["text"], out=tmp_path, progress=False, **given)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\xff" * len(data)])
def test_a_damaged_file_of_trials_is_named(tmp_path: Path, damage: Any) -> None:
    searched = ranges(LORA.hyperparameters, RESOLVED, {})

    def search() -> Any:
        return carried_out(tune(tmp_path, "a", searched, RESOLVED, Budget(trials=2)), bowl)

    search()
    file = tmp_path / TUNING_FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RunError, match=r"tuning\.db cannot be read or written \(.*Restore the file, or remove it"):
        search()
