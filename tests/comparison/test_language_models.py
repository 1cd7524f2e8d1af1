"""Causal language models from end to end: every method that trains, ranks, saves, resumes, replays and generates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

import bequest
from bequest.core.errors import BequestError, DataError, MethodError, SourceError
from bequest.core.plan import Train
from bequest.core.registry import get_method, methods
from bequest.engine.adapted import AdaptedModel, load
from bequest.engine.run import make_plan, restore, run
from bequest.engine.windows import divided
from bequest.report.html import render

TRAINED = tuple(name for name, info in methods().items() if info.trains)
HEAD_FIRST = {"head_then_all", "staged", "ulmfit"}  # they train a new head before all else
METHODS = tuple(name for name in TRAINED if name not in HEAD_FIRST)
QUICK = {"epochs": 2, "batch_size": 8, "patience": 0, "learning_rate": 1e-2, "from_depth": "0.5"}


def build(name: str) -> Any:
    info = get_method(name)
    known = {h.name for h in info.hyperparameters}
    return info.build({k: v for k, v in QUICK.items() if k in known})


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def language(request: Any, tmp_path: Path, context_of: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a context for the tiny language model."""
    source = tiny.language_source(tied=request.param)
    task = divided(tiny.language_task(), source)

    def make(**changes: Any) -> Any:
        return replace(context_of("text", **changes), source=source, task=task)

    return make


def brute_perplexity(network: Any, task: Any, indices: Any) -> float:
    """One document after another, logits in full, float64."""
    body = network.double().body
    total, count = 0.0, 0
    for i in indices:
        ids, marks = torch.from_numpy(task.samples[int(i)].copy()).long().T
        with torch.no_grad():
            hidden = body.model(input_ids=ids[None]).last_hidden_state[0]
            logits = F.linear(hidden, body.vocabulary.weight)
        losses = -logits.log_softmax(1)[torch.arange(len(ids) - 1), ids[1:]]
        total, count = total + float(losses[marks[1:] == 1].sum()), count + int(marks[1:].sum())
    return math.exp(total / count)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_keeps_what_is_frozen_and_scores_exactly(
    name: str, language: Callable[..., Any], tmp_path: Path
) -> None:
    context = language(cut=False)  # exporting takes seconds; the cut has a test of its own
    before = {f"body.{n}": t.clone() for n, t in context.source.body.state_dict().items()}
    draw = context.task.draw(0, train_size=30, test_size=12)
    plan = make_plan(context, build(name), 0)
    declared = {n for s in plan.stages if isinstance(s, Train) for g in s.groups for n in g.names}
    if name in ("lora", "bitfit", "norm_only"):
        assert not any("vocabulary" in n or "embed" in n for n in declared), "the source's own head stays frozen"
    outcome = run(context, build(name), draw, seed=0)
    assert outcome.history[-1].validation_loss < outcome.history[0].validation_loss
    assert np.exp(outcome.history[-1].validation_loss) == pytest.approx(outcome.history[-1].validation_metric)

    after = outcome.network.state_dict()
    assert set(after) == set(before)
    # Wrapped layers and bodies go when they are merged, and their part of the names with them.
    merged = {re.sub(r"\.base(_layer)?\.", ".", n).replace("body.body.", "body.") for n in plan.merged}
    tied = {"body.vocabulary.weight"} if "body.model.embed_tokens.weight" in declared | merged else set()
    changed = {n for n, t in before.items() if not torch.equal(t, after[n])}
    if name != "from_scratch":
        assert changed <= declared | merged | tied
    assert changed

    score = context.objective.score(outcome.test, torch.empty(0))
    restored = restore(make_plan(context, build(name), 0), outcome.trained, outcome.head)
    model = AdaptedModel(restored, context.source, (), {}, "causal-lm")
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    windows = [context.task.samples[int(i)] for i in draw.test]
    assert torch.equal(loaded.outputs(windows), model.outputs(windows))
    is_tied = context.source.description["config"]["tie_word_embeddings"]
    body = loaded.network.body
    assert (body.vocabulary.weight is body.model.embed_tokens.weight) == is_tied
    assert score == pytest.approx(brute_perplexity(outcome.network, context.task, draw.test), rel=1e-5)


