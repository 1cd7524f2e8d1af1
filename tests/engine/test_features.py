"""Features of a body, tapped or not: one pass makes all that a run will ask for, and the store gives it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from bequest.core.errors import DataError
from bequest.engine.features import Columns, embeddings, encoded
from bequest.engine.store import Shelf, Store
from bequest.nn.taps import Tapped

SOME = np.arange(12)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_one_pass_makes_all_that_the_run_will_ask_for(kind: str, context_of: Any):
    context = context_of(kind)
    taps = context.source.taps(task=context.task)
    context.taps = taps
    plain = embeddings(context, SOME)
    assert context.passes.computed == len(SOME)
    body = Tapped(context.source.body, taps)
    features = embeddings(context, SOME, body)
    assert context.passes.computed == len(SOME)  # the pass for the embedding made them along
    assert isinstance(features, Columns)
    inputs = context.source.preprocess.collate([np.array(item) for item in encoded(context, SOME)])
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(features.stack()), body(*inputs), atol=1e-5)
        assert torch.allclose(torch.from_numpy(plain.stack()), context.source.body(*inputs), atol=1e-5)
    assert np.array_equal(features[3], features.stack()[3])
    assert np.array_equal(features[2:5].stack(), features.stack()[2:5])
    # The one pass was what each of them costs.
    assert features.seconds == pytest.approx(plain.seconds)


def test_only_what_is_lacking_is_computed(context_of: Any):
    context = context_of("image")
    first, second = context.source.taps(task=context.task)[:2]
    half = Tapped(context.source.body, [first])
    embeddings(context, SOME[:8], half)
    both = embeddings(context, SOME, Tapped(context.source.body, [first, second]))
    assert context.passes.computed == 8 + 12
    [shard_sizes] = [[len(part) for part in both.parts]] if isinstance(both, Columns) else [[]]
    assert shard_sizes == [12, 12]
    again = replace(context, taps=())
    embeddings(again, SOME, half)
    assert again.passes.computed == 20


@pytest.mark.parametrize("when", range(1, 6))
def test_another_process_may_fill_the_store_at_any_time(
    when: int, context_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    context = context_of("image")
    body = Tapped(context.source.body, context.source.taps(task=context.task))
    expected = embeddings(replace(context, store=Store(tmp_path / "other")), SOME, body).stack()
    missing, asked = Shelf.missing, 0

    def filled_meanwhile(shelf: Shelf, hashes: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == when:
            embeddings(replace(context, store=Store(context.store.folder)), SOME, body)
        return missing(shelf, hashes)

    encoded(context, SOME)
    monkeypatch.setattr(Shelf, "missing", filled_meanwhile)
    assert np.array_equal(embeddings(context, SOME, body).stack(), expected)
    assert asked >= when


def test_what_is_not_asked_for_is_not_opened(context_of: Any, monkeypatch: pytest.MonkeyPatch):
    context = context_of("image")
    context.taps = context.source.taps(task=context.task)
    embeddings(context, SOME)
    again = replace(context, store=Store(context.store.folder))
    opened: list[int] = []
    missing = Shelf.missing
    monkeypatch.setattr(Shelf, "missing", lambda shelf, found: opened.append(len(found)) or missing(shelf, found))
    embeddings(again, SOME)
    assert opened.count(len(SOME)) == 2  # the encoded samples and the embedding; of the taps nothing is asked
    assert opened.count(0) == len(opened) - 2 > 0


def test_another_of_the_trials_processes_may_lack_more(context_of: Any):
    context = context_of("image")
    found = embeddings(context, SOME).stack()
    others = Mock(wraps=context.ranks, any=Mock(return_value=True))
    assert np.array_equal(embeddings(replace(context, ranks=others), SOME).stack(), found)
    assert context.passes.computed == len(SOME)


def test_the_weights_of_a_body_that_is_not_the_sources_are_told_apart(context_of: Any):
    context = context_of("image")
    [tap] = context.source.taps(["stem"], task=context.task)
    own = embeddings(context, SOME, Tapped(context.source.body, [tap])).stack()
    other = context.source.network().body
    with torch.no_grad():
        next(other.parameters()).add_(1)
    found = embeddings(context, SOME, Tapped(other, [tap]), of_source=False).stack()
    assert not np.allclose(own, found)


def test_half_of_the_held_out_labels_rank(tiny_tasks: dict[str, Any]):
    task = tiny_tasks["image"]
    draw = task.draw(3)
    divided = draw.divided(task.strata, 3)
    assert set(divided.validation) | set(divided.ranking) == set(draw.validation)
    assert not set(divided.validation) & set(divided.ranking)
    assert abs(len(divided.validation) - len(divided.ranking)) <= 1
    assert np.array_equal(np.sort(divided.held_out), np.sort(draw.validation))
    assert sorted(divided.labelled) == sorted(draw.labelled)
    assert np.array_equal(draw.ranking, draw.validation)
    assert np.array_equal(divided.ranking, draw.divided(task.strata, 3).ranking)
    with pytest.raises(DataError, match="1 labels are held out; expected two or more"):
        replace(draw, validation=draw.validation[:1]).divided(task.strata, 0)
