"""Numbers that make no sense are refused where they come in, from the command line and from Python alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bequest as library
from bequest.core.errors import BequestError

Bequest = Callable[..., tuple[int, str, str]]
SEED = "expected a whole number from 0 to 4294967295."
SIZE = "expected a fraction between 0 and 1, or a whole number from 1."
FAULTS: list[tuple[str, str, Any, str]] = [
    ("compare", "--seeds", -1, "--seeds is -1; expected how many, 1 or more, or, from Python, different whole numbers"),
    ("compare", "--seeds", 0, "--seeds is 0; expected how many, 1 or more"),
    ("adapt", "--seed", -1, f"--seed is -1; {SEED}"),
    ("adapt", "--seed", 2**40, f"--seed is {2**40}; {SEED}"),
    ("compare", "--split-seed", -1, f"--split-seed is -1; {SEED}"),
    ("compare", "--test-size", 0, f"--test-size is 0; {SIZE}"),
    ("adapt", "--test-size", -3, f"--test-size is -3; {SIZE}"),
    ("compare", "--test-size", float("inf"), f"--test-size is inf; {SIZE}"),
    ("compare", "--test-size", 1.5, f"--test-size is 1.5; {SIZE}"),
    ("compare", "--train-size", -5, "--train-size is -5; expected a whole number, 1 or more. Leave it out for all"),
    ("adapt", "--train-size", 0, "--train-size is 0; expected a whole number, 1 or more. Leave it out for all"),
]


@pytest.mark.parametrize(("verb", "flag", "value", "text"), FAULTS)
def test_before_data_and_source_are_read(
    bequest: Bequest, tmp_path: Path, verb: str, flag: str, value: Any, text: str
) -> None:
    status, out, err = bequest(verb, tmp_path / "no data", "--source", "no source", flag, value)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {text}")
    argument = flag.removeprefix("--").replace("-", "_")
    with pytest.raises(BequestError) as fault:
        getattr(library, verb)(tmp_path / "no data", "no source", **{argument: value})
    assert str(fault.value) == err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize("argument", ["seeds", "split_seed", "test_size", "train_size"])
@pytest.mark.parametrize("value", ["3", 2.5])
def test_other_types_from_python(tmp_path: Path, argument: str, value: Any) -> None:
    flag = "--" + argument.replace("_", "-")
    with pytest.raises(BequestError, match=rf"^{flag} is {value!r}; expected "):
        library.compare(tmp_path / "no data", "no source", **{argument: value})


@pytest.mark.parametrize(
    ("source", "flag", "value", "text"),
    [
        ("hf:{bert}", "--max-tokens", 0, "--max-tokens is 0, expected from 2 to 40, the positions that "),
        ("hf:{bert}", "--max-tokens", -1, "--max-tokens is -1, expected from 2 to 40"),
        ("hf:{bert}", "--max-tokens", 41, "--max-tokens is 41, expected from 2 to 40"),
        ("hf:{bert}", "--image-size", 0, "--image-size does not apply to "),
        ("hf:{resnet}", "--image-size", 0, "--image-size is 0, expected 32 or more"),
        ("timm:resnet18", "--image-size", 0, "--image-size is 0, expected 32 or more"),
        ("torchvision:resnet18", "--image-size", 0, "--image-size is 0, expected 32 or more"),
        ("torchvision:resnet18", "--image-size", -64, "--image-size is -64, expected 32 or more"),
    ],
)
def test_sizes_of_a_sources_input(
    bequest: Bequest, table: Path, bert: Path, resnet: Path, source: str, flag: str, value: int, text: str
) -> None:
    name = source.format(bert=bert, resnet=resnet)
    status, _, err = bequest("adapt", table, "--source", name, flag, value)
    assert status == 1
    assert err.startswith(f"error: {text}")
    argument = flag.removeprefix("--").replace("-", "_")
    with pytest.raises(BequestError) as fault:
        library.get_source(name, pretrained=False, **{argument: value})
    assert str(fault.value) == err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize("value", [64.5, "64", True])
def test_sizes_that_are_no_whole_numbers(value: Any) -> None:
    expected = r"expected a whole number\. Leave it out for the source's own\."
    with pytest.raises(BequestError, match=rf"^--image-size is {value!r}, {expected}"):
        library.get_source("timm:resnet18", image_size=value, pretrained=False)
    with pytest.raises(BequestError, match=rf"^--max-tokens is {value!r}, {expected}"):
        library.get_source("minilm_l6", max_tokens=value)


@pytest.mark.parametrize(("flag", "value"), [("--seeds", "two"), ("--train-size", "2.5"), ("--test-size", "half")])
def test_words_that_are_no_numbers(bequest: Bequest, flag: str, value: str) -> None:
    status, _, err = bequest("compare", "data", "--source", "x", flag, value)
    assert status == 2
    # Another name of the flag may follow: --seeds/--repeats.
    assert re.search(rf"argument {flag}(/--\w+)?: ", err) and repr(value) in err
