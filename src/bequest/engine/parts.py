"""A batch that memory does not hold, in parts: the gradients of the whole batch's loss, whatever the loss is.

First the outputs of all parts are computed without what a backward pass needs, and the gradient of the whole loss at
the outputs; then each part again, with that gradient sent back through it. So the loss need not be a mean over samples.
The random numbers of a part, for dropout, are the same both times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from bequest.engine.store import Array
from bequest.engine.teaching import Lesson


class Step(Protocol):
    """What `in_parts` needs of a training loop: `engine/fit.py` has the only one."""

    context: Any
    network: Any
    stage: Any
    feed: Any
    most_at_once: int

    def forward(self, batch: Array) -> tuple[Tensor, Tensor, Lesson | None]:
        """Outputs and labels of some samples, and what their teachers made of them."""
        ...

    def taught(self, outputs: Tensor, labels: Tensor, lesson: Lesson | None) -> Tensor:
        """What is minimised."""
        ...

    def checked(self, loss: Tensor, step: int) -> Tensor:
        """The loss, if it is a number."""
        ...


def in_parts(loop: Step, batch: Array, step: int) -> float:
    """Leave the gradients of a batch's loss, and return the loss.

    Args:
        loop: The training loop, which knows how many samples go through the network at once.
        batch: Positions of the samples (batch,).
        step: Of the stage, for messages.

    Raises:
        TrainingError: The loss is not a number.
    """
    runtime, penalty = loop.context.runtime, loop.stage.penalty
    parts = [batch[start : start + loop.most_at_once] for start in range(0, len(batch), loop.most_at_once)]
    random: list[list[Tensor]] = []
    seen: list[tuple[Tensor, Tensor, Lesson | None]] = []
    with torch.no_grad(), _buffers_kept(loop.feed.training):
        for part in parts:
            random.append(rng_state(runtime.device))
            seen.append(loop.forward(part))
    outputs = torch.cat([output for output, _, _ in seen]).requires_grad_()
    lessons = [lesson for _, _, lesson in seen if lesson is not None]
    labels = torch.cat([labels for _, labels, _ in seen])
    loss = loop.checked(loop.taught(outputs, labels, Lesson.joined(lessons) if lessons else None), step)
    # Not `autograd.grad`: a guide has parameters above the outputs.
    runtime.accelerator.backward(loss)
    gradient = outputs.grad
    assert gradient is not None, "the loss depends on the outputs"
    for part, state, share in zip(parts, random, gradient.split(list(map(len, parts))), strict=True):
        set_rng_state(state, runtime.device)
        runtime.accelerator.backward((loop.forward(part)[0] * share).sum())
    if penalty is not None:
        runtime.accelerator.backward(penalty(loop.network))
    return float(loss.detach())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, that of the machine or of an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


def rng_state(device: torch.device) -> list[Tensor]:
    """The state of torch's generators that a forward pass on a device draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_rng_state(state: list[Tensor], device: torch.device) -> None:
    """Go back to what `rng_state` returned."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Buffers end as they were: a first look at a batch counts for no statistics."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    yield
    for buffer, value in before:
        buffer.copy_(value)
