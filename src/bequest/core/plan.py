"""What a method is made of: the network after surgery, and stages of two kinds, `Solve` and `Train`.

Nothing here computes; `bequest.engine` carries plans out and never knows a method's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

from bequest.core.errors import MethodError
from bequest.core.search import Search

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from bequest.core.task import Kind, Task
    from bequest.nn.network import Network

Part = Literal["train", "validation", "source"]
ScheduleName = Literal["linear", "cosine", "one_cycle", "slanted", "constant"]


@dataclass(frozen=True)
class Recipe:
    """The head, and how gradient descent runs. A field left None takes the method's default for the modality.

    Attributes:
        epochs: Passes over the training part, 1 or more.
        batch_size: Samples in an optimizer step.
        learning_rate: Peak rate of the body's trainable parameters.
        head_learning_rate: Peak rate of the head.
        weight_decay: Decoupled weight decay of matrices; biases and normalisation have none.
        warmup: Fraction of the steps over which the rates rise from 0.
        layer_decay: Factor on the rate for each layer further from the head; 1 is the same rate for all.
        patience: Epochs that are not the best so far after which training stops; 0 never stops early.
        head: 'linear', or 'mlp' for one or more hidden layers.
        head_init: 'random', or 'solved' to fit the head on the frozen source's features before all else.
        head_layers: Widths of an mlp head's hidden layers, e.g. 256,128; empty for one as wide as the embedding.
        schedule: How the rates move from step to step: after the warm-up linear or cosine to 0, one_cycle (up and down
            by cosines), slanted (ULMFiT's triangle), constant.
        batch_norm: 'frozen' to keep BatchNorm's statistics, scales and shifts as pretrained, 'affine' to train scales
            and shifts over the pretrained statistics, or 'trained', which normalises by each batch's own. With few
            labels, these differ so much from those that networks were trained on that training begins by repairing
            the damage; other kinds of normalisation are not concerned.
    """

    epochs: Annotated[int | None, Search(0.5, 2, log=True, times_default=True)] = None
    batch_size: int | None = None
    learning_rate: Annotated[float | None, Search(0.1, 10, log=True, times_default=True)] = None
    head_learning_rate: Annotated[float | None, Search(0.1, 10, log=True, times_default=True)] = None
    weight_decay: Annotated[float | None, Search(0, 0.1)] = None
    warmup: float | None = None
    layer_decay: float | None = None
    patience: int | None = None
    head: Literal["linear", "mlp"] | None = None
    head_init: Literal["random", "solved"] | None = None
    head_layers: str = ""
    schedule: ScheduleName | None = None
    batch_norm: Literal["frozen", "affine", "trained"] | None = None

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the head's hidden layers; empty where `head_layers` is."""
        return tuple(int(width) for width in self.head_layers.split(",") if width.strip())

    @property
    def structural(self) -> Recipe:
        """What of it says which network is trained; all else says how."""
        return Recipe(head=self.head, head_layers=self.head_layers, batch_norm=self.batch_norm)

    def over(self, defaults: Recipe) -> Recipe:
        """This recipe with the fields left None taken from `defaults`, checked for range.

        Raises:
            MethodError: A field is out of range.
        """
        unset = {f.name: getattr(defaults, f.name) for f in fields(self) if getattr(self, f.name) is None}
        merged = replace(self, **unset)
        merged.check()
        return merged

    def check(self) -> None:
        """Raise `MethodError` naming every field that is out of range."""
        ranges: dict[str, tuple[Callable[[Any], bool], str]] = {
            "epochs": (lambda v: v >= 1, "1 or more"),
            "batch_size": (lambda v: v >= 1, "1 or more"),
            "learning_rate": (lambda v: v > 0, "above 0"),
            "head_learning_rate": (lambda v: v > 0, "above 0"),
            "weight_decay": (lambda v: v >= 0, "0 or more"),
            "warmup": (lambda v: 0 <= v < 1, "from 0 to below 1"),
            "layer_decay": (lambda v: 0 < v <= 1, "above 0, at most 1"),
            "patience": (lambda v: v >= 0, "0 or more"),
            "head": (lambda v: v in ("linear", "mlp"), "linear or mlp"),
            "head_init": (lambda v: v in ("random", "solved"), "random or solved"),
            "batch_norm": (lambda v: v in ("frozen", "affine", "trained"), "frozen, affine or trained"),
            "head_layers": (_are_widths, "widths of 1 or more, e.g. 256,128"),
            "schedule": (lambda v: v in get_args(ScheduleName), " or ".join(get_args(ScheduleName))),
        }
        faults = [
            f"{name} is {getattr(self, name)!r}, expected {expected}"
            for name, (valid, expected) in ranges.items()
            if getattr(self, name) is not None and not valid(getattr(self, name))
        ]
        if self.head_layers and self.head == "linear":
            faults.append(f"head_layers is {self.head_layers!r}, but a linear head has none; expected head mlp")
        if faults:
            raise MethodError("; ".join(faults) + ".")


def _are_widths(text: str) -> bool:
    return all(part.strip().isdigit() and int(part) >= 1 for part in text.split(",")) if text else True


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate.

    Attributes:
        names: Names in `network.named_parameters()`.
        learning_rate: Peak rate.
        weight_decay: Decoupled weight decay.
        options: Further entries of the optimizer's parameter group, for an optimizer that knows them.
    """

    names: tuple[str, ...]
    learning_rate: float
    weight_decay: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Schedule(Protocol):
    """Factor on every group's peak rate at optimizer step `step` (from 0) of `num_steps`."""

    def __call__(self, step: int, num_steps: int) -> float:
        """The factor, from 0 to 1."""
        ...


@dataclass
class TrainState:
    """What an event may change between two optimizer steps."""

    network: Network
    optimizer: Optimizer
    step: int
    num_steps: int


class Event(Protocol):
    """Called after the optimizer's steps at which it is due (ReLoRA merges and restarts in one)."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether it changes anything after so many steps of so many."""
        ...

    def __call__(self, state: TrainState) -> None:
        """Change what `state` holds, or leave it."""
        ...


@dataclass(frozen=True)
class Train:
    """Gradient descent on what `groups` names; all else is frozen, in eval mode, and stays bit-identical.

    Attributes:
        groups: Trainable parameters and their rates.
        epochs: Passes over the training part.
        batch_size: Samples in an optimizer step.
        schedule: Factor on the rates.
        loss: (outputs (batch, outputs), labels) → scalar; None for that of the task's kind.
        optimizer: From parameter groups (`params`, `lr`, `weight_decay`, and a group's own options) and the number of
            steps planned to an optimizer. Where it has a `clip_grad_norm_` of its own, that is called with the largest
            norm allowed, since it may keep gradients elsewhere than in `.grad`. One that does not treat gradients
            number by number says so by `whole_gradients = True`, for processes that divide a network among them.
        patience: Epochs that are not the best so far before stopping; 0 never stops early.
        events: Called after every step.
        source_features: The body still computes what the source's does (untouched, or wrappers that start as
            the identity) and is not trained: the stage runs from the source's stored features.
        penalty: Added to the loss before each step; reported losses are without it.
        fixed_statistics: A BatchNorm whose scale and shift are trained stays in eval mode, its statistics as they are.
    """

    groups: tuple[Group, ...]
    epochs: int
    batch_size: int
    schedule: Schedule
    loss: Callable[[Tensor, Tensor], Tensor] | None
    optimizer: Callable[[list[dict[str, Any]], int], Optimizer]
    patience: int = 0
    events: tuple[Event, ...] = ()
    source_features: bool = False
    penalty: Callable[[Network], Tensor] | None = None
    fixed_statistics: bool = False


@dataclass(frozen=True)
class Features:
    """What a solver is fitted on.

    Attributes:
        values: float32 (samples, width).
        labels: int64 (samples,); of the other kinds float32 (samples, outputs), a regression's standardised.
        groups: int64 (samples,) or None.
        num_classes: How many classes or targets the task has; some classes may be missing from `labels`.
        kind: What the labels are.
        strata: int64 (samples,): what folds are stratified by; None for the classes, or for nothing.
        widths: Features of each tap, in the order of the columns; one for the embedding alone.
    """

    values: Any
    labels: Any
    groups: Any
    num_classes: int
    kind: Kind = "classification"
    strata: Any = None
    widths: tuple[int, ...] = ()


class Solver(Protocol):
    """Fits a head. One `Features` for each part the stage asks for; returns the module and what to record."""

    def __call__(
        self, *parts: Features, seed: int, earlier: dict[str, Any] | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The fitted head, from (batch, width) to (batch, classes), and what the record tells of the fit.

        Args:
            parts: The samples.
            seed: Of whatever is random.
            earlier: What the solver recorded of a fit on fewer labels: what it chose there stands.
        """
        ...


@dataclass(frozen=True)
class Solve:
    """A head fitted on frozen features by a solver, and put in place of the network's head.

    Attributes:
        solver: The fit.
        fit_on: The parts it sees, in the order in which the solver takes them: `train`, `validation`, or `source`, the
            source's own data, which is left out where the user gave none. Once scored on held-out labels the solver is
            run again with the settings that it chose, on every label: `train` then stands for all of them,
            `validation` for all that were held out.
        source_features: The body still computes what the source's does: use the source's stored features.
    """

    solver: Solver
    fit_on: tuple[Part, ...] = ("train",)
    source_features: bool = False


class Coding(Protocol):
    """How what a trial trained is stored, where not as it is: rounded, for instance."""

    def encode(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that are stored, of those that were trained."""
        ...

    def decode(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the finished network, of those that are stored."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a method does to one source for one task.

    Attributes:
        network: After surgery; the engine changes it in place.
        stages: Carried out in order.
        finish: Merges what may be merged and returns the plain network; None leaves it as it is.
        merged: Names of frozen parameters that `finish` or an event writes to; all others stay bit-identical.
        coding: Of the tensors that are stored; after the last stage the network takes what they decode to, before it is
            scored. None stores them as they are.
    """

    network: Network
    stages: tuple[Train | Solve, ...]
    finish: Callable[[Network], Network] | None = None
    merged: tuple[str, ...] = ()
    coding: Coding | None = None

    def written(self, stage: Train) -> tuple[str, ...]:
        """Frozen parameters that a stage's events may write to while it trains."""
        return self.merged if stage.events else ()


class Method(Protocol):
    """A frozen dataclass of hyperparameters with a plan; register it with `bequest.core.registry.method`."""

    def plan(self, source: Any, task: Task) -> Plan:
        """The surgery and the stages for this source and task; nothing is trained yet."""
        ...


def recipe_for(recipe: Recipe, defaults: Mapping[str, Recipe], modality: str) -> Recipe:
    """The user's recipe over the method's defaults for a modality; arrays take the defaults of images."""
    return recipe.over(defaults.get(modality, defaults["image"]))
