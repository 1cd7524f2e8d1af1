"""The rules that GaLore runs inside its subspaces, and on parameters that it leaves whole: AdamW and Adafactor.

A rule works on lists, so that tensors of a layer, or of a whole network, go through one call: target ← keep · target −
rate · direction, where the direction comes of gradient and state. A subspace's target starts at zero and is projected
back afterwards; a whole parameter is its own target.

AdamW is Loshchilov & Hutter 2019, arXiv:1711.05101; Adafactor is Shazeer & Stern 2018, arXiv:1804.04235, with an
external rate; AdamW with states of 8 bits is Dettmers et al. 2022, arXiv:2110.02861.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from bequest.core.errors import MethodError

State = dict[str, Tensor]
"""What is kept of one parameter: tensors by name; `step` counts its updates."""

_ADAFACTOR_DECAY = 0.8
_ADAFACTOR_EPS = 1e-30
_ADAFACTOR_MAX_RMS = 1.0

_BLOCK = 256
"""Numbers that share a scale in a state of 8 bits."""

_MIN_8BIT = 4096
"""Below so many numbers a state stays as it is: it costs little, and small tensors are the sensitive ones."""


class Rule(Protocol):
    """From gradients to updates."""

    def begin(self, like: Tensor, options: dict[str, Any]) -> State:
        """The state before the first of the gradients that are shaped `like` this one."""
        ...

    def update(
        self,
        targets: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        options: dict[str, Any],
        rate: float,
        keep: float,
    ) -> None:
        """Change targets and states in place; all states are at the same step, which this one raises by 1."""
        ...


class AdamW:
    """Bias-corrected first and second moments of every number."""

    def begin(self, like: Tensor, options: dict[str, Any]) -> State:
        """Moments of zero."""
        return {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}

    def update(
        self,
        targets: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        options: dict[str, Any],
        rate: float,
        keep: float,
    ) -> None:
        """One fused pass over everything where the device has it."""
        beta1, beta2 = options["betas"]
        adamw(
            targets,
            gradients,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            # Elsewhere the fused kernel wants the step counts on the device, and reading them would wait for it.
            fused=targets[0].device.type == "cpu" or None,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate,
            weight_decay=(1 - keep) / rate if rate else 0.0,
            eps=_eps(options, float(states[0]["step"]) + 1),
            maximize=False,
        )


class AdamW8bit:
    """AdamW whose moments are kept as bytes, with a scale for every 256 of them, by bitsandbytes."""

    def begin(self, like: Tensor, options: dict[str, Any]) -> State:
        """Moments of zero, and their scales."""
        library = bitsandbytes(like.device)
        state: State = {}
        for name, code in zip(("exp_avg", "exp_avg_sq"), self._codes(like.device), strict=True):
            state[name], found = library.quantize_blockwise(torch.zeros_like(like), code=code, blocksize=_BLOCK)
            state[f"{name}_scale"] = found.absmax
        return state

    def update(
        self,
        targets: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        options: dict[str, Any],
        rate: float,
        keep: float,
    ) -> None:
        """One call of the library for each tensor."""
        (beta1, beta2), library = options["betas"], bitsandbytes(targets[0].device)
        signed, unsigned = self._codes(targets[0].device)
        for target, gradient, state in zip(targets, gradients, states, strict=True):
            state["step"] += 1
            step = int(state["step"])
            library.optimizer_update_8bit_blockwise(
                "adam",
                gradient.contiguous(),
                target,
                state["exp_avg"],
                state["exp_avg_sq"],
                beta1,
                beta2,
                0.0,
                0.0,
                _eps(options, step),
                step,
                rate,
                signed,
                unsigned,
                state["exp_avg_scale"],
                state["exp_avg_sq_scale"],
                weight_decay=(1 - keep) / rate if rate else 0.0,
            )

    @staticmethod
    def _codes(device: torch.device) -> tuple[Tensor, Tensor]:
        library = bitsandbytes(device)
        return tuple(library.create_dynamic_map(signed=signed).to(device) for signed in (True, False))


class Adafactor:
    """Second moments as the product of a row and a column; the first moment, of the updates, if beta1 is above 0."""

    def begin(self, like: Tensor, options: dict[str, Any]) -> State:
        """Moments of zero."""
        state = {"exp_avg": torch.zeros_like(like)} if options["betas"][0] else {}
        if like.ndim < 2:
            return state | {"square": torch.zeros_like(like)}
        matrix = like.flatten(1)
        return state | {"row": matrix.new_zeros(matrix.shape[0]), "column": matrix.new_zeros(matrix.shape[1])}

    def update(
        self,
        targets: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        options: dict[str, Any],
        rate: float,
        keep: float,
    ) -> None:
        """One tensor after another."""
        for target, gradient, state in zip(targets, gradients, states, strict=True):
            state["step"] += 1
            weight = float(state["step"]) ** -_ADAFACTOR_DECAY  # of what is new: 1 at the first step
            matrix = gradient.flatten(1) if gradient.ndim > 1 else gradient
            update = (matrix * self._inverse_root(matrix.square() + _ADAFACTOR_EPS, state, weight)).view_as(gradient)
            update.div_((update.norm() / math.sqrt(update.numel()) / _ADAFACTOR_MAX_RMS).clamp_(min=1.0)).mul_(rate)
            if "exp_avg" in state:
                update = state["exp_avg"].lerp_(update, 1 - options["betas"][0])
            target.mul_(keep).sub_(update)

    @staticmethod
    def _inverse_root(square: Tensor, state: State, weight: float) -> Tensor:
        if "square" in state:
            return state["square"].lerp_(square, weight).rsqrt()
        row = state["row"].lerp_(square.mean(1), weight)
        column = state["column"].lerp_(square.mean(0), weight)
        return (row / row.mean()).rsqrt()[:, None] * column.rsqrt()[None, :]


def rule_for(options: dict[str, Any], like: Tensor) -> Rule:
    """The rule that a parameter group's options ask for, for gradients shaped `like` this."""
    if options["inner"] == "adafactor":
        return _ADAFACTOR
    return _ADAMW_8BIT if options["states"] == "8bit" and like.numel() >= _MIN_8BIT else _ADAMW


_ADAMW, _ADAMW_8BIT, _ADAFACTOR = AdamW(), AdamW8bit(), Adafactor()


def _eps(options: dict[str, Any], step: float) -> float:
    """What is added to the root of the bias-corrected second moment.

    galore-torch adds eps to the root before its correction by √(1 − β₂ᵗ), which is the same as more afterwards.
    """
    eps = options["eps"]
    return eps / math.sqrt(1 - options["betas"][1] ** step) if options["convention"] == "galore-torch" else eps


def bitsandbytes(device: torch.device | None = None) -> Any:
    """The library's functions, known to have some for the device.

    Raises:
        MethodError: It is missing, or has nothing for the device.
    """
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise MethodError(
            f"States of 8 bits need the package bitsandbytes, which cannot be imported ({error}). Install it with "
            "`pip install 'bequest[eightbit]'`, or leave the states at 32bit."
        ) from error
    if device is not None and device.type not in ("cpu", "cuda", "xpu"):
        raise MethodError(
            f"States of 8 bits are asked for on {device.type!r}, expected cpu, cuda or xpu, which bitsandbytes "
            "supports. Leave the states at 32bit."
        )
    return functional
