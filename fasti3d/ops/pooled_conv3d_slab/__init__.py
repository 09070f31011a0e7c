"""A max-pool 3x3x3 and the 1x1x1 convolution after it over slabs in shared memory, on GPUs of compute
capability 9.0 (CUDA C++), for maps that are never negative.

``config`` chooses the tile, ``op`` is the operator; weights are those of ``conv3d_slab.pack``. The kernel is
in csrc/pooled_conv3d_slab, with all index arithmetic in plan.h.
"""
