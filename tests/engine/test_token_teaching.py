"""Language models taught token by token: the loss by hand, whole trials, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.nn import functional as F

import bequest
from bequest.core.distillation import Distillation
from bequest.core.errors import MethodError, SourceError
from bequest.core.registry import get_method
from bequest.engine.run import run
from bequest.engine.teaching import Teaching
from bequest.engine.token_teaching import Beside, collate_taught
from bequest.engine.windows import divided
from bequest.nn.language import IGNORED, soft_token_losses
from bequest.nn.losses import from_top_classes, soft_cross_entropy, top_classes

SETTINGS = {"epochs": 3, "batch_size": 8, "patience": 0, "learning_rate": 1e-2}


def other(seed: int, **changes: Any) -> Any:
    """A tiny language model of the same family with other weights."""
    source = tiny.language_source(**changes)

    def pretrained() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return source.untrained()

    return replace(source, name=f"llama {seed}", pretrained=pretrained)


@pytest.fixture
def taught(context_of: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a context with a teacher of other weights."""

    def make(teacher: Any = None, **settings: Any) -> Any:
        source = tiny.language_source()
        task = divided(tiny.language_task(), source)
        context = replace(context_of("text"), source=source, task=task)
        teaching = Teaching(Distillation(**settings), (teacher or other(3),))
        teaching.check(task, source)
        return replace(context, teaching=teaching)

    return make


def test_the_loss_and_its_gradients_are_those_of_the_whole_distribution() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    bias, teacher = torch.randn(7, dtype=torch.float64), 3 * torch.randn(10, 7, dtype=torch.float64)
    targets = torch.randint(0, 7, (2, 5))
    targets[0, 2] = targets[1, 4] = IGNORED
    for top, rho in ((6, 1.0), (6, 4.0), (2, 2.0)):
        values, classes = top_classes(teacher, top, rho)
        args = (targets, values.view(2, 5, -1), classes.view(2, 5, -1), rho)
        found = soft_token_losses(hidden, weight, bias, *args)
        logits = F.linear(hidden.view(10, 4), weight, bias)
        dense = from_top_classes(values, classes, 7)
        if top == 6:
            assert torch.allclose(dense, teacher), "with all but one class nothing is left out"
        expected = [soft_cross_entropy(z[None], t[None], rho, scaled=False) for z, t in zip(logits, dense, strict=True)]
        wanted = torch.stack(expected).view(2, 5) * (targets != IGNORED)
        torch.testing.assert_close(found, wanted)
        leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
        assert torch.autograd.gradcheck(lambda h, w, b, args=args: soft_token_losses(h, w, b, *args), leaves)


def test_a_student_learns_what_its_teacher_would_say(taught: Callable[..., Any]) -> None:
    context = taught(hard_weight=0.0, soft_weight=1.0, temperature=2.0)
    draw = context.task.draw(0, train_size=30, test_size=12)
    asked = context.passes.asked
    outcome = run(context, get_method("full").build(SETTINGS), draw, seed=0)
    teacher = context.teaching.networks[0]

    def distance(network: Any) -> float:
        """Mean divergence from the teacher's next tokens, by whole logits, on windows of the train part."""
        ids, targets = context.source.preprocess.collate([context.task.samples[int(i)] for i in draw.train[:8]])
        with torch.no_grad():
            both = [
                F.linear(body.model(input_ids=ids).last_hidden_state, body.vocabulary.weight).log_softmax(2)
                for body in (network.body, teacher.body)
            ]
        divergence = F.kl_div(*both, reduction="none", log_target=True).sum(2)
        return float(divergence[targets != IGNORED].mean())

    assert distance(outcome.network) < 0.7 * distance(context.source.network())
    losses = [epoch.train_loss for epoch in outcome.history if epoch.train_loss is not None]
    assert losses[-1] < losses[0]
    assert context.passes.asked > asked
    computed = context.passes.computed
    run(context, get_method("full").build(SETTINGS), draw, seed=1)
    assert context.passes.computed == computed, "the teacher has read these windows already"


