"""Two processes give what one gives, whole or in shards, and end together.

All that two processes have to show is run by one pair of them, since starting one takes seconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from processes import together
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bequest.core.distillation import Distillation
from bequest.core.errors import DataError, MethodError, RunError
from bequest.core.observe import Silent
from bequest.core.registry import methods
from bequest.core.results import Epoch
from bequest.engine import fit
from bequest.engine.checkpoint import Checkpoint
from bequest.engine.context import Context
from bequest.engine.ranks import LostProcess, Ranks
from bequest.engine.run import make_plan, run
from bequest.engine.runtime import choose_runtime
from bequest.engine.sharding import Sharding
from bequest.engine.store import Store
from bequest.engine.teaching import Teaching
from bequest.engine.windows import divided

pytestmark = [pytest.mark.first, pytest.mark.usefixtures("all_penalties")]

QUICK = {"epochs": 2, "batch_size": 9, "patience": 0, "learning_rate": 1e-3, "target": 16, "refresh_every": 2}
"""Of 19 samples there are shares of 5 and 4, and in one batch a single sample, which one process has."""

WEIGHTS, OUTPUTS = 2e-5, 2e-4
"""How far two processes may be from one: measured 1.3e-4 of ReLoRA's weights apart, 1e-6 and 1.1e-5."""


@dataclass(frozen=True)
class Case:
    """A trial that one process and two carry out.

    Attributes:
        method: Its name.
        kind: Of the task.
        settings: Of the method, where not `QUICK`.
        changes: To the context.
        num_parts: In which a process sends its share of a batch.
        small: Whether the second process has no memory for more than two samples.
    """

    method: str
    kind: str = "text"
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    num_parts: int = 1
    small: bool = False


CUT = ("lora",)
"""Methods that are tried with the cut; to export the networks of all takes most of the time."""

TRAINED = {name: Case(name, changes={"cut": name in CUT}) for name, info in methods().items() if info.trains}
# Of a gradient whose rank is below GaLore's, the last directions are rounding alone, of which Adam makes whole steps.
TRAINED |= {"galore": Case("galore", settings={"rank": 2}, changes={"cut": False})}
TAUGHT = {"taught": Distillation(soft_loss="dist", feature_weight=1.0)}
CASES = {
    **TRAINED,
    "gradients taken in the backward pass": Case("galore", settings={"rank": 2, "layerwise": True}),
    "a loss over the whole batch, and features": Case("full", changes=TAUGHT),
    "a teacher in every step": Case("freeze", changes={"taught": Distillation(online=True)}),
    "a penalty, in parts": Case("l2_sp", num_parts=2),
    "no memory in one of them": Case("full", small=True),
    "convolutions": Case("lora", "image"),
    "a language model and its teacher": Case("full", "language", changes={"taught": Distillation(hard_weight=0.5)}),
    "no training": Case("linear_probe"),
}
UNDIVIDED = ("no training", "gradients taken in the backward pass", "no memory in one of them")
"""What has no network to divide, or ends where it is divided."""

AGAIN = {"lora": None, "galore": Sharding(), "from_scratch": Sharding()}
"""Cases that begin in shards and go on from their checkpoint, and how: moments in shards, and whole ones."""

SOME = ("full", "lora", "galore", "from_scratch", "a language model and its teacher", "no training")
"""Cases for every day."""


def runs_of(names: Collection[str]) -> list[tuple[str, str]]:
    """How two processes hold the network, and the case."""
    return [("whole", name) for name in names] + [("shards", name) for name in names if name not in UNDIVIDED]


@dataclass(frozen=True)
class Found:
    """What came of a case: plain things, for they go from process to process."""

    history: list[Epoch]
    trained: dict[str, Tensor]
    moved: set[str]
    validation: Tensor
    test: Tensor
    asked: list[list[int]]
    records: list[int]
    kept: float


def source_of(kind: str) -> Any:
    """A tiny source without dropout."""
    made = {"image": tiny.image_source, "language": tiny.language_source}.get(kind, tiny.text_source)
    source = made()

    def still(make: Callable[[], Any]) -> Any:
        network = make()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return network

    return replace(source, pretrained=partial(still, source.pretrained), untrained=partial(still, source.untrained))


