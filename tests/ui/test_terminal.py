from io import StringIO

import pytest
from rich.console import Console

from bequest.core.observe import Observer
from bequest.core.results import Interval, Leaderboard, Row, TrialRecord
from bequest.ui.terminal import Terminal

ROW = Row(
    method="lora",
    family="low-rank",
    metric="accuracy",
    validation=Interval(0.75, None, 1, [0.75]),
    validation_loss=0.5,
    test=None,
    epochs_planned=2,
    epochs_run=2.0,
    trainable_parameters=1000,
    stored_bytes=4000,
    train_s=2.6,
    shared_s=0.5,
    peak_memory_bytes=10**9,
    inference_per_s=None,
    labels=80,
    settings={},
    errors=[],
    median_seed=0,
)
BOARD = Leaderboard([ROW], {}, {}, {"seeds": [0, 1]}, {}, {}, [])
TRIAL = TrialRecord("lora", 0, {}, validation=0.75, test=0.7, train_s=2.6)
FAILED = TrialRecord("lora", 1, {}, error="the loss is nan [at step 3]")


def piped() -> tuple[Terminal, StringIO]:
    file = StringIO()
    return Terminal(Console(file=file, width=80)), file


def interactive(height: int = 24) -> tuple[Terminal, Console]:
    console = Console(
        file=StringIO(), force_terminal=True, force_interactive=True, width=100, height=height, record=True
    )
    return Terminal(console), console


def picture(terminal: Terminal) -> str:
    """What the live display would show."""
    file = StringIO()
    Console(file=file, width=100).print(terminal._picture())
    return file.getvalue()


def work(observer: Observer) -> None:
    observer.note("The network cannot be cut.")
    observer.progress("stage [1]", 0, 4)
    observer.progress("stage [1]", 4, 4)
    observer.trial(TRIAL, BOARD)
    observer.note("The network cannot be cut.")
    observer.trial(FAILED, BOARD)


def test_a_pipe_gets_plain_lines():
    terminal, file = piped()
    with terminal:
        work(terminal)
    assert file.getvalue().splitlines() == [
        "The network cannot be cut.",
        "lora, seed 0: validation 75.0 %, test 70.0 %, trained in 2.6 s",
        "lora, seed 1: failed: the loss is nan [at step 3]",
    ]


def test_long_notes_are_not_broken_in_a_pipe():
    terminal, file = piped()
    with terminal:
        terminal.note("word " * 40)
    assert file.getvalue() == "word " * 40 + "\n"


def test_an_unknown_state_of_progress_does_no_harm():
    terminal, file = piped()
    with terminal:
        terminal.progress("never begun", 3, 3)
        terminal.progress("empty", 0, 0)
    assert file.getvalue() == ""


def test_bars_come_and_go():
    terminal, _ = interactive()
    terminal.progress("features of [train]", 10, 40)
    terminal.progress("stage 1", 1, 3)
    assert "features of [train]" in picture(terminal)
    assert "10/40" in picture(terminal)
    terminal.progress("features of [train]", 40, 40)
    assert "features" not in picture(terminal)
    assert "1/3" in picture(terminal)


def test_the_leaderboard_stands_above_the_bars():
    terminal, _ = interactive()
    terminal.progress("stage 1", 1, 3)
    terminal.trial(TRIAL, BOARD)
    shown = picture(terminal)
    assert -1 < shown.index("75.0 %") < shown.index("stage 1")


def test_a_low_terminal_keeps_room_for_the_bars():
    terminal, _ = interactive(height=8)
    terminal.progress("stage 1", 1, 3)
    terminal.trial(TRIAL, Leaderboard([ROW] * 9, {}, {}, {}, {}, {}, []))
    assert "8 more rows" in picture(terminal)
    assert len(picture(terminal).splitlines()) <= 8


def test_live_work_prints_notes_once_and_no_line_for_a_trial_that_went_well():
    terminal, console = interactive()
    with terminal:
        work(terminal)
    printed = console.export_text()
    assert printed.count("The network cannot be cut.") == 1
    assert "lora, seed 1: failed" in printed
    assert "lora, seed 0" not in printed


@pytest.mark.parametrize("is_interactive", [True, False])
def test_an_interrupted_comparison_leaves_what_it_reached(is_interactive: bool):
    terminal, console = interactive()
    console.is_interactive = is_interactive
    with pytest.raises(KeyboardInterrupt), terminal:
        terminal.trial(TRIAL, BOARD)
        raise KeyboardInterrupt
    assert ("standard error" in console.export_text().split("75.0 %")[-1]) is is_interactive
