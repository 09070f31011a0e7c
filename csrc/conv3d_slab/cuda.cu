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
#include "../sm90/tensor_map.h"
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
    const Warp block(map, memory);
    if (threadIdx.x < kBarriers) {
      block.start(p.barriers_at + 8 * threadIdx.x, p.arrivals(threadIdx.x));
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    for (int i = threadIdx.x; i < p.zeros(); i += kThreads) {
      *reinterpret_cast<uint4*>(memory + p.zero_at(i)) = uint4{};
    }
    hand_over_memory();
  }
  meet_cluster();
  if (group < p.consumers()) {
    Warpgroup<kColumns, kBfloat> machine(map, arguments, memory);
    multiply_and_write(machine, p, group);
  } else if (group == kMaxConsumers) {
    Loader machine(map, arguments, memory);
    if (threadIdx.x % 32 == 0) warp == 0 ? load_slabs(machine, p) : load_weights(machine, p);
    __syncwarp();
  }
  // No block ends while the other may still arrive at its barriers.
  meet_cluster();
#endif
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
  arguments.results.bias = static_cast<const float*>(bias.const_data_ptr());
  arguments.results.relu = relu;
  copy_strides(view, arguments.results.out_strides);
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
    copy_strides(its, arguments.results.residual_strides);
    arguments.results.residual = static_cast<const uint16_t*>(residual->const_data_ptr());
  }
  const int device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  arguments.results.out = static_cast<uint16_t*>(out.mutable_data_ptr());
  const bool bfloat = type == ScalarType::BFloat16;
  const Plan& p = arguments.plan;
  const CUtensorMap map =
      tensor_map(in, x.const_data_ptr(), bfloat, {kGroup, p.pitch, p.rows, p.frames});
  const cudaStream_t stream = current_stream(x);
  bfloat ? launch<true>(map, arguments, stream, device)
         : launch<false>(map, arguments, stream, device);
}

}  // namespace
}  // namespace fasti3d::conv3d_slab

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CUDA, m) {
  m.impl("conv3d_slab_", TORCH_BOX(&fasti3d::conv3d_slab::conv3d_slab));
}
