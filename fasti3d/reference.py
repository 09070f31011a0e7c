"""I3D in plain PyTorch: readable, slow, and the yardstick of every test and benchmark.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics
Dataset", CVPR 2017 (arXiv 1705.07750), with the details of its released TensorFlow network
(deepmind/kinetics-i3d). Parameter names are those of piergiaj/pytorch-i3d, the most used port,
so that state dicts load in both directions with ``strict=True``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from fasti3d import network
from fasti3d.forms import MixedForm, PoolForm, UnitForm, states_form
from fasti3d.same_padding import pad_same
from fasti3d.widths import in_width, out_width

# These look at shapes and dtypes: torch.fx's traces call them as they are.
fx.wrap("pad_same")
fx.wrap("head_pool")
fx.wrap("over_positions")


class BatchNorm3d(nn.BatchNorm3d):
    """Batch norm whose parameters and statistics stay in float32 when the module is cast to half precision.

    A running variance of a few thousandths does not survive float16, and folding it into the
    convolution needs its full precision; torch normalises half-precision maps with float32
    statistics without a cast.
    """

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):  # one call, as torch's own layers are in a trace
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
        return super().forward(x)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        def keep_float32(t: Tensor) -> Tensor:
            moved = fn(t)
            if moved.dtype in (torch.float16, torch.bfloat16):
                return t.to(moved.device, torch.float32)
            return moved

        return super()._apply(keep_float32, recurse)


@contextmanager
def _scratch_statistics(block: nn.Module) -> Iterator[None]:
    """Sends updates of running statistics to copies, which are dropped."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        norm._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def _checkpoint_contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a checkpointed block's two runs, of which only the first may count as a batch."""
    return nullcontext(), _scratch_statistics(block)


