"""Distillation: what a student learns from its teacher, in the training stages of whatever method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from bequest.core.errors import MethodError
from bequest.core.registry import MethodInfo

SoftLoss = Literal["soft-cross-entropy", "kl", "softmax-l2", "logits-l2", "dkd", "dist"]

DISTILLED = ", distilled"
"""After a method's name, the row of the student that has a teacher; in a sweep its temperature stands behind."""

TEACHER = "teacher"
"""In the settings of such a row, who teaches."""

AGREEMENT = "teacher_agreement"
"""In a record's further metrics: the share of the test samples that student and teacher give the same class."""


@dataclass(frozen=True)
class Distillation:
    """How a student learns from its teacher.

    Each training stage of a method minimises α · its own loss on the labels + β · the loss against the teacher:

        L = α CE(y, σ(z_S, 1)) + β ρ² CE(σ(z_T, ρ), σ(z_S, ρ))

    (Hinton et al. 2015, arXiv:1503.02531, with the default `soft_loss`). A sample without a label has the second term
    alone. With a `feature_weight` γ, inner features are matched too (FitNets, Romero et al. 2015, arXiv:1412.6550):

        L + γ (1/N) Σ_n 1/(2D) ‖r(s) − t‖²

    t is what a layer of the teacher gives, s the same of the student, both means over places or tokens, D the width of
    t; r is a linear map, trained along and thrown away.

    Attributes:
        temperature: ρ, above 0: softens both outputs; small students want 2.5 to 4.
        hard_weight: α, weight of the loss on the labels, 0 or more; 0 leaves the labels out.
        soft_weight: β, weight of the loss against the teacher, 0 or more.
        soft_loss: Against the teacher: soft-cross-entropy, or kl, which has the same gradient; the squared distance
            between softmax outputs (softmax-l2) or between logits (logits-l2); decoupled target and other classes
            (dkd); correlations within rows and columns (dist).
        scaled: Whether the loss against the teacher is multiplied by ρ², without which its gradient shrinks as 1/ρ²;
            logits-l2 and dist need no factor.
        standardised: Whether both logits are first brought to mean 0 and standard deviation 1, sample by sample.
        others_weight: Of dkd, the weight of the classes that are not the target; that of the target is 1.
        top_classes: Keep the teacher's logits of so many classes, and the mass of the rest; 0 keeps all. For tasks with
            very many classes.
        online: Run the teacher in every step instead of once a sample and view.
        feature_weight: γ, weight of the distance between features, 0 or more; 0 leaves them out.
        teacher_layer: Whose output is the teacher's feature: a name of `bequest ls layers`, whole or its end, or
            embedding, what its head reads.
        student_layer: The same of the student.
    """

    temperature: float = 4.0
    hard_weight: float = 0.1
    soft_weight: float = 0.9
    soft_loss: SoftLoss = "soft-cross-entropy"
    scaled: bool = True
    standardised: bool = False
    others_weight: float = 8.0
    top_classes: int = 0
    online: bool = False
    feature_weight: float = 0.0
    teacher_layer: str = "embedding"
    student_layer: str = "embedding"

    def check(self) -> None:
        """Raise `MethodError` naming every field that is out of range."""
        names = get_args(SoftLoss)
        ranges: dict[str, tuple[Callable[[Any], bool], str]] = {
            "temperature": (lambda v: 0 < v < math.inf, "above 0"),
            "hard_weight": (lambda v: 0 <= v < math.inf, "0 or more"),
            "soft_weight": (lambda v: 0 <= v < math.inf, "0 or more"),
            "soft_loss": (lambda v: v in names, " or ".join(names)),
            "others_weight": (lambda v: 0 <= v < math.inf, "0 or more"),
            "top_classes": (lambda v: v >= 0, "0 or more"),
            "feature_weight": (lambda v: 0 <= v < math.inf, "0 or more"),
        }
        faults = [
            f"--{name.replace('_', '-')} is {getattr(self, name)!r}, expected {expected}"
            for name, (valid, expected) in ranges.items()
            if not valid(getattr(self, name))
        ]
        if not faults and self.hard_weight == self.soft_weight == 0:
            faults.append("--hard-weight and --soft-weight are both 0, expected one above 0")
        if not faults and self.top_classes and self.online:
            faults.append("--top-classes is for stored outputs, but --online stores none; expected one of the two")
        layers = {"--teacher-layer": self.teacher_layer, "--student-layer": self.student_layer}
        named = [flag for flag, layer in layers.items() if layer != "embedding"]
        if not faults and named and not self.feature_weight:
            faults.append(f"{' and '.join(named)} given, but --feature-weight is 0; expected a weight above 0")
        if faults:
            raise MethodError("; ".join(faults) + ".")

    def describe(self) -> dict[str, Any]:
        """Plain data, for records."""
        return asdict(self)


DISTILLATION = MethodInfo("distillation", "distillation", "Hinton et al. 2015, arXiv:1503.02531", Distillation)
"""Its settings as the command line and the docs show them; no method of its own, since it goes with any that trains."""


def taught_by(name: str) -> str:
    """Of a row's name, the method's: without what tells of a teacher."""
    return name.partition(DISTILLED)[0]


def untaught(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row's settings, the method's: without those of the distillation and the teacher's name."""
    others = {TEACHER, *(h.name for h in DISTILLATION.hyperparameters)}
    return {name: value for name, value in settings.items() if name not in others}


def check_temperatures(given: Any) -> tuple[float, ...]:
    """The temperatures of a sweep, of which there are none where None is given.

    Args:
        given: Numbers, or a text of them with commas between.

    Raises:
        MethodError: One is no number above 0, or is there twice.
    """
    if given is None:
        return ()
    try:
        found = tuple(float(value) for value in (given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError):
        found = ()
    if not found or len(set(found)) < len(found) or not all(0 < value < math.inf for value in found):
        raise MethodError(f"--temperatures is {given!r}; expected different numbers above 0, e.g. 1,2,4,8.")
    return found


def distillation(settings: Mapping[str, Any]) -> Distillation:
    """Distillation with some settings given; None leaves one at its default.

    Raises:
        MethodError: Names are unknown, or values of the wrong type or out of range; all of one kind at once.
    """
    made: Distillation = DISTILLATION.build(settings)
    made.check()
    return made
