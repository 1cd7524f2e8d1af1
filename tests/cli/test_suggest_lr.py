from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import bequest
from bequest.cli.main import _parser
from bequest.core.errors import MethodError

SETTINGS = {"batch_size": 8, "head_init": "random", "num_steps": 30, "start": 1e-5, "progress": False}


@pytest.fixture
def suggestion(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any], cache: Path) -> bequest.RateSuggestion:
    return bequest.suggest_learning_rate(
        tiny_tasks["image"], tiny_sources["image"], "freeze", learning_rate=3e-4, head_learning_rate=3e-3, **SETTINGS
    )


def test_the_heads_rate_is_in_proportion_and_both_can_be_used(
    suggestion: bequest.RateSuggestion, tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any], tmp_path: Path
) -> None:
    rate, head_rate = suggestion.settings["learning_rate"], suggestion.settings["head_learning_rate"]
    assert rate == pytest.approx(suggestion.test.suggestion, rel=0.05)
    assert head_rate == pytest.approx(10 * rate, rel=0.05)
    settings: dict[str, Any] = {**suggestion.settings, "epochs": 1, "progress": False}
    run = bequest.adapt(tiny_tasks["image"], tiny_sources["image"], "freeze", out=tmp_path / "run", **settings)
    [trial] = run.board.trials
    assert trial.settings["learning_rate"] == rate


def test_the_drawing_is_an_svg_of_every_step(suggestion: bequest.RateSuggestion, tmp_path: Path) -> None:
    suggestion.write_plot(tmp_path / "made" / "rates.svg")
    text = (tmp_path / "made" / "rates.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "mathdefault" not in text and ">0.001<" in text, "rates are numbers, not TeX"
    assert f"suggested {suggestion.test.suggestion:.2g}" in text
    named = {variable for variable in re.findall(r"var\((--[\w-]+)\)", text)}
    assert named and all(f"{variable}: #" in text for variable in named), "every colour is defined in the file"


def test_a_method_without_a_rate_is_refused(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match="linear_probe has no learning rate to suggest; expected a method that train"):
        bequest.suggest_learning_rate(tiny_tasks["image"], tiny_sources["image"], "linear_probe", progress=False)


def test_the_command_prints_the_command_to_use_it(
    tiny_sources: dict[str, Any],
    tiny_tasks: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Any,
    cache: Path,
) -> None:
    from bequest import api

    real = api.suggest_learning_rate

    def on_tiny(data: str, source: str, **options: Any) -> Any:
        assert (data, source) == ("my data/", "tiny")
        return real(tiny_tasks["image"], tiny_sources["image"], **options)

    monkeypatch.setattr(api, "suggest_learning_rate", on_tiny)
    monkeypatch.chdir(tmp_path)
    line = "suggest-lr 'my data/' --source tiny --method bitfit --norms false --head-init random --from 1e-5 --steps 30"
    options = _parser().parse_args([*shlex.split(line), "--batch-size", "8", "--quiet"])
    assert options.command(options) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "runs" / "my data-bitfit-rates.svg").is_file()
    command = shlex.split(printed.splitlines()[-1])
    assert command[:2] == ["bequest", "adapt"]
    adapt = _parser().parse_args(command[1:])
    assert (adapt.data, adapt.source, adapt.method) == (["my data/"], "tiny", "bitfit")
    assert (adapt.hyper_norms, adapt.hyper_batch_size) == ("false", "8")
    rate, head_rate = float(adapt.hyper_learning_rate), float(adapt.hyper_head_learning_rate)
    assert head_rate == pytest.approx(rate / 5, rel=0.05)
    assert f"learning_rate {rate:g}, head_learning_rate {head_rate:g}" in printed
