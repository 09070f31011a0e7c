"""``fasti3d::tvl1``: schema and shapes for tracing. ``fasti3d.tvl1`` is the function for users.

On a GPU there are two designs with bit-equal results (csrc/tvl1/cuda.cu). FASTI3D_TVL1_CUDA_DESIGN, read at
every call, chooses ``groups`` (the default), ``cluster`` (an error if no thread-block cluster can hold a
pair), ``mixed`` (the coarse levels in clusters, the fine ones in groups) or ``auto`` (for each level the one
that is modelled to be faster). Coarse and fine levels are solved in launches of their own where that is
modelled to pay; for benchmarks ``groups/1`` is one launch, ``cluster/2`` two, and so on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops.registry import operator
from fasti3d.ops.tvl1.checks import check_tensors
from fasti3d.ops.tvl1.reference import tvl1_reference
from fasti3d.tvl1_limits import check_params

# frame0 and frame1: (N, H, W), uint8 of 0 to 255 or float32 of 0 to 1 (more as far as ``max_frame_value``
# goes); without frame1 the pairs are frame0's consecutive frames. initial_flow: (pairs, 2, H, W) float32.
# Returned: the flow in pixels, (pairs, 2, H, W) float32, x first; and the iterations that ran, (pairs,
# nscales, warps) int32, the finest level first, 0 for levels that the image is too small for.
_SCHEMA = (
    "(Tensor frame0, Tensor? frame1, Tensor? initial_flow, str mode, float tau, float lambda_, float theta, "
    "int nscales, int warps, float epsilon, int inner_iterations, int outer_iterations, float scale_step, "
    "float gamma, int median_filtering) -> (Tensor flow, Tensor iterations)"
)


def _fake(
    frame0: Tensor, frame1: Tensor | None, initial_flow: Tensor | None, mode: str, tau: float, lambda_: float,
    theta: float, nscales: int, warps: int, epsilon: float, inner_iterations: int, outer_iterations: int,
    scale_step: float, gamma: float, median_filtering: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    check_params(
        mode, tau, lambda_, theta, nscales, warps, epsilon, inner_iterations, outer_iterations, scale_step,
        gamma, median_filtering,
    )  # fmt: skip
    check_tensors(frame0, frame1, initial_flow)
    images, height, width = frame0.shape
    pairs = max(images - 1, 0) if frame1 is None else images
    flow = torch.empty((pairs, 2, height, width), dtype=torch.float32, device=frame0.device)
    return flow, torch.empty((pairs, nscales, warps), dtype=torch.int32, device=frame0.device)


# tvl1_exact rounds every operation by itself on any device, as tvl1 does on a CPU.
for _name in ("tvl1", "tvl1_exact"):
    operator(_name + _SCHEMA, tvl1_reference, fake=_fake)


def has_kernel(device: torch.device) -> bool:
    """Whether a compiled solver runs on this device, and not the reference."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("fasti3d::tvl1", device.type.upper())
