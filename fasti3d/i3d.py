"""The I3D network users import: an ordinary PyTorch module that runs fused, in eval and in training mode."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fasti3d import network, reference
from fasti3d.engine.describe.description import Description
from fasti3d.engine.describe.inception import describe, keeps_grid, known_stem, watch
from fasti3d.engine.describe.parts import MismatchError
from fasti3d.engine.describe.watch import Watch
from fasti3d.forms import is_watched
from fasti3d.fused import FusedNetwork, Kept
from fasti3d.inputs import as_floats, check_clip, check_range
from fasti3d.train.step import Part, check_tensors, walk
from fasti3d.train.step import describe as describe_training
from fasti3d.utils.derived import DerivedCache

if TYPE_CHECKING:
    from fasti3d.weights import Checkpoint, Spec

_Network = TypeVar("_Network", bound="I3D")

_log = logging.getLogger(__name__)
# The methods that clips are given to.
_ENTRANCES = ("forward", "forward_endpoints", "extract_features")
_LAST = "Mixed_5c"
_RECOMPUTE = ("auto", "relu", "none")


class _Trained(NamedTuple):
    """The parts of the trunk in training, and what tells whether they still are the network's."""

    watch: Watch
    parts: dict[str, Part]


class I3D(FusedNetwork, reference.I3D):
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

    _reference: ClassVar[type[nn.Module]] = reference.I3D
    _ordinary: ClassVar[Any] = reference.I3D.forward_endpoints
    _classifier: ClassVar[str] = "logits"

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

    def _outputs(self) -> Sequence[str]:
        return network.OUTPUTS

    def _maps(self) -> tuple[str, ...]:
        return tuple(self._trunk())

    def _last(self) -> str:
        return _LAST

    def _described(self, names: tuple[str, ...]) -> Description:
        return describe(self, names)

    def _watch(self, names: tuple[str, ...]) -> Watch:
        return watch(self, names)

    def _as_floats(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return as_floats(x, dtype)

    def _check_range(self, x: Tensor) -> None:
        check_range(x)

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

    def _step_of_training(
        self, x: Tensor, wanted: set[str], dtype: torch.dtype, clip_dtype: torch.dtype
    ) -> dict[str, Tensor] | None:
        """The endpoints of a checked clip by the training step, or None where the ordinary path must run."""
        try:
            parts = self._training_parts(x, dtype)
        except MismatchError as why:
            _log.debug("%s trains as an ordinary module: %s", type(self).__name__, why)
            return None
        trunk = self._needed(wanted)
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
            raise MismatchError(self._why_not_followed())
        names = self._maps()
        kept = self._trained
        if kept is None or tuple(kept.parts) != names or not kept.watch.holds():
            kept = _Trained(watch(self, names), describe_training(self, names))
        check_tensors(kept.parts, x.device, dtype)
        self._trained = kept
        return kept.parts

    def _check(self, x: Tensor, wanted: set[str], kept: Kept | None) -> torch.dtype:
        """The dtype of a clip that the network takes, or that bytes are scaled to; raises for all others."""
        channels: int | None = None
        dtype: torch.dtype | None = None
        if kept is not None:
            channels, dtype = kept.described.tensors[0].shape[1], kept.described.tensors[0].dtype
        elif (stem := known_stem(self)) is not None:
            channels, dtype = stem.weight.shape[1] * stem.groups, stem.weight.dtype
        has_grid = wanted.intersection(network.HEAD) and (kept is not None or keeps_grid(self))
        check_clip(x, channels, dtype, window=network.HEAD_POOL if has_grid else None)
        return self._dtype_of(x, wanted)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_trained": None}

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


def clip_for(model: I3D, x: Tensor) -> Tensor:
    """A clip as ``model`` takes it: in the dtype of its weights, or as bytes, which I3D itself scales.

    A subclass's own methods and hooks get no bytes: values in [-1, 1] are all they need to know.
    """
    own = all(getattr(type(model), name) is getattr(I3D, name) for name in _ENTRANCES)
    if own and x.dtype == torch.uint8 and not is_watched(model):
        return x
    return as_floats(x, next(model.parameters()).dtype)
