"""`bequest.data.samples`."""

from __future__ import annotations

import pytest

from bequest.data.samples import Chosen, Joined
from bequest.data.text import Texts


def texts(*words: str) -> Texts:
    return Texts(words, [f"at {w}" for w in words])


def test_chosen_maps_every_access() -> None:
    chosen = Chosen(texts("a", "b", "c"), [2, 0])
    assert (chosen.modality, len(chosen), list(map(chosen.__getitem__, range(2)))) == ("text", 2, ["c", "a"])
    assert chosen.content_hash(0) == texts("c").content_hash(0)
    assert chosen.describe(1) == "at a"


def test_joined_is_one_after_another() -> None:
    joined = Joined((texts("a", "b"), texts("c"), texts("d", "e")))
    assert len(joined) == 5
    assert [joined[i] for i in range(5)] == list("abcde")
    assert [joined.describe(i) for i in (1, 2, 3)] == ["at b", "at c", "at d"]
    assert joined.content_hash(4) == texts("e").content_hash(0)
    for index in (-1, 5):
        with pytest.raises(IndexError):
            joined[index]


def test_hashes_are_those_of_the_samples() -> None:
    chosen, joined = Chosen(texts("a", "b", "c"), [2, 0]), Joined((texts("a", "b"), texts("c")))
    for samples in (chosen, joined, Chosen(joined, [2, 1])):
        assert samples.hashes.shape == (len(samples), 16)
        assert [samples.hashes[i].tobytes() for i in range(len(samples))] == [
            samples.content_hash(i) for i in range(len(samples))
        ]
