"""The I3D network users import: an ordinary PyTorch module that runs fused in eval mode."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, fx, nn

from fasti3d import network, reference
from fasti3d.engine.eligibility import Description, describe, keeps_grid, known_stem
from fasti3d.engine.graph_op import fused_endpoints
from fasti3d.engine.plan import Plan
from fasti3d.forms import is_watched
from fasti3d.inputs import as_floats, autocast_dtype, check_clip, check_range, warn_of_gradients
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.registry import needs_ordinary_path, takes_gradients, takes_operators
from fasti3d.reference import check_endpoints
from fasti3d.runtime.route import compute_dtype
from fasti3d.widths import last_layer

if TYPE_CHECKING:
    from fasti3d.weights import Spec

_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The methods that clips are given to.
_ENTRANCES = ("forward", "forward_endpoints", "extract_features")
_build_lock = threading.Lock()
_LAST = "Mixed_5c"
_ORDINARY = reference.I3D.forward_endpoints


class I3D(reference.I3D):
    """Inflated Inception-v1 (Carreira & Zisserman, CVPR 2017): a drop-in PyTorch backbone.

    In training mode, or where gradients are needed, it is an ordinary differentiable module. In eval
    mode under ``torch.no_grad()`` or ``torch.inference_mode()`` it runs fused: batch norm folded in
    float32, no padded copies, branches written straight into their slice. What the fused path derives
    from the weights is never in the state dict and follows every change of them. Where a submodule
    carries a forward hook or was replaced, the ordinary path runs so that nothing is skipped; a replaced
    dropout or classifier runs as it is, on the fused trunk. In graphs
    of ``torch.compile`` and ``torch.export`` the fused network is the operator ``fasti3d::i3d``. (On a GPU
    an edit through ``.data`` leaves no trace that could be seen without stalling it: edit the
    parameter itself under ``torch.no_grad()``.) On a GPU a shape that comes again is replayed from a CUDA
    graph; the environment variable ``FASTI3D_CUDA_GRAPHS=0`` turns that off.

    Clips are ``(N, in_channels, T, H, W)`` in [-1, 1], in the weights' dtype or under autocast. RGB clips may
    also be uint8 of 0 to 255, in any memory layout: decoded frames (N, T, H, W, 3) are one after
    ``frames.permute(0, 4, 1, 2, 3)``.

    Parameter names are those of piergiaj/pytorch-i3d's ``InceptionI3d``: state dicts load both ways.
    After ``.half()`` or ``.bfloat16()`` batch norm stays in float32.

    Args:
        num_classes: classes of the head; 400 for Kinetics-400.
        in_channels: 3 for RGB clips, 2 for optical flow.
        weights: a name from ``fasti3d.weights.registry()`` such as ``"kinetics400-rgb"``, the path of a
            checkpoint in any known format, such a file open for binary reading, or a state dict with any
            known names; None initialises at random.
        dropout: probability of dropping a feature before the classifier, in training mode.

    Attributes:
        num_classes, in_channels: those of the classifier and the stem that are there; None where these do
            not say.
        labels: class names in logit order, where the weights bring them; None otherwise, and once the
            classifier that they were given for is replaced.
        gradient_checkpointing: set to True to recompute Mixed blocks in the backward pass, which
            takes less memory and more time.

    Raises:
        ValueError: arguments out of range.
        fasti3d.weights.WeightsError: weights that cannot be had or do not fit.
    """

    # Whether the ordinary path is the reference's own, which a class between the two may have changed.
    _follows_reference: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._follows_reference = cls.__mro__[cls.__mro__.index(I3D) + 1] is reference.I3D

    def __init__(
        self,
        num_classes: int = 400,
        in_channels: int = 3,
        *,
        weights: Spec | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(num_classes, in_channels, dropout=dropout)
        self._labels: tuple[tuple[str, ...], nn.Module | None] | None = None
        self._plan: tuple[Any, Plan, list[Tensor]] | None = None
        if weights is not None:
            self._load(weights)

    def _load(self, weights: Spec) -> None:
        # Here and not at the top: most users of the module bring no weights, and reading checkpoints takes
        # packages that are slow to import.
        from fasti3d.weights import load, load_into

        load_into(self, load(weights))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """A name for each class, in logit order, as long as the classifier is the one they were given for."""
        if self._labels is None:
            return None
        names, layer = self._labels
        if layer is not last_layer(getattr(self, "logits", None)) or len(names) != self.num_classes:
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
        self._labels = names, last_layer(self.logits)

    def forward_endpoints(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = check_endpoints(names)
        if isinstance(x, fx.Proxy):  # nothing can be known of it
            return super().forward_endpoints(x, wanted)
        clip_dtype = self._check(x, wanted)
        dtype = autocast_dtype(x.device) or clip_dtype
        maps = self._fused_endpoints(x, wanted, dtype)
        return super().forward_endpoints(as_floats(x, clip_dtype), wanted) if maps is None else maps

    def _fused_endpoints(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor] | None:
        """The endpoints of a checked clip by the fused path, or None where the ordinary one must run.

        A classifier that the fused path does not know runs as it is, on the fused trunk.
        """
        compiled = takes_operators(x)
        if not compiled:
            if needs_ordinary_path(x):
                return None
            check_range(x)
        described = self._describe(x, dtype)
        if described is None or not described.parts.keys() >= {_map_of(name) for name in wanted}:
            return None
        scores = wanted.intersection(network.SCORES) if described.logits is None else set()
        trunk = (wanted - scores) | ({_LAST} if scores else set())
        if compiled:
            if not _may_be_operator(x, described):
                return None
            maps = fused_endpoints(self, x, trunk, dtype, classify=described.logits is not None)
        else:
            plan = self._plan_for(x, dtype, described)
            if plan is None:
                return None
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                maps = plan.run(x, trunk, dtype)
        if scores:
            maps |= self._head(maps[_LAST], wanted)
        return {name: maps[name] for name in network.OUTPUTS if name in wanted}

    def _check(self, x: Tensor, wanted: set[str]) -> torch.dtype:
        """The dtype of a clip that the network takes, or that bytes are scaled to; raises for all others."""
        stem = known_stem(self)
        window = network.HEAD_POOL if wanted.intersection(network.HEAD) and keeps_grid(self) else None
        check_clip(
            x,
            None if stem is None else stem.weight.shape[1] * stem.groups,
            None if stem is None else stem.weight.dtype,
            window=window,
        )
        if wanted.intersection(network.SCORES) and getattr(self, "logits", None) is None:
            raise ValueError("this network has no classifier: ask for Features, or for maps of the trunk")
        if x.is_floating_point():
            return x.dtype
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    def _describe(self, x: Tensor, dtype: torch.dtype) -> Description | None:
        """What ``eligibility.describe`` says, or None where the ordinary path must run."""
        if self.training or dtype not in _FUSED_DTYPES:
            return None
        if not self._follows_reference or reference.I3D.forward_endpoints is not _ORDINARY:
            return None
        described = describe(self, tuple(self._trunk()))
        if described is None:
            return None
        tensors, head_tensors = described.tensors, described.head_tensors
        if any(t.device != x.device or t.dtype not in _FUSED_DTYPES for t in (*tensors, *head_tensors)):
            return None
        if takes_gradients(x, *tensors):
            if not (torch.compiler.is_compiling() or takes_gradients(x)) and all(
                p.requires_grad and p.grad is None for p in self.parameters()
            ):
                warn_of_gradients()
            return None
        if takes_gradients(*head_tensors):
            return described._replace(logits=None, head_tensors=[])
        return described

    def current_plan(self, x: Tensor, dtype: torch.dtype) -> Plan | None:
        """The plan for the weights as they are now, or None where the ordinary path must run."""
        described = self._describe(x, dtype)
        return None if described is None else self._plan_for(x, dtype, described)

    def _plan_for(self, x: Tensor, dtype: torch.dtype, described: Description) -> Plan | None:
        """The plan for what ``_describe`` says, or None where the ordinary path must run."""
        tensors = described.tensors + described.head_tensors
        if x.device.type != "cpu" and any(t.is_inference() for t in tensors):
            return None  # without version counters an edit could not be seen
        computed_in = compute_dtype(x.device, dtype)
        key = (described.eps, x.device, computed_in, fingerprint(tensors))
        cached = self._plan
        if cached is None or cached[0] != key:
            if x.is_cuda and torch.cuda.is_current_stream_capturing():
                return None  # what is captured is computed later, and the plan's weights are needed now
            with _build_lock:
                cached = self._plan
                if cached is None or cached[0] != key:
                    # With the tensors, so that no new one takes the address of one that the key was made of.
                    parts: Any = SimpleNamespace(**described.parts, logits=described.logits)
                    plan = Plan(parts, computed_in)
                    cached = self._plan = (key, plan, [t.detach() for t in tensors])
        return cached[1]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the plan behind: it is derived, large and quick to make."""
        return self.__dict__ | {"_plan": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Earlier versions kept what is now read from the modules.
        names = state.get("labels")
        kept = {key: v for key, v in state.items() if key not in ("num_classes", "in_channels", "labels")}
        super().__setstate__({"_labels": None, **kept})
        if names is not None:
            self.labels = names


def _map_of(endpoint: str) -> str:
    """The last map of the trunk that an endpoint needs."""
    return _LAST if endpoint in network.HEAD else endpoint


def _may_be_operator(x: Tensor, described: Description) -> bool:
    """Whether the operator may stand for the network in a graph."""
    # A graph's own tensors are overwritten without a trace, which could not be seen on a GPU.
    tensors = described.tensors + described.head_tensors
    return x.device.type == "cpu" or all(isinstance(t, nn.Parameter) for t in tensors if t.dim() == 5)


def clip_for(model: I3D, x: Tensor) -> Tensor:
    """A clip as ``model`` takes it: in the dtype of its weights, or as bytes, which I3D itself scales.

    A subclass's own methods and hooks get no bytes: values in [-1, 1] are all they need to know.
    """
    own = all(getattr(type(model), name) is getattr(I3D, name) for name in _ENTRANCES)
    if own and x.dtype == torch.uint8 and not is_watched(model):
        return x
    return as_floats(x, next(model.parameters()).dtype)
