// What the host makes of clips for kernels of compute capability 9.0: tensor maps, which the copy
// engine reads them by, and strides.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "../common/clip.h"
#include "../common/cuda.h"
#include "layout.h"

namespace fasti3d::sm90 {

// Driver functions through the runtime: no library is linked for them.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
inline EncodeTiled find_encode_tiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  STD_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                  cudaEnableDefault, &found));
#else
  STD_CUDA_CHECK(
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found));
#endif
  check(found == cudaDriverEntryPointSuccess && function != nullptr,
        "the driver has no cuTensorMapEncodeTiled: install one for CUDA 12 or later");
  return reinterpret_cast<EncodeTiled>(function);
}

// A clip that boxes are copied from, of so many channels, columns, rows and frames.
struct Box {
  int channels, w, h, t;
};
inline CUtensorMap tensor_map(const ClipView& x, const void* data, bool bfloat, const Box& its) {
  static const EncodeTiled encode = find_encode_tiled();
  const auto size = [](int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t sizes[5] = {size(x.c), size(x.w), size(x.h), size(x.t), size(x.n)};
  // Each must be a multiple of those before. That of an axis of one place means nothing, and is
  // that of the axis around it, or whatever goes on from the outermost.
  const int64_t lengths[4] = {x.w, x.h, x.t, x.n};
  const int64_t given[4] = {x.stride_w, x.stride_h, x.stride_t, x.stride_n};
  int64_t around = (x.c + kGroup - 1) / kGroup * kGroup;
  for (int i = 0; i < 4; ++i) {
    if (lengths[i] > 1) around = given[i] * lengths[i];
  }
  cuuint64_t strides[4];
  for (int i = 3; i >= 0; --i) {
    if (lengths[i] > 1) around = given[i];
    strides[i] = size(around * 2);
  }
  const auto length = [](int n) { return static_cast<cuuint32_t>(n); };
  const cuuint32_t box[5] = {length(its.channels), length(its.w), length(its.h), length(its.t), 1};
  const cuuint32_t every[5] = {1, 1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult result =
      encode(&map, bfloat ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 5,
             const_cast<void*>(data), sizes, strides, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS, "the driver refuses x of strides ", x.stride_n, ", ", x.stride_t,
        ", ", x.stride_h, ", ", x.stride_w, " (cuTensorMapEncodeTiled: ", static_cast<int>(result),
        ")");
  return map;
}

// Aligned, in steps of 16 bytes from pixel to pixel.
inline void check_vectors(const char* name, const ClipView& view, const Tensor& tensor) {
  bool aligned = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  const int64_t lengths[] = {view.n, view.t, view.h, view.w};
  const int64_t strides[] = {view.stride_n, view.stride_t, view.stride_h, view.stride_w};
  for (int i = 0; i < 4; ++i) aligned = aligned && (lengths[i] < 2 || strides[i] % kGroup == 0);
  check(aligned, name, " must be aligned to 16 bytes, with strides that are multiples of ", kGroup);
}

// Of n, t, h, w, in values.
inline void copy_strides(const ClipView& from, int64_t (&to)[4]) {
  const int64_t strides[] = {from.stride_n, from.stride_t, from.stride_h, from.stride_w};
  std::copy_n(strides, 4, to);
}

inline Triple triple_of(const ClipView& its) {
  return {static_cast<int>(its.t), static_cast<int>(its.h), static_cast<int>(its.w)};
}

}  // namespace fasti3d::sm90
