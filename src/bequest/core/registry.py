"""Methods by name: registered by one decorator, found in this package and through entry points."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

from bequest.core.errors import MethodError, nearest
from bequest.core.search import Search

ENTRY_POINTS = "bequest.methods"
_METHODS: dict[str, MethodInfo] = {}
_T = TypeVar("_T", bound=type)


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of a method, as the command line and the docs show it.

    Attributes:
        name: The field's name; its flag is `--name-with-dashes`.
        type: What its text is converted to.
        choices: Allowed values; empty where any will do.
        default: The value it has unless set; a mapping where it depends on the modality.
        help: One sentence from the class's docstring.
        owner: The nested field that holds it (`recipe`), or empty.
        search: Where it is looked for when it is tuned; None where it is not tuned.
    """

    name: str
    type: type
    choices: tuple[str, ...]
    default: Any
    help: str
    owner: str = ""
    search: Search | None = None

    @property
    def flag(self) -> str:
        """The command line's name for it."""
        return "--" + self.name.replace("_", "-")

    @property
    def default_text(self) -> str:
        """The default in words, e.g. `text 5e-05, image 0.0003`."""
        default = self.default
        if not isinstance(default, Mapping):
            return str(default)
        values = cast(Mapping[str, Any], default)
        if len({repr(v) for v in values.values()}) == 1:
            return str(next(iter(values.values())))
        return ", ".join(f"{modality} {value}" for modality, value in values.items())


@dataclass(frozen=True)
class MethodInfo:
    """A registered method.

    Attributes:
        name: As users write it.
        family: The group it is listed under.
        paper: Where it comes from.
        cls: The dataclass.
    """

    name: str
    family: str
    paper: str
    cls: type

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.cls) or "").split("\n", 1)[0]

    @property
    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """Every field, those of nested records included, with defaults by modality."""
        return _hyperparameters(self.cls)

    @property
    def trains(self) -> bool:
        """Whether it has a recipe for gradient descent; a method without one only solves."""
        return any(h.name == "epochs" and h.owner for h in self.hyperparameters)

    def build(self, settings: Mapping[str, Any]) -> Any:
        """The method with some hyperparameters set; None leaves a hyperparameter at its default.

        Raises:
            MethodError: Names that are not the method's, with the nearest ones, or values of the wrong type; all of
                one kind at once.
        """
        known = {h.name: h for h in self.hyperparameters}
        faults = [f"{n!r} ({nearest(n, known)})" for n in settings if n not in known]
        if faults:
            raise MethodError(f"Method {self.name!r} has no hyperparameter {', '.join(faults)}")
        values: dict[str, Any] = {}
        for name, value in settings.items():
            try:
                values |= {} if value is None else {name: _convert(self.name, known[name], value)}
            except MethodError as error:
                faults.append(str(error))
        if faults:
            raise MethodError("\n".join(faults))
        own = {n: v for n, v in values.items() if not known[n].owner}
        for f in fields(self.cls):
            nested = {n: v for n, v in values.items() if known[n].owner == f.name}
            if nested:
                own[f.name] = replace(_default(f), **nested)
        return self.cls(**own)

    def resolve(self, built: Any, modality: str) -> dict[str, Any]:
        """Every hyperparameter of a built method as it will be used for a modality, nested ones flattened."""
        by_modality: Mapping[str, Any] = getattr(self.cls, "defaults", {})
        values: dict[str, Any] = {}
        for h in self.hyperparameters:
            if not h.owner:
                values[h.name] = getattr(built, h.name)
                continue
            nested = getattr(getattr(built, h.owner), h.name)
            default = by_modality.get(modality, by_modality.get("image"))
            values[h.name] = getattr(default, h.name) if nested is None and default is not None else nested
        return values


def method(name: str, *, family: str, paper: str) -> Callable[[_T], _T]:
    """Register a frozen dataclass with a `plan(source, task)` as a method.

    Args:
        name: As users write it.
        family: The group it is listed under.
        paper: Where it comes from.

    Raises:
        MethodError: Another class has that name.
        TypeError: The class is no dataclass, or one of its fields has no default.
    """

    def register(cls: _T) -> _T:
        other = _METHODS.get(name)
        if other and _path(other.cls) != _path(cls):
            raise MethodError(
                f"Two methods are called {name!r}: {_path(other.cls)} and {_path(cls)}. Rename one of them."
            )
        _check_class(cls)
        _METHODS[name] = MethodInfo(name, family, paper, cls)
        return cls

    return register