def task_of(kind: str) -> Any:
    """A small task of a kind."""
    if kind == "language":
        return divided(tiny.language_task(100), tiny.language_source())
    return tiny.image_task() if kind == "image" else tiny.text_task()


def context_of(case: Case, store: Path, *, sharding: Sharding | None = None, **more: Any) -> Context:
    source, task = source_of(case.kind), task_of(case.kind)
    runtime = replace(choose_runtime("float32"), num_parts=case.num_parts, sharding=sharding)
    changes = {"ranks": runtime.ranks, **case.changes, **more}
    if taught := changes.pop("taught", None):
        teacher = source if case.kind == "language" else tiny.teacher_of(source, task)
        changes["teaching"] = Teaching(taught, (teacher,))
    return Context(source, task, Store(store), runtime, Silent(), batch_size=8, **changes)


def carried_out(case: Case, store: Path, folder: Path | None = None, **more: Any) -> Found:
    context, info = context_of(case, store, **more), methods()[case.method]
    known = {h.name for h in info.hyperparameters}
    method = info.build({k: v for k, v in {**QUICK, **case.settings}.items() if k in known})
    draw = context.task.draw(0, train_size=24, test_size=30)
    assert case.kind == "language" or len(draw.train) == 19
    plan = make_plan(context, method, 0)
    before = {name: p.detach().clone() for name, p in plan.network.named_parameters()}
    networks: list[Any] = []
    watched = replace(context, observer=Silent())
    outcome = run(watched, _Watched(method, networks), draw, seed=0, folder=folder, identity="it")
    after = dict(networks[0].named_parameters()) if plan.finish is None else {}
    moved = {name for name, p in after.items() if name in before and not torch.equal(before[name], p.cpu())}
    return Found(
        history=outcome.history,
        trained=outcome.trained,
        moved=moved - outcome.trained.keys() - set(plan.merged),
        validation=outcome.validation,
        test=outcome.test,
        asked=list(context.passes.trial.values()),
        records=sorted(shelf.num_records for shelf in context.store.shelves()),
        kept=_held["share"],
    )


@dataclass(frozen=True)
class _Watched:
    """A method whose networks are noted."""

    method: Any
    networks: list[Any]

    def plan(self, source: Any, task: Any) -> Any:
        plan = self.method.plan(source, task)
        self.networks.append(plan.network)
        return plan


_held = {"share": 1.0}
"""Which share of a network's numbers, and of its optimizer's, this process held after the last step."""


def _note_what_is_held() -> None:
    step = fit._Loop.step

    def noted(loop: Any, *args: Any) -> Any:
        found = step(loop, *args)
        tensors = [p.detach() for p in loop.network.parameters()]
        tensors += [v for state in loop.optimizer.state.values() for v in state.values() if v.ndim]
        held = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
        _held["share"] = sum(t.numel() for t in held) / sum(t.numel() for t in tensors)
        return found

    fit._Loop.step = noted


def all_cases(names: Collection[str], store: Path) -> dict[Any, Any]:
    """These cases, and what goes wrong in one process alone or ends half-way."""
    found: dict[Any, Any] = {}
    forward = fit._Loop.forward
    _note_what_is_held()
    for number, (how, name) in enumerate(runs_of(names)):
        case, sharding = CASES[name], Sharding() if how == "shards" else None
        fit._Loop.forward = _small(forward) if case.small else forward
        found[how, name] = carried_out(case, store / str(number), sharding=sharding)
    fit._Loop.forward = forward
    found["error"] = _error_in_one(store / "error")
    found["in shards alone"] = _in_shards_alone(store / "alone")
    for name, sharding in AGAIN.items():
        found["gone on", name] = _gone_on(CASES[name], store / name, sharding)
    return found


