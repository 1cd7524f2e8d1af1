"""The claims: their verdicts, the page that is made of their results, and the runner."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "claims"
OF_BEQUEST = {"kill_anywhere", "bigger_than_memory", "tried_sources"}
SHARED = {"pictures", "trials", "verdicts", "page", "run"}


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script as the scripts import each other."""
    monkeypatch.syspath_prepend(str(CLAIMS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(CLAIMS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def run(claims: Any) -> ModuleType:
    return claims("run")


def test_the_committed_page_is_what_the_committed_results_give(run: ModuleType):
    made = run.pages([e.name for e in run.EXPERIMENTS])
    found = {p.relative_to(ROOT / "docs").as_posix(): p for p in (ROOT / "docs").glob("images/claims/*.svg")}
    found["claims.md"] = ROOT / "docs" / "claims.md"
    committed = {name: path.read_text(encoding="utf-8") for name, path in found.items()}
    stale = sorted(name for name in committed.keys() | made.keys() if committed.get(name) != made.get(name))
    assert not stale, f"docs/ is not up to date ({', '.join(stale)}): python claims/run.py --page, and commit."


def test_every_claim_is_run_and_every_result_is_shown(run: ModuleType):
    names = {e.name for e in run.EXPERIMENTS}
    assert names == {path.stem for path in CLAIMS.glob("*.py")} - OF_BEQUEST - SHARED
    assert {path.stem for path in (CLAIMS / "results").glob("*.json")} <= names | OF_BEQUEST
    folders = run.folders(run.argparse.Namespace(fashion_mnist=None, mnist=None))
    assert {flag for e in run.EXPERIMENTS for flag in e.folders} <= folders.keys() == run.FOLDERS.keys()


def test_arguments_are_those_of_the_scripts(run: ModuleType, claims: Any, monkeypatch: pytest.MonkeyPatch):
    parse, parsed = run.argparse.ArgumentParser.parse_args, list[Any]()

    def stop(self: Any, *words: Any) -> Any:
        parsed.append(parse(self, *words))
        raise KeyboardInterrupt

    monkeypatch.setattr(run.argparse.ArgumentParser, "parse_args", stop)
    chosen = [e for e in run.EXPERIMENTS if e.name != "low_rank_regression"]  # it takes none
    for experiment in chosen:
        given = [word for flag in experiment.folders for word in (flag, "nowhere")]
        monkeypatch.setattr(sys, "argv", [experiment.name, *experiment.arguments.split(), *given])
        with pytest.raises(KeyboardInterrupt):
            claims(experiment.name).main()
    assert len(parsed) == len(chosen)


@pytest.mark.parametrize(
    ("values", "least", "verdict", "figure"),
    [
        ([2.0, 3.0, 4.0], 0, "holds", "+3.0 ± 2.5 points"),  # 4.303 × 1 / √3
        ([2.0, 3.0, 4.0], 1, "undecided", "+3.0 ± 2.5 points"),
        ([2.0, 3.0, 4.0], 6, "does not hold", "+3.0 ± 2.5 points"),
        ([-2.0, -3.0, -4.0], 0, "does not hold", "−3.0 ± 2.5 points"),
        ([3.0], 0, "undecided", "+3.0 points"),
        ([3.0, 3.0, 3.0], 0, "undecided", "+3.0 points"),
    ],
)
def test_verdicts(claims: Any, values: list[float], least: float, verdict: str, figure: str):
    finding = claims("verdicts").above("it gains", values, least)
    assert (finding.verdict, finding.figure, finding.seeds) == (verdict, figure, len(values))


def test_gains_are_paired_and_in_points(claims: Any):
    verdicts = claims("verdicts")
    finding = verdicts.gain("it gains", [0.50, 0.61, 0.72], [0.40, 0.50, 0.60])  # 10, 11, 12 points
    assert str(finding) == "it gains: +11.0 ± 2.5 points, 3 seeds: holds"
    with pytest.raises(ValueError, match="zip"):
        verdicts.gain("it gains", [0.5, 0.6], [0.4])


def trials(*tests: float) -> dict[str, Any]:
    return {"test": list(tests), "seconds": [1.0] * len(tests), "optimizer_bytes": round(100 * sum(tests))}


LOW, HIGH, SAME = trials(0.50, 0.52, 0.54), trials(0.81, 0.82, 0.86), trials(0.49, 0.54, 0.53)
POOR, GOOD = ([{"test": test} for test in found["test"]] for found in (LOW, HIGH))
SELECTED = dict.fromkeys(("uniform", "uniform, distilled", "first", "random", "inconsistent"), GOOD)
RACE = {"full": {"steps": 10}, "end": {"steps": 300}}
ERRORS = [
    {
        "teacher": 0.02,
        "students": {
            name: {"labels alone": 0.05 + i / 1000, "distilled": {"2": 0.03, "8": 0.2}} for name in ("800", "30")
        },
        "without 3s": {"threes after": 0.03 + i / 1000},
    }
    for i in range(3)
]
DEPTHS = {
    "topics": {"early": LOW, "middle": SAME, "late": HIGH},
    "digits": {"early": LOW, "middle": HIGH, "late": LOW},
}
RESULTS: dict[str, tuple[Any, list[str]]] = {
    "pretrained_or_scratch": (
        {
            "tasks": {
                "BBC News": {
                    "50": {"pretrained": HIGH, "random weights": LOW},
                    "800": {"pretrained": HIGH, "random weights": HIGH},
                }
            }
        },
        ["holds", "undecided", "holds"],
    ),
    "body_rates": ({"tasks": {"BBC News": {"0.1": SAME, "1": LOW, "100": HIGH}}}, ["does not hold", "undecided"]),
    "freezing_depth": (
        {"tasks": {"BBC News": {"nothing": HIGH, "the first third": LOW, "all but the head": LOW}}},
        ["does not hold", "holds"],
    ),
    "layer_depth": ({"tasks": DEPTHS}, ["holds", "holds", "holds", "undecided"]),
    "galore_parity": ({"setup": {}, "rows": {"full": HIGH, "galore-4": LOW}}, ["does not hold"]),
    "weight_selection": ({"bbc": {"random weights": POOR, **SELECTED}}, ["holds"] * 5),
    "hinton_mnist": ({"errors": ERRORS}, ["holds", "does not hold"] * 2 + ["holds"]),
    "steps_to_parity": (
        {
            "digits-200, head solved": {
                "parities": [
                    {"method": "lora", "races": [{**RACE, "own": {"steps": s}} for s in (20, 30, 40)]},
                    {"method": "bitfit", "races": [{**RACE, "own": {"steps": 5}}, {**RACE, "own": None}]},
                    {"method": "nola", "races": [{**RACE, "full": {"steps": 0}, "own": {"steps": 0}}]},
                ]
            }
        },
        ["undecided", "does not hold", "undecided", "undecided"],
    ),
    "distil_views": (
        {"teacher": 0.9, "student": {"1": POOR, "4": GOOD, "16": POOR, "unlimited": GOOD}},
        ["holds", "undecided", "holds"],
    ),
    "distil_text": (
        {
            "seeds": [
                {"teacher": 0.9 + i, "student": 0.8 + 2 * i, "distilled": 0.85, "teacher_ms": 4 + i, "student_ms": 2}
                for i in (0.0, 0.001, 0.002)
            ]
        },
        ["holds", "holds", "holds"],
    ),
    "smollm2": (
        {"rows": {"lora": {"test_before": 30.0, "test": 20.0}, "full": {"test_before": 30.0, "test": 31.0}}},
        ["undecided", "undecided"],
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_follows_from_figures(claims: Any, name: str):
    result, verdicts = RESULTS[name]
    module = claims(name)
    assert [finding.verdict for finding in module.findings(result)] == verdicts
    assert claims("page").drawing(module.chart(result)).startswith("<svg")


def test_a_result_with_its_verdicts_gives_the_same_page(claims: Any, tmp_path: Path):
    page, write = claims("page"), claims("verdicts").write
    for name in [*RESULTS, "head2toe_depth", "dfr_dominoes"]:
        known = CLAIMS / "results" / f"{name}.json"
        result = RESULTS[name][0] if name in RESULTS else json.loads(known.read_text(encoding="utf-8"))
        write(tmp_path / f"{name}.json", result)
        before = page.pages([name], tmp_path)
        write(tmp_path / f"{name}.json", result, claims(name).findings(result))
        assert page.pages([name], tmp_path) == before, name


def test_a_missing_result_is_said_to_be_missing(claims: Any, tmp_path: Path):
    [text] = claims("page").pages(["views"], tmp_path).values()
    assert "| [Augmented views" in text
    assert "| not run |" in text
    assert "Not run yet." in text


def test_summaries(claims: Any):
    page, verdicts = claims("page"), claims("verdicts")
    yes, no = (verdicts.fact("so it is", held, "1") for held in (True, False))
    assert page.summary([yes, yes]) == "holds"
    assert page.summary([yes, no, yes]) == "of 3: 2 hold, 1 do not"


def test_a_docstring_that_claims_nothing_is_refused(claims: Any):
    with pytest.raises(ValueError, match=r"'A script\.' is no claim, expected 'Claim: what is claimed \(source\)\.'"):
        claims("page").told("A script.")


def test_what_lacks_its_data_is_skipped_and_said(run: ModuleType, capsys: pytest.CaptureFixture[str]):
    names = "views,head2toe_depth"
    given = {"fashion_mnist": Path("fashion"), "mnist": None, "only": names, "missing": False, "again": True}
    wanted = run.chosen(run.argparse.Namespace(**given))
    assert [experiment.name for experiment in wanted] == ["views"]
    assert capsys.readouterr().out == (
        "head2toe_depth: skipped, it lacks the digits 0.json to 9.json (make claims MNIST=DIR)\n"
    )


def test_an_unknown_claim_is_refused(run: ModuleType):
    options = run.argparse.Namespace(fashion_mnist=None, mnist=None, only="vews", missing=False, again=False)
    with pytest.raises(SystemExit, match=r"There is no claim vews; there are pretrained_or_scratch, .*smollm2\."):
        run.chosen(options)


def test_a_claim_runs_once_until_its_settings_change(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    script = tmp_path / "tried.py"
    script.write_text(
        "import os, sys, pathlib\nassert '--fail' not in sys.argv\n"
        "pathlib.Path(__file__).with_suffix('.json').write_text(f'{sys.argv[1:]} {os.environ[\"OMP_NUM_THREADS\"]}')"
    )
    given = {"--mnist": Path("digits")}
    experiment = run.Experiment("tried", "--seeds 3", ("--mnist",))
    assert not run.kept(experiment, tmp_path)
    assert run.run(experiment, given, tmp_path)
    assert experiment.result.read_text() == "['--seeds', '3', '--mnist', 'digits'] 1"
    assert run.kept(experiment, tmp_path)
    assert not run.kept(run.Experiment("tried", "--seeds 4", ("--mnist",)), tmp_path)
    failing = run.Experiment("tried", "--fail", ("--mnist",))
    assert not run.run(failing, given, tmp_path)
    assert not run.kept(failing, tmp_path)
    said = capsys.readouterr().out
    assert "tried: done in 0.0 minutes (0.0 of a core)" in said
    assert "tried: failed after 0.0 minutes (0.0 of a core); the end of" in said
    script.write_text(script.read_text() + "\n")
    assert not run.kept(experiment, tmp_path)
