"""When the fused path may stand in for the ordinary one, and what its weights are derived from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from fasti3d import network
from fasti3d.forms import MixedForm, PoolForm, Size, UnitForm, form_of, is_altered, stated_form
from fasti3d.reference import BatchNorm3d

Spec: TypeAlias = network.Conv | network.Pool | network.Mixed
_ONE, _THREE = (1, 1, 1), (3, 3, 3)
_NORMS = (BatchNorm3d, nn.BatchNorm3d, nn.SyncBatchNorm)
# What gives its input back in eval mode.
_DROPOUTS = (nn.Dropout, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity)


def _methods(cls: type[Any]) -> tuple[Callable[..., Any] | None, ...]:
    return cls.forward, getattr(cls, "_conv_forward", None), getattr(cls, "_check_input_dim", None)


# As torch has them: a method that a user exchanges on a class is meant to run.
_METHODS: dict[Any, Any] = {cls: _methods(cls) for cls in (nn.Conv3d, *_NORMS, *_DROPOUTS)}
_PLAIN_TENSORS = (Tensor, nn.Parameter, FakeTensor)


class Description(NamedTuple):
    """What the outputs of an eval-mode network depend on.

    Attributes:
        parts: the parts of the trunk, by name.
        logits: the classifier, where the fused path knows all of the head.
        eps: of the batch norms, in order.
        tensors: of the trunk.
        head_tensors: of the classifier.
    """

    parts: dict[str, nn.Module]
    logits: nn.Module | None
    eps: tuple[float, ...]
    tensors: list[Tensor]
    head_tensors: list[Tensor]


def describe(model: nn.Module, names: tuple[str, ...]) -> Description | None:
    """What the fused path needs to know of an eval-mode model whose trunk consists of ``names``.

    None where the ordinary path must run: a part of the trunk that is not exactly as the plan takes it to be,
    or a batch norm or the dropout in training mode. A head that is not is left out.
    """
    if not names or names != tuple(network.TRUNK)[: len(names)] or _torch_is_changed():
        return None
    parts: dict[str, nn.Module] = {}
    trunk, head = _Found(), _Found()
    channels: int | None = None  # any of the clip's, which is checked by itself
    for name in names:
        part = getattr(model, name, None)
        channels = trunk.part(part, network.TRUNK[name], channels)
        if part is None or channels == 0:
            return None
        parts[name] = part
    if not _fit_together(trunk.tensors, trunk.tensors[0].dtype):
        return None
    dropout, logits = getattr(model, "dropout", None), getattr(model, "logits", None)
    if dropout is not None and any(module.training for module in dropout.modules()):
        return None
    knows_head = (
        _is_leaf(dropout, _DROPOUTS)
        and head.unit(logits, _ONE, _ONE, channels, classifier=True)
        and _fit_together(head.tensors, trunk.tensors[0].dtype)
    )
    if knows_head:
        return Description(parts, logits, tuple(trunk.eps), trunk.tensors, head.tensors)
    return Description(parts, None, tuple(trunk.eps), trunk.tensors, [])


def known_stem(model: nn.Module) -> nn.Conv3d | None:
    """The convolution that a model's clips go to, as they are; None where the stem may be anything."""
    form = form_of(getattr(model, "Conv3d_1a_7x7", None))
    conv = form.conv if isinstance(form, UnitForm) else None
    return conv if isinstance(conv, nn.Conv3d) and _is_leaf(conv, (nn.Conv3d,)) else None


def keeps_grid(model: nn.Module) -> bool:
    """Whether the maps of a model have the sizes of ``network.TRUNK``, so that a clip's size tells theirs."""
    return all(_has_grid(form_of(getattr(model, name, None)), spec) for name, spec in network.TRUNK.items())


def _has_grid(form: Any, spec: Spec) -> bool:
    if isinstance(spec, network.Mixed):
        return isinstance(form, MixedForm)
    if isinstance(form, UnitForm):
        conv = form.conv
        return isinstance(conv, nn.Conv3d) and form.stride == conv.stride == spec.stride
    return isinstance(form, PoolForm) and form.stride == spec.stride


