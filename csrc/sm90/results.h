// How a warpgroup writes its products: with bias, residual and ReLU, 8 channels of a pixel at a
// time.
#pragma once

#include <cstdint>

#include "block.h"
#include "layout.h"

namespace fasti3d::sm90 {

struct Results {
  const float* bias;
  uint16_t* out;
  const uint16_t* residual;  // null if there is none
  // Of n, t, h, w, in values.
  int64_t out_strides[4], residual_strides[4];
  bool relu;
};

// Of the lower half of a word.
template <bool kBfloat>
__device__ __forceinline__ float value_of(uint32_t word) {
  if constexpr (kBfloat) return __uint_as_float(word << 16);
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(word)));
  return value;
}
template <bool kBfloat>
__device__ __forceinline__ uint32_t rounded(float low, float high) {
  uint32_t word;
  if constexpr (kBfloat) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
}

template <bool kBfloat>
__device__ __forceinline__ void finish(const Results& results, const Output& out, int channel,
                                       const float (&bias)[kGroup], float (&values)[kGroup]) {
  const auto place = [&](const int64_t (&strides)[4]) {
    return out.n * strides[0] + out.t * strides[1] + out.h * strides[2] + out.w * strides[3] +
           channel;
  };
#pragma unroll
  for (int k = 0; k < kGroup; ++k) values[k] += bias[k];
  if (results.residual != nullptr) {
    const uint4 more =
        *reinterpret_cast<const uint4*>(results.residual + place(results.residual_strides));
    const uint32_t words[4] = {more.x, more.y, more.z, more.w};
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] += value_of<kBfloat>(words[k / 2] >> 16 * (k % 2));
  }
  if (results.relu) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = values[k] < 0.0f ? 0.0f : values[k];  // keeps NaN
  }
  uint4 result;
  result.x = rounded<kBfloat>(values[0], values[1]);
  result.y = rounded<kBfloat>(values[2], values[3]);
  result.z = rounded<kBfloat>(values[4], values[5]);
  result.w = rounded<kBfloat>(values[6], values[7]);
  *reinterpret_cast<uint4*>(results.out + place(results.out_strides)) = result;
}

// The sums of 64 channels. `pass`: memory of this warpgroup for that, kPassBytes; `output`: from a
// column to its pixel.
template <bool kBfloat, int kCount, class F>
__device__ __forceinline__ void write_results(const float (&sums)[kCount], const Results& results,
                                              int first_channel, int channels, float* pass,
                                              int consumer, const F& output) {
  constexpr int kColumns = 2 * kCount;
  const int thread = threadIdx.x % kWarpgroup;
  const Cell share = pass_share(thread);
  const int channel = first_channel + share.row;
  const bool has_channel = channel < channels;
  float bias[kGroup];
#pragma unroll
  for (int k = 0; k < kGroup; ++k) bias[k] = has_channel ? results.bias[channel + k] : 0.0f;
#pragma unroll
  for (int first = 0; first < kColumns; first += kPass) {
    meet_warpgroup(consumer);
#pragma unroll
    for (int i = first / 2; i < first / 2 + kPassRegisters && i < kColumns / 2; ++i) {
      pass[pass_place(accumulator_cell(thread, i))] = sums[i];
    }
    meet_warpgroup(consumer);
    const Output out = output(first + share.column);
    if (!has_channel || !out.exists || first + share.column >= kColumns) continue;
    float values[kGroup];
    const float4* const from =
        reinterpret_cast<const float4*>(pass + share.column * kPassPitch + share.row);
    *reinterpret_cast<float4*>(values) = from[0];
    *reinterpret_cast<float4*>(values + 4) = from[1];
    finish<kBfloat>(results, out, channel, bias, values);
  }
}

}  // namespace fasti3d::sm90
