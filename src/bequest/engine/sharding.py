"""One network divided among processes: each keeps a shard of every parameter, of its gradient and of its moments.

By PyTorch's `fully_shard` (FSDP; Zhao et al. 2023, arXiv:2304.11277): a block's parameters are put together before it
runs, forward and backward, and let go afterwards; gradients are added up on the way back, and each process is left with
its shard. What is divided is a copy that lives as long as a stage of training: the network itself stays whole in the
machine's memory, and is given the trained weights at the end.

Functions here take tensors that are not divided as they are. What is divided is known by what it can do, and PyTorch's
module for it is imported where something is to be divided: that takes half a second, which one process need not wait.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate.utils import parse_choice_from_env, parse_flag_from_env
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from bequest.core.errors import RunError
from bequest.nn.network import Network, trainable_state

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

FLAG = "ACCELERATE_USE_FSDP"
"""The variable by which accelerate's launcher asks for shards (`--use_fsdp`)."""


@dataclass(frozen=True)
class Sharding:
    """What accelerate's launcher says of shards; what else it says of them is settled here.

    Attributes:
        let_go: Whether a block's parameters are let go between its forward and its backward pass
            (`--fsdp_reshard_after_forward`), which saves memory and costs a second exchange.
    """

    let_go: bool = True

    @classmethod
    def asked(cls) -> Sharding | None:
        """From the launcher's environment variables; None where no shards are asked for.

        Raises:
            RunError: It asks for what is not done here.
        """
        if not parse_flag_from_env(FLAG):
            return None
        if parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
            raise RunError(
                "accelerate was asked to offload parameters (--fsdp_offload_params), which is not done here; expected "
                "shards on the devices. Leave it out, launch more processes, or take a method that freezes most, e.g. "
                "lora."
            )
        let_go = parse_choice_from_env("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
        return cls(let_go=let_go in ("true", "full_shard", "1"))


def takes_whole(optimizer: Any) -> bool:
    """Whether an optimizer has to see a gradient as a whole, since it does not treat number by number."""
    return getattr(optimizer, "whole_gradients", False)


def divide(
    modules: Sequence[nn.Module], network: Network, inputs: tuple[Tensor, ...], sharding: Sharding, device: torch.device
) -> tuple[Any, ...]:
    """Copies of modules that run a network's body, its head, or both, and of the network, divided among all processes.

    Args:
        modules: With the network's own parts.
        network: Whole, in the machine's memory; it stays as it is.
        inputs: What the first of `modules` takes, a small batch.
        sharding: How.
        device: Where the shards lie.

    Returns:
        The copies of `modules`, then that of `network`.
    """
    blocks = _blocks(network.body, modules[0], inputs)
    copies = copy.deepcopy((*modules, network))
    parts = [copies[-1].body.get_submodule(name) for name in blocks]
    roots = [part for part in (copies[-1].body, copies[-1].head) if next(part.parameters(), None) is not None]
    mesh = _mesh(device.type, torch.distributed.get_world_size())
    for part in (*parts, *roots):
        _shard(part, mesh, reshard=sharding.let_go and part not in roots)
    for module in copies:
        module.to(device)  # buffers, and what else is not divided
    return copies


def give_back(shards: Network, network: Network, written: Collection[str]) -> None:
    """Put what training may have changed of a divided copy into the network; `written` as for `trainable_state`."""
    settle(shards)
    network.load_state_dict(whole(trainable_state(shards, written)), strict=False)


def _shard(module: nn.Module, mesh: DeviceMesh, *, reshard: bool) -> None:
    from torch.distributed.fsdp import fully_shard

    for parameter in module.parameters():
        if not is_shard(parameter) and not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()
    single = {p for p in module.parameters() if p.ndim == 0}
    made: Any = fully_shard(module, mesh=mesh, reshard_after_forward=reshard, ignored_params=single or None)
    # The sum, not the mean: the loss is that of the whole batch already.
    made.set_gradient_divide_factor(1.0)
    made.set_force_sum_reduction_for_comms(True)


@cache
def _mesh(device: str, number: int) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (number,))


