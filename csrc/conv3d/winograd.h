// Winograd's minimal filtering along any of time, height and width: what its parts share.
//
// An axis is filtered, or direct. A filtered one is cut into tiles of `output_count` outputs, whose
// `phases * frames` inputs become `components * phases` values; a direct one keeps its inputs, and
// every tap of its kernel is a phase of a single component. The components of the axes multiply:
// one product of matrices per component, of pixels by input channels times input by output
// channels, in the direct form's inner loops. fasti3d/ops/conv3d_bn_relu/winograd.py has the
// matrices.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "../common/memory.h"
#include "conv.h"

namespace fasti3d {

constexpr int64_t kMaxComponents = 8;  // of an axis
constexpr int64_t kMaxFrames = 16;     // phases * frames of an axis
constexpr int64_t kMaxTile = 256;      // inputs, components times phases, and outputs of a tile
constexpr int64_t kMaxTaps = 8;        // of a phase

// One axis of a transform: per phase, `frames` values to `rows`.
struct TransformAxis {
  const float* matrix;  // [rows][phases][frames]
  int64_t rows, phases, frames;

  int64_t inputs() const { return phases * frames; }
  int64_t outputs() const { return rows * phases; }
};

// A tile's inputs, `count` values each, to its components.
struct TransformArgs {
  const void* const* inputs;  // [t][h][w], of an axis [phase][frame]
  TransformAxis axes[3];
  int64_t count;
  void* out;
  const int64_t* places;  // [t][h][w], of an axis [component][phase]: from `out`; -1: not wanted
};

// The components of a tile back to its outputs, with bias, residual and ReLU.
struct InverseArgs {
  const float* sums;  // [components][component_stride], whole panels
  int64_t component_stride;
  TransformAxis axes[3];
  const float* bias;  // whole panels
  bool relu;
  int64_t channels;
  void* const* out;             // [t][h][w]; null: not wanted
  const void* const* residual;  // likewise; null: none
};

// One axis of the weights' transform; tap t is tap t / phases of phase t % phases.
struct FilterAxis {
  const double* matrix;  // [components][phases][taps]
  int64_t components, phases, taps, kernel;

  int64_t rows() const { return components * phases; }
};

// The taps of one input channel and a panel of output channels to components, rounded once.
struct MixArgs {
  const float* window;  // [t][h][w][kPanel]
  FilterAxis axes[3];
  float* out;       // [t][h][w][kPanel], of an axis [component][phase]
  double* scratch;  // 2 * scratch_count() values

  int64_t scratch_count() const {
    int64_t count = kPanel;
    for (const FilterAxis& axis : axes) count *= std::max(axis.kernel, axis.rows());
    return count;
  }
};

// One component of a tile of rows times `panels` panels of output channels, as in TileArgs.
struct MultiplyArgs {
  const void* const* taps;  // [count][rows]
  int64_t count;            // 1 at least
  int64_t run;
  int64_t offset;
  const void* weights;
  int64_t panel_stride;
  float* out;  // [rows][out_stride], whole panels
  int64_t out_stride;
  // Weights of later calls, which come from beyond the L2 cache meanwhile: `count * run` lines of
  // the cache from here on; null: none.
  const char* ahead;
};

struct WinogradKernels {
  int64_t rows, max_panels;
  void (*multiply[2])(const MultiplyArgs&);  // by panels - 1; null beyond max_panels
  void (*transform)(const TransformArgs&);
  void (*inverse)(const InverseArgs&);
  void (*mix)(const MixArgs&);  // null for bfloat16, which is rounded after it
};

#define FASTI3D_WINOGRAD_KERNELS(isa)     \
  namespace isa {                         \
  extern const WinogradKernels kWinograd; \
  }

FASTI3D_WINOGRAD_KERNELS(baseline)
#if defined(__x86_64__)
FASTI3D_WINOGRAD_KERNELS(avx2)
FASTI3D_WINOGRAD_KERNELS(avx512)
namespace avx512_bf16 {
extern const WinogradKernels kWinograd;
extern const WinogradKernels kWinogradInFloat;
}  // namespace avx512_bf16
#elif defined(__aarch64__)
FASTI3D_WINOGRAD_KERNELS(neon)
namespace neon_bf16 {
extern const WinogradKernels kWinograd;
extern const WinogradKernels kWinogradInFloat;
}  // namespace neon_bf16
#endif
#undef FASTI3D_WINOGRAD_KERNELS

// The minimal filter of one axis.
struct MinimalFilter {
  const float* inputs;   // [components][phases][frames]
  const float* outputs;  // [output_count][components]
  int64_t components, phases, frames, output_count;

  bool direct() const { return components == 1; }
};

using MinimalFilters = std::array<MinimalFilter, 3>;  // t, h, w

// Counts of, or places among, what lies along t, h and w.
struct Triple {
  int64_t t, h, w;

  int64_t count() const { return t * h * w; }
  Triple at(int64_t i) const { return {i / (h * w), i / w % h, i % w}; }
};

// The taps of one component, counted over the phases of t, h and w, in the order in which weights
// lie: first those that it has a use for. `used(axis, component, phase)`.
struct TapOrder {
  std::vector<int64_t> taps;
  int64_t used;

  template <class Used>
  TapOrder(const Triple& component, const Triple& phases, const Used& is_used) {
    const auto add = [&](bool wanted) {
      for (int64_t i = 0; i < phases.count(); ++i) {
        const Triple phase = phases.at(i);
        const bool all = is_used(0, component.t, phase.t) && is_used(1, component.h, phase.h) &&
                         is_used(2, component.w, phase.w);
        if (all == wanted) taps.push_back(i);
      }
    };
    add(true);
    used = static_cast<int64_t>(taps.size());
    add(false);
  }
};

template <class T>
bool has_nonzero(const T* values, int64_t count) {
  return std::any_of(values, values + count, [](T v) { return v != T(0); });
}

// T is the clips' type, V that of the weights and of the transformed input: T, or float for
// bfloat16 clips of few channels.
template <class T, class V>
void convolve_winograd(const T* x, const ClipView& in, T* out, const ClipView& result,
                       const Window& window, const Taps& taps, const MinimalFilters& filters,
                       const Tensor& packed, const Epilogue& epilogue,
                       const WinogradKernels& kernels);

const WinogradKernels& choose_winograd(ScalarType type, bool pairs);

}  // namespace fasti3d
