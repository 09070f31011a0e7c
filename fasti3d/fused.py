"""What the networks share: in eval mode without gradients they run as plans, else as ordinary modules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, fx, nn

from fasti3d.engine.describe.description import Description
from fasti3d.engine.describe.parts import MismatchError
from fasti3d.engine.describe.watch import Watch
from fasti3d.engine.graph import Graph
from fasti3d.engine.graph_op import planned
from fasti3d.engine.plan import Plan
from fasti3d.inputs import autocast_dtype, warn_of_gradients, without_autocast
from fasti3d.network import HEAD, SCORES, check_endpoints
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.registry import needs_ordinary_path, takes_gradients, takes_operators
from fasti3d.runtime.route import compute_dtype
from fasti3d.utils.derived import DerivedCache, memory_of
from fasti3d.widths import last_layer

_log = logging.getLogger("fasti3d.i3d")
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Kept(NamedTuple):
    """A plan, and what tells whether it still is of the network."""

    watch: Watch
    described: Description
    names: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    fingerprint: int
    plan: Plan


class FusedNetwork(nn.Module):
    """A network that runs fused where that gives what its reference gives.

    A class of a network comes before its reference: ``class Net(FusedNetwork, reference.Net)``. It says what
    its parts are; the reference has ``forward_endpoints`` and ``_head``, and the properties that follow.
    """

    # The class whose forward is fused, its ``forward_endpoints`` as written, and the classifier's name.
    _reference: ClassVar[type[nn.Module]]
    _ordinary: ClassVar[Any]
    _classifier: ClassVar[str]
    # Whether the ordinary path is the reference's own, which a class between the two may have changed.
    _follows_reference: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._follows_reference = cls.__mro__[cls.__mro__.index(FusedNetwork) + 1] is cls._reference

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._labels: tuple[tuple[str, ...], nn.Module | None] | None = None
        self._plan: Kept | None = None
        self._plans: DerivedCache[Plan] = DerivedCache()

    # What a class says of its network, and its reference computes.

    _head: Callable[[Tensor, set[str]], dict[str, Tensor]]

    def _outputs(self) -> Sequence[str]:
        """The names of all outputs, in order of computation."""
        raise NotImplementedError

    def _maps(self) -> tuple[str, ...]:
        """The parts that run before the head, in order."""
        raise NotImplementedError

    def _last(self) -> str:
        """The map that the head reads."""
        raise NotImplementedError

    def _described(self, names: tuple[str, ...]) -> Description:
        """What the network is; MismatchError where its parts are not exactly the network's."""
        raise NotImplementedError

    def _watch(self, names: tuple[str, ...]) -> Watch:
        """Watches everything that ``_described`` looks at."""
        raise NotImplementedError

    def _check(self, x: Tensor, wanted: set[str], kept: Kept | None) -> torch.dtype:
        """The dtype of a clip that the network takes, or that bytes are scaled to; raises for all others."""
        raise NotImplementedError

    def _as_floats(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """A clip as the ordinary path takes it."""
        raise NotImplementedError

    def _dtype_of(self, x: Tensor, wanted: set[str]) -> torch.dtype:
        """The dtype of a clip, or that its bytes are scaled to; ValueError for scores but no classifier."""
        if wanted.intersection(SCORES) and getattr(self, self._classifier, None) is None:
            raise ValueError("this network has no classifier: ask for Features, or for maps of the trunk")
        if x.is_floating_point():
            return x.dtype
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    def _check_range(self, x: Tensor) -> None:
        """Warns of values, or raises for some, that the network cannot be meant to take."""
        raise NotImplementedError

    def _step_of_training(
        self, x: Tensor, wanted: set[str], dtype: torch.dtype, clip_dtype: torch.dtype
    ) -> dict[str, Tensor] | None:
        """The endpoints in training mode, or None where the ordinary path must run."""
        return None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """A name for each class, in logit order, as long as the classifier is the one they were given for."""
        if self._labels is None:
            return None
        names, layer = self._labels
        if layer is not last_layer(getattr(self, self._classifier, None)) or len(names) != self.num_classes:
            return None
        return names

    @labels.setter
    def labels(self, names: Iterable[str] | None) -> None:
        if names is None:
            self._labels = None
            return
        names = (names,) if isinstance(names, str) else tuple(names)
        if len(names) != self.num_classes:
            raise ValueError(
                f"labels must be a name for each of the {self.num_classes} classes, got {len(names)}: "
                "replace the classifier first (replace_logits), then set labels"
            )
        self._labels = names, last_layer(getattr(self, self._classifier))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_endpoints(x, ("Logits",))["Logits"]

    def forward_endpoints(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = check_endpoints(names, self._outputs())
        if isinstance(x, fx.Proxy):  # nothing can be known of it
            return self._run_ordinary(x, wanted)
        compiled = takes_operators(x)
        kept = None if torch.compiler.is_compiling() else self._unchanged()
        clip_dtype = self._check(x, wanted, kept)
        dtype = autocast_dtype(x.device) or clip_dtype
        maps = None
        if compiled:
            maps = self._operator(x, wanted, dtype)
        elif needs_ordinary_path(x):
            pass
        elif self.training:
            self._check_range(x)
            maps = self._step_of_training(x, wanted, dtype, clip_dtype)
        else:
            self._check_range(x)
            maps = self._fused(x, wanted, dtype, kept)
        return self._run_ordinary(self._as_floats(x, clip_dtype), wanted) if maps is None else maps

    def _run_ordinary(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        """The endpoints by the class that follows this one."""
        return super().forward_endpoints(x, wanted)  # type: ignore[misc]

    def _operator(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor] | None:
        """The endpoints in the graph of a compiler, or None where the ordinary path must run."""
        described = self._describe(x, dtype)
        if described is None or not _may_be_operator(x, described):
            return None
        described = _differentiable(described)
        trunk = self._without_scores(wanted, described)
        if not described.names.keys() >= self._needed(trunk):
            return None
        maps = planned(described, x, trunk, dtype)
        return self._with_scores(maps, wanted, described)

    def _fused(
        self, x: Tensor, wanted: set[str], dtype: torch.dtype, kept: Kept | None
    ) -> dict[str, Tensor] | None:
        """The endpoints of a checked clip by the fused path, or None where the ordinary one must run.

        A classifier that the fused path does not know runs as it is, on the fused trunk.
        """
        kept = self._planned(x, dtype, kept)
        if kept is None:
            return None
        described = _differentiable(kept.described)
        trunk = self._without_scores(wanted, described)
        if not described.names.keys() >= self._needed(trunk):
            return None
        with torch.no_grad(), without_autocast(x.device):
            maps = kept.plan.run(x, trunk, dtype)
        return self._with_scores(maps, wanted, described)

    def _with_scores(
        self, maps: dict[str, Tensor], wanted: set[str], described: Description
    ) -> dict[str, Tensor]:
        """The wanted endpoints, of which the scores are the classifier's own where it is not known."""
        if described.classifier is None and wanted.intersection(SCORES):
            maps |= self._head(maps[self._last()], wanted)
        return {name: maps[name] for name in self._outputs() if name in wanted}

    def _without_scores(self, wanted: set[str], described: Description) -> set[str]:
        """What is asked of the fused trunk in place of the scores of a classifier that it does not know."""
        if described.classifier is not None or not wanted.intersection(SCORES):
            return wanted
        return wanted.difference(SCORES) | {self._last()}

    def _needed(self, wanted: set[str]) -> set[str]:
        """The last maps of the trunk that endpoints need."""
        return {self._last() if name in HEAD else name for name in wanted}

    def _describe(self, x: Tensor, dtype: torch.dtype) -> Description | None:
        """What the network is, or None where the ordinary path must run."""
        try:
            return self._match(x, dtype)
        except MismatchError as why:
            if not torch.compiler.is_compiling():
                _log.debug("%s runs as an ordinary module: %s", type(self).__name__, why)
            return None

    def _match(self, x: Tensor, dtype: torch.dtype) -> Description:
        """What the network is; MismatchError, which says why, where the ordinary path must run."""
        if self.training:
            raise MismatchError("it is in training mode: call model.eval()")
        if dtype not in _FUSED_DTYPES:
            raise MismatchError(f"clips are {dtype}, not float32, bfloat16 or float16")
        if not self._is_followed():
            raise MismatchError(self._why_not_followed())
        described = self._described(self._maps())
        for t in (*described.tensors, *described.head_tensors):
            if t.device != x.device or t.dtype not in _FUSED_DTYPES:
                raise MismatchError(f"a tensor is {t.dtype} on {t.device}, clips are on {x.device}")
        if self._needs_gradients(x, described.tensors):
            raise MismatchError("gradients are asked for: call it under torch.no_grad()")
        return described

    def graph(self) -> Graph:
        """What the network computes in eval mode; MismatchError where that is not known."""
        return self._described(self._maps()).graph()

    def why_not_fused(self) -> str:
        """Why clips in the weights' dtype, on their device, do not run fused: one sentence; empty if they do.

        The same is logged at level DEBUG, under the name ``fasti3d.i3d``, at each call that does not.

        Example:
            >>> model = fasti3d.I3D().eval()
            >>> handle = model.Mixed_3b.register_forward_hook(print)
            >>> model.why_not_fused()
            'Mixed_3b (Mixed) has hooks, or a forward of its own'
        """
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        with torch.no_grad():
            try:
                self._match(like.detach()[:0], like.dtype)
            except MismatchError as why:
                return str(why)
        return ""

    def why_not_whole(self) -> str:
        """Why the head of a network that runs fused does not; empty if it does."""
        return self._described(self._maps()).why

    def _is_followed(self) -> bool:
        """Whether the ordinary path is the reference's own."""
        its: Any = self._reference
        return self._follows_reference and its.forward_endpoints is type(self)._ordinary

    def _why_not_followed(self) -> str:
        its = f"{self._reference.__module__}.{self._reference.__name__}"
        return f"a class between it and {its}, or a patch, changes its forward"

    def _needs_gradients(self, x: Tensor, tensors: list[Tensor]) -> bool:
        if not takes_gradients(x, *tensors):
            return False
        if not (torch.compiler.is_compiling() or takes_gradients(x)) and all(
            p.requires_grad and p.grad is None for p in self.parameters()
        ):
            warn_of_gradients()
        return True

    def _unchanged(self) -> Kept | None:
        """The last plan, if the network's parts are what they were; their values may be others."""
        kept = self._plan
        if kept is None or kept.names != self._maps() or not kept.watch.holds():
            return None
        return kept

    def current_plan(self, x: Tensor, dtype: torch.dtype) -> Plan | None:
        """The plan for the weights as they are now, or None where the ordinary path must run."""
        kept = self._planned(x, dtype, self._unchanged())
        return None if kept is None else kept.plan

    def _planned(self, x: Tensor, dtype: torch.dtype, kept: Kept | None) -> Kept | None:
        """A plan for the weights as they are now, where ``kept`` is of unchanged parts, or None where the
        ordinary path must run.
        """
        computed_in = compute_dtype(x.device, dtype)
        if kept is not None and (kept.device, kept.dtype) == (x.device, computed_in):
            if self.training or not self._is_followed() or self._needs_gradients(x, kept.described.tensors):
                return None
            if kept.fingerprint == fingerprint(kept.described.tensors + kept.described.head_tensors):
                return kept
        described = self._describe(x, dtype)
        if described is None:
            return None
        tensors = described.tensors + described.head_tensors
        if x.device.type != "cpu" and any(t.is_inference() for t in tensors):
            return None  # without version counters an edit could not be seen
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return None  # what is captured is computed later, and the plan's weights are needed now
        names = self._maps()
        mark = fingerprint(tensors)
        key = (names, described.structure, x.device, computed_in, mark)
        plan = self._plans.get(
            key, lambda: Plan(described.graph(), computed_in, x.device), lambda: memory_of(tensors)
        )
        self._plan = Kept(self._watch(names), described, names, x.device, computed_in, mark, plan)
        return self._plan

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the plan out: it is derived, large and quick to make."""
        return self.__dict__ | {"_plan": None}


def _differentiable(described: Description) -> Description:
    """The description without a classifier that gradients are asked for."""
    if takes_gradients(*described.head_tensors):
        return described._replace(classifier=None)
    return described


def _may_be_operator(x: Tensor, described: Description) -> bool:
    """Whether the operator may stand for the network in a graph."""
    # A graph's own tensors are overwritten without a trace, which could not be seen on a GPU.
    tensors = described.tensors + described.head_tensors
    return x.device.type == "cpu" or all(isinstance(t, nn.Parameter) for t in tensors if t.dim() == 5)
