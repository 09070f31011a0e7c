// fasti3d::max_pool3d_ on CUDA.
//
// A block takes one row (n, t, h) of output pixels, or a part of one; its threads lie along the
// channels, which are adjacent in memory, and then along w. A thread reads a pack of channels for
// every tap of its window and writes one pack. What windows share comes from the caches.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "../common/cuda.h"
#include "pool.h"

namespace fasti3d {
namespace {

constexpr int64_t kThreads = 256;
constexpr int64_t kPackBytes = 16;
// What a grid may have along x and along y; the kernel's loops cover the rest.
constexpr int64_t kMaxGridX = 0x7fffffff, kMaxGridY = 65535;

// What is compared at a time: one value, or two of 16 bits side by side. A NaN wins, as in torch.
template <class Value, int kCount>
struct Unit;

template <>
struct Unit<float, 1> {
  float value;
  static __device__ Unit lowest() { return {-INFINITY}; }
  __device__ Unit larger(Unit other) const {
    return other.value > value || other.value != other.value ? other : *this;
  }
};

template <>
struct Unit<__half, 1> {
  __half value;
  static __device__ Unit lowest() { return {__float2half_rn(-INFINITY)}; }
  __device__ Unit larger(Unit other) const { return {__hmax_nan(value, other.value)}; }
};

template <>
struct Unit<__half, 2> {
  __half2 value;
  static __device__ Unit lowest() { return {__float2half2_rn(-INFINITY)}; }
  __device__ Unit larger(Unit other) const { return {__hmax2_nan(value, other.value)}; }
};

template <>
struct Unit<__nv_bfloat16, 1> {
  __nv_bfloat16 value;
  static __device__ Unit lowest() { return {__float2bfloat16_rn(-INFINITY)}; }
  __device__ Unit larger(Unit other) const { return {__hmax_nan(value, other.value)}; }
};

template <>
struct Unit<__nv_bfloat16, 2> {
  __nv_bfloat162 value;
  static __device__ Unit lowest() { return {__float2bfloat162_rn(-INFINITY)}; }
  __device__ Unit larger(Unit other) const { return {__hmax2_nan(value, other.value)}; }
};

// kValues channels of one pixel, read and written at once.
template <class Value, int kValues>
struct alignas(sizeof(Value) * kValues) Pack {
  static constexpr int kCount = sizeof(Value) == 2 && kValues % 2 == 0 ? 2 : 1;
  static constexpr int kUnits = kValues / kCount;
  Unit<Value, kCount> unit[kUnits];
};

// Four blocks per SM leave 64 registers per thread; left to itself the compiler takes fewer
// on some architectures, and spills.
template <class Value, int kValues>
__global__ void __launch_bounds__(kThreads, 4) _max_pool3d_same_kernel(const PoolArgs args) {
  using Vector = Pack<Value, kValues>;
  const Value* const x = static_cast<const Value*>(args.x);
  Value* const out = static_cast<Value*>(args.out);
  const Axis t = args.window.t, h = args.window.h, w = args.window.w;
  const int64_t rows = args.in.n * t.out * h.out;
  const int64_t first_w = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
  const int64_t step_w = static_cast<int64_t>(gridDim.y) * blockDim.y;

  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t oh = row % h.out, ot = row / h.out % t.out, n = row / h.out / t.out;
    for (int64_t ow = first_w; ow < w.out; ow += step_w) {
      for (int64_t c = threadIdx.x * kValues; c < args.in.c; c += blockDim.x * kValues) {
        Vector best;
#pragma unroll
        for (auto& unit : best.unit) unit = unit.lowest();
        const int64_t taps_t = t.last(ot) - t.first(ot), taps_h = h.last(oh) - h.first(oh);
        const int64_t taps_w = w.last(ow) - w.first(ow);
        const Value* plane = x + args.in.pixel(n, t.first(ot), h.first(oh), w.first(ow)) + c;
        for (int64_t i = 0; i < taps_t; ++i, plane += args.in.stride_t) {
          const Value* line = plane;
          for (int64_t j = 0; j < taps_h; ++j, line += args.in.stride_h) {
            const Value* tap = line;
            for (int64_t k = 0; k < taps_w; ++k, tap += args.in.stride_w) {
              const Vector next = *reinterpret_cast<const Vector*>(tap);
#pragma unroll
              for (int u = 0; u < Vector::kUnits; ++u) {
                best.unit[u] = best.unit[u].larger(next.unit[u]);
              }
            }
          }
        }
        *reinterpret_cast<Vector*>(out + args.result.pixel(n, ot, oh, ow) + c) = best;
      }
    }
  }
}

template <class Value, int kValues>
void launch(const PoolArgs& args, cudaStream_t stream) {
  const int64_t packs = args.in.c / kValues;
  const int64_t threads_c = std::min(packs, kThreads);
  const int64_t threads_w = std::min(kThreads / threads_c, args.window.w.out);
  const int64_t rows = args.in.n * args.window.t.out * args.window.h.out;
  const int64_t parts = (args.window.w.out + threads_w - 1) / threads_w;
  const dim3 grid(std::min(rows, kMaxGridX), std::min(parts, kMaxGridY));
  _max_pool3d_same_kernel<Value, kValues><<<grid, dim3(threads_c, threads_w), 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Whether every pixel of a clip starts where a pack may be read.
bool aligned(const void* data, const ClipView& view, int64_t element) {
  const auto fits = [&](int64_t count) { return count * element % kPackBytes == 0; };
  return reinterpret_cast<uintptr_t>(data) % kPackBytes == 0 && fits(view.c) &&
         fits(view.stride_n) && fits(view.stride_t) && fits(view.stride_h) && fits(view.stride_w);
}

template <class Value>
void pool(const PoolArgs& args, cudaStream_t stream) {
  constexpr int64_t kElement = sizeof(Value);
  if (aligned(args.x, args.in, kElement) && aligned(args.out, args.result, kElement)) {
    launch<Value, kPackBytes / kElement>(args, stream);
  } else {
    launch<Value, 1>(args, stream);
  }
}

void max_pool3d_(Tensor x, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                 std::optional<std::vector<int64_t>> padding, bool ceil, Tensor out) {
  const Window window = checked_pool(x, kernel, stride, padding, ceil, out);
  if (out.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const cudaStream_t stream = current_stream(x);
  const PoolArgs args{x.const_data_ptr(),         out.mutable_data_ptr(),         x.scalar_type(),
                      channels_last_view(x, "x"), channels_last_view(out, "out"), window};
  switch (args.type) {
    case ScalarType::Float: pool<float>(args, stream); break;
    case ScalarType::BFloat16: pool<__nv_bfloat16>(args, stream); break;
    default: pool<__half>(args, stream); break;
  }
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CUDA, m) {
  m.impl("max_pool3d_", TORCH_BOX(&fasti3d::max_pool3d_));
}