def _in_shards_alone(store: Path) -> list[str]:
    """What a process says where the optimizer takes gradients early, and where a pass fails in one of them."""
    said: list[str] = []
    try:
        carried_out(CASES["gradients taken in the backward pass"], store, sharding=Sharding())
    except MethodError as error:
        said.append(str(error))
    context = context_of(CASES["full"], store, sharding=Sharding())
    try:
        with context.lockstep():
            raise MemoryError("out of memory")
    except RunError as error:
        said.append(str(error))
    return said


def _gone_on(case: Case, folder: Path, sharding: Sharding | None) -> Found:
    """A trial in shards that ends after its first epoch, and goes on from its checkpoint."""
    saved, own = Checkpoint.save, {"folder": folder, "checkpoint_every_s": 0.0}

    def ended(self: Checkpoint, loop: Any) -> None:
        saved(self, loop)
        raise InterruptedError

    Checkpoint.save = ended
    with suppress(InterruptedError):
        carried_out(case, folder / "store", sharding=Sharding(), **own)
    Checkpoint.save = saved
    return carried_out(case, folder / "store", sharding=sharding, **own)


def _small(forward: Any) -> Any:
    def tried(self: Any, batch: Any) -> Any:
        if self.context.ranks.rank == 1 and len(batch) > 2:
            raise MemoryError("out of memory")
        return forward(self, batch)

    return tried


def _error_in_one(store: Path) -> str:
    """What a process says where the second one cannot read a sample."""
    context = context_of(CASES["full"], store)
    preprocess, ranks = context.source.preprocess, context.ranks

    class Broken:
        def encode(self, sample: Any) -> Any:
            if ranks.rank == 1:
                raise DataError("The sample is damaged.")
            return preprocess.encode(sample)

        def __getattr__(self, name: str) -> Any:
            return getattr(preprocess, name)

    broken = replace(context, source=replace(context.source, preprocess=Broken()))
    try:
        draw = context.task.draw(0, train_size=24, test_size=30)
        run(broken, methods()["full"].build({}), draw, seed=0)
    except DataError as error:
        return str(error)
    return "no error"


def in_turn(folder: Path, kill: bool) -> Any:
    """A trial that keeps a checkpoint of each epoch; its second process is killed in the second one."""
    rank, saved = int(os.environ["RANK"]), Checkpoint.save

    def killed(self: Checkpoint, loop: Any) -> None:
        saved(self, loop)
        if rank == 1 and loop.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill:
        Checkpoint.save = killed
    own = {"folder": folder if rank == 0 else None, "checkpoint_every_s": 0.0}
    try:
        return carried_out(Case("lora"), folder / "store", **own)
    except LostProcess as error:
        return str(error)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """What one process makes of a case; made once."""
    folder = tmp_path_factory.mktemp("one")
    return cache(lambda name: carried_out(replace(CASES[name], small=False, num_parts=1), folder / name))


def losses(found: Found) -> list[float]:
    return [loss for e in found.history for loss in (e.train_loss, e.validation_loss) if loss is not None]


