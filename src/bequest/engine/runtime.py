"""Where and in which precision networks run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env, patch_environment
from torch import Tensor, nn

from bequest.core.errors import RunError
from bequest.core.processes import launched
from bequest.engine.ranks import Ranks
from bequest.engine.sharding import FLAG, Sharding

Precision = Literal["auto", "float32", "bfloat16"]

_PATIENCE = timedelta(days=1)
"""How long processes wait for the main one, which measures and writes alone between two trials."""

_CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d

_NOT_DONE = {
    "DeepSpeed": "ACCELERATE_USE_DEEPSPEED",
    "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM",
}
"""Ways to divide a network, by the variable by which accelerate's launcher asks for them."""


@dataclass(frozen=True)
class Runtime:
    """Device, precision and memory layout.

    Attributes:
        accelerator: Places networks and batches, scales and clips gradients, casts while training.
        frozen: Precision of frozen passes.
        trained: Precision of training.
        spares_convolutions: Whether networks that are mostly convolutions train in float32 all the same.
        channels_last: Convolutions run on channels-last tensors.
        num_parts: In how many parts each process sends its share of a batch through the network: accelerate's steps of
            gradient accumulation, here within a batch, whose size stays.
        sharding: How several processes divide a network that they train; None where each holds the whole of it.
    """

    accelerator: Accelerator
    frozen: str
    trained: str
    channels_last: bool
    num_parts: int = 1
    sharding: Sharding | None = None
    spares_convolutions: bool = False

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return self.accelerator.device

    @property
    def ranks(self) -> Ranks:
        """All processes that accelerate knows of; what they do together is for the caller to say."""
        return Ranks.of(self.accelerator)

    def place(self, module: nn.Module) -> nn.Module:
        """The module on the device, convolution weights in the layout."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return module.to(self.device, memory_format=layout)  # pyright: ignore[reportCallIssue]

    def inputs(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A batch on the device, images in the layout."""
        moved = (t.to(self.device, non_blocking=True) for t in batch)
        if not self.channels_last:
            return tuple(moved)
        return tuple(t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in moved)

    def training(self, network: nn.Module) -> Callable[[], AbstractContextManager[Any]]:
        """What makes the context in which a network's passes run in training: the precision is that of training."""
        if self.spares_convolutions and _is_convolutional(network):
            return nullcontext
        return lambda: self.accelerator.autocast()

    def describe(self) -> dict[str, Any]:
        """For records and for the store's keys."""
        return {
            "device": self.device.type,
            "frozen_precision": self.frozen,
            "training_precision": self.trained + (", of convolutions float32" if self.spares_convolutions else ""),
            "channels_last": self.channels_last,
        }


def choose_runtime(precision: Precision = "auto", *, channels_last: bool = True) -> Runtime:
    """The fastest runtime of this machine that keeps accuracy.

    `auto` runs frozen passes in bfloat16, and trains under bfloat16 autocast, where the processor multiplies it in
    hardware (AMX, or a GPU that has it: elsewhere it was measured to be slower than float32). Weights, gradients and
    moments are float32. On CPUs networks that are mostly convolutions train in float32: a step of EfficientNet-Lite0
    took 1.25 to 1.7 times as long in bfloat16, one of MiniLM-L6 0.58 times.

    Args:
        precision: `auto`, or one for frozen passes and training alike.
        channels_last: Measured on EfficientNet-Lite0 at 224 px, 2 cores, float32: 28 → 60 images/s.

    Raises:
        RunError: Several processes were launched for something that is not done here.
    """
    _check_launch()
    sharding = Sharding.asked()
    # accelerate keeps one state a process; another precision needs a new one.
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
    hardware = _bfloat16_in_hardware()
    on_gpu = torch.cuda.is_available()
    frozen = trained = ("bfloat16" if hardware else "float32") if precision == "auto" else precision
    # Shards are made here, and accelerate has no settings for them on a machine without accelerators.
    with patch_environment(**{FLAG: "false"}):
        accelerator = Accelerator(
            # Without this accelerate takes processes on a machine without accelerators for so many single ones.
            cpu=launched().number > 1 and not torch.accelerator.is_available(),
            mixed_precision="bf16" if trained == "bfloat16" else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
    if accelerator.num_processes != launched().number:
        raise RunError(
            f"{launched().number} processes were launched, but accelerate knows of {accelerator.num_processes}; "
            "expected as many. Launch them by `accelerate launch --multi_gpu` or torchrun."
        )
    parts = accelerator.gradient_accumulation_steps
    if parts < 1:
        raise RunError(f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS is {parts}; expected 1 or more. Unset it.")
    spares = precision == "auto" and hardware and not on_gpu
    return Runtime(accelerator, frozen, trained, channels_last, parts, sharding, spares)


def _is_convolutional(network: nn.Module) -> bool:
    """Whether most weights of a network's layers are those of convolutions."""
    kinds = Counter[bool]()
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS | nn.Linear):
            kinds[isinstance(module, _CONVOLUTIONS)] += module.weight.numel()
    return kinds[True] > kinds[False]


def _check_launch() -> None:
    """Raise `RunError` where accelerate was asked for what is not done here."""
    asked = [name for name, flag in _NOT_DONE.items() if parse_flag_from_env(flag)]
    if asked and launched().number > 1:
        raise RunError(
            f"accelerate was asked for {' and '.join(asked)}, which is not done here; expected --multi_gpu, where each "
            "process holds the whole network, or --use_fsdp, where each holds a shard of what is trained."
        )


def _bfloat16_in_hardware() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_amx_tile_supported())  # pyright: ignore[reportPrivateUsage]
