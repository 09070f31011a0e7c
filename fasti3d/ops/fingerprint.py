"""``fasti3d::fingerprint``: one number for the contents of a list of tensors."""

from __future__ import annotations

import zlib
from operator import attrgetter

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from fasti3d.ops.registry import operator
from fasti3d.runtime import extension

# Faster than a loop of Python's.
_version = attrgetter("_version")


def fingerprint_reference(tensors: list[Tensor]) -> int:
    """CRC-32 over the shapes and bytes of contiguous CPU tensors, chained."""
    crc = len(tensors)
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ValueError("tensors must be contiguous")
        crc = zlib.crc32(str(tensor.shape).encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def _fake(tensors: list[Tensor]) -> int | torch.SymInt:
    """A number that is only known when the graph runs; any where no symbol can stand for it."""
    try:
        return torch.library.get_ctx().new_dynamic_size()
    except DynamicOutputShapeException:
        return 0


operator("fingerprint(Tensor[] tensors) -> SymInt", fingerprint_reference, fake=_fake)


def traces(tensors: list[Tensor]) -> int:
    """A hash of tensors' addresses and version counters."""
    if extension.CORE is not None:
        return extension.CORE.traces(tensors, Tensor.data_ptr, Tensor._version)
    return hash((*map(Tensor.data_ptr, tensors), *map(_version, tensors)))


def fingerprint(tensors: list[Tensor]) -> int:
    """A number that changes with the contents of tensors, their shapes, or the order of their axes in memory.

    On the CPU a hash of their bytes, which sees every edit, also one through ``.data`` that
    leaves no trace in a version counter, and costs a read of the memory (4 ms for I3D's weights on
    two cores). Elsewhere reading would stall the device: there it is a hash of the tensors' addresses
    and version counters.
    """
    if any(t.device.type != "cpu" for t in tensors):
        return traces(tensors)
    # Dense tensors in another order of axes are read in that order; what is not dense is copied.
    orders = [tuple(sorted(range(t.dim()), key=t.stride, reverse=True)) for t in tensors]
    dense = [t.detach().permute(order).contiguous() for t, order in zip(tensors, orders, strict=True)]
    return hash((torch.ops.fasti3d.fingerprint(dense), *orders, *(t.shape for t in dense)))
