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

// Adds to the sums what a part of the taps' values, from `from` to `to` of each, contributes.
template <int kVectors>
inline __attribute__((always_inline)) void add_products(Vector (&sum)[kRows][kVectors],
                                                        const TileArgs& args, int64_t tap,
                                                        int64_t from, int64_t to) {
  const float* at = static_cast<const float*>(args.weights) + (tap * args.run + from) * kPanel;
  const float* row[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    row[r] = static_cast<const float*>(args.taps[tap * kRows + r]) + args.offset;
  }
  for (int64_t k = from; k < to; ++k, at += kPanel) {
    Vector w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      w[v] =
          load_lanes(at + v / kVectorsPerPanel * args.panel_stride + v % kVectorsPerPanel * kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float a = row[r][k];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] += a * w[v];
    }
  }
}

// Brings what a tile writes, and the residual, into the cache while it is computed.
template <int kPanels>
inline __attribute__((always_inline)) void fetch_results(const TileArgs& args) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      __builtin_prefetch(static_cast<float*>(args.out[r]) + p * kPanel, 1);
      if (args.residual != nullptr) {
        __builtin_prefetch(static_cast<const float*>(args.residual[r]) + p * kPanel);
      }
    }
  }
}

// Every loop over `sum` is unrolled, or it would lie in memory and not in registers.
template <int kPanels>
void run_tile(const TileArgs& args) {
  constexpr int kVectors = kPanels * kVectorsPerPanel;
  Vector sum[kRows][kVectors];
  const auto each = [&](auto&& what) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) what(sum[r][v], r, v);
    }
  };
  if (!args.unfinished) fetch_results<kPanels>(args);
  Vector bias[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    bias[v] = args.continued ? Vector{} : load_lanes(args.bias + v * kLanes);
  }
  each([&](Vector& s, int, int v) { s = bias[v]; });

  // A sum's rounding error grows with its length: about kSummed products are summed by themselves.
  const int64_t length = args.length > 0 ? args.length : summed_length(args.run);
  const int64_t together = args.count > 1 ? std::max<int64_t>(kSummed / args.run, 1) : 1;
  alignas(64) float own[kRows * kVectors * kLanes];
  float* const total = args.sums == nullptr ? own : args.sums;
  const auto at = [&](int r, int v) { return total + (r * kVectors + v) * kLanes; };
  bool several = args.continued;
  for (int64_t tap = 0, from = 0;;) {
    const int64_t end = std::min(tap + together, args.count);
    const int64_t to = std::min(from + length, args.run);
    for (int64_t t = tap; t < end; ++t) add_products(sum, args, t, from, to);
    from = to == args.run ? 0 : to;
    if (from == 0) tap = end;
    if (tap == args.count && !args.unfinished) break;
    if (several) each([&](Vector& s, int r, int v) { s += load_lanes(at(r, v)); });
    each([&](Vector& s, int r, int v) {
      store_lanes(at(r, v), s, kLanes);
      s = Vector{};
    });
    if (tap == args.count) return;
    several = true;
  }
  if (several) each([&](Vector& s, int r, int v) { s += load_lanes(at(r, v)); });

  // Written so that a NaN stays one, as in torch.
  const Vector least = Vector{} + (args.relu ? 0.0f : -__builtin_inff());
  const auto finish = [&](Vector y) { return y < least ? least : y; };
  if (args.channels >= kVectors * kLanes) {
    each([&](Vector& s, int r, int v) {
      if (args.out[r] == nullptr) return;
      if (args.residual != nullptr) {
        s += load_lanes(static_cast<const float*>(args.residual[r]) + v * kLanes);
      }
      store_lanes(static_cast<float*>(args.out[r]) + v * kLanes, finish(s), kLanes);
    });
    return;
  }
  each([&](Vector& s, int r, int v) { store_lanes(at(r, v), s, kLanes); });
  for (int r = 0; r < kRows; ++r) {
    if (args.out[r] == nullptr) continue;
    for (int v = 0; v < kVectors && v * kLanes < args.channels; ++v) {
      const int64_t count = args.channels - v * kLanes;
      Vector y = load_lanes(at(r, v));
      if (args.residual != nullptr) {
        y += load_lanes(static_cast<const float*>(args.residual[r]) + v * kLanes, count);
      }
      store_lanes(static_cast<float*>(args.out[r]) + v * kLanes, finish(y), count);
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
