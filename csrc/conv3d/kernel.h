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
  Vector sum[kRows][kVectors], total[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const Vector bias = load_lanes(args.bias + v * kLanes);
    for (int r = 0; r < kRows; ++r) sum[r][v] = bias;
  }
  const float* const weights = static_cast<const float*>(args.weights);
  // A sum's rounding error grows with its length: about kSummed products are summed by themselves.
  const int64_t together = std::max<int64_t>(kSummed / args.run, 1);
  const int64_t pieces = (args.run + kSummed - 1) / kSummed;
  const int64_t length = (args.run + pieces - 1) / pieces;
  for (int64_t first = 0; first < args.count * pieces; first += together) {
    if (first > 0) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          total[r][v] = first == together ? sum[r][v] : total[r][v] + sum[r][v];
          sum[r][v] = Vector{};
        }
      }
    }
    const int64_t begin = first / pieces, end = std::min(begin + together, args.count);
    const int64_t from = first % pieces * length, to = std::min(from + length, args.run);
    for (int64_t tap = begin; tap < end; ++tap) {
      const void* const* const inputs = args.taps + tap * kRows;
      const float* at = weights + (tap * args.run + from) * kPanel;
      for (int64_t k = args.offset + from; k < args.offset + to; ++k, at += kPanel) {
        Vector w[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          w[v] = load_lanes(at + v / kVectorsPerPanel * args.panel_stride +
                            v % kVectorsPerPanel * kLanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const float a = static_cast<const float*>(inputs[r])[k];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sum[r][v] += a * w[v];
        }
      }
    }
  }
  const bool several = args.count * pieces > together;
  // Apart from the sums, of which Clang would keep in memory what the loop below picks by number.
  Vector result[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) result[r][v] = sum[r][v];
  }
  for (int r = 0; r < kRows; ++r) {
    if (args.out[r] == nullptr) continue;
    for (int v = 0; v < kVectors && v * kLanes < args.channels; ++v) {
      if (several) result[r][v] += total[r][v];
      if (args.residual != nullptr) {
        result[r][v] += load_lanes(static_cast<const float*>(args.residual[r]) + v * kLanes,
                                   args.channels - v * kLanes);
      }
      // Written so that a NaN stays one, as in torch.
      if (args.relu) result[r][v] = result[r][v] < 0.0f ? Vector{} : result[r][v];
      store_lanes(static_cast<float*>(args.out[r]) + v * kLanes, result[r][v],
                  args.channels - v * kLanes);
    }
  }
}

#include "product_kernel.h"
#include "winograd_kernel.h"
#include "winograd_mix.h"

extern const ConvKernels kFloat = {
    kRows, kMaxPanels, {run_tile<1>, kMaxPanels == 2 ? run_tile<kMaxPanels> : nullptr}};
extern const WinogradKernels kWinograd = {
    kRows,
    kMaxPanels,
    {multiply<1>, kMaxPanels == 2 ? multiply<kMaxPanels> : nullptr},
    winograd_transform<float>,
    winograd_inverse<float>,
    mix_taps};
