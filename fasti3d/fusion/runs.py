"""The plans of a traced module, for the clips that come and the weights as they are."""

from __future__ import annotations

import threading
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fasti3d.engine.describe.watch import Watch
from fasti3d.engine.graph import Conv, ConvPool, Graph, Opaque
from fasti3d.engine.layout import Layout
from fasti3d.engine.plan import Plan
from fasti3d.fusion.lower import CLIP, GIVEN, UnplannableError, lower
from fasti3d.fusion.program import Program, Ref, mapped
from fasti3d.fusion.rules import Slot, tensors_of
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.runtime.route import compute_dtype, has_kernel

# Shapes and strides of clips whose runs are kept.
_MAX_RUNS = 16
_CHANGED = "a part of the network changed since it was fused, or has hooks"
_build_lock = threading.Lock()


class Run(NamedTuple):
    """A plan for clips of one shape.

    Attributes:
        output: what is returned, with a ``Ref`` for each value of the graph.
        as_given: whether the clip is read in whatever layout it has.
    """

    plan: Plan
    layout: Layout
    output: Any
    as_given: bool

    def __call__(self, x: Tensor) -> Any:
        """What the network returns.

        Raises:
            SpreadError: a value that is not finite may have reached more than it should.
        """
        with torch.no_grad():
            if self.plan.graphs is None:
                found = self._compute(x, set(), x.dtype)
            else:
                found = self.plan.graphs.run(self._compute, x, set(self.plan.graph.names), x.dtype)
        return mapped(self.output, Ref, lambda ref: x if ref.at == GIVEN else found[str(ref.at)])

    def _compute(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Any]:
        clip = x.to(self.plan.dtype)
        if not self.as_given:
            clip = clip.contiguous(memory_format=torch.channels_last_3d)
        block = torch.empty(self.layout.nbytes, dtype=torch.uint8, device=x.device).view(self.plan.dtype)
        return self.layout.run({CLIP: clip, GIVEN: x}, block, lambda y: y.to(dtype, copy=True), exact=True)


class _State(NamedTuple):
    """What was made of the tensors as they were.

    Attributes:
        key: of the tensors' identities and versions.
        tensors: so that no new one gets the identity of one that the key was made of.
        plans: by what tells their graphs apart.
        runs: by the shapes and strides of clips; why there is none for those that run call by call.
    """

    key: tuple[Any, ...]
    tensors: list[Any]
    plans: dict[tuple[Any, ...], Plan]
    runs: dict[tuple[Any, ...], Run | str]


class Traced:
    """A module and the trace of its ``forward``. Threads may share it.

    Its plans are made of the tensors that the engine's nodes compute with, and again after they changed (an
    edit through ``.data`` cannot be seen). What torch runs reads its modules as they are.
    """

    def __init__(self, module: nn.Module, program: Program) -> None:
        self._module, self._program = module, program
        modules = list(module.modules())
        self._watch = Watch(module, (), modules, unhooked=modules[1:], tensors=False)
        self._parameters = [part._parameters for part in modules]
        self._held = [held for part in modules for held in (part._parameters, part._buffers)]
        self._slots: list[Slot] = [slot for part in modules for slot in tensors_of(part)]
        self._state: _State | None = None

    def why_all_failed(self) -> str:
        """Why clips run layer by layer, if all that came did; empty otherwise."""
        runs = [] if self._state is None else list(self._state.runs.values())
        whys = [run for run in runs if isinstance(run, str)]
        return whys[-1] if whys and len(whys) == len(runs) else ""

    def why_not(self, x: Tensor) -> str:
        """Why no plan runs for clips in the dtype and on the device of x, of any shape; empty if one may."""
        if not self._watch.holds():
            return _CHANGED
        if torch.is_grad_enabled() and any(
            p is not None and p.requires_grad for held in self._parameters for p in held.values()
        ):
            return "a parameter takes gradients"
        if not has_kernel(x.device, compute_dtype(x.device, x.dtype)):
            return "torch's own convolutions run for clips of this dtype on this device"
        return ""

    def run(self, x: Tensor) -> Run | str:
        """What computes the results of clips like x with the weights as they are now, or why nothing does."""
        if why := self.why_not(x):
            return why
        dtype = compute_dtype(x.device, x.dtype)
        tensors = [held.get(name) for held, name in self._slots]
        everything = list(chain.from_iterable(held.values() for held in self._held))
        key = (dtype, x.dtype, x.device, *map(_version, tensors), *map(id, everything))
        where = x.shape, x.stride()
        state = self._state
        if state is not None and state.key == key:
            run = state.runs.get(where)
            if run is not None:
                return run
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return "what is captured is computed later, and the weights of a plan are needed now"
        with _build_lock, torch.inference_mode(False), torch.no_grad():
            state = self._state
            if state is None or state.key != key:
                state = self._state = _State(key, everything, {}, {})
            if where not in state.runs:
                while len(state.runs) >= _MAX_RUNS:
                    del state.runs[next(iter(state.runs))]
                state.runs[where] = self._built(x, dtype, state)
            return state.runs[where]

    def _built(self, x: Tensor, dtype: torch.dtype, state: _State) -> Run | str:
        try:
            lowered = lower(self._module, self._program, x, dtype)
        except UnplannableError as error:
            return str(error)
        if sum(not isinstance(node, Opaque) for node in lowered.graph.nodes) < 2:
            return "it has fewer than two layers that could be planned"
        plan = state.plans.get(lowered.kinds)
        if plan is None:
            plan = state.plans[lowered.kinds] = Plan(lowered.graph, dtype, x.device)
        layout = plan.layout(x.shape, lowered.graph.names, lowered.shapes)
        graph, _ = plan.schedule(frozenset(lowered.graph.names))
        return Run(plan, layout, lowered.output, _reads_as_given(graph, x.shape[1]))


def _version(tensor: Tensor | None) -> int | None:
    return None if tensor is None or tensor.is_inference() else tensor._version


def _reads_as_given(graph: Graph, channels: int) -> bool:
    """Whether nothing but convolutions of few channels reads the clip."""
    if channels >= FEW_CHANNELS:
        return False
    for node in graph.nodes:
        conv = node.conv if isinstance(node, ConvPool) else node
        if CLIP in node.reads and not (isinstance(conv, Conv) and conv.residual != CLIP):
            return False
    return True
