// The gradient of conv3d's weights, in the domain of a minimal filter along time.
//
// The forward pass computes, for each tile of frames, y = A'((G w) * (B' x)) (see
// fasti3d/ops/conv3d_bn_relu/winograd.py), so dw = G'(sum over tiles and pixels of (A dy) * (B'
// x)): half the products of the direct form for three taps and four frames. A filter of one
// component is the direct form of a window of one frame.
//
// Rows of transformed pixels lie in blocks of 16 channels, [component][block][row][w][16], so that
// the inner loop reads both of its operands from memory that follows on. Clips of few channels (the
// stem) keep their values in order, and a run of kernel_w * channels of them takes the place of the
// channels and of the taps along w.
#pragma once

#include <cstdint>

#include "../conv3d/winograd.h"

namespace fasti3d {

constexpr int64_t kBlock = 16;
constexpr int64_t kMaxVectors = 3;

// sums[r][v] += the sum over the pixels of some rows of x[pixel][r] * grad[v][pixel].
struct ProductArgs {
  const float* x;
  int64_t x_row, x_pixel;  // values from one row, or pixel, to the next
  const float* grad[kMaxVectors];
  int64_t grad_row;
  int64_t rows, pixels;  // pixels per row, kBlock values apart in grad
  float* sums;           // [r][sums_stride]
  bool first;            // whether sums are written, not added to
  int64_t sums_stride;
};

// A row of pixels from `frames` to components.
struct SpreadArgs {
  const float* const* frames;  // of `parts` / `count` filters, `count` each; null: zeros
  const float* matrix;         // [parts][count]; row i is of frames (i % phases) * count on
  int64_t parts, phases, count;
  int64_t pixels, pixel_stride, channels;
  float* out;
  int64_t out_part, out_block;  // values from one part, or block of 16 channels, to the next
};

// dw of some output channels and one input channel.
struct GatherArgs {
  const float* sums;         // of the first output channel
  int64_t part, row, value;  // values from one part, window row or window column to the next
  const float* matrix;       // [components][phases][taps]
  int64_t components, phases, taps;
  int64_t kernel_t, kernel_h, kernel_w;
  int64_t channels;  // output channels, at most kBlock
  float* out;        // (kernel_t, kernel_h, kernel_w) of the first
  int64_t stride;    // from one output channel to the next
};

struct GradWeightKernels {
  int64_t lanes;
  int64_t rows, odd_rows;  // values of x per call: two choices
  // By vectors - 1.
  void (*products[kMaxVectors])(const ProductArgs&);
  void (*odd_products[kMaxVectors])(const ProductArgs&);
  void (*spread)(const SpreadArgs&);
  void (*gather)(const GatherArgs&);
};

namespace baseline::grad_weight {
extern const GradWeightKernels kKernels;
}
#if defined(__x86_64__)
namespace avx2::grad_weight {
extern const GradWeightKernels kKernels;
}
namespace avx512::grad_weight {
extern const GradWeightKernels kKernels;
}
#elif defined(__aarch64__)
namespace neon::grad_weight {
extern const GradWeightKernels kKernels;
}
#endif

}  // namespace fasti3d
