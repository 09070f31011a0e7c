"""The I3D network users import: an ordinary PyTorch module that runs fused, in eval and in training mode."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn

from fasti3d import network, reference
from fasti3d.engine.describe.inception import Description, describe, keeps_grid, known_stem, watch
from fasti3d.engine.describe.parts import MismatchError
from fasti3d.engine.describe.watch import Watch
from fasti3d.engine.graph_op import planned
from fasti3d.engine.plan import Plan
from fasti3d.forms import is_watched
from fasti3d.inputs import (
    as_floats,
    autocast_dtype,
    check_clip,
    check_range,
    warn_of_gradients,
    without_autocast,
)
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.registry import needs_ordinary_path, takes_gradients, takes_operators
from fasti3d.runtime.route import compute_dtype
from fasti3d.train.step import Part, check_tensors, walk
from fasti3d.train.step import describe as describe_training
from fasti3d.utils.derived import DerivedCache, memory_of
from fasti3d.widths import last_layer

if TYPE_CHECKING:
    from fasti3d.weights import Checkpoint, Spec

_Network = TypeVar("_Network", bound="I3D")

_log = logging.getLogger(__name__)
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The methods that clips are given to.
_ENTRANCES = ("forward", "forward_endpoints", "extract_features")
_LAST = "Mixed_5c"
_ORDINARY = reference.I3D.forward_endpoints
_CHANGED = "a class between it and fasti3d.reference.I3D, or a patch, changes its forward"
_RECOMPUTE = ("auto", "relu", "none")


class _Kept(NamedTuple):
    """A plan, and what tells whether it still is of the network."""

    watch: Watch
    described: Description
    names: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    fingerprint: int
    plan: Plan


class _Trained(NamedTuple):
    """The parts of the trunk in training, and what tells whether they still are the network's."""

    watch: Watch
    parts: dict[str, Part]


