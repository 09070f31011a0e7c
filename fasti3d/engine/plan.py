"""From a graph to steps with packed weights: folded batch norm, no padded copies, no concatenation.

A plan holds weights derived from the network's: folded in float32, packed for their kernels. They are
immutable, so threads may share it; the owner of a plan makes a new one when the network's weights change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fasti3d.engine.blocks import Blocks, shared_blocks
from fasti3d.engine.cuda_graphs import Graphs
from fasti3d.engine.graph import (
    Add,
    Attention,
    Concat,
    Conv,
    ConvPool,
    Graph,
    Head,
    Node,
    Norm,
    Opaque,
    Pool,
    PoolConv,
    Relu,
    Shape,
    Siblings,
    Softmax,
    shapes,
)
from fasti3d.engine.lanes import Window, windows
from fasti3d.engine.layout import ONE_LANE, Lanes, Layout, lay_out
from fasti3d.engine.rewrite import (
    absorb_adds,
    absorb_relus,
    behind_pools,
    fold_norms,
    join_pools,
    join_siblings,
    pool_branches,
    skip_frames,
)
from fasti3d.engine.sign import non_negative
from fasti3d.engine.steps import (
    AddStep,
    AttentionStep,
    ConcatStep,
    ConvPoolStep,
    ConvStep,
    DepthwiseStep,
    HeadStep,
    NormStep,
    OpaqueStep,
    PoolConvStep,
    PoolStep,
    ReluStep,
    SiblingsStep,
    SoftmaxStep,
    Step,
)
from fasti3d.inputs import RGB_CHANNELS, as_floats
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TritonConv3d
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS, is_folded
from fasti3d.ops.depthwise_conv3d.op import DepthwiseConv3d
from fasti3d.ops.pooled_conv3d.op import behind_pool
from fasti3d.runtime import builds, gpu

# Shapes of clips whose layouts are kept.
_MAX_LAYOUTS = 16
_SIMPLE = {
    Pool: PoolStep,
    Norm: NormStep,
    Relu: ReluStep,
    Add: AddStep,
    Concat: ConcatStep,
    Attention: AttentionStep,
    Head: HeadStep,
    Softmax: SoftmaxStep,
    Opaque: OpaqueStep,
}


# Rewrites, by what they do: first those that hold whatever is asked for.
_ALWAYS: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("batch norms into convolutions", fold_norms),
    ("ReLUs into convolutions and sums", absorb_relus),
    ("sums into convolutions", absorb_adds),
)


class Segment:
    """A part of a network with one input and one output, which run by itself on pieces of a clip."""

    def __init__(self, graph: Graph, steps: Sequence[Step], dtype: torch.dtype, device: torch.device) -> None:
        self.graph = graph
        self.steps = steps
        self._dtype = dtype
        self._device = device

    def layout(self, shape: Sequence[int]) -> Layout:
        """For inputs of a shape."""
        return lay_out(self.graph, self.steps, shapes(self.graph, shape), self._dtype, self._device)

    def run(self, x: Tensor, layout: Layout, block: Tensor) -> Tensor:
        """The output for the input x, in the block: until that is written again."""
        (y,) = layout.run({self.graph.input: x}, block, lambda y: y).values()
        return y


class Plan:
    """A network in eval mode for one compute dtype and device, with weights of its own.

    A value that is not finite reaches whole tiles of its Winograd forms (see ``PackedConv3d.spread``), up to
    3 frames or rows, at each layer, that it would not reach in plain PyTorch.

    Args:
        graph: as a description or a trace gives it.
        dtype: what convolutions compute in.
        device: where the weights are.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        for _, rewrite in _ALWAYS:
            graph = rewrite(graph)
        convs = [node for node in graph.nodes if isinstance(node, Conv) and node.groups == 1]
        # One tells for all whose kernels run.
        self._convs = {node.out: _pack(node, dtype) for node in convs[:1]}
        if any(isinstance(conv, TritonConv3d) for conv in self._convs.values()):
            graph = join_siblings(graph)
        known = non_negative(graph)
        behind = {out for out, x in behind_pools(graph).items() if x in known}
        self._has_siblings = any(isinstance(node, Siblings) for node in graph.nodes)
        # Those whose frames a pool may step over, at their strides where it does. A GPU folds clips before it
        # is known what is asked for.
        self._skipping: dict[int, PackedConv3d] = {}
        if not any(isinstance(conv, TritonConv3d) for conv in self._convs.values()):
            strides = {conv.out: conv.stride for conv in convs}
            for conv in skip_frames(replace(graph, names={})).nodes:
                if isinstance(conv, Conv) and strides.get(conv.out, conv.stride) != conv.stride:
                    self._skipping[conv.out] = _pack(conv, dtype)
        self._depthwise: dict[int, DepthwiseConv3d] = {}
        nodes: list[Node] = []
        for node in graph.nodes:
            if isinstance(node, Conv) and node.groups > 1:
                self._depthwise[node.out] = _pack_depthwise(node, dtype)
                node = replace(node, weight=node.weight.to("meta"))
            elif isinstance(node, Conv | Siblings):
                if node not in convs[:1]:
                    self._convs[node.out] = _pack(node, dtype)
                if node.out in behind:
                    self._convs[node.out] = behind_pool(self._convs[node.out])
                # Its shape is all that is needed from here on.
                node = replace(node, weight=node.weight.to("meta"))
            elif isinstance(node, Head) and node.weight is not None:
                weight, bias = _in_float32(node)
                node = replace(node, weight=weight.flatten(1), bias=bias)
            elif isinstance(node, Norm):
                node = _norm_in_float32(node)
            nodes.append(node)
        self.graph = graph.with_nodes(nodes)
        readers = [node for node in graph.nodes if graph.input in node.reads]
        for node in readers:
            for packed in (self._convs, self._skipping):
                if isinstance(node, Conv) and node.out in packed and node.weight.shape[1] == RGB_CHANNELS:
                    packed[node.out] = packed[node.out].of_bytes(graph.scaling, RGB_CHANNELS)
        first = [self._convs.get(node.out) for node in readers]
        self.folding = _folding(readers, first[0]) if first else None
        self.reads_bytes = bool(first) and all(conv is not None and conv.reads_bytes for conv in first)
        # What torch runs may do something that cannot be captured.
        own = not any(isinstance(node, Opaque) for node in graph.nodes)
        on_gpu = all(isinstance(conv, TritonConv3d) for conv in self._convs.values())
        self.graphs = Graphs() if self._convs and on_gpu and own else None
        self._schedules: dict[frozenset[str], tuple[Graph, list[Step]]] = {}
        self._layouts: OrderedDict[tuple[tuple[int, ...], frozenset[str], bool], Layout] = OrderedDict()
        self._compiled: set[Hashable] = set()
        self._lock = threading.Lock()
        # What torch runs may keep the maps that it is given.
        self._blocks = shared_blocks() if own else Blocks(keeps=False)
        if device.type == "cuda":
            # From here on other streams may read the weights.
            torch.cuda.current_stream(device).synchronize()

    def run(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """The wanted outputs of a checked clip, which may be uint8, in ``dtype``: from a CUDA graph where
        there is one.
        """
        if self.graphs is None:
            return self.compute(x, wanted, dtype)
        return self.graphs.run(self._compute, x, wanted, dtype, InGraph(self))

    def _compute(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """``compute``, of whose kernels those that are not on disk are compiled side by side before."""
        key = tuple(x.shape), x.dtype, frozenset(wanted), dtype
        if key not in self._compiled and gpu.may_compile(x.device):
            builds.prepare(lambda: self.compute(x, wanted, dtype))
            self._compiled.add(key)
        return self.compute(x, wanted, dtype)

    def compute(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """The wanted outputs, step by step, of a clip that is rounded to ``dtype`` as they are."""
        return self.compute_from(self.rounded(x, dtype), self.layout(x.shape, wanted), wanted, dtype)

    def rounded(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """A clip as the first step reads it."""
        # What bytes stand for is rounded as other clips are, where that is no rounding of its own.
        rounds = x.device.type == "cpu" and dtype != self.dtype
        if x.dtype != torch.uint8 or rounds or not self.reads_bytes:
            x = as_floats(x, dtype, self.graph.scaling).to(self.dtype)
        return x.contiguous(memory_format=torch.channels_last_3d) if x.shape[1] >= FEW_CHANNELS else x

    def compute_from(
        self, x: Tensor, layout: Layout, wanted: set[str], dtype: torch.dtype, lanes: Lanes = ONE_LANE
    ) -> dict[str, Tensor]:
        """The wanted outputs of what the first step of a layout reads."""
        with self._blocks.block(layout.nbytes, x) as block:
            maps = {self.graph.input: x}
            found = layout.run(maps, block.view(self.dtype), lambda y: y.to(dtype, copy=True), lanes=lanes)
        return {name: found[name] for name in self.graph.names if name in wanted}

    def layout(
        self,
        shape: Sequence[int],
        wanted: Iterable[str],
        opaque: Mapping[int, Shape] | None = None,
        *,
        in_graph: bool = False,
    ) -> Layout:
        """Steps and memory for clips of a shape, kept for those that come again.

        ``opaque``: the shapes of what torch computes. ``in_graph``: of a CUDA graph, where the first step
        reads what ``InGraph`` makes of the clip, and steps may run beside each other.
        """
        key = (tuple(shape), frozenset(wanted), in_graph)
        with self._lock:
            layout = self._layouts.get(key)
            if layout is not None:
                self._layouts.move_to_end(key)
                return layout
        graph, steps = self.schedule(key[1])
        of = shapes(graph, shape, opaque)
        beside: list[Window] = []
        if in_graph:
            steps = [self._over_cells(step) for step in steps]
            beside = windows(graph.nodes, of, _sms(self.device))
        layout = lay_out(graph, steps, of, self.dtype, self.device, beside)
        with self._lock:
            self._layouts[key] = layout
            while len(self._layouts) > _MAX_LAYOUTS:
                self._layouts.popitem(last=False)
        return layout

    def schedule(self, wanted: frozenset[str]) -> tuple[Graph, list[Step]]:
        """What the wanted outputs need, joined where no map between is wanted itself."""
        found = self._schedules.get(wanted)
        if found is None:
            graph = self.graph.only(wanted)
            for _, rewrite in self._where_unwanted():
                graph = rewrite(graph)
            found = self._schedules[wanted] = graph, [self._step(node) for node in graph.nodes]
        return found

    def convs(self) -> dict[str, PackedConv3d]:
        """The convolutions, by the names of their nodes."""
        named = {node.out: node.name for node in self.graph.nodes}
        return {named[out]: conv for out, conv in self._convs.items()}

    def segments(self, last: str) -> list[tuple[list[str], Segment]]:
        """The schedule of one output, cut at the endpoints before it: of each segment the endpoints that it
        computes, of which it gives the last.
        """
        waiting = list(self.graph.names.items())
        found = []
        for segment in self.chain(last, at=set(self.graph.names.values())):
            (value,) = segment.graph.names.values()
            count = 1 + [value for _, value in waiting].index(value)
            found.append(([name for name, _ in waiting[:count]], segment))
            waiting = waiting[count:]
        return found

    def chain(self, last: str, at: Container[int] | None = None) -> list[Segment]:
        """The schedule of one output, cut wherever a single map is all that is read later.

        ``at``: only at these values.
        """
        graph, steps = self.schedule(frozenset((last,)))
        found: list[Segment] = []
        begin, source = 0, graph.input
        ends = {value: i for i, node in enumerate(graph.nodes) for value in node.reads}
        ends[graph.names[last]] = len(steps)
        kept = {source}
        for i, node in enumerate(graph.nodes):
            kept = {value for value in (*kept, *node.writes) if ends.get(value, -1) > i}
            if len(kept) > 1 or (value := next(iter(kept))) not in node.writes:
                continue
            if at is None or value in at:
                part = Graph(graph.nodes[begin : i + 1], {last: value}, source)
                found.append(Segment(part, steps[begin : i + 1], self.dtype, self.device))
                begin, source = i + 1, value
        return found

    def rewrites(self, graph: Graph, wanted: Iterable[str]) -> Iterator[tuple[str, Graph]]:
        """The graph that the plan was made of, as far as it is wanted, and what each rewrite makes of it."""
        graph = graph.only(set(wanted))
        yield "as described", graph
        siblings = [("siblings as one product", join_siblings)] if self._has_siblings else []
        for name, rewrite in (*_ALWAYS, *siblings, *self._where_unwanted()):
            graph = rewrite(graph)
            yield name, graph

    def _where_unwanted(self) -> tuple[tuple[str, Callable[[Graph], Graph]], ...]:
        """Rewrites after which some maps that could have been asked for do not exist."""
        # Pieces of the reference would cost a whole convolution each.
        join = partial(join_pools, in_pieces=self._in_pieces)
        skips = (("frames that pools step over", skip_frames),) if self._skipping else ()
        return (
            ("pools before concatenations", pool_branches),
            *skips,
            ("pools and convolutions in pieces", join),
        )

    def _in_pieces(self, conv: Conv) -> bool:
        """Whether some frames of a convolution can be computed without the others."""
        return conv.groups == 1 and self._packed(conv).fused

    def _packed(self, conv: Conv) -> PackedConv3d:
        its = self._convs[conv.out]
        return its if its.stride == conv.stride else self._skipping[conv.out]

    def weight_bytes(self, wanted: Iterable[str]) -> int:
        """Of the packed weights that the wanted outputs need."""
        _, steps = self.schedule(frozenset(wanted))
        return sum(conv.nbytes for step in steps for conv in step.convs)

    def _over_cells(self, step: Step) -> Step:
        """The step in a graph, where the convolution that folds the clip finds it folded."""
        if isinstance(step, ConvStep | ConvPoolStep) and step.conv is self.folding is not None:
            conv = self.folding.over_cells()
            return ConvStep(step.node, conv) if isinstance(step, ConvStep) else ConvPoolStep(step.node, conv)
        return step

    def _step(self, node: Node) -> Step:
        if isinstance(node, Conv) and node.groups > 1:
            return DepthwiseStep(node, self._depthwise[node.out])
        if isinstance(node, Conv):
            return ConvStep(node, self._packed(node))
        if isinstance(node, Siblings):
            conv = self._convs[node.out]
            assert isinstance(conv, TritonConv3d)
            return SiblingsStep(node, conv)
        if isinstance(node, ConvPool):
            return ConvPoolStep(node, self._packed(node.conv))
        if isinstance(node, PoolConv):
            return PoolConvStep(node, self._convs[node.conv.out])
        return _SIMPLE[type(node)](node)


class InGraph:
    """A plan as a CUDA graph has it.

    Where a convolution that folds alone reads the clip, folding takes the place of a copy, and the graph
    begins with the cells.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def memory(self, x: Tensor) -> Tensor:
        folding = self._plan.folding
        return torch.empty_like(x) if folding is None else folding.new_cells(x)

    def enter(self, x: Tensor, memory: Tensor, dtype: torch.dtype) -> None:
        if self._plan.folding is None:
            memory.copy_(x)
        else:
            self._plan.folding.fold(self._plan.rounded(x, dtype), memory)

    def compute(
        self, memory: Tensor, shape: Shape, wanted: set[str], dtype: torch.dtype, lanes: Lanes
    ) -> dict[str, Tensor]:
        plan = self._plan
        x = plan.rounded(memory, dtype) if plan.folding is None else plan.folding.windows(memory)
        return plan.compute_from(x, plan.layout(shape, wanted, in_graph=True), wanted, dtype, lanes)


def _sms(device: torch.device) -> int:
    """SMs that steps could leave idle."""
    return gpu.gpu_traits(device).sms if device.type == "cuda" else 0


def _folding(readers: Sequence[Node], conv: PackedConv3d | None) -> TritonConv3d | None:
    """The convolution that alone reads the clip, if it folds it."""
    node = readers[0] if len(readers) == 1 else None
    if not (isinstance(node, Conv) and isinstance(conv, TritonConv3d)):
        return None
    # Of few channels themselves, windows would be folded again.
    folds = is_folded(node.weight.shape[1], conv.kernel) and conv.weight.shape[2] >= FEW_CHANNELS
    return conv if folds else None


def _in_float32(node: Conv | Siblings | Head) -> tuple[Tensor, Tensor]:
    """Weight and bias, of zeros where there is none."""
    assert node.weight is not None
    weight = node.weight.detach().float()
    return weight, weight.new_zeros(len(weight)) if node.bias is None else node.bias.detach().float()


def _norm_in_float32(node: Norm) -> Norm:
    weight = None if node.weight is None else node.weight.float()
    bias = None if node.bias is None else node.bias.float()
    return replace(node, mean=node.mean.float(), var=node.var.float(), weight=weight, bias=bias)


def _pack_depthwise(node: Conv, dtype: torch.dtype) -> DepthwiseConv3d:
    weight, bias = _in_float32(node)
    return DepthwiseConv3d.pack(weight, bias, node.stride, relu=node.relu, dtype=dtype, padding=node.padding)


def _pack(node: Conv | Siblings, dtype: torch.dtype) -> PackedConv3d:
    weight, bias = _in_float32(node)
    if isinstance(node, Siblings):
        return PackedConv3d.pack(weight, bias, (1, 1, 1), relu=node.relu, dtype=dtype)
    return PackedConv3d.pack(weight, bias, node.stride, relu=node.relu, dtype=dtype, padding=node.padding)
