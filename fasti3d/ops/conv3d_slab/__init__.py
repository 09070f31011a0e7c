"""Convolutions over slabs of the clip in shared memory, on GPUs of compute capability 9.0 (CUDA C++).

``config`` chooses the tile, ``pack`` lays out the weights, ``op`` is the operator. The kernel is in
csrc/conv3d_slab, with all index arithmetic in plan.h.
"""
