import pytest

from bequest.core import errors
from bequest.core.errors import BequestError, first_line, nearest


def test_every_error_is_a_bequest_error():
    raised = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(raised) == 6
    assert all(issubclass(e, BequestError) for e in raised)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("loar", "Did you mean 'lora'?"),
        ("LoRA", "Did you mean 'lora'?"),
        ("linear-probe", "Did you mean 'linear_probe'?"),
        ("xyz", "There are: freeze, full, linear_probe, lora."),
    ],
)
def test_nearest_names_what_is_near_or_all(name: str, sentence: str):
    assert nearest(name, {"lora", "linear_probe", "full", "freeze"}) == sentence


def test_nearest_lists_at_most_three():
    near = nearest("layer_0", [f"layer_{i}" for i in range(1, 9)])
    assert near.count("layer_") == 3
    assert near.count(" or ") == 2


def test_nearest_lists_no_more_than_people_read():
    listed = nearest("xyz", [f"layer_{i:04}" for i in range(1300)])
    assert listed.startswith("There are: layer_0000, ")
    assert listed.endswith(", layer_0019 and 1,280 more.")


def test_nearest_of_nothing():
    assert nearest("lora", []) == "There are: none."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  what happened\nwhere"), "what happened"),
        (ValueError(" \n "), "ValueError"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 900), "x" * 500),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str):
    assert first_line(error) == line
