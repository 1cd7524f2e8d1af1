"""GaLore: Adam's memory in a subspace of the gradient, for every matrix of a network.

    every T steps:   P = the first r left singular vectors of G          (m × r, for a weight m × n with m ≤ n)
    every step:      R = PᵀG;   N = Adam(R), bias-corrected;   W ← (1 − η λ) W − η α P N

Where m > n the right side is projected instead. State is m r + 2 n r numbers rather than 2 m n; α is not divided by r.
Paper: Zhao et al. 2024, arXiv:2403.03507. `inner="adafactor"` puts Adafactor in Adam's place. What is no matrix, or
has a side of r or less, or is in a parameter group with `rank=None`, is left whole and trained by the inner rule as it
is. A convolution's weight is the matrix (out, in · height · width).

Beyond the paper: by default P is found by power iteration from the P in use rather than by an SVD (`subspaces.py`), and
the parameters' refreshes are spread over the interval, so that no step pays for all. `subspace="exact"`,
`stagger=False` and `convention="galore-torch"` give the trajectory of the authors' package, which differs from the
paper in three things: eps is added before the root's bias correction, square matrices are projected on the right, and
weights decay after the update.

With `in_backward` gradients are projected in the backward pass as soon as they are complete, and are not kept. R is
linear in G while P stays, so gradients accumulate in the subspace; P is therefore refreshed by the first of the
gradients that make a step, by that one alone.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from bequest.core.errors import MethodError, TrainingError
from bequest.optim.inner import State, bitsandbytes, rule_for
from bequest.optim.subspaces import SUBSPACE_NAMES, SubspaceName, subspace

InBackward = Literal["off", "project", "update"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "subspace": SUBSPACE_NAMES,
    "inner": ("adamw", "adafactor"),
    "states": ("32bit", "8bit"),
    "convention": ("paper", "galore-torch"),
}

_COUNTS = frozenset(("step", "next_refresh"))
"""States that are counts of steps: they stay on the CPU."""

_GOLDEN = 0.6180339887498949
_SEED = 1_000_003
"""Apart from one parameter's random columns to the next one's, whose steps are fewer."""


class GaLore(Optimizer):
    """AdamW or Adafactor on projected gradients. Parameter groups may have options of their own.

    Args:
        params: Parameters, or groups of them.
        lr: Rate η.
        rank: r; None leaves a group's parameters whole.
        scale: α, the factor on projected updates.
        refresh_every: T, steps between two refreshes of a parameter's subspace.
        subspace: How it is found: 'warm' from the one in use, 'randomised' from random directions, 'exact' by an SVD.
        inner: The rule in the subspace: 'adamw', or 'adafactor', which keeps a first moment where beta1 is above 0.
        betas: Decay of the moments; Adafactor has its own for the second.
        eps: Added to the root of AdamW's second moment.
        weight_decay: λ, decoupled.
        states: '32bit' for moments in the parameter's type, or '8bit' for bytes, by bitsandbytes (AdamW alone).
        convention: 'paper', or 'galore-torch' where the two differ.
        stagger: Whether the parameters' refreshes are spread over the interval; all have their first at the first step.
            The same for all groups, as are the next two.
        in_backward: 'off'; 'project' to project gradients in the backward pass, for `step()` to update with what is
            projected; 'update' to update each parameter there, so that `step()` has nothing left to do.
        accumulate: With 'update', backward passes that make a step.

    Raises:
        MethodError: An option is out of range, or bitsandbytes is needed and cannot be used.
    """

    whole_gradients = True
    """A shard of a gradient does not say what the subspace is."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        rank: int | None = 128,
        scale: float = 0.25,
        refresh_every: int = 200,
        subspace: SubspaceName = "warm",
        inner: Literal["adamw", "adafactor"] = "adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        states: Literal["32bit", "8bit"] = "32bit",
        convention: Literal["paper", "galore-torch"] = "paper",
        stagger: bool = True,
        in_backward: InBackward = "off",
        accumulate: int = 1,
    ) -> None:
        self.stagger, self.in_backward, self.accumulate = stagger, in_backward, accumulate
        self._order: dict[Tensor, int] = {}
        self._pending: dict[Tensor, Tensor] = {}
        self._norms: dict[Tensor, Tensor] = {}
        self._received: dict[Tensor, int] = defaultdict(int)
        self._handles: list[Any] = []
        weakref.finalize(self, _remove, self._handles)
        super().__init__(
            params,
            {
                "lr": lr,
                "rank": rank,
                "scale": scale,
                "refresh_every": refresh_every,
                "subspace": subspace,
                "inner": inner,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "states": states,
                "convention": convention,
            },
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own where they differ.

        Raises:
            MethodError: An option is out of range, or bitsandbytes is needed and cannot be used.
        """
        super().add_param_group(param_group)
        number, group = len(self.param_groups) - 1, self.param_groups[-1]
        self._check(group)
        for parameter in group["params"]:
            self._order[parameter] = len(self._order)
            if self.in_backward != "off":
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._hook(number)))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient, by the ordinary contract of an optimizer.

        Raises:
            TrainingError: A gradient is not finite; no parameter was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.in_backward == "update":
            return loss
        found = [(group, self._gradients(group)) for group in self.param_groups]
        for group, gradients in found:
            self._check_finite(group, gradients)
        for group, gradients in found:
            self._update(group, gradients)
        self._forget()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, those projected in the backward pass too."""
        super().zero_grad(set_to_none)
        self._forget()

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale all gradients so that the norm of the whole is at most `max_norm`; returns what it was.

        Of gradients that were projected in the backward pass the norm before projection is taken. Where several make a
        step, it is the sum of theirs, which the norm of their sum does not exceed.

        Raises:
            MethodError: Parameters are updated in the backward pass, before the norm of the whole is known.
        """
        if self.in_backward == "update":
            raise MethodError(
                "The norm of the whole gradient is known after the backward pass, and by then in_backward='update' has "
                "changed the parameters. Use in_backward='project', or do not clip."
            )
        whole = [p.grad for p in self._order if p.grad is not None]
        total = torch.nn.utils.get_total_norm([*self._norms.values(), *whole])
        factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for gradient in (*self._pending.values(), *whole):
            gradient.mul_(factor.to(gradient.device))
        return total

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        super().load_state_dict(state_dict)
        # Torch casts what it loads to the parameter's type: not so for bytes, their scales and counts of steps.
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                device = value.device if name in _COUNTS else parameter.device
                self.state[parameter][name] = value.detach().to(device, copy=True)

    def _check(self, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        checks = (
            ("lr", group["lr"] >= 0, "0 or more"),
            ("rank", group["rank"] is None or group["rank"] >= 1, "1 or more, or None"),
            ("scale", group["scale"] > 0, "above 0"),
            ("refresh_every", group["refresh_every"] >= 1, "1 or more"),
            ("betas", 0 <= beta1 < 1 and 0 <= beta2 < 1, "two numbers from 0 to below 1"),
            ("eps", group["eps"] > 0, "above 0"),
            ("weight_decay", group["weight_decay"] >= 0, "0 or more"),
            *((name, group[name] in known, " or ".join(known)) for name, known in _CHOICES.items()),
        )
        faults = [f"{name} is {group[name]!r}, expected {expected}" for name, valid, expected in checks if not valid]
        if self.in_backward not in get_args(InBackward):
            faults.append(f"in_backward is {self.in_backward!r}, expected {' or '.join(get_args(InBackward))}")
        if self.accumulate < 1:
            faults.append(f"accumulate is {self.accumulate}, expected 1 or more")
        if group["inner"] == "adafactor" and group["states"] == "8bit":
            faults.append("states is '8bit' with inner 'adafactor', whose states are small already; expected '32bit'")
        if faults:
            raise MethodError("; ".join(faults) + ".")
        if group["states"] == "8bit":
            for parameter in group["params"]:
                bitsandbytes(parameter.device)

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        # A network outlives its optimizer, which must not hear of what is trained after it.
        reference = weakref.ref(self)

        def receive(parameter: Tensor) -> None:
            optimizer = reference()
            if optimizer is not None:
                with torch.no_grad():
                    optimizer._receive(optimizer.param_groups[number], parameter)

        return receive

    def _receive(self, group: dict[str, Any], parameter: Tensor) -> None:
        """Take up a gradient that the backward pass has completed."""
        if _is_projected(group, parameter):
            assert parameter.grad is not None
            if self.in_backward == "project":
                self._norms[parameter] = parameter.grad.norm() + self._norms.get(parameter, 0.0)
            projected, earlier = self._project(group, parameter), self._pending.get(parameter)
            self._pending[parameter] = projected if earlier is None else earlier.add_(projected)
            parameter.grad = None
        if self.in_backward == "update":
            self._received[parameter] += 1
            if self._received[parameter] == self.accumulate:
                self._finish(group, parameter)

    def _finish(self, group: dict[str, Any], parameter: Tensor) -> None:
        """Update one parameter, all of whose gradients are there."""
        gradient = self._pending.pop(parameter, None)
        gradient = self._project(group, parameter) if gradient is None else gradient
        self._check_finite(group, [(parameter, gradient)])
        self._update(group, [(parameter, gradient)])
        parameter.grad = None
        del self._received[parameter]

    def _forget(self) -> None:
        self._pending.clear()
        self._norms.clear()
        self._received.clear()

    def _gradients(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """The group's parameters that have a gradient, and that as the inner rule takes it."""
        found: list[tuple[Tensor, Tensor]] = []
        for parameter in group["params"]:
            if parameter in self._pending:
                found.append((parameter, self._pending[parameter]))
            elif parameter.grad is not None:
                found.append((parameter, self._project(group, parameter)))
        return found

    def _project(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        """The parameter's gradient in its subspace, or whole."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if gradient.is_sparse:
            raise TrainingError(
                f"The gradient of {self._name(group, parameter)} is sparse, expected a dense one. Make the embedding "
                "with sparse=False."
            )
        if not state:
            state["step"] = torch.zeros(())
        if not _is_projected(group, parameter):
            return gradient
        matrix = gradient.flatten(1)
        is_left = _is_left(group, matrix)
        if parameter not in self._pending and _is_due(state):
            self._refresh(group, parameter, matrix)
        basis = state["projection"]
        return basis.T @ matrix if is_left else matrix @ basis

    def _refresh(self, group: dict[str, Any], parameter: Tensor, matrix: Tensor) -> None:
        """A new subspace from a gradient; one that is zero leaves it, and the next one is tried."""
        self._check_finite(group, [(parameter, matrix)])
        state, rank, every = self.state[parameter], group["rank"], group["refresh_every"]
        step, order = int(state["step"]), self._order[parameter]
        if not matrix.any():
            state.setdefault("projection", matrix.new_zeros(min(matrix.shape), rank))
            return
        previous = state["projection"] if "next_refresh" in state else None
        is_left, seed = _is_left(group, matrix), _SEED * order + step
        state["projection"] = subspace(group["subspace"], matrix, rank, previous, is_left=is_left, seed=seed)
        # Multiples of the golden ratio lie evenly in an interval however many there are.
        phase = int(order * _GOLDEN % 1 * every) if self.stagger else 0
        state["next_refresh"] = torch.tensor(float(phase + ((step - phase) // every + 1) * every))

    def _update(self, group: dict[str, Any], gradients: list[tuple[Tensor, Tensor]]) -> None:
        """One step of the inner rule, in as few calls as there are kinds of tensors."""
        kinds: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, gradient in gradients:
            state, rule = self.state[parameter], rule_for(group, gradient)
            step = float(state["step"])
            if not step:
                state.update(rule.begin(gradient, group))
            kind = rule, _is_projected(group, parameter), step, parameter.device
            kinds[kind].append((parameter, gradient))
        rate = float(group["lr"])
        keep = 1 - rate * group["weight_decay"]
        if group["convention"] == "galore-torch":
            rate *= keep
        for (rule, is_projected, *_), members in kinds.items():
            parameters, found = map(list, zip(*members, strict=True))
            states = [self.state[p] for p in parameters]
            if not is_projected:
                rule.update(parameters, found, states, group, rate, keep)
                continue
            updates = [torch.zeros_like(gradient) for gradient in found]
            rule.update(updates, found, states, group, rate * group["scale"], 1.0)
            for parameter, update, state in zip(parameters, updates, states, strict=True):
                _project_back(group, parameter, update, state["projection"], keep)

    def _check_finite(self, group: dict[str, Any], gradients: list[tuple[Tensor, Tensor]]) -> None:
        if torch.nn.utils.get_total_norm([gradient for _, gradient in gradients]).isfinite():
            return
        for parameter, gradient in gradients:
            if not gradient.isfinite().all():
                raise TrainingError(
                    f"The gradient of {self._name(group, parameter)} holds NaN or infinity at step "
                    f"{int(self.state[parameter]['step']) + 1}; expected numbers. Lower the learning rate, or look for "
                    "bad values in the data."
                )

    def _name(self, group: dict[str, Any], parameter: Tensor) -> str:
        if "param_names" in group:
            number = next(i for i, known in enumerate(group["params"]) if known is parameter)
            return repr(group["param_names"][number])
        return f"parameter {self._order[parameter]}, shape {tuple(parameter.shape)},"


def _is_projected(group: dict[str, Any], parameter: Tensor) -> bool:
    """Whether a subspace of the group's rank is smaller than the parameter's gradient."""
    if group["rank"] is None or parameter.ndim < 2 or not parameter.numel():
        return False
    return min(len(parameter), parameter.numel() // len(parameter)) > group["rank"]


def _is_left(group: dict[str, Any], matrix: Tensor) -> bool:
    rows, columns = matrix.shape
    return rows < columns or (rows == columns and group["convention"] == "paper")


def _is_due(state: State) -> bool:
    return "next_refresh" not in state or bool(state["step"] >= state["next_refresh"])


def _project_back(group: dict[str, Any], parameter: Tensor, update: Tensor, basis: Tensor, keep: float) -> None:
    """Decay the weight and add the update, in one pass over it."""
    weight = parameter.flatten(1)  # a view, unless the layout is channels-last
    left, right = (basis, update) if _is_left(group, weight) else (update, basis.T)
    weight.addmm_(left, right, beta=keep)
    if weight.data_ptr() != parameter.data_ptr():
        parameter.copy_(weight.view_as(parameter))


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
