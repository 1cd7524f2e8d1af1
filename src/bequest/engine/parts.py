"""A batch in parts: what memory does not hold at once, and what several processes divide among them.

The gradients are those of the whole batch's loss, whatever the loss is: the outputs of all parts are computed first,
then the loss of the whole batch and its gradient at the outputs, which is sent back through each part. So the loss need
not be a mean over samples. Where one process sends several parts through the network, their outputs are computed
without what a backward pass needs, and then each part again; the random numbers of a part, for dropout, are the same
both times. Every process computes the whole loss, from the outputs of all, and takes the gradient at its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bequest.core.errors import RunError
from bequest.engine.context import Context
from bequest.engine.memory import is_out_of_memory
from bequest.engine.ranks import Ranks
from bequest.engine.sharding import is_shard, undivided
from bequest.engine.store import Array
from bequest.engine.teaching import Lesson


class Step(Protocol):
    """What `in_parts` needs of a training loop: `engine/fit.py` has the only one."""

    context: Any
    network: Any
    stage: Any
    feed: Any
    seed: int
    number: int
    most_at_once: int
    summing: Summing

    def forward(self, batch: Array) -> tuple[Tensor, Tensor, Lesson | None]:
        """Outputs and labels of some samples, and what their teachers made of them."""
        ...

    def taught(self, outputs: Tensor, labels: Tensor, lesson: Lesson | None) -> Tensor:
        """What is minimised."""
        ...

    def checked(self, loss: Tensor, step: int) -> Tensor:
        """The loss, if it is a number."""
        ...


@dataclass(frozen=True)
class Summing:
    """How the processes' gradients are added up.

    Attributes:
        context: The run, with its processes.
        parameters: Whose gradients these are.
        inside: Whether within the backward pass, a parameter at a time, since the optimizer takes them there; else
            after it, all together.
    """

    context: Context
    parameters: Sequence[nn.Parameter]
    inside: bool = False

    @contextmanager
    def over_all(self) -> Iterator[None]:
        """Backward passes in this context leave the sum of the gradients of all processes."""
        if self.inside and not self.context.ranks.alone:
            with self._hooked():
                yield
            return
        with self.context.lockstep():
            yield
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.context.ranks.add_up([gradient for gradient in gradients if not is_shard(gradient)])

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        # A tensor's own hooks are called before its gradient is there for the optimizer's.
        handles = [parameter.register_hook(self.context.ranks.sum_of) for parameter in self.parameters]
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"Memory did not suffice for the backward pass of process {self.context.ranks.rank}, whose optimizer "
                "takes gradients as they come: the others cannot begin it again. Let batches go through the network in "
                "more parts: set ACCELERATE_GRADIENT_ACCUMULATION_STEPS, e.g. to 4, or do without --layerwise."
            ) from error
        finally:
            for handle in handles:
                handle.remove()


def in_parts(loop: Step, batch: Array, step: int) -> float:
    """Leave the gradients of a batch's loss, the sum over all processes, and return the loss.

    Args:
        loop: The training loop, which knows how many samples go through the network at once.
        batch: Positions of the samples (batch,).
        step: Of the stage, for random numbers and messages.

    Raises:
        TrainingError: The loss is not a number.
    """
    ranks, penalty = loop.context.ranks, loop.stage.penalty
    own, sizes = batch[ranks.own(len(batch))], ranks.sizes(len(batch))
    # As many for every process, the empty ones of a short share included, so that all make the same passes.
    parts = [own[start : start + loop.most_at_once] for start in range(0, max(sizes), loop.most_at_once)]
    with ranks.own_random(loop.seed, loop.number, step):
        with loop.context.lockstep():
            passes = _Passes.through(loop, parts, batch)
        outputs, labels, lesson = passes.of_all(ranks, sizes)
        outputs = outputs.requires_grad_()
        loss = loop.checked(loop.taught(outputs, labels, lesson), step)
        # Not `autograd.grad`: a guide has parameters above the outputs.
        loss.backward()
        gradient = outputs.grad
        assert gradient is not None, "the loss depends on the outputs"
        shares = gradient[ranks.own(len(batch))].split(list(map(len, parts)))
        with loop.summing.over_all():
            passes.back(loop, parts, batch, shares)
    if penalty is not None:
        with undivided(loop.network):
            penalty(loop.network).backward()
    return float(loss.detach())


@dataclass(frozen=True)
class _Passes:
    """What came of sending parts of a batch forward.

    Attributes:
        seen: Of each part outputs, with what a backward pass needs if it is the only one, labels and lesson.
        random: The state of the generators before each part.
    """

    seen: Sequence[tuple[Tensor, Tensor, Lesson | None]]
    random: Sequence[list[Tensor]]

    @classmethod
    def through(cls, loop: Step, parts: Sequence[Array], batch: Array) -> _Passes:
        device, once = loop.context.runtime.device, len(parts) == 1
        seen: list[tuple[Tensor, Tensor, Lesson | None]] = []
        random: list[list[Tensor]] = []
        with torch.set_grad_enabled(once), nullcontext() if once else _buffers_kept(loop.feed.training):
            for part in parts:
                random.append(rng_state(device))
                seen.append(_forward(loop, part, batch))
        return cls(seen, random)

    def of_all(self, ranks: Ranks, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Lesson | None]:
        """Outputs, without a graph, labels and lesson of the whole batch."""
        outputs = torch.cat([output.detach() for output, _, _ in self.seen])
        labels = torch.cat([labels for _, labels, _ in self.seen])
        lessons = [lesson for _, _, lesson in self.seen if lesson is not None]
        lesson = Lesson.joined(lessons).each(lambda rows: ranks.gather(rows, sizes)) if lessons else None
        return ranks.gather(outputs, sizes), ranks.gather(labels, sizes), lesson

    def back(self, loop: Step, parts: Sequence[Array], batch: Array, shares: Sequence[Tensor]) -> None:
        """Send the gradient at each part's outputs back through it."""
        for part, state, (outputs, _, _), share in zip(parts, self.random, self.seen, shares, strict=True):
            if len(parts) > 1:
                set_rng_state(state, loop.context.runtime.device)
                outputs = _forward(loop, part, batch)[0]
            (outputs * share).sum().backward()


def _forward(loop: Step, part: Array, batch: Array) -> tuple[Tensor, Tensor, Lesson | None]:
    """As the loop's, of a part that may be empty: some samples of the batch go along then, and count for nothing."""
    if len(part):
        return loop.forward(part)
    outputs, labels, lesson = loop.forward(batch[:2])
    return outputs[:0], labels[:0], lesson and lesson.each(lambda rows: rows[:0])


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
