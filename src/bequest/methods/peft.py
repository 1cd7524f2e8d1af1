"""Any tuner of the PEFT library, by its configuration: IA³, VeRA, OFT, LoHa, prompt tuning and others.

    IA³, the default:   y = l ⊙ (W·x + b),   l trained, from 1

Papers: IA³ is Liu et al. 2022, arXiv:2205.05638; the library's documentation names those of its other tuners. The
library wraps the body's layers; what it makes trainable is trained, and a new head with it. At the end it is written
into the weights where the library can do that exactly; tuners that cannot, such as trained prompts, stay in the
network, which is saved and loaded with them.

Which layers are wrapped: those that the configuration names; else the library's own choice for the architecture; where
it has none, every linear layer of the body, or every ungrouped convolution of a body without linear layers (the
normalisation layers for LN_TUNING). Deviations: by default the head is solved first on the frozen source's features;
the configuration's `task_type`, and its `modules_to_save` where that is the source's own head, mean nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bequest.core.errors import MethodError
from bequest.core.parse import parse_json
from bequest.core.plan import Plan, Recipe, recipe_for
from bequest.core.registry import method

if TYPE_CHECKING:
    from torch import Tensor

    from bequest.core.task import Task
    from bequest.nn.network import Network
    from bequest.sources.source import Source


@method("peft", family="parameter-efficient", paper="The PEFT library, https://github.com/huggingface/peft")
@dataclass(frozen=True)
class Peft:
    """A tuner of the PEFT library around the body, and a new head; merged at the end where the tuner can be.

    Attributes:
        peft_type: The tuner, by the library's name: ia3, vera, lora, oft, boft, loha, lokr, fourierft, ln_tuning,
            prefix_tuning, prompt_tuning, …, with the library's defaults.
        peft_config: The tuner's configuration instead: a JSON file with the library's own fields, peft_type among them,
            as its save_pretrained writes one; or the JSON itself.
        recipe: The head, and how gradient descent runs; `learning_rate` is that of the tuner's parameters.
    """

    peft_type: str = "ia3"
    peft_config: str = ""
    recipe: Recipe = Recipe()

    defaults: ClassVar[dict[str, Recipe]] = {
        "text": Recipe(
            10, 16, 3e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
        "image": Recipe(
            10, 16, 3e-3, 1e-3, 0.0, 0.06, 1.0, 0, "linear", "solved", schedule="linear", batch_norm="frozen"
        ),
    }

    def __post_init__(self) -> None:
        """A file's content takes its name's place, so that a trial is told from one with another content."""
        if self.peft_config and not self.peft_config.lstrip().startswith("{"):
            object.__setattr__(self, "peft_config", _content(self.peft_config))

    def plan(self, source: Source, task: Task) -> Plan:
        """Train stage over the tuner's parameters and the head, after the head's own where it is solved first."""
        from bequest.core.plan import Group
        from bequest.nn.peft_tuners import Wrapped, merges
        from bequest.stages import train, with_new_head

        recipe = recipe_for(self.recipe, self.defaults, source.modality)
        network = source.network()
        wrapped = Wrapped(network.body, self._settings(), network.origin.inside)
        network.body = wrapped
        tuned = tuple(f"body.{name}" for name, p in wrapped.named_parameters() if p.requires_grad)
        if not tuned:
            raise MethodError(
                f"peft_type {self._settings()['peft_type']} found nothing to train in {source.name!r}. Choose another "
                "type, or name layers: target_modules in --peft-config."
            )
        can_merge = merges(wrapped, _batch(source, task))
        # A tuner leaves the body's outputs as they are, or nearly, until it is trained.
        head_stages = with_new_head(network, recipe, source.width, len(task.classes))
        head = tuple(f"head.{name}" for name, _ in network.head.named_parameters())
        rate, head_rate, decay = recipe.learning_rate, recipe.head_learning_rate, recipe.weight_decay
        groups = (Group(tuned, rate or 0, decay or 0), Group(head, head_rate or 0, decay or 0))
        frozen = tuple(
            f"body.{n}" for n, p in wrapped.named_parameters() if not p.requires_grad and ".base_layer." in n
        )
        stages = (*head_stages, train(recipe, groups))
        return Plan(network, stages, _merge if can_merge else None, frozen if can_merge else ())

    def _settings(self) -> dict[str, Any]:
        if not self.peft_config:
            return {"peft_type": self.peft_type.upper()}
        try:
            settings = parse_json(self.peft_config)
        except ValueError as error:
            raise MethodError(f"--peft-config is no JSON ({error}); expected a file that PEFT can read.") from None
        if not isinstance(settings, dict) or "peft_type" not in settings:
            raise MethodError("--peft-config has no peft_type; expected the tuner's name beside its other fields.")
        return settings


def _content(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MethodError(
            f"--peft-config {file!r} cannot be read ({error}); expected a JSON file, or JSON that begins with a brace."
        ) from None


def _batch(source: Source, task: Task) -> tuple[Tensor, ...] | None:
    """A batch for the body: the source's own, else of the task's samples; None where it has none."""
    known = source.example()
    if known is not None or not len(task.samples):
        return known
    return source.preprocess.collate([source.preprocess.encode(task.samples[i]) for i in range(2)])


def _merge(network: Network) -> Network:
    network.body = network.body.merged()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return network
