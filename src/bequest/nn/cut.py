"""The cut: a network as a frozen prefix, run once a sample, and the suffix that is trained.

`torch.export` turns the network into a graph of operations, for any number of samples and any number of tokens. Where
no trainable tensor is upstream, an operation is frozen: what it makes of a sample never changes. Between these and the
rest runs the cut: the activations to be kept, of the fewest bytes a sample that spare every frozen matrix product and
convolution (a minimum cut, by Dinic's algorithm). Cheap frozen operations after it (attention masks, activation
functions) are computed again rather than kept. Both halves use the network's own parameters and buffers.

An exported graph has the modes of its modules baked in, so the network is exported twice, as it trains and as it is
scored; the operations below the cut are the same in both, and are matched by what they compute. The graph as it is
scored does not depend on what is trained, so that networks of one structure can share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from bequest.core.errors import first_line
from bequest.nn.counting import counter, frozen_share
from bequest.nn.network import fingerprint, set_modes, trainable_state

_HEAVY = {
    *("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "bilinear", "scaled_dot_product_attention"),
    *("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward", "_native_multi_head_attention"),
    *("low_rank_linear", "low_rank_linear_dropout"),
}
"""Operations that are worth sparing; all others cost about what reading their output costs."""

_NOTHING = "no frozen layer lies below all that is trained"
_INFINITE = 2**30
_TYPICAL_LENGTH = 128


class CutError(Exception):
    """Why a network cannot be cut, in a few words."""


class NothingFrozen(CutError):
    """No frozen operation lies below all that is trained, or too few."""


@dataclass(frozen=True)
class Kept:
    """One activation at the cut.

    Attributes:
        shape: Of one sample; -1 in front stands for its tokens.
        dtype: Of its numbers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def ragged(self) -> bool:
        """Whether samples differ in their first dimension."""
        return self.shape[:1] == (-1,)

    def num_bytes(self, length: float) -> float:
        """Of a sample of so many tokens."""
        sides = [length if side == -1 else side for side in self.shape]
        return float(np.prod(sides)) * self.dtype.itemsize


@dataclass(frozen=True)
class Cut:
    """A network in two halves.

    Attributes:
        prefix: Inputs → the kept activations, a tuple; frozen.
        training: (kept activations, some inputs) → outputs, in the modes of training.
        scoring: The same in eval mode.
        kept: What lies at the cut.
        inputs: Which of the network's inputs the suffix takes besides, in that order.
        share: Fraction of the forward pass's multiplications that the prefix does.
    """

    prefix: nn.Module
    training: nn.Module
    scoring: nn.Module
    kept: tuple[Kept, ...]
    inputs: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Graphs:
    """A network's exported graphs and where they are cut; for every network of the same structure.

    Attributes:
        scoring: The graph in eval mode.
        training: The graph as it trains.
        constants: Tensors in the graphs that the network does not own.
        boundary: Nodes of the scoring graph and of the training graph whose values are kept.
        kept: What they hold.
        share: As for `Cut`.
    """

    scoring: fx.Graph
    training: fx.Graph
    constants: dict[str, Any]
    boundary: tuple[tuple[fx.Node, fx.Node], ...]
    kept: tuple[Kept, ...]
    share: float = 0.0


@dataclass(frozen=True)
class Exported:
    """A network as a graph of operations, in the modes that its modules were in.

    Attributes:
        graph: With parameters and buffers as attributes, under the network's names.
        constants: Tensors in it that the network does not own.
    """

    graph: fx.Graph
    constants: dict[str, Any]


Export = Callable[[nn.Module, tuple[Tensor, ...], bool], Exported]


def export(network: nn.Module, inputs: tuple[Tensor, ...], ragged: bool) -> Exported:
    """Trace a network in the modes that it is in; arguments as for `analyse`.

    Raises:
        CutError: It cannot be exported.
    """
    dynamic = torch.export.Dim.DYNAMIC
    dims = {0: dynamic, 1: dynamic} if ragged else {0: dynamic}
    try:
        exported = torch.export.export(network, inputs, dynamic_shapes=(tuple(dims for _ in inputs),), strict=False)
    except Exception as error:  # whatever a user's forward pass does under tracing
        reason = first_line(error)
        if "Constraints violated" in reason:
            reason = "its forward pass takes the number of samples or tokens for a constant"
        raise CutError(f"torch.export cannot take it ({reason[:160]})") from error
    module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    owned = {name for name, _ in [*network.named_parameters(), *network.named_buffers()]}
    constants: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target not in owned:
            value = _attribute(module, str(node.target))
            # Export numbers constants graph by graph: the same number is another constant in the other mode's graph.
            node.target = f"constant_{_content(value)}"
            constants[node.target] = value
    return Exported(module.graph, constants)


