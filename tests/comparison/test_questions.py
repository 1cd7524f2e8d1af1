"""The open questions: ratios and gaps by hand, and whole comparisons on tiny networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killing import without_timings

import bequest
from bequest.comparison.questions import answer, concerned
from bequest.core.intervals import Difference
from bequest.core.observe import Silent
from bequest.core.questions import Gap, Questions, Ratio, Reached, Spectrum, Weights
from bequest.core.results import Epoch, Leaderboard, TrialRecord
from bequest.nn.head import describe_head
from bequest.nn.objectives import OBJECTIVES

ACCURACY = OBJECTIVES["classification"]
PERPLEXITY = replace(ACCURACY, metric="perplexity", higher_is_better=False)
BOTH = {"full", "lora"}


def trial(method: str, seed: int, metrics: list[float], steps: int | None = 10, test: float = 0.5) -> TrialRecord:
    """Epochs of so many steps, each of 2 seconds for full fine-tuning and 3 for others."""
    seconds = 2.0 if method == "full" else 3.0
    course = [Epoch(0, i, None, 1.0, m, None, seconds, steps=steps if i else 0) for i, m in enumerate(metrics)]
    return TrialRecord(method, seed, {}, test=test, epochs=course)


def asked(*trials: TrialRecord, objective: Any = ACCURACY) -> Questions:
    found = answer(trials, {t.method for t in trials}, objective, {})
    assert found is not None
    return found


def test_methods_are_concerned_by_family() -> None:
    families = {
        "full": "fine-tuning",
        "lora": "parameter-efficient",
        "mine": "parameter-efficient",
        "freeze": "fine-tuning",
    }
    assert concerned(families) == {"full", "lora", "mine"}
    assert concerned({"full": "fine-tuning", "freeze": "fine-tuning"}) == set()
    assert concerned({"lora": "parameter-efficient"}) == set()


def test_gaps_are_those_of_the_test_part() -> None:
    tests = {"full": [0.80, 0.70, 0.90], "lora": [0.81, 0.73, 0.92]}
    trials = [trial(m, s, [], test=v) for m, vs in tests.items() for s, v in enumerate(vs)]
    found = answer(trials, set(tests), ACCURACY, {"lora": Difference(-0.02, -0.05, 0.01, 3)})
    assert found and found.gaps == [Gap("lora", 0.02, -0.01, 0.05, 3)]


def test_a_seed_that_failed_gives_no_pair() -> None:
    failed = TrialRecord("lora", 1, {}, error="the loss became nan")
    [gap] = asked(trial("full", 0, [], test=0.5), trial("full", 1, []), trial("lora", 0, [], test=0.75), failed).gaps
    assert gap == Gap("lora", 0.25, None, None, 1)


def test_steps_and_seconds_to_the_mark_by_hand() -> None:
    # Full's best is 0.9, first within 0.5 points of it after 2 epochs; lora is there after 5.
    full, lora = trial("full", 0, [0.2, 0.6, 0.896, 0.9]), trial("lora", 0, [0.1, 0.3, 0.5, 0.7, 0.8, 0.895, 0.7])
    [parity] = asked(full, lora).parities
    [race] = parity.races
    assert race.mark == pytest.approx(0.895)
    assert race.own == Reached(50, 15.0) and race.full == Reached(20, 4.0) and race.end == Reached(60, 18.0)
    assert parity.steps == Ratio(2.5, True, 1) and parity.seconds == Ratio(3.75, True, 1)


def test_a_mark_that_is_not_reached_gives_a_bound() -> None:
    [parity] = asked(trial("full", 0, [0.2, 0.9]), trial("lora", 0, [0.1, 0.5, 0.89, 0.894])).parities
    assert parity.races[0].own is None
    assert parity.steps == Ratio(3.0, False, 1) and parity.seconds == Ratio(4.5, False, 1)


def test_the_middle_seed_stands_for_all_and_late_ones_come_last() -> None:
    courses = {0: [0.0, 0.9], 1: [0.0, 0.0, 0.9], 2: [0.0, 0.5]}
    full = [trial("full", seed, [0.2, 0.9]) for seed in courses]
    lora = [trial("lora", seed, course) for seed, course in courses.items()]
    # 1, 2, and more than 1: the middle one is 2.
    [parity] = asked(*full, *lora).parities
    assert parity.steps == Ratio(2.0, True, 3)
    # 1, more than 1 and more than 1: what is certain of the middle one is more than 1.
    [parity] = asked(*full, lora[0], trial("lora", 1, [0.0, 0.5]), lora[2]).parities
    assert parity.steps == Ratio(1.0, False, 3)


def test_seeds_in_which_nothing_had_to_be_trained_give_no_ratio() -> None:
    full = [trial("full", 0, [0.9, 0.904]), trial("full", 1, [0.2, 0.9])]
    lora = [trial("lora", 0, [0.9, 0.9]), trial("lora", 1, [0.9, 0.9])]
    [parity] = asked(*full, *lora).parities
    assert parity.races[0].full.steps == 0
    assert parity.steps == Ratio(0.0, True, 1)
    [parity] = asked(full[0], lora[0]).parities
    assert parity.steps is None and parity.seconds is None


def test_where_less_is_better_the_mark_is_above_the_best_by_a_share_of_it() -> None:
    full, lora = trial("full", 0, [40.0, 20.0, 22.0], test=21.0), trial("lora", 0, [40.0, 30.0, 20.2, 20.1], test=22.5)
    found = asked(full, lora, objective=PERPLEXITY)
    assert (found.metric, found.higher_is_better, found.relative) == ("perplexity", False, True)
    [race] = found.parities[0].races
    assert race.mark == pytest.approx(20.1)
    assert race.own == Reached(30, 9.0) and race.full == Reached(10, 2.0)
    assert found.gaps[0].mean == pytest.approx(1.5)


def test_records_without_steps_give_no_ratio() -> None:
    assert asked(trial("full", 0, [0.2, 0.9], None), trial("lora", 0, [0.2, 0.9], None)).parities == []


def spectrum(rank_90: int, effective: float, energy: list[float], *, adaptable: bool = True) -> Spectrum:
    return Spectrum("layer", 8, 8, adaptable, 0.1, 8, effective, rank_90, rank_90 + 1, energy, [1.0])


def test_the_suggested_rank_holds_nine_tenths_in_the_median_layer() -> None:
    layers = [
        spectrum(1, 1.0, [0.95, 1.0]),
        spectrum(3, 4.0, [0.5, 0.8, 0.92, 1.0]),
        spectrum(4, 6.0, [0.4, 0.85, 0.91, 1.0]),
        spectrum(9, 99.0, [0.0, 0.0, 0.0, 0.0], adaptable=False),
    ]
    full = replace(trial("full", 0, []), weights=Weights(layers, None))
    found = asked(full, trial("lora", 0, []))
    [ranks] = found.ranks
    assert (ranks.method, ranks.layers, ranks.effective_rank, ranks.lowest, ranks.highest) == ("full", 3, 4.0, 1.0, 6.0)
    assert (ranks.rank_90, ranks.rank_99) == (3, 4)
    assert ranks.energy == [0.5, 0.85, 0.92, 1.0]
    assert found.suggested_rank == 4
    assert asked(trial("full", 0, []), trial("lora", 0, [])).suggested_rank is None


@pytest.mark.parametrize("methods", [{"full"}, {"lora"}])
def test_one_side_alone_is_no_question(methods: set[str]) -> None:
    assert answer([trial(m, 0, [0.5, 0.6]) for m in methods], BOTH, ACCURACY, {}) is None
    assert answer([], BOTH, ACCURACY, {}) is None


def test_a_network_too_large_for_spectra_is_said(context_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bequest.comparison import weights
    from bequest.core.registry import get_method
    from bequest.engine.run import make_plan

    class Notes(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    context = context_of("image", observer=Notes())
    monkeypatch.setattr(weights, "_MAX_MULTIPLICATIONS", 100)
    plan = make_plan(context, get_method("full").build({}), 0)
    head = describe_head(plan.network.head)
    found = weights.examine(context, plan, plan.network.state_dict(), head, [0, 1, 2])
    assert found == Weights([], None)
    assert said == ["tiny_conv is too large for singular values of what training adds: left out."]


# Whole comparisons


def compare(tiny_sources: Any, tiny_tasks: Any, out: Path, kind: str = "text", **changes: Any) -> bequest.Run:
    quick = {"epochs": 2, "learning_rate": 1e-2, "head_init": "random"}
    methods = changes.pop("methods", ["full", "lora", "bitfit"])
    settings = {"full": quick, "lora": {**quick, "rank": 2}, "bitfit": quick}
    arguments = {
        "settings": {m: settings[m] for m in methods if m in settings},
        "seeds": 2,
        "train_size": 40,
        "test_size": 30,
        "out": out,
        "progress": False,
        "cache": out.parent / "cache",
        **changes,
    }
    return bequest.compare(tiny_tasks[kind], tiny_sources[kind], methods, **arguments)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_comparison_ends_with_the_questions_answered(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, kind: str
) -> None:
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run", kind)
    found = run.board.questions
    assert found is not None
    assert Leaderboard.from_json(json.loads((run.folder / "leaderboard.json").read_text())).questions == found
    assert {gap.method: gap.seeds for gap in found.gaps} == {"lora": 2, "bitfit": 2}
    for parity in found.parities:
        assert [race.end.steps for race in parity.races] == [2 * 2, 2 * 2], "32 samples in batches of 16, or of 32"
    assert [ranks.method for ranks in found.ranks] == ["full", "lora"], "biases are no matrices"
    assert found.suggested_rank in (1, 2, 4, 8, 16)
    looked_at = {(t.method, t.seed): t.weights for t in run.board.trials if t.weights is not None}
    assert set(looked_at) == {("full", 0), ("lora", 0), ("bitfit", 0)}
    assert {s.rank for s in looked_at["lora", 0].spectra} <= {1, 2}
    assert max(s.rank for s in looked_at["full", 0].spectra) > 2
    assert looked_at["bitfit", 0] == Weights([], None)
    [(method, merging)] = found.merging.items()
    assert method == "lora" and merging == looked_at["lora", 0].merging
    [lora] = [t for t in run.board.trials if (t.method, t.seed) == ("lora", 0)]
    assert merging.adapter_bytes == lora.stored_bytes
    state = run_state(tiny_sources[kind], len(run.board.task["classes"]))
    assert merging.network_bytes == state
    assert all(pace.latency_s > 0 and pace.inference_per_s > 0 for pace in (merging.before, merging.after))
    page = run.report.read_text()
    assert all(f'id="{name}"' in page for name in ("gaps", "parity", "ranks", "merging"))


def run_state(source: Any, classes: int) -> int:
    """Bytes of the source's body and a linear head."""
    body = sum(t.numel() * t.element_size() for t in source.body.state_dict().values())
    return body + 4 * classes * (source.width + 1)


