"""Which batch norm and ReLU follow each Conv3d of a network, read off a symbolic trace."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import fx, nn

from fasti3d.engine.describe.watch import Watch
from fasti3d.forms import is_watched
from fasti3d.fused import FusedNetwork
from fasti3d.fusion.program import Program, program_of
from fasti3d.reference import BatchNorm3d


class Chain(NamedTuple):
    """Names of a convolution and of the modules after it that may be computed with it.

    ``fused``: whether the library's kernel can stand in for the convolution; else the batch norm is folded.
    """

    conv: str
    fused: bool
    bn: str | None = None
    relu: str | None = None


def _is_plain(conv: nn.Module) -> TypeGuard[nn.Conv3d]:
    """Whether a module computes a convolution of its weights and nothing else."""
    return (
        isinstance(conv, nn.Conv3d)
        # A subclass may choose the arguments, but not compute something else.
        and type(conv).forward is nn.Conv3d.forward
        and type(conv)._conv_forward is nn.Conv3d._conv_forward
        and "weight" in conv._parameters  # and is not derived from others at every call
        and conv.weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not is_watched(conv)
    )


def _has_kernel(conv: nn.Conv3d) -> bool:
    """Whether the library's kernel knows its geometry."""
    return (conv.groups, conv.dilation, conv.padding_mode) == (1, (1, 1, 1), "zeros")


def _is_foldable(bn: nn.Module, channels: int) -> bool:
    return (
        isinstance(bn, nn.BatchNorm3d | nn.SyncBatchNorm)
        and type(bn).forward in (nn.BatchNorm3d.forward, BatchNorm3d.forward, nn.SyncBatchNorm.forward)
        and bn.num_features == channels
        and bn.running_mean is not None
        and bn.running_var is not None
        and not is_watched(bn)
    )


def _is_relu(module: nn.Module) -> bool:
    return type(module) is nn.ReLU and not is_watched(module)


def _is_leaf(module: nn.Module, inside_network: bool = False) -> bool:
    """Whether there is nothing to find inside: no modules, or a network that fuses itself."""
    return not module._modules or (isinstance(module, FusedNetwork) and not inside_network)


class _Value(fx.Proxy):
    """A value whose ``+=`` and the like, and assignments into it, are calls that overwrite it."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: _Value, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


_NUMBERS = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul")
for _name in (*_NUMBERS, "iand", "ior", "ixor", "ilshift", "irshift"):
    setattr(_Value, f"__{_name}__", _in_place(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    """Records which modules are called on what.

    A module that has hooks, which must not see what a trace computes with, or whose code cannot be followed
    is one call as a whole, and is left in ``parts``.
    """

    def __init__(self, inside_network: bool = False) -> None:
        super().__init__()
        self.parts: list[nn.Module] = []
        self._inside_network = inside_network

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m, self._inside_network) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if _is_leaf(m, self._inside_network) or not is_watched(m):
            nodes, parts = len(self.graph.nodes), len(self.parts)
            try:
                return super().call_module(m, forward, args, kwargs)
            except Exception:  # whatever Python code raises on values that it cannot look at
                for node in reversed(list(self.graph.nodes)[nodes:]):
                    self.graph.erase_node(node)
                del self.parts[parts:]
        call = self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
        self.parts.append(m)
        return call


def _trace(
    network: nn.Module, inside_network: bool
) -> tuple[list[tuple[nn.Module, fx.Graph]], dict[nn.Module, Exception]]:
    """Graphs that each module of a network is in at most once, and the modules that are in none, and why."""
    graphs: list[tuple[nn.Module, fx.Graph]] = []
    opaque: dict[nn.Module, Exception] = {}
    seen: set[nn.Module] = set()
    waiting = [network]
    while waiting:
        root = waiting.pop()
        if root in seen or _is_leaf(root, inside_network):
            continue
        seen.add(root)
        tracer = _Tracer(inside_network)
        try:
            if "forward" in vars(root):
                raise TypeError("its forward is not that of its class")
            graphs.append((root, tracer.trace(root)))
            waiting += tracer.parts
        except Exception as error:
            opaque[root] = error
            waiting += root.children()
    return graphs, opaque


def find_chains(
    network: nn.Module, *, inside_network: bool = False
) -> tuple[list[Chain], dict[str, Exception]]:
    """Every Conv3d that can be fused, with what follows it, and the modules that could not be followed.

    A batch norm or a ReLU is in a chain if it is called once, on nothing but the result that precedes it,
    which nothing else reads. ``inside_network``: also those of one that fuses itself.
    """
    network = _without_values(network)
    names = {module: name for name, module in network.named_modules()}
    graphs, opaque = _trace(network, inside_network)
    called: dict[fx.Node, nn.Module] = {}
    own = () if inside_network else (part for part in names if isinstance(part, FusedNetwork))
    fixed = {m for part in own for m in part.modules()}
    for root, graph in graphs:
        for node in graph.nodes:
            if node.op == "call_module":
                called[node] = root.get_submodule(node.target)
            elif node.op == "get_attr":  # its tensors are used by something else as well
                fixed.add(root.get_submodule(node.target.rpartition(".")[0]))
    # What a module that cannot be followed does with its own is not known.
    unclear = fixed.union(*(module.children() for module in opaque))
    times = Counter(called.values())
    nodes = {module: node for node, module in called.items() if times[module] == 1 and module not in unclear}

    def follower(module: nn.Module) -> nn.Module | None:
        """The module that reads a module's result, if both are called once and nothing else reads it."""
        node = nodes.get(module)
        if node is None or len(node.users) != 1:
            return None
        (user,) = node.users
        found = called.get(user)
        return found if found in nodes and user.args == (node,) and not user.kwargs else None

    chains = []
    for conv, name in names.items():
        if conv in fixed or not _is_plain(conv):
            continue
        bn = follower(conv)
        if bn is not None and not _is_foldable(bn, conv.out_channels):
            bn = None
        if bn is None and not _has_kernel(conv):
            continue
        relu = follower(bn or conv)
        if relu is not None and not _is_relu(relu):
            relu = None
        others = (names[module] if module else None for module in (bn, relu))
        chains.append(Chain(name, _has_kernel(conv), *others))
    # A ModuleList and the like have no forward to follow.
    followable = {m: error for m, error in opaque.items() if type(m).forward is not nn.Module.forward}
    return chains, {names[module]: error for module, error in followable.items()}


def find_programs(network: nn.Module) -> dict[str, Program]:
    """The calls of each part's ``forward``, by the part's name: of those that can be followed, take one clip
    and keep nothing of what they compute.
    """
    network = _without_values(network)
    found = {}
    for name, part in network.named_modules():
        if _is_leaf(part) or "forward" in vars(part) or type(part).forward is nn.Module.forward:
            continue
        watch = Watch(part, (), part.modules())
        try:
            program = program_of(_Tracer().trace(part))
        except Exception:  # whatever Python code raises on values that it cannot look at
            continue
        if watch.holds():
            found[name] = program
    return found


def _without_values(network: nn.Module) -> nn.Module:
    """A copy that shares the tensors: a forward may keep what it computed, here tracing proxies."""
    return copy.deepcopy(network, {id(t): t for t in (*network.parameters(), *network.buffers())})