def analyse(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    ragged: bool,
    quiet: Collection[str] = (),
    written: Collection[str] = (),
    export: Export = export,
    least_share: float = 0.0,
) -> Graphs:
    """Export a network whose trainable parameters require gradients, and find its cut; it is left in any mode.

    Args:
        network: On its device.
        inputs: A batch of two samples or more.
        ragged: The inputs' second dimension is a number of tokens and differs between batches.
        quiet: As for `set_modes`.
        written: As for `trainable_state`.
        export: Traces the network as it is scored and as it trains; another may remember what it has traced.
        least_share: More than this fraction of the forward pass's multiplications has to be frozen.

    Raises:
        NothingFrozen: No more than that is.
        CutError: The network cannot be exported, or what is frozen cannot be kept.
    """
    set_modes(network, quiet)
    moving = set(trainable_state(network, written))
    network.eval()
    # A pass is quick, and a trace is not.
    if frozen_share(network, inputs, _HEAVY) <= least_share:
        raise NothingFrozen(_NOTHING)
    as_scored = _exported_as_scored(network, inputs, ragged, export)
    scoring = as_scored.graph
    found = _minimum_cut(scoring, _downstream(scoring, moving))
    if not found:
        raise NothingFrozen(_NOTHING)
    set_modes(network, quiet)
    as_trained = export(network, inputs, ragged)
    training = as_trained.graph
    names = {value: node for node, value in _values(training).items()}
    values = _values(scoring)
    if any(values[node] not in names for node in found):
        raise CutError("its frozen layers compute something else while it trains")
    boundary = tuple((node, names[values[node]]) for node in found)
    constants = as_scored.constants | as_trained.constants
    graphs = Graphs(scoring, training, constants, boundary, tuple(map(_describe, found)))
    share = _share(cut(network, graphs), inputs)
    if share <= least_share:
        raise NothingFrozen(_NOTHING)
    return replace(graphs, share=share)


def cut(network: nn.Module, graphs: Graphs) -> Cut:
    """The two halves of a network of the structure that was analysed; they share its parameters and buffers."""
    held = {**graphs.constants, **dict(network.named_parameters()), **dict(network.named_buffers())}
    below = [node for node, _ in graphs.boundary]
    above = [node for _, node in graphs.boundary]
    needed = sorted(_inputs_above(graphs.scoring, below) | _inputs_above(graphs.training, above))
    prefix = _module(_prefix(graphs.scoring, below), held)
    scoring = _module(_suffix(graphs.scoring, below, needed), held)
    training = _module(_suffix(graphs.training, above, needed), held)
    return Cut(prefix, training, scoring, graphs.kept, tuple(needed), graphs.share)


def _exported_as_scored(network: nn.Module, inputs: tuple[Tensor, ...], ragged: bool, export: Export) -> Exported:
    """The graph in eval mode, of a network in which nothing is trained."""
    trained = [p for p in network.parameters() if p.requires_grad]
    network.eval().requires_grad_(False)
    try:
        return export(network, inputs, ragged)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _content(constant: Any) -> str:
    """A digest of a tensor, or of a part of the graph that export keeps as a module of its own."""
    if isinstance(constant, fx.GraphModule):
        return hashlib.blake2b((constant.code + fingerprint(constant)).encode(), digest_size=16).hexdigest()
    return fingerprint(nn.ParameterList([nn.Parameter(constant, requires_grad=False)]))


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _downstream(graph: fx.Graph, moving: set[str]) -> set[fx.Node]:
    """Nodes whose value depends on a tensor that training changes."""
    earlier = _writers(graph)
    found: set[fx.Node] = set()
    for node in graph.nodes:
        reads = (*node.all_input_nodes, *earlier.get(node, ()))
        if (node.op == "get_attr" and node.target in moving) or any(n in found for n in reads):
            found.add(node)
    return found


