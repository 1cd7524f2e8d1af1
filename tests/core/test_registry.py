import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from bequest.core import registry
from bequest.core.errors import MethodError
from bequest.core.plan import Recipe
from bequest.core.registry import MethodInfo, attribute_docs, get_method, method, methods


@dataclass(frozen=True)
class Example:
    """Fine-tune an example.

    More about it.

    Attributes:
        rank: Width of the bottleneck, 1 or more,
            up to the layer's.
        mode: How.
        recipe: The head, and how gradient descent runs.

    Example:
        not: a field.
    """

    rank: int = 8
    scale: float | None = None
    merge: bool = True
    mode: Literal["fast", "slow"] | None = "fast"
    recipe: Recipe = field(default_factory=lambda: Recipe(patience=3))
    kept: int = field(default=0, init=False)

    defaults: ClassVar[Mapping[str, Recipe]] = {
        "text": Recipe(epochs=4, learning_rate=5e-5, patience=0),
        "image": Recipe(epochs=4, learning_rate=3e-4, patience=0),
    }


INFO = MethodInfo("example", "tests", "none", Example)
BY_NAME = {h.name: h for h in INFO.hyperparameters}


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_METHODS", dict(methods()))
    yield
    registry._discover.cache_clear()


def test_summary_is_the_docstrings_first_line():
    assert INFO.summary == "Fine-tune an example."


def test_docs_come_from_the_attributes_section_alone():
    assert attribute_docs(Example) == {
        "rank": "Width of the bottleneck, 1 or more, up to the layer's.",
        "mode": "How.",
        "recipe": "The head, and how gradient descent runs.",
    }
    assert attribute_docs(int) == {}


def test_hyperparameters_are_the_fields_and_those_of_the_recipe():
    own = ["rank", "scale", "merge", "mode"]
    assert list(BY_NAME) == own + list(Recipe.__dataclass_fields__)
    assert all(not BY_NAME[n].owner for n in own)
    assert BY_NAME["epochs"].owner == "recipe"


def test_types_and_choices_are_read_from_the_hints():
    kinds = {n: BY_NAME[n].type for n in ("rank", "scale", "merge", "mode", "epochs", "head")}
    assert kinds == {"rank": int, "scale": float, "merge": bool, "mode": str, "epochs": int, "head": str}
    assert BY_NAME["mode"].choices == ("fast", "slow")
    assert BY_NAME["head"].choices == ("linear", "mlp")
    assert BY_NAME["head_learning_rate"].flag == "--head-learning-rate"


def test_every_field_of_a_recipe_has_help():
    assert all(h.help for h in BY_NAME.values() if h.owner)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rank", "8"),
        ("epochs", "4"),
        ("learning_rate", "text 5e-05, image 0.0003"),
        ("patience", "3"),
        ("scale", "None"),
    ],
)
def test_default_text(name: str, text: str):
    assert BY_NAME[name].default_text == text


def test_build_converts_text_and_keeps_the_other_defaults():
    built = INFO.build({"rank": "4", "merge": "False", "learning_rate": "1e-3", "mode": "slow"})
    assert built == Example(4, None, False, "slow", Recipe(patience=3, learning_rate=1e-3))
    assert INFO.build({}) == Example()


def test_build_leaves_none_at_its_default():
    assert INFO.build({"scale": None, "epochs": None, "rank": None}) == Example()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": "four"}, "--rank of 'example' is 'four', expected a value of type int."),
        ({"rank": 1.5}, "--rank of 'example' is 1.5, expected a whole number."),
        ({"rank": float("inf")}, "--rank of 'example' is inf, expected a value of type int."),
        ({"merge": "maybe"}, "--merge of 'example' is 'maybe', expected true or false."),
        ({"mode": "medium"}, "--mode of 'example' is 'medium', expected fast or slow."),
        (
            {"epoch": 1, "ranks": 2, "rank": 3},
            "Method 'example' has no hyperparameter 'epoch' (Did you mean 'epochs'?), 'ranks' (Did you mean 'rank'?)",
        ),
    ],
)
def test_build_says_what_is_wrong(settings: dict[str, Any], message: str):
    with pytest.raises(MethodError) as caught:
        INFO.build(settings)
    assert str(caught.value) == message


def test_a_registered_method_is_found():
    assert method("example", family="a", paper="none")(Example) is Example
    assert get_method("example").cls is Example
    assert next(iter(methods())) == "example", "sorted by family first"


def test_an_unknown_method_is_answered_with_the_nearest():
    method("example", family="a", paper="none")(Example)
    with pytest.raises(MethodError, match=r"'exampel'\. Did you mean 'example'\? `bequest ls methods`"):
        get_method("exampel")


def test_a_name_is_given_once():
    @dataclass(frozen=True)
    class Other:
        pass

    register = method("example", family="a", paper="none")
    register(Example)
    register(Example)
    with pytest.raises(MethodError, match=r"called 'example': .*Example and .*Other\. Rename one"):
        register(Other)


def test_a_method_is_a_dataclass_that_runs_as_it_is():
    class Plain:
        pass

    @dataclass(frozen=True)
    class Bare:
        rank: int

    with pytest.raises(TypeError, match=r"Plain is no dataclass"):
        method("plain", family="a", paper="none")(Plain)
    with pytest.raises(TypeError, match=r"Bare needs a default for rank"):
        method("bare", family="a", paper="none")(Bare)


def test_a_type_that_no_text_can_give_is_refused():
    @dataclass(frozen=True)
    class Odd:
        sizes: tuple[int, ...] = (1, 2)

    with pytest.raises(TypeError, match="cannot be given on the command line"):
        _ = MethodInfo("odd", "tests", "none", Odd).hyperparameters


def _offer(monkeypatch: pytest.MonkeyPatch, load: Callable[[], object]) -> None:
    class Point(importlib.metadata.EntryPoint):
        def load(self) -> object:
            return load()

    points = [Point("theirs", "theirs.method", registry.ENTRY_POINTS)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    registry._discover.cache_clear()


def test_other_packages_offer_methods(monkeypatch: pytest.MonkeyPatch):
    _offer(monkeypatch, lambda: method("theirs", family="z", paper="none")(Example))
    assert "theirs" in methods()


def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise ImportError("no module named theirs")

    _offer(monkeypatch, fail)
    with pytest.raises(MethodError, match=r"theirs\.method, .*no module named theirs.*uninstall it"):
        methods()