def test_without_efficient_methods_there_is_no_question(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=["full", "linear_probe"], seeds=1)
    assert run.board.questions is None
    assert all(t.weights is None for t in run.board.trials)
    assert 'id="gaps"' not in run.report.read_text()


def test_resumed_it_gives_the_same_answers(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    class Stop(Silent):
        def trial(self, record: Any, board: Leaderboard) -> None:
            if len(board.trials) == 2:
                raise KeyboardInterrupt

    methods = ["full", "lora"]
    whole = compare(tiny_sources, tiny_tasks, tmp_path / "a" / "run", methods=methods)
    with pytest.raises(KeyboardInterrupt):
        compare(tiny_sources, tiny_tasks, tmp_path / "b" / "run", methods=methods, observer=Stop())
    resumed = compare(tiny_sources, tiny_tasks, tmp_path / "b" / "run", methods=methods)
    assert without_timings(resumed.board.to_json()) == without_timings(whole.board.to_json())
    again = compare(tiny_sources, tiny_tasks, tmp_path / "b" / "run", methods=methods)
    assert again.board.questions == resumed.board.questions, "nothing is measured twice"


def test_a_method_added_later_brings_the_question(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    alone = compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=["full"])
    assert alone.board.trials[0].weights is None
    both = compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=["full", "lora"])
    assert both.board.trials[0].weights is not None
    assert [t.train_s for t in both.board.trials if t.method == "full"] == [t.train_s for t in alone.board.trials]
    at_once = compare(tiny_sources, tiny_tasks, tmp_path / "other" / "run", methods=["full", "lora"])
    assert without_timings(both.board.to_json()) == without_timings(at_once.board.to_json())
