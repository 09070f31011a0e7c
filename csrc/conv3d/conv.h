// Implicit-GEMM conv3d + bias + residual + ReLU on channels-last clips: what all its parts share.
//
// Output pixels, flattened over n, t, h, w, are taken in tiles of a few (ConvKernels::rows). For
// every tap of the window a tile holds one pointer per pixel to the input it multiplies, or to a
// row of zeros where the window leaves the clip, so that padding needs no padded copy and no branch
// in the inner loop. Weights are packed in panels of 16 output channels, [panel][tap][k][16], with
// bfloat16 in pairs of k: [panel][tap][k / 2][16][2].
#pragma once

#include <algorithm>
#include <type_traits>

#include "../common/clip.h"

namespace fasti3d {

constexpr int64_t kPanel = 16;
// Products that are summed by themselves, about, before they are added to others: in float32.
constexpr int64_t kSummed = 128;

// The length of such a run of a tap's products, where a tap has more.
inline int64_t summed_length(int64_t run) {
  if (run <= kSummed) return run;
  const int64_t runs = (run + kSummed - 1) / kSummed;
  return (run + runs - 1) / runs;
}

// Clips of fewer channels than this (the stem) are first laid out with their padding along w, so
// that a tap is a run of kernel_w * channels values and not of 2 or 3.
constexpr int64_t kFewChannels = 16;

// How a kernel of (kt, kh, kw) over `channels` inputs is cut into taps and runs.
struct Taps {
  bool merged;         // a tap covers a whole window row of kernel_w * channels values
  int64_t count;       // taps per window
  int64_t run;         // values per tap
  int64_t packed_run;  // the same, rounded up to a whole pair for bfloat16

  Taps(int64_t channels, int64_t kt, int64_t kh, int64_t kw, bool pairs)
      : merged(channels < kFewChannels || (pairs && channels % 2 != 0)),
        count(merged ? product({kt, kh}) : product({kt, kh, kw})),
        run(merged ? product({kw, channels}) : channels),
        packed_run(pairs ? (run + 1) / 2 * 2 : run) {}
};

// One tile of output pixels times `panels` panels of output channels.
struct TileArgs {
  const void* const* taps;  // [count][rows] pointers to the inputs
  int64_t count;
  int64_t run;           // packed_run
  int64_t offset;        // values to skip in every input (the Winograd component)
  const void* weights;   // first panel
  int64_t panel_stride;  // values from one panel to the next
  const float* bias;     // [panels][16]
  bool relu;
  void* const*
      out;  // [rows] pointers to the pixels' first channel of the first panel; null: do not store
  const void* const* residual;  // likewise, of what is added to the sums; null: nothing is
  int64_t channels;             // channels to store, at most panels * 16
  // A part of the products a call, so that its weights stay in the cache, in float32 alone: `sums`,
  // [rows][panels * 16], takes them from one call to the next, and `length` is that of a run of a
  // tap's products which are summed by themselves (0: by kSummed).
  float* sums = nullptr;
  bool continued = false, unfinished = false;
  int64_t length = 0;
  // Of pairs: whether the last of a run is one value, and what lies after it is another pixel's,
  // which has no part even where it is not finite.
  bool odd = false;
};

// The kernels of one instruction set and one type of clips and weights.
struct ConvKernels {
  int64_t rows;                     // pixels per tile
  int64_t max_panels;               // panels a call
  void (*run[2])(const TileArgs&);  // by panels - 1; run[1] is null where max_panels is 1
};

#define FASTI3D_CONV_KERNELS(isa)  \
  namespace isa {                  \
  extern const ConvKernels kFloat; \
  }

FASTI3D_CONV_KERNELS(baseline)
#if defined(__x86_64__)
FASTI3D_CONV_KERNELS(avx2)
FASTI3D_CONV_KERNELS(avx512)
namespace avx512_bf16 {
extern const ConvKernels kBfloatDot;
}  // namespace avx512_bf16
#elif defined(__aarch64__)
FASTI3D_CONV_KERNELS(neon)
namespace neon_bf16 {
extern const ConvKernels kBfloatDot;
}  // namespace neon_bf16
#endif
#undef FASTI3D_CONV_KERNELS

// What a convolution does to its sums, and which frames of the whole output it is asked for: those
// from `start` on, as many as the result has.
struct Epilogue {
  const float* bias;
  bool relu;
  int64_t start;
  const void* residual;    // of the result's type and shape, added before the ReLU; null: none
  ClipView residual_view;  // where `residual` is not null
};

// cpu_direct.cpp and cpu_winograd.cpp; see cpu.cpp for the choice between them.
template <class T>
void convolve_direct(const T* x, const ClipView& in, T* out, const ClipView& result,
                     const Window& window, const Taps& taps, const Tensor& packed,
                     const Epilogue& epilogue, const ConvKernels& kernels);
// Columns of a row with its padding.
inline int64_t padded_width(const Axis& w) {
  return std::max((w.out - 1) * w.stride + w.kernel, w.front + w.in);
}

// Pixels of three channels, of which each lies by itself. Compilers do not vectorize this.
template <class T, class V>
void interleave(const T* red, const T* green, const T* blue, int64_t count, V* target) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, float> && std::is_same_v<V, float>) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    const auto load = [](const float* p) { return *reinterpret_cast<const Four*>(p); };
    for (; i + 4 <= count; i += 4) {
      const Four r = load(red + i), g = load(green + i), b = load(blue + i);
      Four* const out = reinterpret_cast<Four*>(target + 3 * i);
      out[0] = __builtin_shufflevector(__builtin_shufflevector(r, g, 0, 4, 1, 5),
                                       __builtin_shufflevector(b, r, 0, 0, 5, 5), 0, 1, 4, 6);
      out[1] = __builtin_shufflevector(__builtin_shufflevector(g, b, 1, 1, 5, 5),
                                       __builtin_shufflevector(r, g, 2, 2, 6, 6), 0, 2, 4, 6);
      out[2] = __builtin_shufflevector(__builtin_shufflevector(b, r, 2, 2, 7, 7),
                                       __builtin_shufflevector(g, b, 3, 3, 7, 7), 0, 2, 4, 6);
    }
  }
  for (; i < count; ++i) {
    target[3 * i] = red[i];
    target[3 * i + 1] = green[i];
    target[3 * i + 2] = blue[i];
  }
}

// `count` columns of a row of x from `begin` on, channels-last, and zeros for those outside.
template <class T, class V>
void copy_row(const T* source, const ClipView& in, int64_t begin, int64_t count, V* target) {
  const int64_t first = std::clamp<int64_t>(-begin, 0, count);
  const int64_t last = std::clamp<int64_t>(in.w - begin, first, count);
  std::fill_n(target, first * in.c, V(0.0f));
  const T* const from = source + begin * in.stride_w;
  if (in.stride_w == 1 && in.c == 3) {
    const T* const red = from + first;
    interleave(red, red + in.stride_c, red + 2 * in.stride_c, last - first, target + 3 * first);
  } else {
    for (int64_t c = 0; c < in.c; ++c) {
      const T* const channel = from + c * in.stride_c;
      for (int64_t i = first; i < last; ++i) target[i * in.c + c] = channel[i * in.stride_w];
    }
  }
  std::fill(target + last * in.c, target + count * in.c, V(0.0f));
}

}  // namespace fasti3d
