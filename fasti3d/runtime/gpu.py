"""Which GPUs the Triton kernels support, and the traits of a GPU that choose among them."""

from __future__ import annotations

import importlib
from functools import cache
from typing import NamedTuple

import torch

from fasti3d.proof.guard import triton_fault

# Older GPUs have no bfloat16 and no asynchronous copies to shared memory.
MIN_CAPABILITY = (8, 0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class GpuTraits(NamedTuple):
    """The traits of a GPU that decide over kernels: compute capability, and number of SMs."""

    capability: tuple[int, int]
    sms: int


@cache
def gpu_traits(device: torch.device) -> GpuTraits:
    """The traits of a CUDA device."""
    properties = torch.cuda.get_device_properties(device)
    return GpuTraits((properties.major, properties.minor), properties.multi_processor_count)


@cache
def l2_bytes(device: torch.device) -> int:
    """The size of a CUDA device's L2 cache in bytes."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def synchronize_unless_capturing(device: torch.device) -> bool:
    """Wait for the current stream, so that other streams may read what was written on it, and return True.

    Return False while a CUDA graph is captured: nothing has been written then.
    """
    if device.type != "cuda":
        return True
    if torch.cuda.is_current_stream_capturing():
        return False
    torch.cuda.current_stream(device).synchronize()
    return True


def may_compile(device: torch.device) -> bool:
    """Whether Triton compiles kernels for a device, and may do so now."""
    return why_no_triton(device) is None and not torch.cuda.is_current_stream_capturing()


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels do not take clips of ``dtype`` on ``device``, as a sentence; None if they do."""
    if device.type == "cuda" and torch.version.cuda and dtype not in DTYPES:
        return "the fused kernels take float32, float16 and bfloat16: torch's own (cuDNN) run"
    return why_no_triton(device)


def why_no_triton(device: torch.device) -> str | None:
    """Why no Triton kernel runs on ``device`` in any dtype, as a sentence; None if they do."""
    if device.type != "cuda" or torch.version.cuda is None:
        return "there are no fused kernels for this device: torch's own run"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    capability = gpu_traits(device).capability
    if capability < MIN_CAPABILITY:
        has, needed = (f"{major}.{minor}" for major, minor in (capability, MIN_CAPABILITY))
        return (
            f"the fused kernels need compute capability {needed}, this GPU has {has}: torch's own (cuDNN) run"
        )
    if error := _triton_error():
        return f"triton, which the fused kernels are written in, does not import ({error}): install it"
    if fault := triton_fault(device):
        return f"triton runs no kernel on this machine ({fault}): torch's own (cuDNN) run"
    return None


@cache
def _triton_error() -> str | None:
    try:
        importlib.import_module("triton.tools.tensor_descriptor")
    except ImportError as error:
        return str(error)
    return None
