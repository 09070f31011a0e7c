// conv3d's inner loop on AVX512_BF16: two bfloat16 products a lane and instruction, summed in
// float32.
#include <torch/headeronly/util/BFloat16.h>

#include "../common/target.h"
#include "winograd.h"

#if defined(__x86_64__)
// GCC 12 warns of its own intrinsics' undefined operands (GCC PR 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

FASTI3D_TARGET_512_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace fasti3d::avx512_bf16 {

using Bfloat = c10::BFloat16;
typedef float Vector __attribute__((vector_size(64)));
constexpr int kRows = 14, kLanes = 16;

inline Vector load_lanes(const float* p) { return _mm512_loadu_ps(p); }
inline Vector load_lanes(const Bfloat* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline __mmask16 first_lanes(int64_t count) { return count >= kLanes ? 0xffff : (1u << count) - 1; }
inline Vector load_lanes(const float* p, int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
inline Vector load_lanes(const Bfloat* p, int64_t count) {
  const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(count), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store_lanes(float* p, Vector v, int64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), v);
}
inline void store_lanes(Bfloat* p, Vector v, int64_t count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), (__m256i)_mm512_cvtneps_pbh(v));
}

// A tile whose sums are stored as Out: bfloat16, or float for Winograd's components.
template <class Out, int kPanels>
void run_tile(const TileArgs& args) {
  Vector sum[kRows][kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const Vector bias = load_lanes(args.bias + p * kPanel);
    for (int r = 0; r < kRows; ++r) sum[r][p] = bias;
  }
  const Bfloat* weights = static_cast<const Bfloat*>(args.weights);
  const void* const* taps = args.taps;
  const auto add_pair = [&](int64_t k, int32_t values) __attribute__((always_inline)) {
    __m512bh w[kPanels];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      w[p] = (__m512bh)_mm512_loadu_si512(weights + p * args.panel_stride);
    }
    weights += 2 * kPanel;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, static_cast<const Bfloat*>(taps[r]) + args.offset + k, sizeof(pair));
      const __m512bh a = (__m512bh)_mm512_set1_epi32(pair & values);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], a, w[p]);
    }
  };
  const int64_t pairs_end = args.run - (args.odd ? 2 : 0);
  for (int64_t tap = 0; tap < args.count; ++tap, taps += kRows) {
    for (int64_t k = 0; k < pairs_end; k += 2) add_pair(k, -1);
    if (args.odd) add_pair(pairs_end, 0xffff);
  }
  for (int r = 0; r < kRows; ++r) {
    if (args.out[r] == nullptr) continue;
    for (int p = 0; p < kPanels && p * kPanel < args.channels; ++p) {
      if (args.residual != nullptr) {
        sum[r][p] += load_lanes(static_cast<const Out*>(args.residual[r]) + p * kPanel,
                                args.channels - p * kPanel);
      }
      // Written so that a NaN stays one, as in torch.
      if (args.relu) sum[r][p] = sum[r][p] < 0.0f ? Vector{} : sum[r][p];
      store_lanes(static_cast<Out*>(args.out[r]) + p * kPanel, sum[r][p],
                  args.channels - p * kPanel);
    }
  }
}

template <int kPanels>
void multiply(const MultiplyArgs& args) {
  static constexpr float kNoBias[kPanels * kPanel] = {};
  void* out[kRows];
  for (int r = 0; r < kRows; ++r) out[r] = args.out + r * args.out_stride;
  run_tile<float, kPanels>({args.taps, args.count, args.run, args.offset, args.weights,
                            args.panel_stride, kNoBias, false, out, nullptr, kPanels * kPanel});
}

// Of float32 inputs and weights.
template <int kPanels>
void multiply_floats(const MultiplyArgs& args) {
  avx512::kWinograd.multiply[kPanels - 1](args);
}

#include "winograd_kernel.h"

extern const ConvKernels kBfloatDot = {kRows, 2, {run_tile<Bfloat, 1>, run_tile<Bfloat, 2>}};
extern const WinogradKernels kWinograd = {
    kRows,  2, {multiply<1>, multiply<2>}, winograd_transform<Bfloat>, winograd_inverse<Bfloat>,
    nullptr};

// bfloat16 clips of few channels, in float32 between the transforms.
extern const WinogradKernels kWinogradInFloat = {kRows,
                                                 2,
                                                 {multiply_floats<1>, multiply_floats<2>},
                                                 winograd_transform<float>,
                                                 winograd_inverse<Bfloat>,
                                                 nullptr};

}  // namespace fasti3d::avx512_bf16
FASTI3D_TARGET_END
#endif
