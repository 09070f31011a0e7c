// The inner loops of conv3d, for vectors of kLanes floats. Included once per instruction set,
// inside a namespace of its own which defines kLanes, kRows and kMaxPanels.

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
constexpr int kVectorsPerPanel = kPanel / kLanes;

inline Vector load_lanes(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

inline Vector load_lanes(const float* p, int64_t count) {
  if (count >= kLanes) return load_lanes(p);
  Vector v{};
  for (int64_t c = 0; c < count; ++c) v[c] = p[c];
  return v;
}

inline void store_lanes(float* out, Vector v, int64_t count) {
  if (count >= kLanes) {
    __builtin_memcpy(out, &v, sizeof(v));
  } else {
    for (int64_t c = 0; c < count; ++c) out[c] = v[c];
  }
}

template <int kPanels>
void run_tile(const TileArgs& args) {
  constexpr int kVectors = kPanels * kVectorsPerPanel;
  Vector sum[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const Vector bias = load_lanes(args.bias + v * kLanes);
    for (int r = 0; r < kRows; ++r) sum[r][v] = bias;
  }
  const float* weights = static_cast<const float*>(args.weights);
  const void* const* taps = args.taps;
  for (int64_t tap = 0; tap < args.count; ++tap, taps += kRows) {
    for (int64_t k = 0; k < args.run; ++k, weights += kPanel) {
      Vector w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        w[v] = load_lanes(weights + v / kVectorsPerPanel * args.panel_stride +
                          v % kVectorsPerPanel * kLanes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const float a = static_cast<const float*>(taps[r])[args.offset + k];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[r][v] += a * w[v];
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (args.out[r] == nullptr) continue;
    for (int v = 0; v < kVectors && v * kLanes < args.channels; ++v) {
      if (args.residual != nullptr) {
        sum[r][v] += load_lanes(static_cast<const float*>(args.residual[r]) + v * kLanes,
                                args.channels - v * kLanes);
      }
      // Written so that a NaN stays one, as in torch.
      if (args.relu) sum[r][v] = sum[r][v] < 0.0f ? Vector{} : sum[r][v];
      store_lanes(static_cast<float*>(args.out[r]) + v * kLanes, sum[r][v],
                  args.channels - v * kLanes);
    }
  }
}

#include "winograd_kernel.h"

extern const ConvKernels kFloat = {
    kRows, kMaxPanels, {run_tile<1>, kMaxPanels == 2 ? run_tile<kMaxPanels> : nullptr}};
extern const WinogradKernels kWinograd = {
    kRows,
    kMaxPanels,
    {run_tile<1>, kMaxPanels == 2 ? run_tile<kMaxPanels> : nullptr},
    winograd_transform<float>,
    winograd_inverse<float>};
