"""The I3D network users import: an ordinary PyTorch module that runs fused in eval mode."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from fasti3d import network, reference
from fasti3d.eligibility import describe, is_watched
from fasti3d.inputs import as_floats, autocast_dtype, check_clip, check_range
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.registry import needs_ordinary_path, takes_gradients, takes_operators
from fasti3d.plan import Plan
from fasti3d.reference import check_endpoints
from fasti3d.routing import compute_dtype
from fasti3d.traced import fused_endpoints

_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The methods that clips are given to.
_ENTRANCES = ("forward", "forward_endpoints", "extract_features")
_build_lock = threading.Lock()


class I3D(reference.I3D):
    """Inflated Inception-v1 (Carreira & Zisserman, CVPR 2017): a drop-in PyTorch backbone.

    In training mode, or where gradients are needed, it is an ordinary differentiable module. In eval
    mode under ``torch.no_grad()`` or ``torch.inference_mode()`` it runs fused: batch norm folded in
    float32, no padded copies, branches written straight into their slice. What the fused path derives
    from the weights is never in the state dict and follows every change of them. Where a submodule
    carries a forward hook or was replaced, the ordinary path runs so that nothing is skipped. In graphs
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
        weights: a name from ``fasti3d.weights.registry()`` such as ``"kinetics400-rgb"``, or the path
            of a checkpoint in any known format; None initialises at random.
        dropout: probability of dropping a feature before the classifier, in training mode.

    Attributes:
        labels: class names in logit order, where the weights bring them; else None.
        gradient_checkpointing: set to True to recompute Mixed blocks in the backward pass, which
            takes less memory and more time.

    Raises:
        ValueError: arguments out of range.
        fasti3d.weights.WeightsError: weights that cannot be had or do not fit.
    """

    labels: tuple[str, ...] | None

    def __init__(
        self,
        num_classes: int = 400,
        in_channels: int = 3,
        *,
        weights: str | PathLike[str] | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(num_classes, in_channels, dropout=dropout)
        self.labels = None
        self._plan: tuple[Any, Plan, list[Tensor]] | None = None
        if weights is not None:
            # Here and not at the top: most users of the module bring no weights, and reading
            # checkpoints takes packages that are slow to import.
            from fasti3d.weights import load, load_into

            checkpoint = load(weights)
            load_into(self, checkpoint)
            self.labels = checkpoint.labels

    def replace_logits(self, num_classes: int) -> None:
        super().replace_logits(num_classes)
        self.labels = None

    def forward_endpoints(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = check_endpoints(names)
        clip_dtype = self._check(x, wanted)
        dtype = autocast_dtype(x.device) or clip_dtype
        if takes_operators(x) and self._is_operator(x, dtype):
            return fused_endpoints(self, x, wanted, dtype)
        if needs_ordinary_path(x):
            return super().forward_endpoints(as_floats(x, clip_dtype), wanted)
        check_range(x)
        plan = self.current_plan(x, dtype)
        if plan is None:
            return super().forward_endpoints(as_floats(x, clip_dtype), wanted)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return plan.run(x, wanted, dtype)

    def _check(self, x: Tensor, wanted: set[str]) -> torch.dtype:
        """The dtype of a clip that the network takes, or that bytes are scaled to; raises for all others."""
        weight = getattr(getattr(self.Conv3d_1a_7x7, "conv3d", None), "weight", None)
        weight_dtype = None if weight is None else weight.dtype
        check_clip(x, self.in_channels, weight_dtype, to_head=bool(wanted.intersection(network.HEAD)))
        if wanted & {"Logits", "Predictions"} and getattr(self, "logits", None) is None:
            raise ValueError("this network has no classifier: ask for Features, or for maps of the trunk")
        return x.dtype if x.is_floating_point() else weight_dtype or torch.float32

    def _describe(self, x: Tensor, dtype: torch.dtype) -> tuple[tuple[float, ...], list[Tensor]] | None:
        """What ``eligibility.describe`` says, or None where the ordinary path must run."""
        if self.training or dtype not in _FUSED_DTYPES:
            return None
        described = describe(self)
        if described is None:
            return None
        tensors = described[1]
        if takes_gradients(x, *tensors):
            return None
        if any(t.device != x.device or t.dtype not in _FUSED_DTYPES for t in tensors):
            return None
        return described

    def _is_operator(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Whether the operator may stand for the network in a graph."""
        described = self._describe(x, dtype)
        # A graph's own tensors are overwritten without a trace, which could not be seen on a GPU.
        return described is not None and (
            x.device.type == "cpu" or all(isinstance(t, nn.Parameter) for t in described[1] if t.dim() == 5)
        )

    def current_plan(self, x: Tensor, dtype: torch.dtype) -> Plan | None:
        """The plan for the weights as they are now, or None where the ordinary path must run."""
        described = self._describe(x, dtype)
        if described is None:
            return None
        eps, tensors = described
        if x.device.type != "cpu" and any(t.is_inference() for t in tensors):
            return None  # without version counters an edit could not be seen
        computed_in = compute_dtype(x.device, dtype)
        key = (eps, x.device, computed_in, fingerprint(tensors))
        cached = self._plan
        if cached is None or cached[0] != key:
            if x.is_cuda and torch.cuda.is_current_stream_capturing():
                return None  # what is captured is computed later, and the plan's weights are needed now
            with _build_lock:
                cached = self._plan
                if cached is None or cached[0] != key:
                    # With the tensors, so that no new one takes the address of one that the key was made of.
                    cached = self._plan = (key, Plan(self, computed_in), [t.detach() for t in tensors])
        return cached[1]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the plan behind: it is derived, large and quick to make."""
        return self.__dict__ | {"_plan": None}


def clip_for(model: I3D, x: Tensor) -> Tensor:
    """A clip as ``model`` takes it: in the dtype of its weights, or as bytes, which I3D itself scales.

    A subclass's own methods and hooks get no bytes: values in [-1, 1] are all they need to know.
    """
    own = all(getattr(type(model), name) is getattr(I3D, name) for name in _ENTRANCES)
    if own and x.dtype == torch.uint8 and not is_watched(model):
        return x
    return as_floats(x, next(model.parameters()).dtype)
