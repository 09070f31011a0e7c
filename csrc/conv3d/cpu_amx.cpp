// Matrix tiles on AMX.
#include <type_traits>

#include "../common/target.h"
#include "tiles.h"

#if defined(__x86_64__)
// GCC 12 warns of its own intrinsics' undefined operands (GCC PR 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

FASTI3D_TARGET_512_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
namespace fasti3d::amx {

using Bfloat = c10::BFloat16;

// Not the intrinsics: GCC's take no register's number from a template.
template <int kTile>
inline void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
inline void load_tile(const void* source, int64_t stride) {
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(source), "r"(stride));
}
template <int kSums, int kPixels, int kWeights>
inline void multiply_tiles() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0"
                   :
                   : "i"(kSums), "i"(kPixels), "i"(kWeights));
}
template <int kTile>
inline void store_tile(float* target, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(target), "r"(stride));
}

#include "tiles_kernel.h"

template <int kPixels, int kPanels>
void multiply_in_order(const TileBlock& block) {
  // The compiler does not know what the loads read, nor what the stores write.
  __asm__ volatile("" ::: "memory");
  multiply<kPixels, kPanels>(block);
  __asm__ volatile("" ::: "memory");
}

void configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }
void read_configuration(TileConfig* config) { __asm__ volatile("sttilecfg %0" : "=m"(*config)); }

inline __mmask16 first_lanes(int64_t count) { return count >= kPanel ? 0xffff : (1u << count) - 1; }

void store(const TileStore& args) {
  for (int64_t c = 0; c < args.channels; c += kPanel) {
    const __mmask16 lanes = first_lanes(args.channels - c);
    const __m512 bias = _mm512_loadu_ps(args.bias + c);
    const float* sums = args.sums + c;
    for (int64_t row = 0; row < args.rows; ++row, sums += kBlockChannels) {
      if (args.out[row] == nullptr) continue;
      __m512 y = _mm512_add_ps(_mm512_loadu_ps(sums), bias);
      if (args.residual != nullptr) {
        const __m256i bits = _mm256_maskz_loadu_epi16(lanes, args.residual[row] + args.channel + c);
        y = _mm512_add_ps(y,
                          _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
      }
      // The second operand where one is NaN, which so stays one, as in torch.
      if (args.relu) y = _mm512_max_ps(_mm512_setzero_ps(), y);
      _mm256_mask_storeu_epi16(args.out[row] + args.channel + c, lanes,
                               (__m256i)_mm512_cvtneps_pbh(y));
    }
  }
}

extern const TileKernels kTiles = {configure,
                                   read_configuration,
                                   {{multiply_in_order<1, 1>, multiply_in_order<1, 2>},
                                    {multiply_in_order<2, 1>, multiply_in_order<2, 2>}},
                                   store,
                                   interleave};

}  // namespace fasti3d::amx
FASTI3D_TARGET_END
#endif
