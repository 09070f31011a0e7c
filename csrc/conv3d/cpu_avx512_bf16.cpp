// conv3d's inner loop on AVX512_BF16: two bfloat16 products a lane and instruction, summed in float32.
#include <torch/headeronly/util/BFloat16.h>

#include "../common/target.h"
#include "conv.h"

#if defined(__x86_64__)
#include <immintrin.h>

FASTI3D_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
namespace fasti3d::avx512_bf16 {

constexpr int kRows = 14;

template <int kPanels>
void run_tile(const TileArgs& args) {
  __m512 sum[kRows][kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const __m512 bias = _mm512_loadu_ps(args.bias + p * kPanel);
    for (int r = 0; r < kRows; ++r) sum[r][p] = bias;
  }
  const c10::BFloat16* weights = static_cast<const c10::BFloat16*>(args.weights);
  const void* const* taps = args.taps;
  for (int64_t tap = 0; tap < args.count; ++tap, taps += kRows) {
    for (int64_t k = 0; k < args.run; k += 2, weights += 2 * kPanel) {
      __m512bh w[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        w[p] = (__m512bh)_mm512_loadu_si512(weights + p * args.panel_stride);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, static_cast<const c10::BFloat16*>(taps[r]) + k, sizeof(pair));
        const __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], a, w[p]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (args.out[r] == nullptr) continue;
    for (int p = 0; p < kPanels; ++p) {
      const int64_t channels = args.channels - p * kPanel;
      if (channels <= 0) break;
      __m512 value = sum[r][p];
      // Zeroes what is below zero and keeps a NaN, as torch does.
      if (args.relu) {
        const __mmask16 negative = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
        value = _mm512_mask_mov_ps(value, negative, _mm512_setzero_ps());
      }
      const __mmask16 stored = channels >= kPanel ? 0xffff : (1u << channels) - 1;
      _mm256_mask_storeu_epi16(static_cast<c10::BFloat16*>(args.out[r]) + p * kPanel, stored,
                               (__m256i)_mm512_cvtneps_pbh(value));
    }
  }
}

extern const ConvKernels kBfloatDot = {kRows, 2, {run_tile<1>, run_tile<2>}};

}  // namespace fasti3d::avx512_bf16
FASTI3D_TARGET_END
#endif
