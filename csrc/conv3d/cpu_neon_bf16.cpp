// conv3d's inner loop on FEAT_BF16: a 2 x 2 product of four bfloat16 values each per instruction,
// summed in float32, 6 pixels x 16 channels in 24 of 32 registers.
#include <torch/headeronly/util/BFloat16.h>

#include "../common/target.h"
#include "winograd.h"

#if defined(FASTI3D_NEON_BF16)
#include <arm_neon.h>

// Tuned, or Clang loads all weights of a step before their products, and spills.
FASTI3D_TARGET_BEGIN("arch=armv8.2-a+bf16,tune=neoverse-v1")
FASTI3D_NO_SCHEDULING
namespace fasti3d::neon_bf16 {

using Bfloat = c10::BFloat16;
constexpr int kRows = 6, kLanes = 4;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
constexpr int kVectors = kPanel / kLanes;

template <class V>
inline V load_as(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

inline Vector load_lanes(const float* p) { return load_as<Vector>(p); }
inline Vector load_lanes(const Bfloat* p) {
  return (Vector)vcvt_f32_bf16(load_as<bfloat16x4_t>(p));
}
template <class T>
inline Vector load_lanes(const T* p, int64_t count) {
  if (count >= kLanes) return load_lanes(p);
  T values[kLanes] = {};
  __builtin_memcpy(values, p, count * sizeof(T));
  return load_lanes(values);
}
inline void store_lanes(float* p, Vector v, int64_t count) {
  __builtin_memcpy(p, &v, (count < kLanes ? count : kLanes) * sizeof(float));
}
inline void store_lanes(Bfloat* p, Vector v, int64_t count) {
  const bfloat16x4_t rounded = vcvt_bf16_f32((float32x4_t)v);
  __builtin_memcpy(p, &rounded, (count < kLanes ? count : kLanes) * sizeof(Bfloat));
}

// `kValues` values from k on, and zeros after them to four, of two pixels.
template <int kValues>
inline bfloat16x8_t load_pixels(const void* first, const void* second, int64_t k) {
  using Values = std::conditional_t<kValues == 4, uint64_t,
                                    std::conditional_t<kValues == 2, uint32_t, uint16_t>>;
  const uint64x2_t values = {load_as<Values>(static_cast<const Bfloat*>(first) + k),
                             load_as<Values>(static_cast<const Bfloat*>(second) + k)};
  return vreinterpretq_bf16_u64(values);
}

// Two pixels a row and two channels a column of each sum: [pixel][channel].
using Sums = float32x4_t[kRows / 2][2 * kVectors];

// Four values of the runs, or the last two or one, of all pixels times their weights.
template <int kValues>
inline void add_products(const void* const* inputs, int64_t k, const Bfloat* weights, Sums& sum) {
  bfloat16x8_t pixels[kRows / 2];
#pragma GCC unroll 3
  for (int r = 0; r < kRows / 2; ++r) {
    pixels[r] = load_pixels<kValues>(inputs[2 * r], inputs[2 * r + 1], k);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    // Pairs of values of four channels become four values of two channels each.
    const uint32x4_t low = load_as<uint32x4_t>(weights + v * 2 * kLanes);
    const uint32x4_t high =
        kValues > 2 ? load_as<uint32x4_t>(weights + (kPanel + v * kLanes) * 2) : uint32x4_t{};
    const bfloat16x8_t first = vreinterpretq_bf16_u32(vzip1q_u32(low, high));
    const bfloat16x8_t second = vreinterpretq_bf16_u32(vzip2q_u32(low, high));
#pragma GCC unroll 3
    for (int r = 0; r < kRows / 2; ++r) {
      sum[r][2 * v] = vbfmmlaq_f32(sum[r][2 * v], pixels[r], first);
      sum[r][2 * v + 1] = vbfmmlaq_f32(sum[r][2 * v + 1], pixels[r], second);
    }
  }
}

// A tile whose sums are stored as Out: bfloat16, or float for Winograd's components.
template <class Out>
void run_tile(const TileArgs& args) {
  Sums sum;
  for (int v = 0; v < 2 * kVectors; ++v) {
    const float32x2_t bias = vld1_f32(args.bias + 2 * v);
    for (int r = 0; r < kRows / 2; ++r) sum[r][v] = vcombine_f32(bias, bias);
  }
  const Bfloat* weights = static_cast<const Bfloat*>(args.weights);
  const void* const* taps = args.taps;
  for (int64_t tap = 0; tap < args.count; ++tap, taps += kRows) {
    const int64_t end = args.offset + args.run - (args.odd ? 2 : 0);
    int64_t k = args.offset;
    for (; k + 4 <= end; k += 4, weights += 4 * kPanel) add_products<4>(taps, k, weights, sum);
    if (k < end) {
      add_products<2>(taps, k, weights, sum);
      weights += 2 * kPanel;
    }
    if (args.odd) {
      add_products<1>(taps, end, weights, sum);
      weights += 2 * kPanel;
    }
  }
  // Apart from the sums, of which Clang would keep in memory what the loop below picks by number.
  Vector result[kRows][kVectors];
#pragma GCC unroll 3
  for (int r = 0; r < kRows; r += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const float64x2_t low = vreinterpretq_f64_f32(sum[r / 2][2 * v]);
      const float64x2_t high = vreinterpretq_f64_f32(sum[r / 2][2 * v + 1]);
      result[r][v] = (Vector)vzip1q_f64(low, high);
      result[r + 1][v] = (Vector)vzip2q_f64(low, high);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (args.out[r] == nullptr) continue;
    for (int v = 0; v < kVectors && v * kLanes < args.channels; ++v) {
      Vector y = result[r][v];
      const int64_t left = args.channels - v * kLanes;
      if (args.residual != nullptr) {
        y += load_lanes(static_cast<const Out*>(args.residual[r]) + v * kLanes, left);
      }
      // Written so that a NaN stays one, as in torch.
      if (args.relu) y = y < 0.0f ? Vector{} : y;
      store_lanes(static_cast<Out*>(args.out[r]) + v * kLanes, y, left);
    }
  }
}

void multiply(const MultiplyArgs& args) {
  static constexpr float kNoBias[kPanel] = {};
  void* out[kRows];
  for (int r = 0; r < kRows; ++r) out[r] = args.out + r * args.out_stride;
  run_tile<float>({args.taps, args.count, args.run, args.offset, args.weights, args.panel_stride,
                   kNoBias, false, out, nullptr, kPanel});
}

// Of float32 inputs and weights.
void multiply_floats(const MultiplyArgs& args) { neon::kWinograd.multiply[0](args); }

#include "winograd_kernel.h"

extern const ConvKernels kBfloatDot = {kRows, 1, {run_tile<Bfloat>, nullptr}};
extern const WinogradKernels kWinograd = {
    kRows, 1, {multiply, nullptr}, winograd_transform<Bfloat>, winograd_inverse<Bfloat>, nullptr};

// bfloat16 clips of few channels, in float32 between the transforms.
extern const WinogradKernels kWinogradInFloat = {
    kRows,  1, {multiply_floats, nullptr}, winograd_transform<float>, winograd_inverse<Bfloat>,
    nullptr};

}  // namespace fasti3d::neon_bf16
FASTI3D_TARGET_END
#endif
