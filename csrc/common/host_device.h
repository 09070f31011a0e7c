// Marks functions that run on the CPU and the GPU.
#pragma once

#if defined(__CUDACC__)
#define FASTI3D_HOST_DEVICE __host__ __device__
#else
#define FASTI3D_HOST_DEVICE
#endif
