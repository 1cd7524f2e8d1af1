"""What `import bequest` offers, and what its types tell an editor."""

from __future__ import annotations

import typing

import pytest

import bequest


@pytest.mark.parametrize("name", bequest.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(bequest, name) is not None
    assert name in dir(bequest)


@pytest.mark.parametrize("owner", ["Run", "AdaptedModel"])
def test_predictions_are_typed(owner: str):
    found = typing.get_type_hints(getattr(bequest, owner).predict)["return"]
    kinds = bequest.Prediction | bequest.LabelsPrediction | bequest.ValuesPrediction | bequest.TextPrediction
    assert found == list[kinds]


def test_an_unknown_name_is_told():
    with pytest.raises(AttributeError, match="module 'bequest' has no attribute 'adap'"):
        _ = bequest.adap  # pyright: ignore[reportAttributeAccessIssue]