@pytest.mark.parametrize(
    "names", [pytest.param(SOME, id="some"), pytest.param(tuple(CASES), id="all", marks=pytest.mark.slow)]
)
def test_two_processes_give_what_one_gives(
    names: tuple[str, ...], one: Callable[[str], Found], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    main, other = found = together(partial(all_cases, names), tmp_path)
    assert all(isinstance(each, dict) for each in found), found
    for how, name in runs_of(names):
        with subtests.test(how=how, case=name):
            agree(name, main[how, name], other[how, name], one(name))
            assert not main[how, name].moved and not other[how, name].moved, "what is frozen stays as it is"
    for name in TRAINED.keys() & names:
        with subtests.test("what is compared was trained", case=name):
            first, *later = [(e.validation_metric, -e.validation_loss) for e in one(name).history]
            assert max(later) > first, "else the weights kept are those before training"
    for name in names:
        with subtests.test("a pass is made once by both together", case=name):
            assert main["whole", name].asked == one(name).asked
            assert main["whole", name].records == one(name).records, "what both had computed would be there twice"
    with subtests.test("in shards each holds its part"):
        shares = [each["shards", "from_scratch"].kept for each in found]
        assert sum(shares) == pytest.approx(1) and max(shares) < 0.6
        assert main["whole", "from_scratch"].kept == 1
    for name, sharding in AGAIN.items():
        with subtests.test("a run in shards goes on from its checkpoint", case=name):
            again, through = main["gone on", name], main["shards", name]
            # With the cut, which a whole network has, other sums are made of the same numbers.
            exact = 0 if sharding else OUTPUTS
            assert losses(again) == pytest.approx(losses(through), rel=exact)
            torch.testing.assert_close(again.test, through.test, rtol=0, atol=exact)
    with subtests.test("an error in one is raised in both"):
        told = [each["error"] for each in found]
        assert told == ["The sample is damaged. (process 1)", "The sample is damaged."]
    with subtests.test("what shards cannot do is said"):
        for rank, (early, failed) in enumerate(each["in shards alone"] for each in found):
            assert "Leave --layerwise out" in early
            assert f"Process {rank} cannot go on in the middle of a pass" in failed


def agree(name: str, main: Found, other: Found, alone: Found) -> None:
    """Two processes have the same to the bit, and what one has but for rounding."""
    assert losses(main) == pytest.approx(losses(alone), rel=1e-4)
    assert [e.steps for e in main.history] == [e.steps for e in alone.history]
    wide = 10 if name == "relora" else 1  # a merge and new factors: rounding is written into the weights
    for tensor, values in alone.trained.items():
        # A key's bias has no gradient but rounding noise, of which Adam makes whole steps.
        if not tensor.endswith("key.bias"):
            torch.testing.assert_close(main.trained[tensor], values, rtol=0, atol=wide * WEIGHTS, msg=tensor)
        assert torch.equal(main.trained[tensor], other.trained[tensor]), f"{tensor} differs between the processes"
    assert main.test.shape == alone.test.shape
    torch.testing.assert_close(main.test, alone.test, rtol=0, atol=OUTPUTS)
    torch.testing.assert_close(main.validation, alone.validation, rtol=0, atol=OUTPUTS)


def test_one_that_is_killed_ends_the_other_and_both_go_on(tmp_path: Path, one: Callable[[str], Found]) -> None:
    told, silent = together(in_turn, tmp_path, True)
    assert "Another process of this run has ended" in told and silent == "it ended without a word"
    assert (tmp_path / "stage1.ckpt").is_file()
    main, other = together(in_turn, tmp_path, False)
    assert losses(main) == pytest.approx(losses(one("lora")), rel=1e-4)
    assert main.asked == one("lora").asked, "passes are counted as of a run that nothing disturbed"
    torch.testing.assert_close(main.test, one("lora").test, rtol=0, atol=OUTPUTS)
    assert all(torch.equal(values, other.trained[name]) for name, values in main.trained.items())


def test_what_is_not_done_is_refused_rather_than_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"asked for DeepSpeed, which is not done here; expected --multi_gpu"):
        choose_runtime("float32")


@pytest.mark.parametrize(("total", "number"), [(9, 2), (1, 2), (0, 3), (10, 4)])
def test_shares_cover_everything_once(total: int, number: int) -> None:
    everything = np.arange(total)
    ranks = [Ranks(rank, number) for rank in range(number)]
    assert np.concatenate([everything[each.own(total)] for each in ranks]).tolist() == everything.tolist()
    assert [len(everything[each.own(total)]) for each in ranks] == ranks[0].sizes(total)


def test_what_is_lacking_is_divided_by_batches_then_by_machine_then_not() -> None:
    lacking = np.arange(10)
    shares = [[divide(lacking, 3).tolist() for divide in Ranks(rank, 4, rank % 2, 2).rounds()] for rank in range(4)]
    globally, on_machine, alone = zip(*shares, strict=True)
    assert globally == ([0, 1, 2], [3, 4, 5], [6, 7, 8], [9])
    assert on_machine[0] == on_machine[2] == [0, 1, 2, 6, 7, 8] and on_machine[1] == on_machine[3] == [3, 4, 5, 9]
    assert all(share == lacking.tolist() for share in alone)