def _blocks(body: nn.Module, module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the members of lists in a body whose parameters are read within one call of theirs; inner ones first.

    Args:
        body: The body.
        module: Runs it.
        inputs: Of `module`.
    """
    modules = dict(body.named_modules())
    calls, reads = _watched(modules, module, inputs)

    def is_block(name: str) -> bool:
        listed = isinstance(modules.get(name.rpartition(".")[0]), nn.ModuleList | nn.Sequential)
        own = {id(p) for p in modules[name].parameters()}
        outside = any(name not in within for p in own for within in reads[p])
        return bool(name and listed and own) and calls[name] == 1 and not outside

    found = [name for name in modules if is_block(name)]
    return sorted(found, key=lambda name: name.count("."), reverse=True)


def _watched(
    modules: Mapping[str, nn.Module], module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Counter[str], dict[int, list[tuple[str, ...]]]]:
    """How often each of some modules is called in a forward pass, and in which of them each parameter is read."""
    calls: Counter[str] = Counter()
    reads: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    within: list[str] = []

    class Reads(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # What is asked of a tensor itself, such as its type, a shard knows.
            if func.__name__ != "__get__":
                for tensor in _tensors((args, kwargs)):
                    reads[id(tensor)].append(tuple(within))
            return func(*args, **(kwargs or {}))

    def begin(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1
            within.append(name)

        return hook

    def end(*_: Any) -> None:
        within.pop()

    modes = [(part, part.training) for part in module.modules()]
    handles = [part.register_forward_pre_hook(begin(name)) for name, part in modules.items()]
    handles += [part.register_forward_hook(end) for part in modules.values()]
    try:
        with torch.no_grad(), Reads():
            module.eval()(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes:
            part.training = mode
    return calls, reads


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from _tensors(tuple(tree.values()))
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _tensors(branch)


def is_shard(tensor: Any) -> bool:
    """Whether this process has only a part of it."""
    return hasattr(tensor, "full_tensor")


def settle(network: nn.Module) -> None:
    """Let go of all that is put together: every parameter is its shard again."""
    for module in network.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # pyright: ignore[reportCallIssue]


def whole(tree: T) -> T:
    """Tensors put together, in dictionaries and lists too. All processes call it."""
    if is_shard(tree):
        return tree.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(tree, dict):
        return type(tree)((key, whole(value)) for key, value in tree.items())  # pyright: ignore
    if isinstance(tree, list):
        return [whole(value) for value in tree]  # pyright: ignore
    return tree


def like(tensor: Tensor, own: Tensor) -> Tensor:
    """A whole tensor divided as `own` is."""
    if not is_shard(own):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = own.device_mesh, own.placements  # pyright: ignore[reportAttributeAccessIssue]
    return distribute_tensor(tensor.to(own.device), mesh, placements, src_data_rank=None)


def divided_as(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors by name, each divided as that of its name is."""
    return {name: like(tensor, own[name]) if name in own else tensor for name, tensor in tensors.items()}


def divide_state(optimizer: Optimizer) -> None:
    """Divide what an optimizer keeps of a divided parameter in the parameter's shape."""
    for parameter, state in optimizer.state.items():
        optimizer.state[parameter] = _as_parameter(state, parameter)


def _as_parameter(state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    def is_moment(value: Any) -> bool:
        return isinstance(value, Tensor) and not is_shard(value) and value.shape == parameter.shape

    return {name: like(value, parameter) if is_moment(value) else value for name, value in state.items()}


def clip(parameters: Iterable[Tensor], max_norm: float) -> bool:
    """Scale the gradients of divided parameters, and of others, to a norm of the whole of at most `max_norm`.

    Returns:
        Whether there is a divided one; nothing is done where there is none.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(map(is_shard, gradients)):
        return False
    shards = [_local(g) for g in gradients if is_shard(g)]
    others = [g for g in gradients if not is_shard(g)]
    device = gradients[0].device
    squares = torch.stack([torch.zeros((), device=device), *(s.square().sum() for s in shards)]).sum()
    torch.distributed.all_reduce(squares)
    squares = squares + sum(g.square().sum() for g in others)
    factor = (max_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in (*shards, *others):
        gradient.mul_(factor)
    return True


@contextmanager
def undivided(network: nn.Module, optimizer: Optimizer | None = None) -> Iterator[None]:
    """Parameters, and what an optimizer keeps of them, are whole in this context, for every process.

    What is changed of them in it counts, and gradients that come in it are added to those that were there.
    """
    settle(network)
    places: list[tuple[nn.Module, str, Any]] = [
        (module, name, parameter)
        for module in network.modules()
        for name, parameter in module._parameters.items()  # pyright: ignore[reportPrivateUsage]
        if is_shard(parameter)
    ]
    stands = {p: nn.Parameter(whole(p.detach()), p.requires_grad) for *_, p in places}
    state: Any = {} if optimizer is None else optimizer.state
    for shard, stand in stands.items():
        if shard in state:
            state[stand] = whole(state.pop(shard))
    for module, name, shard in places:
        module._parameters[name] = stands[shard]  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        for module, name, shard in places:
            module._parameters[name] = shard  # pyright: ignore[reportPrivateUsage]
    for shard, stand in stands.items():
        _write(shard, stand)
        if stand.grad is not None:
            grad = like(stand.grad, shard)
            shard.grad = grad if shard.grad is None else shard.grad + grad
        if stand in state:
            state[shard] = _as_parameter(state.pop(stand), shard)


def _write(shard: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        _local(shard).copy_(_local(like(values.detach(), shard)))


def _local(shard: Any) -> Tensor:
    """What this process has of it."""
    return shard.to_local()


@dataclass(frozen=True)
class StandIns:
    """Whole parameters that an optimizer has in place of divided ones; they hold something while it steps.

    Attributes:
        pairs: Each divided parameter and what stands for it.
    """

    pairs: tuple[tuple[Any, nn.Parameter], ...]

    @classmethod
    def of(cls, groups: Sequence[dict[str, Any]]) -> StandIns:
        """Of all divided parameters in an optimizer's groups, which have the stand-ins afterwards."""
        pairs: list[tuple[Any, nn.Parameter]] = []

        def stand_in(parameter: Any) -> Any:
            if not is_shard(parameter):
                return parameter
            pairs.append((parameter, nn.Parameter(torch.zeros(parameter.shape, device=parameter.device))))
            return pairs[-1][1]

        for group in groups:
            group["params"] = [stand_in(p) for p in group["params"]]
        made = cls(tuple(pairs))
        made._empty()
        return made

    @contextmanager
    def filled(self) -> Iterator[None]:
        """They hold weights and gradients in this context, and what becomes of the weights is kept."""
        with torch.no_grad():
            for shard, stand in self.pairs:
                stand.data = shard.detach().full_tensor()
                stand.grad = None if shard.grad is None else shard.grad.full_tensor()
        yield
        for shard, stand in self.pairs:
            _write(shard, stand)
            shard.grad = None
        self._empty()

    def _empty(self) -> None:
        for _, stand in self.pairs:
            stand.data, stand.grad = torch.empty(0, device=stand.device), None
