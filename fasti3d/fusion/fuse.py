"""Any eval-mode network on the library's fused convolution."""

from __future__ import annotations

import copy
import threading
import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d.engine.batch_norm import fold
from fasti3d.fusion.trace import find_chains
from fasti3d.inputs import autocast_dtype
from fasti3d.ops.conv3d_bn_relu.op import FEW_CHANNELS, PackedConv3d, check_fills, convolve
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_reference
from fasti3d.ops.registry import needs_ordinary_path, takes_operators
from fasti3d.runtime import gpu
from fasti3d.runtime.route import compute_dtype

_pack_lock = threading.Lock()


class FusedConv3d(nn.Module):
    """A Conv3d with the batch norm behind it folded in and, with ``relu``, the ReLU: inference only.

    Takes (N, Cin, T, H, W) in the weights' dtype, or any that autocast turns into its own, and returns
    (N, Cout, T', H', W') in channels_last_3d. A clip in another layout is copied into that one first: once a
    network, whose other layers keep it. Where a gradient with respect to the clip is asked for, or under
    a transformation such as vmap, it runs as plain PyTorch; in graphs of torch.compile and torch.export it is
    one operator.

    Its weights are the buffers ``folded_weight`` and ``folded_bias``, which move, cast and load as buffers
    do. What the kernel reads is packed from them at the first call and again after they changed (an
    edit through ``.data`` cannot be seen); copies and pickles pack their own.

    Raises:
        ValueError: a clip of another shape, dtype or device than the weights take.
    """

    folded_weight: Tensor
    folded_bias: Tensor

    def __init__(self, conv: nn.Conv3d, bn: nn.modules.batchnorm._BatchNorm | None, relu: bool) -> None:
        super().__init__()
        weight, bias = fold(conv, bn)
        self.register_buffer("folded_weight", weight.to(conv.weight.dtype, copy=True))
        self.register_buffer("folded_bias", bias.to(conv.weight.dtype, copy=True))
        self.in_channels = conv.in_channels
        self.out_channels = conv.out_channels
        self.kernel_size = _triple(conv.kernel_size)
        self.stride = _triple(conv.stride)
        self.padding = _zeros(conv)
        self.relu = relu
        self._packed: tuple[Any, PackedConv3d, tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        x = x.to(autocast_dtype(x.device) or x.dtype)
        weight, bias = self.folded_weight, self.folded_bias
        if takes_operators(x):
            return torch.ops.fasti3d.conv3d_bn_relu(x, weight, bias, self.stride, self.padding, self.relu)
        if (torch.is_grad_enabled() and x.requires_grad) or needs_ordinary_path(x):
            return conv3d_bn_relu_reference(x, weight, bias, self.stride, self.relu, self.padding)
        dtype = compute_dtype(x.device, x.dtype)
        clip = x.to(dtype)
        if self.in_channels >= FEW_CHANNELS:
            clip = clip.contiguous(memory_format=torch.channels_last_3d)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return convolve(self._pack(dtype), clip, partial(self._packed_for, dtype)).to(x.dtype)

    def _check(self, x: Tensor) -> None:
        weight = self.folded_weight
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (N, {self.in_channels}, T, H, W), got shape {tuple(x.shape)}")
        if x.dtype != weight.dtype and autocast_dtype(x.device) is None:
            raise ValueError(f"x is {x.dtype} but the weights are {weight.dtype}: cast one to the other")
        if x.device != weight.device:
            raise ValueError(f"x is on {x.device}, but the weights on {weight.device}: move one to the other")
        check_fills(x.shape, self.kernel_size, self.padding)

    def _pack(self, dtype: torch.dtype) -> PackedConv3d:
        """The packed convolution for the weights as they are now."""
        weight, bias = self.folded_weight, self.folded_bias
        key = (dtype, *((id(t), None if t.is_inference() else t._version) for t in (weight, bias)))
        cached = self._packed
        if cached is None or cached[0] != key:
            with _pack_lock:
                cached = self._packed
                if cached is None or cached[0] != key:
                    packed = self._packed_for(dtype)
                    if not gpu.synchronize_unless_capturing(weight.device):
                        return packed  # the graph's own, made again by every replay
                    # With the tensors, so that no new one gets the id of one that the key was made of.
                    cached = self._packed = (key, packed, (weight, bias))
        return cached[1]

    def _packed_for(self, dtype: torch.dtype, *, winograd: bool = True) -> PackedConv3d:
        return PackedConv3d.pack(
            self.folded_weight.float(),
            self.folded_bias.float(),
            self.stride,
            relu=self.relu,
            dtype=dtype,
            padding=self.padding,
            winograd=winograd,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, relu={self.relu}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave what is packed behind: it is derived and quick to make."""
        return self.__dict__ | {"_packed": None}


class FoldedConv3d(nn.Module):
    """A Conv3d with groups, dilation or other padding than zeros, its batch norm folded in: inference only.

    Torch's own convolution runs, as in ``torch.nn.Conv3d``, and with ``relu`` the ReLU in place on its
    result. Its weights are the buffers ``folded_weight`` and ``folded_bias``.
    """

    folded_weight: Tensor
    folded_bias: Tensor

    def __init__(self, conv: nn.Conv3d, bn: nn.modules.batchnorm._BatchNorm | None, relu: bool) -> None:
        super().__init__()
        for name, value in zip(("folded_weight", "folded_bias"), fold(conv, bn), strict=True):
            self.register_buffer(name, value.to(conv.weight.dtype, copy=True))
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.groups, self.padding_mode = conv.dilation, conv.groups, conv.padding_mode
        self.relu = relu
        self._sides = list(conv._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._sides, self.padding_mode), (0, 0, 0)
        y = F.conv3d(
            x, self.folded_weight, self.folded_bias, self.stride, padding, self.dilation, self.groups
        )
        return F.relu(y, inplace=True) if self.relu else y

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"padding_mode={self.padding_mode}, relu={self.relu}"
        )


def _zeros(conv: nn.Conv3d) -> tuple[int, int, int] | None:
    """A layer's padding as the operator takes it: None for SAME, which torch allows at stride 1 only."""
    if isinstance(conv.padding, str):
        return None if conv.padding == "same" else (0, 0, 0)
    return _triple(conv.padding)


def _triple(values: tuple[int, ...]) -> tuple[int, int, int]:
    t, h, w = values
    return t, h, w


def _become(module: nn.Module, other: nn.Module) -> None:
    """Turns a module into another one, wherever it is referred to: also from lists that are no ModuleList."""
    module.__class__ = type(other)
    module.__dict__ = other.eval().__dict__


def fuse(module: nn.Module) -> nn.Module:
    """A copy of an eval-mode network whose convolutions run on fasti3d's fused kernel.

    Every ``nn.Conv3d`` becomes a `FusedConv3d`, with the ``nn.BatchNorm3d`` (or ``SyncBatchNorm``) and the
    ``nn.ReLU`` behind it, each of which may be missing; these become ``nn.Identity``. Torch's own
    kernel runs those with groups (also depthwise), dilation or other padding than zeros: with a batch norm
    they become a `FoldedConv3d`, which it is folded into, without one they stay. All else stays as it is: the
    network's classes, names, methods and Python code, other layers, and convolutions with hooks,
    parametrizations or float64 weights. An `I3D` inside fuses itself and stays too.

    What is behind a convolution is read off a symbolic trace (torch.fx) of the network's ``forward``. A batch
    norm or ReLU is taken in if it is a module that is called once, and the only reader of what it is called
    on; a ReLU that is a function, is used in two places or follows an addition stays torch's. Where a
    ``forward`` cannot be traced, because it branches on values or shapes, its submodules are traced by
    themselves, and a warning names it if batch norms were left. Only ``forward`` is looked at, given, as
    always with torch.fx, stand-ins for tensors: another method, or another answer to ``isinstance(x,
    Tensor)``, must not lead to a use of a convolution's result without what follows it there.

    The copy is for inference: its parameters need no gradients, weights that change in ``module``
    later are not followed, and its state dict holds folded weights under their own names. It
    can be moved, cast, copied, pickled, compiled, and shared by threads. (Call ``fuse`` itself while no other
    thread runs a network: torch.fx's tracing reaches all of them.)

    Args:
        module: any network in eval mode; it is not changed.

    Returns:
        The fused copy, which takes and returns what ``module`` does; in half precision within the rounding of
        folded weights.

    Raises:
        TypeError: not an ``nn.Module``.
        ValueError: a part in training mode, or no ``nn.Conv3d`` that can be fused.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    for name, part in module.named_modules():
        if part.training:
            raise ValueError(
                f"module must be in eval mode, but {name or 'it'} ({type(part).__name__}) is in training "
                "mode: call module.eval() first"
            )
    with torch.inference_mode(False):
        fused = copy.deepcopy(module).requires_grad_(False)
        chains, untraced = find_chains(fused)
        if not chains:
            raise ValueError(
                f"module ({type(module).__name__}) holds no nn.Conv3d that can be fused: those with "
                "hooks cannot, nor those with groups or dilation but no batch norm, and a fasti3d.I3D fuses "
                "itself"
            )
        parts = dict(fused.named_modules())
        for chain in chains:
            conv, bn = parts[chain.conv], parts[chain.bn] if chain.bn else None
            _become(conv, (FusedConv3d if chain.fused else FoldedConv3d)(conv, bn, chain.relu is not None))
            for name in (chain.bn, chain.relu):
                if name:
                    _become(parts[name], nn.Identity())
    lost = [
        f"{name or 'it'} ({type(parts[name]).__name__}: {error})"
        for name, error in untraced.items()
        if any(isinstance(part, nn.BatchNorm3d) for part in parts[name].modules())
    ]
    if lost:
        warnings.warn(
            "the forward of some parts of module cannot be traced, and batch norms that they call by "
            f"themselves are not fused: {'; '.join(lost)}",
            stacklevel=2,
        )
    return fused