def methods() -> dict[str, MethodInfo]:
    """Every method by name: ours, and those that installed packages offer."""
    _discover()
    return dict(sorted(_METHODS.items(), key=lambda item: (item[1].family, item[0])))


def get_method(name: str) -> MethodInfo:
    """The method of that name.

    Raises:
        MethodError: There is none; the text names the nearest ones.
    """
    known = methods()
    if name not in known:
        raise MethodError(f"There is no method {name!r}. {nearest(name, known)} `bequest ls methods` lists all.")
    return known[name]


@cache
def _discover() -> None:
    package = importlib.import_module("bequest.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"bequest.methods.{module.name}")
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise MethodError(
                f"{point.value}, which the package {point.dist.name if point.dist else '?'!r} offers as a "
                f"method, cannot be loaded ({error!r}). Mend that package or uninstall it."
            ) from error


def _check_class(cls: type) -> None:
    name = _path(cls)
    if not is_dataclass(cls):
        raise TypeError(f"{name} is no dataclass; put @dataclass(frozen=True) below @method(…).")
    bare = [f.name for f in fields(cls) if f.init and _default(f) is MISSING]
    if bare:
        raise TypeError(f"{name} needs a default for {', '.join(bare)}: a method runs as it is.")


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def attribute_docs(cls: type) -> dict[str, str]:
    """The sentences of a docstring's `Attributes:` section by field name."""
    section = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", inspect.getdoc(cls) or "", re.M)
    if not section:
        return {}
    entries = re.findall(r"^    (\w+): ((?:.*\n?)(?:     +.*\n?)*)", section.group(1), re.M)
    return {name: " ".join(text.split()) for name, text in entries}


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


@cache
def _hyperparameters(cls: Any) -> tuple[Hyperparameter, ...]:
    docs, hints = attribute_docs(cls), typing.get_type_hints(cls, include_extras=True)
    by_modality: Mapping[str, Any] = getattr(cls, "defaults", {})
    found: list[Hyperparameter] = []
    for f in fields(cls):
        default = _default(f)
        if not f.init:
            continue
        if is_dataclass(default):
            for h in _hyperparameters(type(default)):
                value = getattr(default, h.name)
                if value is None and by_modality:
                    value = {m: getattr(d, h.name) for m, d in by_modality.items()}
                found.append(replace(h, default=value, owner=f.name))
        else:
            hint, search = _plain(hints[f.name])
            kind, choices = _kind(hint)
            found.append(Hyperparameter(f.name, kind, choices, default, docs.get(f.name, ""), search=search))
    return tuple(found)


def _plain(hint: Any) -> tuple[Any, Search | None]:
    """A type without what is annotated to it, and the range to tune in that is."""
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, None
    plain, *notes = typing.get_args(hint)
    return plain, next((note for note in notes if isinstance(note, Search)), None)


def _kind(hint: Any) -> tuple[type, tuple[str, ...]]:
    """What a field's text is converted to, and its choices: `Literal['a', 'b'] | None` → str, (a, b)."""
    options = [hint]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(options[0]) is typing.Literal:
        choices = typing.get_args(options[0])
        if all(isinstance(c, str) for c in choices):
            return str, choices
    for kind in (bool, str, float, int):
        if kind in options:
            return kind, ()
    raise TypeError(f"a hyperparameter of type {hint} cannot be given on the command line")


def _convert(method_name: str, h: Hyperparameter, value: Any) -> Any:
    try:
        if h.type is bool and isinstance(value, str):
            return {"true": True, "false": False}[value.lower()]
        converted = h.type(value)
    except (TypeError, ValueError, KeyError, OverflowError):
        expected = "true or false" if h.type is bool else f"a value of type {h.type.__name__}"
        raise MethodError(f"{h.flag} of {method_name!r} is {value!r}, expected {expected}.") from None
    if h.type is int and isinstance(value, float) and value != converted:
        raise MethodError(f"{h.flag} of {method_name!r} is {value!r}, expected a whole number.")
    if h.choices and converted not in h.choices:
        raise MethodError(f"{h.flag} of {method_name!r} is {value!r}, expected {' or '.join(h.choices)}.")
    return converted