@pytest.mark.parametrize("name", ["full", "lora", "freeze"])
def test_killed_and_resumed_ends_the_same(name: str, language: Callable[..., Any], tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Killer:
        left = 2

        def progress(self, label: str, done: int, total: int) -> None:
            self.left -= label.startswith("stage")
            if self.left < 0:
                raise Killed

        def note(self, text: str) -> None: ...

        def trial(self, record: Any, board: Any) -> None: ...

    draw = language().task.draw(0, train_size=30, test_size=12)
    whole = run(language(), build(name), draw, seed=0)
    same: dict[str, Any] = {"seed": 0, "folder": tmp_path / "trial", "identity": name}
    with pytest.raises(Killed):
        run(language(observer=Killer(), checkpoint_every_s=0.0), build(name), draw, **same)
    resumed = run(language(checkpoint_every_s=0.0), build(name), draw, **same)
    assert torch.equal(resumed.test, whole.test)
    assert all(torch.equal(resumed.trained[n], t) for n, t in whole.trained.items())


@pytest.mark.parametrize("name", ["freeze", "lora"])
def test_the_cut_changes_nothing(name: str, language: Callable[..., Any]) -> None:
    draw = language().task.draw(0, train_size=30, test_size=12)
    cut, plain = (run(language(cut=on), build(name), draw, seed=0) for on in (True, False))
    assert bool(cut.frozen_shares) == (name == "freeze")
    torch.testing.assert_close(cut.test, plain.test, rtol=1e-4, atol=1e-4)
    losses = [[e.validation_loss for e in outcome.history] for outcome in (cut, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_methods_that_do_not_apply_are_all_refused_before_anything_runs() -> None:
    source = tiny.language_source()
    documents = tiny.language_task()
    solving = [name for name, info in methods().items() if not info.trains]
    with pytest.raises(MethodError) as error:
        bequest.compare(documents, source, [*solving, *sorted(HEAD_FIRST), "full"], progress=False)
    lines = str(error.value).splitlines()
    assert len(lines) == len(solving) + len(HEAD_FIRST)
    assert all("expected a method that trains" in line or "keeps its own" in line for line in lines)
    with pytest.raises(MethodError, match="leave nothing to train: there is no new head"):
        bequest.adapt(documents, source, "freeze", from_depth="1", progress=False)


def test_source_and_task_must_fit() -> None:
    with pytest.raises(SourceError, match="is no language model, but 'tiny documents' is a causal-lm task"):
        bequest.compare(tiny.language_task(), tiny.text_source(), progress=False)
    with pytest.raises(SourceError, match="is a language model, but 'tiny texts' is a classification task"):
        bequest.compare(tiny.text_task(), tiny.language_source(), progress=False)
    with pytest.raises(DataError, match="bequest probe reads one embedding a sample"):
        bequest.probe(tiny.language_task(), tiny.language_source(), progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model as save_pretrained writes it, and a corpus."""
    from bequest.sources.transformers import generator

    root = tmp_path_factory.mktemp("language")
    source = tiny.language_source()
    generator(source.network(), source.description).save_pretrained(root / "llama")
    (root / "llama" / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    task = tiny.language_task(pairs=True)
    rows = [dict(zip(("prompt", "completion"), task.samples[i], strict=True)) for i in range(len(task.samples))]
    (root / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    from bequest.cli.main import main

    out = folder / "run"
    words = (
        f"compare {folder / 'corpus.jsonl'} --source hf:{folder / 'llama'} --task causal-lm --max-tokens 8 --seeds 2"
    )
    quick = "--set full.epochs=2 --set freeze.epochs=1 --set lora.epochs=1 --set full.learning_rate=0.01 --quiet"
    assert main([*words.split(), *quick.split(), "--precision", "float32", "--out", str(out)]) == 0
    return out


def test_the_lowest_perplexity_is_best_everywhere(finished: Path, capsys: Any) -> None:
    from bequest.comparison.folder import RunFolder
    from bequest.report.verdict import sentences

    board = RunFolder(finished).board()
    means = [row.validation.mean for row in board.rows if row.validation]
    assert board.rows[0].method == "full" and means == sorted(means) and len(means) == 3
    assert all(row.metric == "perplexity" and not row.higher_is_better for row in board.rows)
    best = board.rows[0]
    worse = max((t for t in board.trials if t.method == "full"), key=lambda t: t.validation or 0)
    assert best.median_seed == worse.seed, "of two middles the worse one"
    text = sentences(board)[0]
    assert text.startswith("full has the lowest validation perplexity: ")
    assert "%" not in text.split("after")[0].replace("95 % interval", "")
    page = render(board)
    assert "Down and to the left is better." in page and "Windows used" in page
    for trial in board.trials:
        best_epoch = min(trial.epochs, key=lambda e: e.validation_loss)
        assert trial.validation == pytest.approx(best_epoch.validation_metric, rel=1e-4)


def test_it_predicts_from_the_command_line_and_replays(
    finished: Path, folder: Path, capsys: Any, monkeypatch: Any
) -> None:
    import io

    from bequest.cli.main import main

    monkeypatch.setattr("sys.stdin", io.StringIO("ball goal\n"))
    assert main(["predict", str(finished), "-"]) == 0
    told = capsys.readouterr().out
    assert told.endswith("\tball goal\n")
    assert main(["replay", str(finished), "--out", str(folder / "again")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "The replay gave the same scores." in told and "lower is better" in told


def test_generation_takes_the_most_probable_token_each_time(finished: Path) -> None:
    model = load(finished)
    [text] = model.generate(["ball goal"], max_new_tokens=5)
    preprocess: Any = model.source.preprocess
    ids = preprocess.prompt("ball goal")
    body: Any = model.network.body
    for _ in range(5):
        logits = F.linear(body.model(input_ids=ids).last_hidden_state[0, -1], body.vocabulary.weight)
        ids = torch.cat([ids, logits.argmax()[None, None]], 1)
        if ids[0, -1] == preprocess.end_id:
            break
    assert text == preprocess.decode(ids[0, 2:].tolist())
    assert model.predict(["ball goal"])[0].text == model.generate(["ball goal"])[0]  # pyright: ignore[reportAttributeAccessIssue]


def test_what_was_learnt_is_the_source_for_the_next_task(finished: Path, tmp_path: Path) -> None:
    run_again = bequest.adapt(
        tiny.language_task(), str(finished), epochs=1, out=tmp_path / "next", max_tokens=6, progress=False
    )
    [row] = run_again.board.rows
    assert row.method == "full", "without labels there is nothing for linear_probe to solve"
    assert run_again.best.source.preprocess.max_tokens == 6  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(BequestError, match="is a language model, but 'tiny texts' is a classification task"):
        bequest.adapt(tiny.text_task(), str(finished), out=tmp_path / "other", progress=False)


def test_a_learning_rate_is_suggested() -> None:
    suggestion = bequest.suggest_learning_rate(
        tiny.language_task(),
        tiny.language_source(),
        "full",
        num_steps=40,
        start=1e-4,
        end=1.0,
        batch_size=8,
        progress=False,
    )
    assert 1e-4 < suggestion.settings["learning_rate"] < 1
