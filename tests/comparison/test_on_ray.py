"""Trials as tasks of Ray: the leaderboard of this process, whatever is lost meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from clusters import one_thread, two_cores
from faulting import fault
from killing import without_timings

import bequest
from bequest.comparison import on_ray
from bequest.comparison.local import Call
from bequest.core.errors import DataError, RunError
from bequest.core.observe import Silent
from bequest.engine.cluster import Resources
from bequest.sources import from_module

pytestmark = [pytest.mark.first, pytest.mark.usefixtures("all_penalties")]

ray = pytest.importorskip("ray")

SETTINGS = {"full": {"epochs": 2, "learning_rate": 1e-3}, "lora": {"epochs": 2}}


@pytest.fixture(scope="module")
def cluster() -> Generator[Any]:
    with two_cores() as made:
        yield made


@pytest.fixture(autouse=True)
def as_a_worker() -> Generator[None]:
    with one_thread():
        yield


class Watch(Silent):
    """Keeps what it is told, and does something when the first trial has ended."""

    def __init__(self, do: Callable[[], Any] = lambda: None) -> None:
        self.notes: list[str] = []
        self.done: list[tuple[int, int]] = []
        self.trials: list[tuple[str, int]] = []
        self.do = do

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, label: str, done: int, total: int) -> None:
        if label == "trials":
            self.done.append((done, total))

    def trial(self, record: Any, board: Any) -> None:
        self.trials.append((record.method, record.seed))
        if len(self.trials) == 1:
            self.do()


def compare(out: Path, methods: list[str], source: Any = None, task: Any = None, **changes: Any) -> bequest.Run:
    arguments: dict[str, Any] = {
        "settings": {name: SETTINGS[name] for name in methods if name in SETTINGS},
        "seeds": 2,
        "train_size": 40,
        "test_size": 30,
        "precision": "float32",
        "cut": False,  # to export a network takes each worker seconds; one test is with the cut
        "out": out / "run",
        "cache": out / "cache",
        "progress": False,
        **changes,
    }
    task, source = task or tiny.text_task(), source or tiny.text_source()
    return bequest.compare(task, source, methods, **arguments)


def outcome(run: bequest.Run) -> dict[str, Any]:
    """All that a run found, and every number that it trained; machine, and who made a pass that several need, apart."""
    board = without_timings(run.board.to_json())
    del board["environment"]
    for trial in board["trials"]:
        del trial["frozen_samples"]
    kept = [*run.folder.rglob("trained.safetensors"), *run.folder.rglob("test_outputs.safetensors")]
    files = {str(file.relative_to(run.folder)): file.read_bytes() for file in kept}
    return {"board": board, "best": (run.folder / "best" / "model.safetensors").read_bytes(), **files}


def assert_same(found: bequest.Run, expected: bequest.Run, *, passes_lost: bool = False) -> None:
    first, second = outcome(found), outcome(expected)
    if passes_lost:  # a worker that was lost tells nothing of what it had stored
        assert first["board"]["passes"].pop("computed") <= second["board"]["passes"].pop("computed")
    assert first["board"] == second["board"]
    assert first.keys() == second.keys() and [name for name in first if first[name] != second[name]] == []


class Block(torch.nn.Module):
    """A small network that does something before it is trained on a batch."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer, self.fc, self.before = torch.nn.Linear(3 * 12 * 12, 8), torch.nn.Linear(8, 3), before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.before()
        return self.fc(torch.tanh(self.layer(x.flatten(1))))


def block(before: Callable[[], None]) -> Any:
    return from_module(Block(before), name="block")


