"""What kernels begin with.

This module imports triton, so nothing that ``import fasti3d`` reaches may import it.
"""

from __future__ import annotations

import triton
from triton import language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def in_turn(PDL: tl.constexpr):
    """Waits for the kernel before, and lets the next one come as soon as all blocks of this one have."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
