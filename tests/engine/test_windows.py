"""Texts as windows of tokens, drawn document by document."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny

from bequest.core.errors import DataError
from bequest.data import from_texts
from bequest.engine.windows import divided


@pytest.fixture(scope="module")
def source() -> Any:
    return tiny.language_source()


def test_every_token_but_a_documents_first_is_predicted_once(source: Any) -> None:
    documents = tiny.language_task()
    task = divided(documents, source)
    lengths = [len(documents.samples[i].split()) for i in range(len(documents.samples))]
    predicted = np.zeros(len(lengths), np.int64)
    for i, owner in enumerate(task.units):
        window = task.samples[i]
        assert len(window) <= 8
        predicted[owner] += window[:, 1].sum()
    assert predicted.tolist() == [length - 1 for length in lengths]
    assert f"{sum(lengths) - len(lengths):,} tokens are predicted, each once" in task.notes[-1]
    assert "none is cut off" in task.notes[-1]
    assert divided(task, source) is task


def test_no_document_stands_in_two_parts_and_sizes_count_documents(source: Any) -> None:
    task = divided(tiny.language_task(), source)
    draw = task.draw(3, train_size=20, test_size=10)
    parts = [set(task.units[part].tolist()) for part in (draw.train, draw.validation, draw.test)]
    assert [len(part) for part in parts] == [16, 4, 10]
    assert len(set.union(*parts)) == 30
    for part, units in zip((draw.train, draw.validation, draw.test), parts, strict=True):
        whole = np.flatnonzero(np.isin(task.units, list(units)))
        assert sorted(part.tolist()) == whole.tolist(), "all windows of a document go with it"
    assert task.draw(3, train_size=20, test_size=10).train.tolist() == draw.train.tolist()
    assert task.draw(4, train_size=20, test_size=10).test.tolist() == draw.test.tolist()
    assert task.draw(4, train_size=20, test_size=10).train.tolist() != draw.train.tolist()


def test_given_parts_and_places(source: Any) -> None:
    texts = [f"{a} {b} the a of" for a in tiny.WORDS["food"] for b in tiny.WORDS["sport"]]
    task = divided(from_texts(texts[:20], test=texts[20:], name="mail"), source)
    draw = task.draw(0)
    assert {int(task.units[i]) for i in draw.test} == set(range(20, 25))
    long = divided(from_texts(["ball " * 20, "goal team", "soup salt", "song drum"], name="mail"), source)
    assert long.samples.describe(1) == "mail[0], window 2"


def test_equal_documents_are_one_and_windows_have_hashes_by_content(source: Any) -> None:
    task = divided(from_texts(["ball goal team", "ball goal team", "goal goal", "team " * 15], name="mail"), source)
    assert "Dropped 1 exact duplicate" in task.notes[0]
    hashes = [h.tobytes() for h in task.hashes]
    assert hashes[2] == hashes[3], "two windows of the same tokens"
    assert len(set(hashes)) == len(hashes) - 1


def test_what_is_left_out_is_said(source: Any) -> None:
    task = divided(from_texts(["ball", "goal team", "soup salt", "song drum"], name="mail"), source)
    assert task.notes[-1] == "Left out 1 text of one token: mail[0]."
    pairs = [("ball goal team match referee soup bread", "salt oven plate"), ("ball", "goal"), ("team", "match")]
    task = divided(from_texts(pairs, name="mail"), source)
    assert task.notes[-1].startswith("The beginning of 1 prompt is not read")
    with pytest.raises(DataError, match="No text of 'mail' has two tokens"):
        divided(from_texts(["ball", "goal", "team"], name="mail"), source)


def test_the_fingerprint_knows_texts_and_windows(source: Any) -> None:
    texts = [f"{word} the a of {word} the a of {word} ball" for word in tiny.WORDS["food"]]
    task = divided(from_texts(texts), source)
    assert task.fingerprint == divided(from_texts(texts[::-1]), source).fingerprint
    assert task.fingerprint != divided(from_texts(texts[:-1]), source).fingerprint
    assert task.fingerprint != divided(from_texts(texts), tiny.language_source(max_tokens=5)).fingerprint