class I3D(reference.I3D):
    """Inflated Inception-v1 (Carreira & Zisserman, CVPR 2017): a drop-in PyTorch backbone.

    In training mode its trunk is a few nodes of autograd's graph, which keep less than half of what the
    ordinary module's would; where gradients are needed in eval mode, and in graphs of compilers, it is an
    ordinary differentiable module. In eval mode under ``torch.no_grad()`` or ``torch.inference_mode()`` it
    runs fused: batch norm folded in float32, no padded copies, branches written straight into their slice.
    What the fused path derives from the weights is never in the state dict and follows every change of them.
    Where a submodule carries a hook or was replaced, the ordinary path runs so that nothing is skipped; a
    replaced dropout or classifier runs as it is, on the fused trunk. In graphs of ``torch.compile`` and
    ``torch.export`` the fused network is the operator ``fasti3d::planned``. (On a GPU an edit through
    ``.data`` leaves no trace that could be seen without stalling it: edit the parameter itself under
    ``torch.no_grad()``.) On a GPU a shape that comes again is replayed from a CUDA graph; the environment
    variable ``FASTI3D_CUDA_GRAPHS=0`` turns that off.

    Clips are ``(N, in_channels, T, H, W)`` in [-1, 1], in the weights' dtype or under autocast. RGB clips may
    also be uint8 of 0 to 255, in any memory layout: decoded frames (N, T, H, W, 3) are one after
    ``frames.permute(0, 4, 1, 2, 3)``.

    Parameter names are those of piergiaj/pytorch-i3d's ``InceptionI3d``: state dicts load both ways.
    After ``.half()`` or ``.bfloat16()`` batch norm stays in float32.

    Args:
        num_classes: classes of the head; None takes those of the weights, or the 400 of Kinetics-400.
        in_channels: 3 for RGB clips, 2 for optical flow; None takes those of the weights, or 3.
        weights: a name from ``fasti3d.weights.registry()`` such as ``"kinetics400-rgb"``, the path of a
            checkpoint in any known format or of a folder with one, such a file open for binary reading, or a
            state dict with any known names; None initialises at random.
        dropout: probability of dropping a feature before the classifier, in training mode.

    Attributes:
        num_classes, in_channels: those of the classifier and the stem that are there; None where these do
            not say.
        labels: class names in logit order, where the weights bring them; None otherwise, and once the
            classifier that they were given for is replaced.
        gradient_checkpointing: set to True to recompute Mixed blocks in the backward pass, which
            takes less memory and more time.
        recompute: what training does with outputs of ReLUs: "relu" computes them again in the backward pass,
            "none" keeps them, and "auto", the default, recomputes on GPUs.

    Raises:
        ValueError: arguments out of range.
        fasti3d.weights.WeightsError: weights that cannot be downloaded or read, or do not fit.
    """

    # Whether the ordinary path is the reference's own, which a class between the two may have changed.
    _follows_reference: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._follows_reference = cls.__mro__[cls.__mro__.index(I3D) + 1] is reference.I3D

    def __init__(
        self,
        num_classes: int | None = None,
        in_channels: int | None = None,
        *,
        weights: Spec | None = None,
        dropout: float = 0.5,
    ) -> None:
        checkpoint = None if weights is None else checkpoint_of(weights)
        if num_classes is None:
            num_classes = 400 if checkpoint is None else checkpoint.num_classes
        if in_channels is None:
            in_channels = 3 if checkpoint is None else checkpoint.in_channels
        super().__init__(num_classes, in_channels, dropout=dropout)
        self._labels: tuple[tuple[str, ...], nn.Module | None] | None = None
        self._plan: _Kept | None = None
        self._plans: DerivedCache[Plan] = DerivedCache()
        self._trained: _Trained | None = None
        self._recompute = "auto"
        if checkpoint is not None:
            self._load(checkpoint)

    @classmethod
    def from_pretrained(cls: type[_Network], source: Spec, **options: Any) -> _Network:
        """Build a network in eval mode from weights, with their classes, channels and labels.

        Args:
            source: what ``weights`` takes: a name from ``fasti3d.weights.registry()``, the path of a
                checkpoint, or a folder with one, as ``save_pretrained`` and snapshots of model hubs are.
            **options: further arguments of the class, such as ``dropout``.

        Returns:
            A network of this class. Its weights are float32; after ``.half()`` those that were saved from
            a network in half precision have the same bits again.

        Raises:
            fasti3d.weights.WeightsError: the weights cannot be downloaded or read, or a folder holds none or
                several.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> path = fasti3d.I3D(num_classes=7, in_channels=2).save_pretrained(folder)
            >>> model = fasti3d.I3D.from_pretrained(folder)
            >>> model.num_classes, model.in_channels, model.training
            (7, 2, False)
        """
        checkpoint = checkpoint_of(source)
        model = cls._of_sizes(checkpoint.num_classes, checkpoint.in_channels, **options)
        model._load(checkpoint)
        return model.eval()

    @classmethod
    def _of_sizes(cls: type[_Network], num_classes: int, in_channels: int, **options: Any) -> _Network:
        """A network of these classes and channels, as the class's own constructor takes them."""
        return cls(num_classes, in_channels=in_channels, **options)

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write the weights and labels to ``model.safetensors`` in a folder, for ``from_pretrained``.

        The tensors have pytorch-i3d's names and are float32. The file is written atomically.

        Args:
            folder: is created if it is not there.

        Returns:
            The path of the file.

        Raises:
            fasti3d.weights.WeightsError: the folder cannot be written to, or parts were replaced so that the
                network is no longer a complete I3D, or a tensor is not finite.

        Example:
            >>> import tempfile
            >>> fasti3d.I3D().save_pretrained(tempfile.mkdtemp()).name
            'model.safetensors'
        """
        from fasti3d.weights.loading import save_network

        return save_network(self.state_dict(), self.labels, folder)

    def _load(self, checkpoint: Checkpoint) -> None:
        from fasti3d.weights import load_into

        load_into(self, checkpoint)

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

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) in [-1, 1] -> time-averaged logits (N, num_classes)."""
        return self.forward_endpoints(x, ("Logits",))["Logits"]

    def forward_endpoints(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = network.check_endpoints(names)
        if isinstance(x, fx.Proxy):  # nothing can be known of it
            return super().forward_endpoints(x, wanted)
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
            check_range(x)
            maps = self._training_step(x, wanted, dtype, clip_dtype)
        else:
            check_range(x)
            maps = self._fused(x, wanted, dtype, kept)
        return super().forward_endpoints(as_floats(x, clip_dtype), wanted) if maps is None else maps

    @property
    def recompute(self) -> str:
        """What training computes again in its backward pass: "relu", "none", or "auto" by the device."""
        return self._recompute

    @recompute.setter
    def recompute(self, value: str | None) -> None:
        value = "auto" if value is None else value
        if value not in _RECOMPUTE:
            raise ValueError(f"recompute must be one of {', '.join(map(repr, _RECOMPUTE))}, got {value!r}")
        self._recompute = value

    def _training_step(
        self, x: Tensor, wanted: set[str], dtype: torch.dtype, clip_dtype: torch.dtype
    ) -> dict[str, Tensor] | None:
        """The endpoints of a checked clip by the training step, or None where the ordinary path must run."""
        try:
            parts = self._training_parts(x, dtype)
        except MismatchError as why:
            _log.debug("%s trains as an ordinary module: %s", type(self).__name__, why)
            return None
        trunk = {_map_of(name) for name in wanted}
        if not parts.keys() >= trunk:
            return None
        recompute = self._recompute == "relu" or (self._recompute == "auto" and x.device.type != "cpu")
        maps = walk(parts, as_floats(x, clip_dtype).to(dtype), trunk, recompute=recompute)
        if wanted.intersection(network.HEAD):
            maps |= self._head(maps[_LAST], wanted)
        return {name: maps[name] for name in network.OUTPUTS if name in wanted}

    def _training_parts(self, x: Tensor, dtype: torch.dtype) -> dict[str, Part]:
        """What the training step walks; MismatchError, which says why, where the ordinary path must run."""
        if self.gradient_checkpointing:
            raise MismatchError("gradient_checkpointing is on")
        if not self._is_followed():
            raise MismatchError(_CHANGED)
        names = tuple(self._trunk())
        kept = self._trained
        if kept is None or tuple(kept.parts) != names or not kept.watch.holds():
            kept = _Trained(watch(self, names), describe_training(self, names))
        check_tensors(kept.parts, x.device, dtype)
        self._trained = kept
        return kept.parts

    def _operator(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor] | None:
        """The endpoints in the graph of a compiler, or None where the ordinary path must run."""
        described = self._describe(x, dtype)
        if described is None or not _may_be_operator(x, described):
            return None
        described = _differentiable(described)
        trunk = _without_scores(wanted, described)
        if not described.names.keys() >= {_map_of(name) for name in trunk}:
            return None
        return self._with_scores(planned(described, x, trunk, dtype), wanted, described)

    def _fused(
        self, x: Tensor, wanted: set[str], dtype: torch.dtype, kept: _Kept | None
    ) -> dict[str, Tensor] | None:
        """The endpoints of a checked clip by the fused path, or None where the ordinary one must run.

        A classifier that the fused path does not know runs as it is, on the fused trunk.
        """
        kept = self._planned(x, dtype, kept)
        if kept is None:
            return None
        described = _differentiable(kept.described)
        trunk = _without_scores(wanted, described)
        if not described.names.keys() >= {_map_of(name) for name in trunk}:
            return None
        with torch.no_grad(), without_autocast(x.device):
            maps = kept.plan.run(x, trunk, dtype)
        return self._with_scores(maps, wanted, described)

    def _with_scores(
        self, maps: dict[str, Tensor], wanted: set[str], described: Description
    ) -> dict[str, Tensor]:
        """The wanted endpoints, of which the scores are the classifier's own where it is not known."""
        if described.classifier is None and wanted.intersection(network.SCORES):
            maps |= self._head(maps[_LAST], wanted)
        return {name: maps[name] for name in network.OUTPUTS if name in wanted}

    def _check(self, x: Tensor, wanted: set[str], kept: _Kept | None) -> torch.dtype:
        """The dtype of a clip that the network takes, or that bytes are scaled to; raises for all others."""
        channels: int | None = None
        dtype: torch.dtype | None = None
        if kept is not None:
            channels, dtype = kept.described.tensors[0].shape[1], kept.described.tensors[0].dtype
        elif (stem := known_stem(self)) is not None:
            channels, dtype = stem.weight.shape[1] * stem.groups, stem.weight.dtype
        has_grid = wanted.intersection(network.HEAD) and (kept is not None or keeps_grid(self))
        check_clip(x, channels, dtype, window=network.HEAD_POOL if has_grid else None)
        if wanted.intersection(network.SCORES) and getattr(self, "logits", None) is None:
            raise ValueError("this network has no classifier: ask for Features, or for maps of the trunk")
        if x.is_floating_point():
            return x.dtype
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

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
            raise MismatchError(_CHANGED)
        described = describe(self, tuple(self._trunk()))
        for t in (*described.tensors, *described.head_tensors):
            if t.device != x.device or t.dtype not in _FUSED_DTYPES:
                raise MismatchError(f"a tensor is {t.dtype} on {t.device}, clips are on {x.device}")
        if self._needs_gradients(x, described.tensors):
            raise MismatchError("gradients are asked for: call it under torch.no_grad()")
        return described

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

    def _is_followed(self) -> bool:
        """Whether the ordinary path is the reference's own."""
        return self._follows_reference and reference.I3D.forward_endpoints is _ORDINARY

    def _needs_gradients(self, x: Tensor, tensors: list[Tensor]) -> bool:
        if not takes_gradients(x, *tensors):
            return False
        if not (torch.compiler.is_compiling() or takes_gradients(x)) and all(
            p.requires_grad and p.grad is None for p in self.parameters()
        ):
            warn_of_gradients()
        return True

    def _unchanged(self) -> _Kept | None:
        """The last plan, if the network's parts are what they were; their values may be others."""
        kept = self._plan
        if kept is None or kept.names != tuple(self._trunk()) or not kept.watch.holds():
            return None
        return kept

    def current_plan(self, x: Tensor, dtype: torch.dtype) -> Plan | None:
        """The plan for the weights as they are now, or None where the ordinary path must run."""
        kept = self._planned(x, dtype, self._unchanged())
        return None if kept is None else kept.plan

    def _planned(self, x: Tensor, dtype: torch.dtype, kept: _Kept | None) -> _Kept | None:
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
        names = tuple(self._trunk())
        mark = fingerprint(tensors)
        # What no tensor holds: eps.
        key = (names, tuple(described.trunk.floats), x.device, computed_in, mark)
        plan = self._plans.get(
            key, lambda: Plan(described.graph(), computed_in, x.device), lambda: memory_of(tensors)
        )
        self._plan = _Kept(watch(self, names), described, names, x.device, computed_in, mark, plan)
        return self._plan

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the plan out: it is derived, large and quick to make."""
        return self.__dict__ | {"_plan": None, "_trained": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Earlier versions kept what is now read from the modules.
        names = state.get("labels")
        earlier = ("num_classes", "in_channels", "labels")
        kept = {key: v for key, v in state.items() if key not in earlier}
        derived: dict[str, Any] = {"_plan": None, "_plans": DerivedCache(), "_trained": None}
        super().__setstate__({"_labels": None, "_recompute": "auto", **derived, **kept})
        if names is not None:
            self.labels = names


def checkpoint_of(weights: Spec) -> Checkpoint:
    """What ``fasti3d.weights.load`` reads."""
    # Here and not at the top: most users of the module bring no weights, and reading checkpoints takes
    # packages that are slow to import.
    from fasti3d.weights import load

    return load(weights)


def _map_of(endpoint: str) -> str:
    """The last map of the trunk that an endpoint needs."""
    return _LAST if endpoint in network.HEAD else endpoint


def _differentiable(described: Description) -> Description:
    """The description without a classifier that gradients are asked for."""
    if takes_gradients(*described.head_tensors):
        return described._replace(classifier=None)
    return described


def _without_scores(wanted: set[str], described: Description) -> set[str]:
    """What is asked of the fused trunk in place of the scores of a classifier that it does not know."""
    if described.classifier is not None or not wanted.intersection(network.SCORES):
        return wanted
    return wanted.difference(network.SCORES) | {_LAST}


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
