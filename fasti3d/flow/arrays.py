"""Converts NumPy arguments to tensors, and results back to NumPy."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", NDArray[Any], Tensor)


def as_tensor(name: str, array: NDArray[Any] | Tensor) -> Tensor:
    """The same numbers as a tensor, in the same memory if possible; ``name`` is for the error.

    Raises:
        TypeError: neither a tensor nor a NumPy array of numbers.
    """
    if isinstance(array, Tensor):
        return array
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
        kind = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name} must be a NumPy array or a torch tensor of numbers, got {kind}")
    # torch knows neither negative strides nor foreign byte orders, and warns of read-only memory.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def like(result: Tensor, array: Array) -> Array:
    """``result`` as the kind of array that ``array`` is."""
    return result if isinstance(array, Tensor) else result.numpy()


def as_flow(name: str, flow: NDArray[Any] | Tensor) -> Tensor:
    """A flow (..., 2, H, W) as a float32 tensor.

    Raises:
        TypeError: neither a tensor nor a NumPy array of numbers.
        ValueError: another shape, or numbers that are not real.
    """
    tensor = as_tensor(name, flow)
    if tensor.ndim < 3 or tensor.shape[-3] != 2:
        raise ValueError(f"{name} must be of shape (..., 2, H, W), x before y, got {tuple(tensor.shape)}")
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise ValueError(f"{name} must hold real numbers, got {tensor.dtype}")
    return tensor.to(torch.float32)
