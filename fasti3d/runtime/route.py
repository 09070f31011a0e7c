"""Decides which path convolutions take on a device, and the dtype they are computed in.

A clip is first rounded to the dtype of the result, which is the clip's own or autocast's. Then what a
convolution reads, clip and weights, is cast to the compute dtype; its sums are float32, and the result is
rounded once. That holds in eager mode, in graphs of compilers and exporters, and where gradients are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from fasti3d.runtime import extension, gpu
from fasti3d.runtime.precision import Precision, precision_of

_ARITHMETIC = {
    Precision.HALF: "float32 sums",
    Precision.TF32: "one TF32 product per value, as torch's switches allow",
    Precision.TF32X3: "three TF32 products per value, which give the results of float32",
}


class Path(str, Enum):
    """What computes a convolution; the value is what the doctor prints."""

    FUSED_GPU = "fused-gpu"
    FUSED_CPU = "fused-cpu"
    REFERENCE = "reference"  # the operators' PyTorch references, still with folded batch norm

    __str__ = str.__str__


@dataclass(frozen=True)
class Route:
    """Which path clips of one dtype take on one device.

    ``compute_dtype`` is what the convolutions read, and ``why`` one sentence.
    """

    path: Path
    compute_dtype: torch.dtype
    why: str

    @property
    def fused(self) -> bool:
        """Whether a kernel of this library runs."""
        return self.path is not Path.REFERENCE


def route(device: torch.device, dtype: torch.dtype) -> Route:
    """The path of eval-mode clips of ``dtype`` on ``device``.

    On the CPU bfloat16 runs in bfloat16 where AVX512_BF16, AMX, or FEAT_BF16 on aarch64, make that worth it.
    """
    if device.type != "cpu":
        if why := gpu.why_not(device, dtype):
            return Route(Path.REFERENCE, dtype, why)
        capability = "{}.{}".format(*gpu.gpu_traits(device).capability)
        why = f"Triton kernels for compute capability {capability}, {_ARITHMETIC[precision_of(dtype)]}"
        return Route(Path.FUSED_GPU, dtype, why)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return Route(Path.REFERENCE, dtype, f"there are no fused kernels for {dtype}: torch's own run")
    if extension.CORE is None:
        why = extension.load_error() or "the extension was not built (FASTI3D_BUILD=none)"
        return Route(Path.REFERENCE, torch.float32 if dtype == torch.float16 else dtype, why)
    isa = extension.instruction_set()
    if dtype == torch.bfloat16:
        if extension.has_amx_bf16():
            return Route(Path.FUSED_CPU, dtype, "AMX matrix tiles, summed in float32")
        if extension.has_bf16_dot():
            return Route(Path.FUSED_CPU, dtype, f"bfloat16 dot products, summed in float32 ({isa})")
        return Route(Path.FUSED_CPU, torch.float32, f"no bfloat16 dot product here: runs in float32 ({isa})")
    if dtype == torch.float16:
        return Route(Path.FUSED_CPU, torch.float32, f"no float16 arithmetic is used: runs in float32 ({isa})")
    return Route(Path.FUSED_CPU, torch.float32, f"{isa} kernels")


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What a convolution of clips of ``dtype`` is computed in; itself is computed in itself."""
    # Whichever path they take there: asked before every call.
    return route(device, dtype).compute_dtype if device.type == "cpu" else dtype


# For compilers, which cannot look into the extension; torch.compiler.assume_constant_result would load one.
compute_dtype._dynamo_marked_constant = True  # type: ignore[attr-defined]


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a fused kernel that beats the reference computes in ``dtype`` on this device."""
    chosen = route(device, dtype)
    return chosen.fused and chosen.compute_dtype == dtype
