// fasti3d::pooled_conv3d_slab_ on CUDA: a max-pool 3x3x3 whose padding is zeros and the convolution
// 1x1x1 of it, with bias and ReLU, over slabs of the clip in shared memory (plan.h, roles.h). For
// compute capability 9.0 alone: wgmma is in no other.
#include <cuda.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/clip.h"
#include "../common/cuda.h"
#include "../common/overlap.h"
#include "../sm90/tensor_map.h"
#include "device.h"
#include "roles.h"

namespace fasti3d::pooled_conv3d_slab {
namespace {

template <int kRowBlocks, int kColumns, bool kBfloat>
__global__ void __launch_bounds__(kThreads, 1)
    _pooled_conv3d_slab_kernel(const __grid_constant__ CUtensorMap map,
                               const __grid_constant__ Arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char memory[];
  const Plan& p = arguments.plan;
  const int group = threadIdx.x / kWarpgroup;
  if (threadIdx.x < kBarriers) {
    Warp(map, memory).start(p.full(0) + 8 * threadIdx.x, p.arrivals(threadIdx.x));
    // Copies see the barriers too.
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    hand_over_memory();
  }
  __syncthreads();
  if (group < p.tile.along) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kManyRegisters));
    Warpgroup<kRowBlocks, kColumns, kBfloat> machine(map, arguments, memory);
    pool_and_multiply(machine, p, group);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kFewRegisters));
    if (threadIdx.x == kWarpgroup * kMaxConsumers) {
      Loader machine(map, arguments, memory);
      load(machine, p);
    }
  }
#endif
}

template <int kRowBlocks, int kColumns, bool kBfloat>
void launch(const CUtensorMap& map, const Arguments& arguments, cudaStream_t stream, int device) {
  const auto kernel = _pooled_conv3d_slab_kernel<kRowBlocks, kColumns, kBfloat>;
  const Plan& p = arguments.plan;
  STD_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared_bytes));
  int sms = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  kernel<<<static_cast<unsigned>(std::min(p.tiles, sms)), kThreads, p.shared_bytes, stream>>>(
      map, arguments);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <bool kBfloat>
void launch(const CUtensorMap& map, const Arguments& arguments, cudaStream_t stream, int device) {
  const Plan& p = arguments.plan;
  switch (p.row_blocks * 1000 + p.tile.columns) {
    case 1056: return launch<1, 56, kBfloat>(map, arguments, stream, device);
    case 1112: return launch<1, 112, kBfloat>(map, arguments, stream, device);
    case 1200: return launch<1, 200, kBfloat>(map, arguments, stream, device);
    case 1224: return launch<1, 224, kBfloat>(map, arguments, stream, device);
    case 2056: return launch<2, 56, kBfloat>(map, arguments, stream, device);
    case 2112: return launch<2, 112, kBfloat>(map, arguments, stream, device);
    default: fail("tile must have 56, 112, 200 or 224 columns, got ", p.tile.columns);
  }
}

Tile make_tile(const std::vector<int64_t>& numbers) {
  check(numbers.size() == 8, "tile must have 8 numbers, got ", numbers.size());
  for (const int64_t number : numbers) {
    check(number >= 0 && number <= kMaxBox, "tile must be of 0 to ", kMaxBox, ", got ", number);
  }
  const auto at = [&](size_t i) { return static_cast<int>(numbers[i]); };
  return {at(0), at(1), at(2), {at(3), at(4), at(5)}, at(6), at(7)};
}

void pooled_conv3d_slab(Tensor x, Tensor weight, Tensor bias, bool relu, Tensor out,
                        std::vector<int64_t> tile) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Half || type == ScalarType::BFloat16,
        "x must be float16 or bfloat16: convert it");
  const ClipView in = channels_last_view(x, "x"), view = channels_last_view(out, "out");
  for (const Tensor* its : {&weight, &bias, &out}) {
    check(its->device() == x.device(), "weight, bias and out must be on x's device: move them");
  }
  check(out.scalar_type() == type && weight.scalar_type() == type,
        "weight and out must have x's dtype");
  check(view.n == in.n && view.t == in.t && view.h == in.h && view.w == in.w,
        "out must have x's clips, frames, rows and columns: ", in.n, ", ", in.t, ", ", in.h, ", ",
        in.w, ", got ", view.n, ", ", view.t, ", ", view.h, ", ", view.w);
  check(bias.scalar_type() == ScalarType::Float && bias.numel() == view.c && bias.is_contiguous(),
        "bias must be ", view.c, " contiguous float32 values, got ", bias.numel());
  for (const int64_t length : {in.n, in.c, in.t, in.h, in.w, view.c}) {
    check(length <= kMaxLength / 64, "clips must have axes of less than ", kMaxLength / 64,
          ", got ", length);
  }
  check_written(out, {{"x", x}, {"weight", weight}, {"bias", bias}});
  if (out.numel() == 0) return;
  check(x.numel() > 0 && view.c % kGroup == 0,
        "x must not be empty, and out must have a multiple of ", kGroup, " channels, got ", view.c);
  const Problem problem{static_cast<int>(in.n), static_cast<int>(in.c), static_cast<int>(view.c),
                        triple_of(in)};
  const Tile chosen = make_tile(tile);
  const char* const why = refusal(problem, chosen);
  check(why == nullptr, "tile: ", why == nullptr ? "" : why);
  Arguments arguments{};
  const Plan& p = arguments.plan = make_plan(problem, chosen);
  check(weight.numel() * 2 == p.weight_bytes() && weight.is_contiguous(),
        "weight must be what pack_slab makes, ", p.weight_bytes() / 2, " values, got ",
        weight.numel());
  check_vectors("x", in, x);
  check_vectors("out", view, out);
  arguments.weight = static_cast<const char*>(weight.const_data_ptr());
  check(reinterpret_cast<uintptr_t>(arguments.weight) % 16 == 0,
        "weight must be aligned to 16 bytes");
  const int device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  arguments.results.bias = static_cast<const float*>(bias.const_data_ptr());
  arguments.results.relu = relu;
  arguments.results.out = static_cast<uint16_t*>(out.mutable_data_ptr());
  copy_strides(view, arguments.results.out_strides);
  const bool bfloat = type == ScalarType::BFloat16;
  const CUtensorMap map =
      tensor_map(in, x.const_data_ptr(), bfloat, {kChannels, p.pitch, p.rows, p.frames});
  const cudaStream_t stream = current_stream(x);
  bfloat ? launch<true>(map, arguments, stream, device)
         : launch<false>(map, arguments, stream, device);
}

}  // namespace
}  // namespace fasti3d::pooled_conv3d_slab

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CUDA, m) {
  m.impl("pooled_conv3d_slab_", TORCH_BOX(&fasti3d::pooled_conv3d_slab::pooled_conv3d_slab));
}