def test_batches_hold_windows_and_the_teachers_tokens(taught: Callable[..., Any]) -> None:
    from bequest.engine.token_teaching import beside
    from bequest.engine.views import view

    context = taught(top_classes=5)
    indices = context.task.draw(0, train_size=30, test_size=12).train[:6]
    stage = get_method("full").build(SETTINGS).plan(context.source, context.task).stages[-1]
    made, seconds = beside(context, stage, view(context, indices, context.labels(indices), 0))
    assert seconds > 0
    assert isinstance(made.items, Beside) and len(made.items[1:3]) == 2
    ids, targets, values, classes = collate_taught(context, list(made.items))
    assert values.shape == (*ids.shape, 6) and classes.shape == (*ids.shape, 5)
    body = context.teaching.networks[0].body
    with torch.no_grad():
        logits = F.linear(body.model(input_ids=ids).last_hidden_state, body.vocabulary.weight)
    known = targets != IGNORED
    largest, whose = logits[known].topk(5, 1)
    assert torch.equal(classes[known], whose)
    torch.testing.assert_close(values[known][:, :5], largest, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("method", ["lora", "nola", "freeze", "relora"])
def test_with_what_methods_put_around_the_model(taught: Callable[..., Any], method: str) -> None:
    context = taught()
    info = get_method(method)
    known = {h.name for h in info.hyperparameters}
    settings = {name: value for name, value in {**SETTINGS, "from_depth": "0.5"}.items() if name in known}
    outcome = run(context, info.build(settings), context.task.draw(0, train_size=30, test_size=12), seed=0)
    assert outcome.test.shape[1] == 2
    assert outcome.history[-1].train_loss != outcome.history[1].train_loss


def test_faults(taught: Callable[..., Any]) -> None:
    context = taught()
    task, source = context.task, context.source

    def check(*teachers: Any, **settings: Any) -> None:
        Teaching(Distillation(**settings), teachers).check(task, source)

    with pytest.raises(MethodError, match="learns from one teacher and its texts, but there are several teachers"):
        check(other(1), other(2))
    with pytest.raises(MethodError, match="--soft-loss dkd is for classification"):
        check(other(1), soft_loss="dkd")
    with pytest.raises(MethodError, match="--online is for classification"):
        check(other(1), online=True)
    with pytest.raises(SourceError, match="is no language model"):
        check(tiny.text_source())
    stranger = other(1)
    words = replace(stranger.preprocess.text, tokenizer_json=stranger.preprocess.text.tokenizer_json.replace("b", "c"))
    stranger = replace(stranger, preprocess=replace(stranger.preprocess, text=words))
    with pytest.raises(SourceError, match="divides texts into other tokens than 'tiny_llama'; expected the same"):
        check(stranger)


def test_a_teacher_that_is_no_number_is_told(taught: Callable[..., Any]) -> None:
    broken = other(1)
    network = broken.network()
    with torch.no_grad():
        network.body.vocabulary.weight[0] = torch.nan
    context = taught(replace(broken, pretrained=lambda: network))
    draw = context.task.draw(0, train_size=30, test_size=12)
    with pytest.raises(SourceError, match="gives logits that are no finite numbers"):
        run(context, get_method("full").build(SETTINGS), draw, seed=0)


def test_a_whole_comparison(tmp_path: Path, cache: Path) -> None:
    source = tiny.language_source()
    run = bequest.distill(
        tiny.language_task(), other(3), source, "full", seeds=2, train_size=30, test_size=12, out=tmp_path / "run",
        progress=False, epochs=1, batch_size=8,
    )  # fmt: skip
    rows = {row.method: row for row in run.board.rows}
    assert set(rows) == {"full", "full, distilled"}
    assert run.board.protocol["teacher"]["test"] > 1 and run.board.protocol["teacher"]["examples"] == []
    assert "teacher_agreement" not in rows["full"].metrics
    assert "Teacher llama 3: test perplexity" in run.report.read_text(encoding="utf-8")