@states_form
class MaxPool3dSame(nn.Module):
    """Max-pool with TensorFlow SAME padding, which never wins against a real value."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_same(x, self.kernel, self.stride, float("-inf"))
        return F.max_pool3d(padded, self.kernel, self.stride)

    def stated_form(self) -> PoolForm | None:
        """What this pool computes, for the fused path; None: only ``forward`` says."""
        return PoolForm(self.kernel, self.stride)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


@states_form
class Unit3D(nn.Module):
    """conv3d with SAME padding, then batch norm and ReLU unless it is the classifier."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        *,
        classifier: bool = False,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=classifier)
        self.bn = (
            None
            if classifier
            else BatchNorm3d(out_channels, eps=network.BN_EPS, momentum=network.BN_MOMENTUM)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu(self.bn(x))

    def stated_form(self) -> UnitForm | None:
        """What this unit computes, for the fused path; None: only ``forward`` says."""
        return UnitForm(self.conv3d, self.bn, self.kernel, self.stride, relu=self.bn is not None)


@states_form
class Mixed(nn.Module):
    """Inception block: four branches over one input, concatenated over channels."""

    def __init__(self, in_channels: int, spec: network.Mixed) -> None:
        super().__init__()
        self.b0 = Unit3D(in_channels, spec.b0)
        self.b1a = Unit3D(in_channels, spec.b1a)
        self.b1b = Unit3D(spec.b1a, spec.b1b, (3, 3, 3))
        self.b2a = Unit3D(in_channels, spec.b2a)
        self.b2b = Unit3D(spec.b2a, spec.b2b, (3, 3, 3))
        self.b3a = MaxPool3dSame((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_channels, spec.b3b)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.b0(x),
            self.b1b(self.b1a(x)),
            self.b2b(self.b2a(x)),
            self.b3b(self.b3a(x)),
        )
        return torch.cat(branches, dim=1)

    def stated_form(self) -> MixedForm | None:
        """What this block computes, for the fused path; None: only ``forward`` says."""
        return MixedForm(self.b0, self.b1a, self.b1b, self.b2a, self.b2b, self.b3a, self.b3b)


def head_pool(x: Tensor) -> Tensor:
    """The head's 2x7x7 average pool, stride 1, no padding; summed in float32 at least."""
    half = x.dtype in (torch.float16, torch.bfloat16)  # which torch does not pool on the CPU
    return F.avg_pool3d(x.float() if half else x, network.HEAD_POOL, stride=1).to(x.dtype)


def over_positions(scores: Tensor) -> Tensor:
    """(N, classes, ...), as any classifier gives them, averaged over all positions: (N, classes)."""
    return scores.mean(dim=tuple(range(2, scores.dim()))) if scores.dim() > 2 else scores


def _check_true(name: str, value: int, found: int | None, where: str, remedy: str) -> None:
    """ValueError for a number that is not what the modules say, which alone decide."""
    if found is not None and value != found:
        raise ValueError(f"{name} is that of {where}, {found}, got {value}: replace {where} ({remedy})")


class I3D(nn.Module):
    """Inflated Inception-v1 (Carreira & Zisserman 2017), as written in the paper.

    Args:
        num_classes: classes of the head; Kinetics-400 has 400.
        in_channels: 3 for the RGB stream, 2 for the optical-flow stream.
        dropout: probability of *dropping* a feature before the classifier, in training mode.

    Clips are ``(N, in_channels, T, H, W)`` with values in [-1, 1]. Padding is TensorFlow SAME on
    every axis and for every size, batch norm has eps 1e-3. Every part may be replaced by another module.
    """

    Conv3d_1a_7x7: Unit3D
    logits: Unit3D

    def __init__(self, num_classes: int = 400, in_channels: int = 3, *, dropout: float = 0.5) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.gradient_checkpointing = False
        channels = in_channels
        for name, spec in network.TRUNK.items():
            self.add_module(name, self._make_part(name, channels, spec))
            channels = channels if isinstance(spec, network.Pool) else spec.out_channels
        self.dropout = nn.Dropout(dropout)
        self.logits = self._make_logits(num_classes)

    def _make_part(
        self, name: str, in_channels: int, spec: network.Conv | network.Pool | network.Mixed
    ) -> nn.Module:
        """A part of the trunk, freshly initialized."""
        if isinstance(spec, network.Conv):
            return Unit3D(in_channels, spec.out_channels, spec.kernel, spec.stride)
        if isinstance(spec, network.Pool):
            return MaxPool3dSame(spec.kernel, spec.stride)
        return Mixed(in_channels, spec)

    def _make_logits(self, num_classes: int) -> Unit3D:
        """A classifier, freshly initialized."""
        return Unit3D(network.FEATURE_CHANNELS, num_classes, classifier=True)

    @property
    def num_classes(self) -> int | None:
        """Classes of the classifier that is there, by its last layer; None without a classifier."""
        logits = getattr(self, "logits", None)
        return None if logits is None else out_width(logits) or network.FEATURE_CHANNELS

    @num_classes.setter
    def num_classes(self, value: int) -> None:
        _check_true("num_classes", value, self.num_classes, "the classifier", f"replace_logits({value})")

    @property
    def in_channels(self) -> int | None:
        """Channels that the stem takes, by its first layer; None where that does not say."""
        return in_width(getattr(self, "Conv3d_1a_7x7", None))

    @in_channels.setter
    def in_channels(self, value: int) -> None:
        _check_true("in_channels", value, self.in_channels, "the stem", "the part Conv3d_1a_7x7")

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script asks first."""
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}, whose Python it does not know: use "
            "torch.jit.trace(model, clip), torch.export.export(model, (clip,)) or torch.compile(model)"
        )

    def replace_logits(self, num_classes: int) -> None:
        """Puts a freshly initialised classifier of ``num_classes`` in place, as fine-tuning needs."""
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        old = getattr(self, "logits", None) or self  # which a truncated network lacks
        like = next((p for p in old.parameters() if p.is_floating_point()), torch.empty(0))
        self.logits = self._make_logits(num_classes).to(like.device, like.dtype).train(self.training)

    def _trunk(self) -> Iterable[str]:
        """The names of the parts that run before the head, in order."""
        return network.TRUNK

    def forward_endpoints(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Runs no further than needed and returns the maps asked for.

        Args:
            x: (N, in_channels, T, H, W) in [-1, 1].
            names: any of ``network.OUTPUTS``: trunk endpoints give (N, C, T', H', W'), ``Features``
                what ``extract_features`` returns, ``Logits`` the time-averaged logits (N, num_classes),
                ``Predictions`` their softmax.

        Raises:
            ValueError: a name that is not an endpoint.
        """
        wanted = network.check_endpoints(names)
        maps: dict[str, Tensor] = {}
        for name in self._trunk():
            if wanted.issubset(maps):
                break
            module = getattr(self, name)
            if self.gradient_checkpointing and torch.is_grad_enabled() and isinstance(module, Mixed):
                contexts = partial(_checkpoint_contexts, module)
                x = checkpoint(module, x, use_reentrant=False, context_fn=contexts)
            else:
                x = module(x)
            if name in wanted:
                maps[name] = x
        if wanted.intersection(network.HEAD):
            maps |= self._head(x, wanted)
        return {name: maps[name] for name in network.OUTPUTS if name in wanted}

    def _head(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        """What follows Mixed_5c: the features and, where wanted, the logits and predictions."""
        pooled = head_pool(x)
        maps = {"Features": pooled.mean(dim=(3, 4))}
        if wanted.intersection(network.SCORES):
            logits = over_positions(self.logits(self.dropout(pooled)))
            maps |= {"Logits": logits, "Predictions": logits.softmax(dim=1)}
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) in [-1, 1] -> time-averaged logits (N, num_classes)."""
        return self.forward_endpoints(x, ("Logits",))["Logits"]

    def forward_features(self, x: Tensor) -> Tensor:
        """The Mixed_5c map: (N, 1024, ceil(T/8), ceil(H/32), ceil(W/32))."""
        return self.forward_endpoints(x, ("Mixed_5c",))["Mixed_5c"]

    def extract_features(self, x: Tensor) -> Tensor:
        """Features as the head sees them: (N, 1024, ceil(T/8) - 1), averaged by its 2x7x7 pool.

        Where the map is larger than 7x7, the pooled positions are averaged too, so that the mean
        over time times the classifier's weights plus its bias gives the logits at every size. With
        ``forward_endpoints(x, ("Features", "Logits"))`` both come from one pass.
        """
        return self.forward_endpoints(x, ("Features",))["Features"]
