"""How precisely a GPU multiplies the values of convolutions: for float32, as torch's own switches say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch


class Precision(str, Enum):
    """What the tensor cores multiply; tables of measured configurations hold the value."""

    HALF = "half"  # float16 or bfloat16, as they are
    TF32 = "tf32"  # float32, of which the tensor cores read 10 bits of the mantissa
    TF32X3 = "tf32x3"  # float32 as the sum of two such values: three products, the error of float32

    __str__ = str.__str__
    __repr__ = str.__repr__

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return 2 if self is Precision.HALF else 4

    @property
    def products(self) -> int:
        """Products of the tensor cores per product."""
        return 3 if self is Precision.TF32X3 else 1

    @property
    def note(self) -> str:
        """For titles of kernels that people read."""
        return "" if self is Precision.HALF else f", {self}"

    def max_error(self, dtype: torch.dtype) -> float:
        """How far a right kernel's results in ``dtype`` may be off, relative to the largest of them."""
        return _MAX_ERRORS.get(self, torch.finfo(dtype).eps)


# torch's switch, an object without a type.
_CONVOLUTIONS: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
# Of values of two bytes two unit roundoffs, as float32 sums are rounded once. Emulated for the network's
# convolutions, one product errs by 8e-4, since tensor cores cut values off, and three by 8e-7.
_MAX_ERRORS = {Precision.TF32: 2.0**-9, Precision.TF32X3: 1e-5}


def precision_of(dtype: torch.dtype) -> Precision:
    """The precision of convolutions of clips of ``dtype`` on a GPU, by torch's switches as they are now.

    float32 gives the results of float32 unless both of torch's switches allow TF32: that of cuDNN's
    convolutions (``torch.backends.cudnn.allow_tf32``, ``torch.backends.cudnn.conv.fp32_precision``), which is
    on by default, and that of matrix products, which the kernels are: ``torch.set_float32_matmul_precision``
    ("high"), ``torch.backends.cuda.matmul.allow_tf32``, or ``torch.backends.fp32_precision`` for both.
    """
    if dtype != torch.float32:
        return Precision.HALF
    switches = _CONVOLUTIONS, torch.backends.cuda.matmul
    return Precision.TF32 if all(its.fp32_precision == "tf32" for its in switches) else Precision.TF32X3


@contextmanager
def full_float32() -> Iterator[None]:
    """In the block convolutions in float32 have the results of float32, torch's own and this library's.

    Unlike ``torch.backends.cudnn.flags`` it also holds, and does not raise, where a program uses torch's
    newer switches.
    """
    before = _CONVOLUTIONS.fp32_precision
    _CONVOLUTIONS.fp32_precision = "ieee"
    try:
        yield
    finally:
        _CONVOLUTIONS.fp32_precision = before
