"""Modules that a description knows exactly, and what else may run when they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from fasti3d.forms import form_of, is_altered, is_watched, stated_form
from fasti3d.reference import BatchNorm3d
from fasti3d.sync_batch_norm import SYNCHRONIZED

NORMS = (BatchNorm3d, nn.BatchNorm3d, *SYNCHRONIZED)
# Modules that return their input in eval mode.
DROPOUTS = (nn.Dropout, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity)
_PLAIN_TENSORS = (Tensor, nn.Parameter, FakeTensor)
_Form = TypeVar("_Form")


class MismatchError(Exception):
    """Why a description does not match a module: one sentence that names the part."""


def methods(cls: type[Any]) -> tuple[Callable[..., Any] | None, ...]:
    """The methods that decide what instances of a class compute."""
    names = ("forward", "_conv_forward", "_check_input_dim", "compute_pad")
    return tuple(getattr(cls, name, None) for name in names)


# As torch has them: a method that a user exchanges on a class is meant to run.
_TORCH_METHODS: dict[Any, Any] = {
    cls: methods(cls)
    for cls in (
        *(nn.Conv3d, *NORMS, *DROPOUTS),
        *(nn.Sequential, nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.Linear),
    )
}


def check_torch() -> None:
    """MismatchError if a method of torch's own classes was exchanged."""
    for cls, original in _TORCH_METHODS.items():
        if methods(cls) != original:
            raise MismatchError(f"a method of the class {cls.__name__} was exchanged")


def form(module: nn.Module | None, kind: type[_Form], path: str) -> _Form:
    """What a module states that it computes, which must be of one kind; MismatchError otherwise."""
    found = form_of(module)
    if isinstance(found, kind):
        return found
    if module is None:
        raise MismatchError(f"{path} is missing")
    name = type(module).__name__
    if found is not None:
        raise MismatchError(f"{path} ({name}) is not the kind of part that belongs there")
    if is_watched(module):
        raise MismatchError(f"{path} ({name}) has hooks, or a forward of its own")
    if stated_form(module) is None:
        raise MismatchError(
            f"{path} ({name}) is of a class, or has options, that the fused path does not know"
        )
    raise MismatchError(f"{path} ({name}) was compiled, altered, or holds further modules")


def leaf(module: nn.Module | None, classes: tuple[type[nn.Module], ...], path: str) -> None:
    """MismatchError unless a module is exactly of one of torch's classes, unaltered, and holds no modules."""
    if is_leaf(module, classes):
        return
    name = type(module).__name__
    if module is None:
        raise MismatchError(f"{path} is missing")
    if type(module) not in classes:
        expected = " or ".join(cls.__name__ for cls in classes)
        raise MismatchError(f"{path} is of class {name}, not {expected}")
    raise MismatchError(f"{path} ({name}) has hooks, was compiled or altered, or holds further modules")


def is_leaf(module: nn.Module | None, classes: tuple[type[nn.Module], ...]) -> bool:
    return module is not None and type(module) in classes and not is_altered(module) and not module._modules


def check_dtypes(tensors: list[Tensor], like: Tensor, path: str) -> None:
    """MismatchError unless plain PyTorch would compute with these: filters in one dtype, batch norms in it or
    float32.
    """
    for t in tensors:
        if type(t) not in _PLAIN_TENSORS:
            raise MismatchError(f"{path} holds a {type(t).__name__}")
        if t.dtype != like.dtype and not (t.dim() == 1 and str(t.dtype) == "torch.float32"):
            raise MismatchError(f"{path} holds both {like.dtype} and {t.dtype}")