def _writers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node the operations that wrote in place to what it reads, after that was made and before it is read."""
    root: dict[fx.Node, fx.Node] = {}
    written: dict[fx.Node, list[fx.Node]] = {}
    found: dict[fx.Node, list[fx.Node]] = {}
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        for read in node.all_input_nodes:
            writers = [w for w in written.get(root[read], ()) if place[w] > place[read]]
            found.setdefault(node, []).extend(writers)
        shared, writes = _aliases(node)
        root[node] = root[shared] if shared is not None else node
        for target in writes:
            written.setdefault(root[target], []).append(node)
    return found


def _aliases(node: fx.Node) -> tuple[fx.Node | None, list[fx.Node]]:
    """The operand whose memory the result may share, and the operands that are written to."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        operands = node.all_input_nodes  # getitem and the like
        return (operands[0] if operands and node.op == "call_function" else None), []
    shared: fx.Node | None = None
    writes: list[fx.Node] = []
    for argument, value in zip(schema.arguments, (*node.args, *[None] * len(schema.arguments)), strict=False):
        given = node.kwargs.get(argument.name, value)
        if argument.alias_info is not None and isinstance(given, fx.Node):
            shared = given
            if argument.alias_info.is_write:
                writes.append(given)
    return shared, writes


def _values(graph: fx.Graph) -> dict[fx.Node, str]:
    """A digest of what each node computes: equal for equal operations on equal operands."""
    digests: dict[fx.Node, str] = {}
    earlier = _writers(graph)
    inputs = iter(range(1 << 30))

    def plain(value: Any) -> Any:
        return digests[value] if isinstance(value, fx.Node) else value

    for node in graph.nodes:
        if node.op == "placeholder":
            content = f"input {next(inputs)}"
        else:
            operands = map_aggregate((node.args, node.kwargs), plain)
            content = f"{node.op} {node.target} {operands} {[digests[n] for n in earlier.get(node, ())]}"
        digests[node] = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    return digests


def _minimum_cut(graph: fx.Graph, trained: set[fx.Node]) -> list[fx.Node]:
    """Frozen nodes to keep: the fewest bytes, and of such cuts the last; none where nothing would be spared."""
    written = {n for node in graph.nodes for n in _aliases(node)[1]}
    frozen = [n for n in graph.nodes if n.op == "call_function" and n not in trained and _is_tensor(n)]
    frozen += [n for n in graph.nodes if n.op == "call_function" and n not in trained and _is_tuple(n)]
    number = {node: i for i, node in enumerate(frozen)}
    source, sink, count = 2 * len(frozen), 2 * len(frozen) + 1, 2 * len(frozen) + 2
    edges: dict[tuple[int, int], int] = {}
    for node, i in number.items():
        kept = None if node in written else _describe_or_none(node)
        edges[2 * i, 2 * i + 1] = _INFINITE if kept is None else int(kept.num_bytes(_TYPICAL_LENGTH))
        if _is_heavy(node):
            edges[source, 2 * i] = _INFINITE
        for user in node.users:
            edges[2 * i + 1, 2 * number[user] if user in number else sink] = _INFINITE
    heavy = any(start == source for start, _ in edges)
    if not heavy or not any(end == sink for _, end in edges):
        return []
    rows, columns = np.array(list(edges), np.int32).T
    capacity = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape=(count, count))
    result = maximum_flow(capacity, source, sink)
    if result.flow_value >= _INFINITE:
        raise CutError("what its frozen layers make cannot be kept sample by sample")
    left = capacity - result.flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reaches_sink = set(breadth_first_order(left.T.tocsr(), sink, return_predecessors=False).tolist())
    return [n for n, i in number.items() if 2 * i + 1 in reaches_sink and 2 * i not in reaches_sink]


def _is_heavy(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", str(node.target)).split(".")[0] in _HEAVY


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _is_tuple(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), tuple | list)


def _describe(node: fx.Node) -> Kept:
    kept = _describe_or_none(node)
    assert kept is not None
    return kept


