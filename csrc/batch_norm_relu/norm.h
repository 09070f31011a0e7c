// Batch norm with ReLU in training mode: what every instruction set's kernels are given.
#pragma once

#include "../common/clip.h"

namespace fasti3d {

// Pixels of maps that lie `step` elements apart, each with `channels` adjacent values.
template <class Pointer>
struct Pixels {
  Pointer first;
  int64_t step;
};

struct Run {
  int64_t pixels, channels;
  Pixels<const void*> x, grad;
  Pixels<void*> out;
};

// A number per channel.
struct Vectors {
  const float *mean, *scale, *shift, *slope, *offset;
};

struct NormKernels {
  // The sum of x, and of squares of its distance from this run's own mean.
  void (*stats)(const Run&, float* sum, float* squares);
  // out = max(0, x * scale + shift)
  void (*relu)(const Run&, const Vectors&);
  // Sums of d and of d * (x - mean), d being grad where the ReLU passes it.
  void (*sums)(const Run&, const Vectors&, float* total, float* dot);
  // out = d * scale + (x - mean) * slope + offset
  void (*backward)(const Run&, const Vectors&);
};

namespace baseline {
NormKernels norm_kernels(ScalarType type);
}
#if defined(__x86_64__)
namespace avx2 {
NormKernels norm_kernels(ScalarType type);
}
namespace avx512 {
NormKernels norm_kernels(ScalarType type);
}
#endif

}  // namespace fasti3d