def test_the_order_in_which_trials_end_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs no Ray: the jobs in the opposite order."""

    def backwards(work: Any, jobs: Any) -> Any:
        numbers = list(range(len(jobs)))[::-1]
        for (_, value), number in zip(honest(work, jobs[::-1]), numbers, strict=True):
            yield number, value

    methods = ["linear_probe", "full", "lora"]
    expected = compare(tmp_path / "a", methods)
    honest = bequest.api.comparisons.in_process
    monkeypatch.setattr(bequest.api.comparisons, "in_process", backwards)
    watch = Watch()
    found = compare(tmp_path / "b", methods, cache=tmp_path / "a" / "cache", observer=watch)
    assert watch.trials == [(name, seed) for seed in (1, 0) for name in methods[::-1]]
    first, second = outcome(found)["board"], outcome(expected)["board"]
    assert first.pop("passes")["computed"] == 0 < second.pop("passes")["computed"]
    assert first == second


def test_what_a_first_seed_that_fails_does_not_tell_the_next_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bequest.comparison import ranks
    from bequest.core.errors import TrainingError

    honest = ranks.run

    def fails_at_first(*arguments: Any, seed: int, **more: Any) -> Any:
        if seed == 0:
            raise TrainingError("The training loss became nan.")
        return honest(*arguments, seed=seed, **more)

    whole = compare(tmp_path / "a", ["full"])
    monkeypatch.setattr(ranks, "run", fails_at_first)
    run = compare(tmp_path / "b", ["full"])
    first, second = run.board.trials
    assert first.error and first.forward_flops is None
    assert second.forward_flops == whole.board.trials[0].forward_flops and second.inference_per_s
    assert run.board.rows[0].inference_per_s == second.inference_per_s


@pytest.mark.slow
def test_folds_on_ray_are_those_of_this_process(cluster: Any, tmp_path: Path) -> None:
    folds = {"seeds": 1, "folds": 2, "test_size": 0.25}
    here, there = (
        compare(tmp_path / name, ["linear_probe", "full"], on=on, **folds)
        for name, on in (("here", None), ("there", "ray"))
    )
    assert_same(there, here)


def test_the_leaderboard_is_that_of_this_process_and_goes_on_from_it(cluster: Any, tmp_path: Path) -> None:
    methods, watch = ["linear_probe", "full", "lora"], Watch()
    here = compare(tmp_path / "here", methods, cut=True)
    begun = compare(tmp_path / "there", methods, seeds=1, on="ray", cut=True)
    there = compare(tmp_path / "there", methods, on="ray", observer=watch, cut=True)
    assert_same(there, here)
    assert [t.train_s for t in there.board.trials[:3]] == [t.train_s for t in begun.board.trials], "not run again"
    assert watch.done == [(0, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    environment = there.board.environment
    assert environment["ray"] == ray.__version__ and environment["threads"] == 1
    assert compare(tmp_path / "there", methods, on="ray", cut=True).board.trials == there.board.trials
    assert there.predict(["goal ball the team"])[0].label in ("sport", "food", "music")


@pytest.mark.slow
def test_hyperparameters_are_chosen_by_workers_too(cluster: Any, tmp_path: Path) -> None:
    here, there = (
        compare(tmp_path / name, ["lora", "full"], settings={}, seeds=1, tune=2, on=on).board
        for name, on in (("here", None), ("there", "ray"))
    )
    found, expected = (without_timings(board.protocol["tuning"]) for board in (there, here))
    assert found == expected and list(found["methods"]) == ["lora", "full"]
    assert [row.settings for row in there.rows] == [row.settings for row in here.rows]
    assert [row.test for row in there.rows] == [row.test for row in here.rows]


@fault(
    "a worker of Ray dies in a trial, once or each time",
    happens="the trial is carried out again, 4 times at most; then an error names it",
    outcome="the leaderboard of an undisturbed run; of the second, all other trials are kept, and the command goes on",
    slow=True,
)
@pytest.mark.parametrize("once", [True, False], ids=["once", "each time"])
def test_a_worker_that_dies(once: bool, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag, driver, watch = tmp_path / "flag", os.getpid(), Watch()

    def die() -> None:
        if os.getpid() != driver and flag.is_file():
            if once:
                flag.unlink()
            os._exit(1)

    monkeypatch.setattr(on_ray, "ATTEMPTS", 2)
    task, methods, source = tiny.image_task(), ["linear_probe", "full"], block(die)
    flag.touch()
    if once:
        there = compare(tmp_path / "there", methods, source, task, seeds=1, on="ray", observer=watch)
        assert_same(there, compare(tmp_path / "here", methods, source, task, seeds=1), passes_lost=True)
    else:
        with pytest.raises(RunError, match=r"^2 workers of Ray were lost one after another with full at seed 0 \("):
            compare(tmp_path / "there", methods, source, task, seeds=1, on="ray", observer=watch)
        assert watch.trials == [("linear_probe", 0)], "all else is kept"
        flag.unlink()
        again = compare(tmp_path / "there", methods, source, task, seeds=1, on="ray")
        assert {row.method for row in again.board.rows} == set(methods)
    [note] = [note for note in watch.notes if "Ray" in note]
    assert note.startswith("A worker of Ray was lost with full at seed 0 (") and note.endswith("carried out again.")


@fault(
    "one machine of two is lost while trials of Ray run on it",
    happens="its trials are carried out again on the other",
    outcome="the leaderboard of a run in one process, and every weight, bit for bit",
    slow=True,
)
def test_a_machine_that_is_lost(cluster: Any, tmp_path: Path) -> None:
    driver = os.getpid()

    def slowly() -> None:
        if os.getpid() != driver:
            import time

            time.sleep(0.1)

    second = cluster.add_node(num_cpus=2)
    watch = Watch(lambda: cluster.remove_node(second, allow_graceful=False))
    task, methods, source = tiny.image_task(), ["full", "lora"], block(slowly)
    there = compare(tmp_path / "there", methods, source, task, seeds=4, on="ray", observer=watch)
    assert any("lost" in note for note in watch.notes), "trials were under way there"
    assert_same(there, compare(tmp_path / "here", methods, source, task, seeds=4), passes_lost=True)


def test_faults_arrive_as_what_they_are(cluster: Any, tmp_path: Path) -> None:
    driver = os.getpid()

    def unreadable(sample: Any) -> Any:
        if os.getpid() != driver:
            raise DataError("The sample is damaged; expected an array.")
        return sample

    task, network = tiny.image_task(), Block(int)
    with pytest.raises(DataError, match="damaged; expected an array") as caught:
        source = from_module(network, preprocess=unreadable, name="block")
        compare(tmp_path / "a", ["linear_probe"], source, task, seeds=1, on="ray")
    assert type(caught.value) is DataError
    settings = {"full": {"learning_rate": 1e30}}
    run = compare(tmp_path / "b", ["linear_probe", "full"], block(int), task, seeds=1, settings=settings, on="ray")
    [failed] = [trial for trial in run.board.trials if trial.method == "full"]
    assert failed.error and "The weights kept: trials/full/seed0/last_good.safetensors." in failed.error
    assert (run.folder / "trials/full/seed0/last_good.safetensors").is_file()


def test_what_cannot_be_done_is_told_before_anything_is(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--resources asks for cpus=64,gpus=1 a task, which no machine"):
        compare(tmp_path, ["linear_probe"], on="ray", resources="cpus=64,gpus=1")
    lock = threading.Lock()
    source = from_module(Block(int), preprocess=lambda sample: (lock, sample)[1], name="block")
    with pytest.raises(RunError, match=r"cannot be sent to Ray's workers .*expected data, a source and methods"):
        compare(tmp_path / "other", ["linear_probe"], source, tiny.image_task(), on="ray")


def test_resources_need_a_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--resources is 'cpus=2', but .*Say where: --on ray\."):
        compare(tmp_path, ["linear_probe"], resources="cpus=2")


def test_a_cluster_that_is_gone_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise ConnectionError("The channel is closed.\nmore")

    monkeypatch.setattr(on_ray._Tasks, "next", gone)
    found = type("Ray", (), {"put": lambda self, value: value, "remote": lambda self, task: Task(), "cancel": gone})()
    trials: Any = type("Trials", (), {"setup": None, "parcel": lambda self: None})()
    with pytest.raises(RunError, match=r"^The connection to Ray's cluster was lost \(The channel is closed\.\)"):
        list(on_ray.on_ray(found, Resources(), trials, [iter_of(Call("full", 0))]))


def iter_of(call: Call) -> Any:
    """A job of one part."""
    yield call


class Task:
    """A task of Ray that never ends."""

    def options(self, **_: Any) -> Task:
        return self

    def remote(self, *_: Any) -> str:
        return "a reference"


def test_a_worker_of_other_versions_does_nothing() -> None:
    versions = {"bequest": "0.0.1", "torch": torch.__version__}
    with pytest.raises(
        RunError, match=rf"A worker of Ray has bequest {bequest.__version__}.*began with, bequest 0\.0\.1"
    ):
        on_ray.carry_out(versions, [None], Call("full", 0), 1)


def test_a_fault_of_the_data_elsewhere_says_where() -> None:
    assert str(on_ray._own(DataError("No a.jpg."), "10.0.0.2")) == (
        "No a.jpg. A worker of Ray at 10.0.0.2 says so; the data must lie at the same paths there."
    )
    told = ValueError("ray::carry_out() (pid=12, ip=10.0.0.2)\nbequest.core.errors.DataError: No a.jpg.")
    assert on_ray._place(told, "10.0.0.1") == "10.0.0.2" and on_ray._place(told, "10.0.0.2") == ""
    error = KeyError("of ours")
    assert on_ray._own(error, "10.0.0.2") is error
    assert isinstance(on_ray._own(RuntimeError("The remote function failed to import on it."), ""), RunError)