def has_windows(part: nn.Module | None, spec: Spec) -> bool:
    """Whether each step of a part of the trunk depends on the steps that ``network`` says, whatever is
    computed from them and whatever watches.
    """
    form = stated_form(part)
    if isinstance(spec, network.Pool):
        return isinstance(form, PoolForm) and (form.kernel, form.stride) == (spec.kernel, spec.stride)
    if isinstance(spec, network.Mixed):
        one, three, pool = network.Conv(0, _ONE), network.Conv(0, _THREE), network.Pool(_THREE, _ONE)
        specs: tuple[Spec, ...] = (one, one, three, one, three, pool, one)
        return isinstance(form, MixedForm) and all(
            has_windows(inner, inner_spec) for inner, inner_spec in zip(form[:7], specs, strict=True)
        )
    if not (isinstance(form, UnitForm) and isinstance(form.conv, nn.Conv3d)):
        return False
    conv = form.conv
    return (form.kernel, form.stride, form.padding, (1, 1, 1)) == (
        spec.kernel,
        spec.stride,
        conv.padding,
        conv.dilation,
    ) and (conv.kernel_size, conv.stride) == (spec.kernel, spec.stride)


def _is_pool(pool: nn.Module | None, kernel: Size, stride: Size) -> bool:
    form = form_of(pool)
    return isinstance(form, PoolForm) and (form.kernel, form.stride) == (kernel, stride)


class _Found:
    """What parts consist of. Each method gives the channels of a part's output, or 0 where it is not exactly
    as the plan takes it to be, on an input of ``channels``; None stands for any.
    """

    def __init__(self) -> None:
        self.eps: list[float] = []
        self.tensors: list[Tensor] = []

    def part(self, part: nn.Module | None, spec: Spec, channels: int | None) -> int:
        if isinstance(spec, network.Conv):
            return self.unit(part, spec.kernel, spec.stride, channels)
        if isinstance(spec, network.Pool):
            return (channels or 0) if _is_pool(part, spec.kernel, spec.stride) else 0
        block = form_of(part)
        if not isinstance(block, MixedForm) or not _is_pool(block.b3a, _THREE, _ONE):
            return 0
        widths = (
            self.unit(block.b0, _ONE, _ONE, channels),
            self.unit(block.b1b, _THREE, _ONE, self.unit(block.b1a, _ONE, _ONE, channels)),
            self.unit(block.b2b, _THREE, _ONE, self.unit(block.b2a, _ONE, _ONE, channels)),
            self.unit(block.b3b, _ONE, _ONE, channels),
        )
        return sum(widths) if all(widths) else 0

    def unit(
        self,
        unit: nn.Module | None,
        kernel: Size,
        stride: Size,
        channels: int | None,
        *,
        classifier: bool = False,
    ) -> int:
        form = form_of(unit)
        if not isinstance(form, UnitForm) or not _is_leaf(form.conv, (nn.Conv3d,)):
            return 0
        conv: Any = form.conv
        weight, bias, width = conv.weight, conv.bias, conv.out_channels
        if not (
            form.kernel == conv.kernel_size == kernel
            and form.stride == conv.stride == stride
            and conv.padding == form.padding
            and (conv.padding_mode, conv.dilation, conv.groups) == ("zeros", (1, 1, 1), 1)
            and weight.shape == (width, conv.in_channels if channels is None else channels, *kernel)
            and (bias is None or (bias.shape == (width,) and bias.dtype == weight.dtype))
        ):
            return 0
        self.tensors.append(weight)
        if bias is not None:
            self.tensors.append(bias)
        if classifier:
            return width if form.bn is None and not form.relu else 0
        bn: Any = form.bn
        if not (form.relu and _is_leaf(bn, _NORMS) and bn.affine and not bn.training):
            return 0
        norm = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        shape = (width,)
        for t in norm:
            if t is None or t.shape != shape:
                return 0
        self.eps.append(bn.eps)
        self.tensors.extend(norm)
        return width


def _is_leaf(module: nn.Module | None, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is of one of torch's own classes, computes what that does, and holds no modules."""
    cls = type(module)
    return module is not None and cls in classes and not is_altered(module) and not module._modules


def _torch_is_changed() -> bool:
    """Whether a method of torch's own classes was exchanged."""
    return any(_methods(cls) != methods for cls, methods in _METHODS.items())


def _fit_together(tensors: list[Tensor], dtype: torch.dtype) -> bool:
    """Whether plain PyTorch would compute with these: filters in one dtype, batch norms in it or float32."""
    for t in tensors:
        if type(t) not in _PLAIN_TENSORS:
            return False
        if t.dtype != dtype and not (t.dim() == 1 and t.dtype == torch.float32):
            return False
    return True
