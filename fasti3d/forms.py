"""What a part of the network says that it computes: the fused path goes by this, and by nothing else.

A class states a form with ``@states_form``; the statement holds for its own instances alone, as subclasses
may compute something else. So other interfaces bring classes of their own without anything being told here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from torch import nn

Size = tuple[int, ...]
_Class = TypeVar("_Class", bound=type[nn.Module])


class UnitForm(NamedTuple):
    """A convolution with SAME padding, of which ``padding`` is its own; then batch norm and ReLU."""

    conv: nn.Module | None
    bn: nn.Module | None
    kernel: Size
    stride: Size
    relu: bool
    padding: Size = (0, 0, 0)

    @property
    def children(self) -> tuple[nn.Module | None, ...]:
        return self.conv, self.bn


class PoolForm(NamedTuple):
    """A max-pool with SAME padding; ``children`` take part in it."""

    kernel: Size
    stride: Size
    children: tuple[nn.Module | None, ...] = ()


class MixedForm(NamedTuple):
    """An Inception block, whose seven parts are its ``children``, or in containers that are."""

    b0: nn.Module | None
    b1a: nn.Module | None
    b1b: nn.Module | None
    b2a: nn.Module | None
    b2b: nn.Module | None
    b3a: nn.Module | None
    b3b: nn.Module | None
    containers: tuple[nn.Module, ...] = ()

    @property
    def children(self) -> tuple[nn.Module | None, ...]:
        return self.containers or self[:7]


class BottleneckForm(NamedTuple):
    """Three convolutions with batch norm, ReLU after the first two; the shortcut is added, then ReLU."""

    units: tuple[tuple[nn.Module | None, nn.Module | None], ...]
    shortcut: nn.Module | None
    non_local: nn.Module | None

    @property
    def children(self) -> tuple[nn.Module | None, ...]:
        return (*(part for unit in self.units for part in unit), self.shortcut, self.non_local)


class NonLocalForm(NamedTuple):
    """x + bn(out(attention)), of queries theta(x) and, pooled by 1x2x2 before or after, phi(x) and g(x).

    ``theta`` and ``phi`` may be missing. A ``scale`` of None stands for no softmax.
    """

    theta: nn.Module | None
    phi: nn.Module | None
    g: nn.Module | None
    out: nn.Module | None
    bn: nn.Module | None
    pools_first: bool
    scale: float | None

    @property
    def children(self) -> tuple[nn.Module | None, ...]:
        return self[:5]


Form: TypeAlias = UnitForm | PoolForm | MixedForm | BottleneckForm | NonLocalForm


def states_form(cls: _Class) -> _Class:
    """A class whose own instances compute what their ``stated_form()`` says; None if none."""
    cls._stated = (cls, _methods(cls))  # type: ignore[attr-defined]
    return cls


def _methods(cls: Any) -> tuple[Any, Any]:
    """The methods that decide what instances compute, where the ports' classes share one name."""
    return cls.forward, getattr(cls, "compute_pad", None)


def form_of(module: nn.Module | None) -> Any:
    """The form of a module, or None where it may compute something else: another class, a changed method, a
    hook, or modules of which its class knows nothing.
    """
    form = stated_form(module)
    if form is None or module is None or is_altered(module):
        return None
    children = form.children
    for child in module._modules.values():
        if child is not None and child not in children:
            return None
    return form


def stated_form(module: nn.Module | None) -> Any:
    """The same whatever else may run with the module, as a hook does."""
    cls = type(module)
    stated = getattr(cls, "_stated", None)
    if module is None or stated is None or stated[0] is not cls or stated[1] != _methods(cls):
        return None
    form: Callable[[], Any] = module.stated_form  # type: ignore[assignment]
    return form()


def is_altered(module: nn.Module) -> bool:
    """Whether a call of this very instance may do something else than its class's ``forward``."""
    own = module.__dict__
    return (
        is_watched(module)
        or module._compiled_call_impl is not None
        or "_conv_forward" in own
        or "_check_input_dim" in own
    )


def is_watched(module: nn.Module) -> bool:
    """Whether something else runs when the module is called: a hook, or a ``forward`` of the instance."""
    own = module.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
    )