def _describe_or_none(node: fx.Node) -> Kept | None:
    """What a node's value is for one sample; None where it is not one record a sample."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim == 0:
        return None
    samples, tokens = _symbols(node.graph)
    sides = [_symbol(side) for side in value.shape]
    if sides[0] != samples:
        return None
    rest = [-1 if i == 0 and side == tokens is not None else side for i, side in enumerate(sides[1:])]
    if any(not isinstance(side, int) for side in rest):
        return None
    return Kept(tuple(int(side) for side in rest), value.dtype)


def _symbols(graph: fx.Graph) -> tuple[Any, Any]:
    """The symbols for the number of samples and, if it varies, of tokens."""
    first = next(node for node in graph.nodes if node.op == "placeholder").meta["val"]
    sides = [_symbol(side) for side in first.shape[:2]]
    return sides[0], sides[1] if len(sides) > 1 and not isinstance(sides[1], int) else None


def _symbol(side: Any) -> Any:
    return side if isinstance(side, int) else side.node.expr


def _prefix(graph: fx.Graph, boundary: Sequence[fx.Node]) -> fx.Graph:
    new, copies = fx.Graph(), {}
    wanted = _upstream(graph, boundary, stop=())
    for node in graph.nodes:
        if node.op == "placeholder" or node in wanted:
            copies[node] = new.node_copy(node, lambda n: copies[n])
    new.output(tuple(copies[node] for node in boundary))
    return new


def _suffix(graph: fx.Graph, boundary: Sequence[fx.Node], inputs: Sequence[int]) -> fx.Graph:
    new, copies = fx.Graph(), {}
    for i, node in enumerate(boundary):
        copies[node] = new.placeholder(f"kept_{i}")
    given = [node for node in graph.nodes if node.op == "placeholder"]
    for i in inputs:
        copies[given[i]] = new.placeholder(f"input_{i}")
    sizes = _sizes(boundary)
    wanted = _needed_above(graph, boundary)
    for node in graph.nodes:
        if node in copies or node not in wanted or node.op == "placeholder":
            continue
        if node.op == "output":
            new.output(map_arg(node.args[0], lambda n: copies[n])[0])
        elif (replacement := _size_of(node, sizes)) is not None:
            tensor, dimension = replacement
            copies[node] = new.call_function(torch.ops.aten.sym_size.int, (copies[tensor], dimension))
        else:
            copies[node] = new.node_copy(node, lambda n: copies[n])
    return new


def _sizes(boundary: Sequence[fx.Node]) -> dict[Any, tuple[fx.Node, int]]:
    """Where the number of samples and of tokens can be read from what is kept."""
    return {_symbol(side): (node, i) for node in boundary for i, side in enumerate(node.meta["val"].shape)}


def _size_of(node: fx.Node, sizes: dict[Any, tuple[fx.Node, int]]) -> tuple[fx.Node, int] | None:
    if node.target is torch.ops.aten.sym_size.int and "val" in node.meta:
        return sizes.get(_symbol(node.meta["val"]))
    return None


def _needed_above(graph: fx.Graph, boundary: Sequence[fx.Node]) -> set[fx.Node]:
    """What the outputs need beyond the boundary, and what moves buffers (BatchNorm's counter needs nothing trained)."""
    ends = [node for node in graph.nodes if node.op == "output" or _moves_buffer(node)]
    return _upstream(graph, ends, stop=boundary)


def _moves_buffer(node: fx.Node) -> bool:
    return any(target.op == "get_attr" for target in _aliases(node)[1])


def _inputs_above(graph: fx.Graph, boundary: Sequence[fx.Node]) -> set[int]:
    given = [node for node in graph.nodes if node.op == "placeholder"]
    wanted = _needed_above(graph, boundary)
    return {i for i, node in enumerate(given) if node in wanted}


def _upstream(graph: fx.Graph, ends: Iterable[fx.Node], stop: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes that some nodes need, themselves included; not what `stop` needs, nor whose size can be read from it."""
    earlier, sizes = _writers(graph), _sizes(stop)
    found: set[fx.Node] = set()
    pending = list(ends)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        if node not in stop and _size_of(node, sizes) is None:
            pending += [*node.all_input_nodes, *earlier.get(node, ())]
    return found


def _module(graph: fx.Graph, held: dict[str, Any]) -> fx.GraphModule:
    targets = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return fx.GraphModule({target: held[target] for target in targets}, graph)


def _share(halves: Cut, inputs: tuple[Tensor, ...]) -> float:
    kept, spared = _count(halves.prefix, inputs)
    _, left = _count(halves.scoring, (*kept, *(inputs[i] for i in halves.inputs)))
    return spared / max(1, spared + left)


def _count(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, int]:
    """A module's outputs, and the floating-point operations that they took."""
    with torch.no_grad(), counter() as counted:
        outputs = module(*inputs)
    return outputs, counted.get_total_flops()
