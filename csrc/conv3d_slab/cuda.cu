// fasti3d::conv3d_slab_ on CUDA: a convolution of stride 1 with bias, residual and ReLU, over slabs
// of the clip in shared memory (plan.h, roles.h). For compute capability 9.0 alone: wgmma is in no
// other.
#include <cuda.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "../common/clip.h"
#include "../common/cuda.h"
#include "../common/overlap.h"
#include "device.h"
#include "roles.h"

namespace fasti3d::conv3d_slab {
namespace {

template <int kColumns, bool kBfloat>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    _conv3d_slab_kernel(const __grid_constant__ CUtensorMap map,
                        const __grid_constant__ Arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char memory[];
  const Plan& p = arguments.plan;
  const int group = threadIdx.x / kWarpgroup, warp = threadIdx.x / 32 % 4;
  {
    const Warp block(map, arguments, memory);
    if (threadIdx.x < kBarriers) {
      block.start(p.barriers_at + 8 * threadIdx.x, p.arrivals(threadIdx.x));
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    for (int i = threadIdx.x; i < p.zeros(); i += kThreads) {
      *reinterpret_cast<uint4*>(memory + p.zero_at(i)) = uint4{};
    }
    // Products read the zeros past the caches that threads write through.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  meet_cluster();
  if (group < p.consumers()) {
    Warpgroup<kColumns, kBfloat> machine(map, arguments, memory);
    multiply_and_write(machine, p, group);
  } else if (group == kMaxConsumers) {
    Warp machine(map, arguments, memory);
    if (threadIdx.x % 32 == 0) warp == 0 ? load_slabs(machine, p) : load_weights(machine, p);
    __syncwarp();
  }
  // No block ends while the other may still arrive at its barriers.
  meet_cluster();
#endif
}

// Driver functions through the runtime: no library is linked for them.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
EncodeTiled find_encode_tiled() {
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
        "conv3d_slab: the driver has no cuTensorMapEncodeTiled: install one for CUDA 12 or later");
  return reinterpret_cast<EncodeTiled>(function);
}

// A clip that boxes of one group of channels are copied from.
CUtensorMap tensor_map(const ClipView& x, const void* data, bool bfloat, const Plan& p) {
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
  const cuuint32_t box[5] = {kGroup, length(p.pitch), length(p.rows), length(p.frames), 1};
  const cuuint32_t every[5] = {1, 1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult result =
      encode(&map, bfloat ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 5,
             const_cast<void*>(data), sizes, strides, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS, "conv3d_slab: the driver refuses x of strides ", x.stride_n, ", ",
        x.stride_t, ", ", x.stride_h, ", ", x.stride_w,
        " (cuTensorMapEncodeTiled: ", static_cast<int>(result), ")");
  return map;
}

template <int kColumns, bool kBfloat>
void launch(const CUtensorMap& map, const Arguments& arguments, cudaStream_t stream, int device) {
  const auto kernel = _conv3d_slab_kernel<kColumns, kBfloat>;
  const Plan& p = arguments.plan;
  STD_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared_bytes));
  int sms = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  const int64_t clusters = std::min<int64_t>(p.work, std::max(sms / kCluster, 1));
  kernel<<<static_cast<unsigned>(clusters * kCluster), kThreads, p.shared_bytes, stream>>>(
      map, arguments);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <bool kBfloat>
void launch(const CUtensorMap& map, const Arguments& arguments, cudaStream_t stream, int device) {
  switch (arguments.plan.tile.positions) {
    case 64: return launch<64, kBfloat>(map, arguments, stream, device);
    case 128: return launch<128, kBfloat>(map, arguments, stream, device);
    case 208: return launch<208, kBfloat>(map, arguments, stream, device);
    case 216: return launch<216, kBfloat>(map, arguments, stream, device);
    case 232: return launch<232, kBfloat>(map, arguments, stream, device);
    default:
      fail("tile must have 64, 128, 208, 216 or 232 positions, got ",
           arguments.plan.tile.positions);
  }
}

Triple triple(const char* name, const std::vector<int64_t>& values, int64_t low, int64_t high) {
  check_triple(name, values, low, high);
  return {static_cast<int>(values[0]), static_cast<int>(values[1]), static_cast<int>(values[2])};
}

Tile make_tile(const std::vector<int64_t>& numbers) {
  check(numbers.size() == 10, "tile must have 10 numbers, got ", numbers.size());
  for (const int64_t number : numbers) {
    check(number >= 0 && number <= kMaxBox, "tile must be of 0 to ", kMaxBox, ", got ", number);
  }
  const auto at = [&](size_t i) { return static_cast<int>(numbers[i]); };
  return {at(0), at(1), at(2), at(3), {at(4), at(5), at(6)}, at(7), at(8), at(9)};
}

// Aligned, in steps of 16 bytes from pixel to pixel.
void check_vectors(const char* name, const ClipView& view, const Tensor& tensor) {
  bool aligned = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  const int64_t lengths[] = {view.n, view.t, view.h, view.w};
  const int64_t strides[] = {view.stride_n, view.stride_t, view.stride_h, view.stride_w};
  for (int i = 0; i < 4; ++i) aligned = aligned && (lengths[i] < 2 || strides[i] % kGroup == 0);
  check(aligned, name, " must be aligned to 16 bytes, with strides that are multiples of ", kGroup);
}

void conv3d_slab(Tensor x, Tensor weight, Tensor bias, std::vector<int64_t> kernel,
                 std::vector<int64_t> before, bool relu, Tensor out, std::vector<int64_t> tile,
                 std::optional<Tensor> residual) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Half || type == ScalarType::BFloat16,
        "x must be float16 or bfloat16: convert it");
  const ClipView in = channels_last_view(x, "x"), view = channels_last_view(out, "out");
  const int64_t channels = view.c;
  const auto beside_x = [&](const char* name, const Tensor& its) {
    check(its.device() == x.device(), name, " must be on x's device: move one to the other");
  };
  beside_x("weight", weight);
  beside_x("bias", bias);
  beside_x("out", out);
  check(out.scalar_type() == type && weight.scalar_type() == type,
        "weight and out must have x's dtype");
  check(view.n == in.n, "out must hold ", in.n, " clips, got ", view.n);
  check(bias.scalar_type() == ScalarType::Float && bias.numel() == channels && bias.is_contiguous(),
        "bias must be ", channels, " contiguous float32 values, got ", bias.numel());
  for (const int64_t length : {in.n, in.c, in.t, in.h, in.w, channels, view.t, view.h, view.w}) {
    check(length <= kMaxLength / 64, "clips must have axes of less than ", kMaxLength / 64,
          ", got ", length);
  }
  check_written(out, {{"x", x}, {"weight", weight}, {"bias", bias}});
  if (out.numel() == 0) return;
  check(x.numel() > 0 && channels % kGroup == 0,
        "x must not be empty, and out must have a multiple of ", kGroup, " channels, got ",
        channels);
  const auto triple_of = [](const ClipView& its) {
    return Triple{static_cast<int>(its.t), static_cast<int>(its.h), static_cast<int>(its.w)};
  };
  const Problem problem{static_cast<int>(in.n),
                        static_cast<int>(in.c),
                        static_cast<int>(channels),
                        triple_of(in),
                        triple_of(view),
                        triple("kernel", kernel, 1, kMaxKernel),
                        triple("before", before, -kMaxLength / 64, kMaxKernel)};
  Arguments arguments{};
  const Tile chosen = make_tile(tile);
  const char* const why = refusal(problem, chosen);
  check(why == nullptr, "tile: ", why == nullptr ? "" : why);
  arguments.plan = make_plan(problem, chosen);
  check(weight.numel() * 2 == arguments.plan.weight_bytes() && weight.is_contiguous(),
        "weight must be what pack_slab makes, ", arguments.plan.weight_bytes() / 2, " values, got ",
        weight.numel());
  check_vectors("x", in, x);
  check_vectors("out", view, out);
  arguments.weight = static_cast<const char*>(weight.const_data_ptr());
  check(reinterpret_cast<uintptr_t>(arguments.weight) % 16 == 0,
        "weight must be aligned to 16 bytes");
  arguments.bias = static_cast<const float*>(bias.const_data_ptr());
  arguments.relu = relu;
  const auto copy_strides = [](const ClipView& from, int64_t (&to)[4]) {
    const int64_t strides[] = {from.stride_n, from.stride_t, from.stride_h, from.stride_w};
    std::copy_n(strides, 4, to);
  };
  copy_strides(view, arguments.out_strides);
  if (residual) {
    const ClipView its = channels_last_view(*residual, "residual");
    beside_x("residual", *residual);
    check(residual->scalar_type() == type && its.n == view.n && its.c == view.c &&
              its.t == view.t && its.h == view.h && its.w == view.w,
          "residual must have out's dtype and shape");
    check(is_same_place(*residual, out) || !share_memory(*residual, out),
          "unsupported operation: some elements of residual and out refer to a single memory "
          "location: pass out itself as residual, or clone one of them");
    check_vectors("residual", its, *residual);
    copy_strides(its, arguments.residual_strides);
    arguments.residual = static_cast<const uint16_t*>(residual->const_data_ptr());
  }
  const int device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  arguments.out = static_cast<uint16_t*>(out.mutable_data_ptr());
  const bool bfloat = type == ScalarType::BFloat16;
  const CUtensorMap map = tensor_map(in, x.const_data_ptr(), bfloat, arguments.plan);
  const cudaStream_t stream = current_stream(x);
  bfloat ? launch<true>(map, arguments, stream, device)
         : launch<false>(map, arguments, stream, device);
}

}  // namespace
}  // namespace fasti3d::conv3d_slab

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CUDA, m) {
  m.impl("conv3d_slab_", TORCH_BOX(&fasti3d::conv3d_slab::conv3d_slab));
}
