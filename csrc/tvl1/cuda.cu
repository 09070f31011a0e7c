// fasti3d::tvl1 and fasti3d::tvl1_exact on CUDA: one cooperative kernel for the whole batch.
//
// All its blocks run at the same time, in groups; a group takes a pair from a queue, solves it from
// the frames to the flow (cuda_solver.h), and takes the next. Pairs differ tenfold in iterations,
// so nobody waits for other pairs, and the host waits for nothing.
#include <cuda_runtime.h>
#include <cuda/atomic>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "../common/cuda.h"
#include "cuda_plan.h"
#include "cuda_solver.h"
#include "operator.h"

namespace fasti3d::tvl1 {
namespace {

// In device memory: what the blocks of a group share, and what all groups share.
struct alignas(128) GroupState {
  unsigned arrivals;  // at meetings, of all blocks together
  unsigned long long pair;
};
struct alignas(128) Queue {
  unsigned long long next;
};

// A block of a group, as cuda_solver.h asks for it. The grid is (blocks of a group, groups).
class DeviceBlock {
 public:
  template <class T>
  struct Registers {
    T own;
  };

  __device__ DeviceBlock(Queue* queue, GroupState* groups)
      : queue_(queue), state_(groups + blockIdx.y) {}

  __device__ int group() const { return blockIdx.y; }
  __device__ int index() const { return blockIdx.x; }
  __device__ int count() const { return gridDim.x; }

  template <class F>
  __device__ __forceinline__ void each(int n, F f) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += kThreads) f(i);
    __syncthreads();
  }
  template <class F>
  __device__ __forceinline__ void share(int n, F f) const {
    const unsigned step = count() * kThreads;
#pragma unroll 1
    for (unsigned i = index() * kThreads + threadIdx.x; i < n; i += step) f(static_cast<int>(i));
  }
  template <class T, class F>
  __device__ __forceinline__ void threads(Registers<T>& registers, F f) const {
    f(static_cast<int>(threadIdx.x), registers.own);
    __syncthreads();
  }
  // What get finds in the registers of the thread to the left or right in the warp; the outermost
  // thread gets its own. The whole warp must call it.
  template <class T, class F>
  __device__ __forceinline__ auto from_left(Registers<T>& registers, int, F get) const {
    auto value = get(registers.own);
    value.value = __shfl_up_sync(~0u, value.value, 1);
    return value;
  }
  template <class T, class F>
  __device__ __forceinline__ auto from_right(Registers<T>& registers, int, F get) const {
    auto value = get(registers.own);
    value.value = __shfl_down_sync(~0u, value.value, 1);
    return value;
  }
  // Past the L1 cache, which has no use for what a sweep reads once.
  __device__ __forceinline__ Two load(const Two* from) const {
    const float2 value = __ldcg(reinterpret_cast<const float2*>(from));
    return {value.x, value.y};
  }

  // Waits for all blocks of the group, and makes what they wrote before visible after. Arrivals are
  // only ever counted up; all blocks come by equally often, so each knows what to wait for.
  __device__ void meet() {
    __syncthreads();
    expected_ += count();
    if (threadIdx.x == 0) {
      const cuda::atomic_ref<unsigned, cuda::thread_scope_device> arrivals(state_->arrivals);
      arrivals.fetch_add(1, cuda::memory_order_release);
      // The difference is right also where the counter has wrapped around. Waiting leaves the L1
      // cache to the block beside this one; the fence empties it, once.
      while (static_cast<int>(arrivals.load(cuda::memory_order_relaxed) - expected_) < 0) {
      }
      cuda::atomic_thread_fence(cuda::memory_order_acquire, cuda::thread_scope_device);
    }
    __syncthreads();
  }

  // The next pair of the group; past the last when there are no more.
  __device__ int64_t next_pair() {
    if (index() == 0 && threadIdx.x == 0) state_->pair = atomicAdd(&queue_->next, 1ull);
    meet();
    return static_cast<int64_t>(state_->pair);
  }

 private:
  Queue* const queue_;
  GroupState* const state_;
  unsigned expected_ = 0;
};

// Two blocks a multiprocessor, of different groups where there are several: one computes while the
// other waits. With the illumination term the registers only suffice for one.
template <class V, int kComponents>
__global__ void __launch_bounds__(kThreads, kComponents == 2 ? 2 : 1)
    _tvl1_kernel(const __grid_constant__ Task task, Queue* queue, GroupState* groups) {
  __shared__ Shared<kComponents> shared;
  DeviceBlock block(queue, groups);
  Solver<DeviceBlock, V, kComponents>(block, shared, task).run();
}

// The levels' table, through a kernel's arguments: a copy from host memory could not be captured in
// a graph.
constexpr int kLevelsAtOnce = 32;
struct Levels {
  Level level[kLevelsAtOnce];
};
__global__ void _tvl1_levels_kernel(const __grid_constant__ Levels levels, int count, Level* to) {
  if (threadIdx.x < count) to[threadIdx.x] = levels.level[threadIdx.x];
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

template <class V, int kComponents>
void launch(Task task, const Params& params, Size size, const Tensor& frames) {
  const cudaStream_t stream = current_stream(frames);
  const int device = frames.get_device_index();
  void (*const kernel)(Task, Queue*, GroupState*) = _tvl1_kernel<V, kComponents>;
  int per_multiprocessor = 0;
  STD_CUDA_CHECK(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, kThreads, 0));
  const int64_t blocks =
      int64_t(per_multiprocessor) * attribute(cudaDevAttrMultiProcessorCount, device);
  check(blocks > 0 && attribute(cudaDevAttrCooperativeLaunch, device) == 1,
        "tvl1: this GPU cannot run the solver's blocks side by side: move the frames to the CPU");
  const Plan plan =
      make_plan(size, task.pairs, params, {blocks, attribute(cudaDevAttrL2CacheSize, device)});

  const auto aligned = [](int64_t bytes) { return round_up_to(bytes, 128); };
  const int64_t level_count = static_cast<int64_t>(plan.levels.size());
  const int64_t states = aligned(sizeof(Queue) + plan.groups * sizeof(GroupState));
  const int64_t table = aligned(level_count * sizeof(Level));
  const int64_t bytes = states + table + plan.groups * plan.layout.floats * sizeof(float);
  Tensor workspace = allocate({bytes}, ScalarType::Byte, frames);
  char* const memory = static_cast<char*>(workspace.mutable_data_ptr());
  Queue* queue = reinterpret_cast<Queue*>(memory);
  GroupState* groups = reinterpret_cast<GroupState*>(queue + 1);
  Level* const levels = reinterpret_cast<Level*>(memory + states);
  STD_CUDA_CHECK(cudaMemsetAsync(memory, 0, states, stream));
  for (int64_t first = 0; first < level_count; first += kLevelsAtOnce) {
    const int64_t count = std::min<int64_t>(level_count - first, kLevelsAtOnce);
    Levels part{};
    std::copy_n(plan.levels.data() + first, count, part.level);
    _tvl1_levels_kernel<<<1, kLevelsAtOnce, 0, stream>>>(part, static_cast<int>(count),
                                                         levels + first);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  task.levels = levels;
  task.level_count = static_cast<int32_t>(level_count);
  task.layout = plan.layout;
  task.workspace = reinterpret_cast<float*>(memory + states + table);
  void* arguments[] = {&task, &queue, &groups};
  const dim3 grid(static_cast<unsigned>(plan.blocks_per_group), static_cast<unsigned>(plan.groups));
  STD_CUDA_CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(kernel), grid, dim3(kThreads),
                                             arguments, 0, stream));
}

template <class V>
std::tuple<Tensor, Tensor> tvl1(Tensor frame0, std::optional<Tensor> frame1,
                                std::optional<Tensor> initial_flow, std::string mode, double tau,
                                double lambda, double theta, int64_t nscales, int64_t warps,
                                double epsilon, int64_t inner_iterations, int64_t outer_iterations,
                                double scale_step, double gamma, int64_t median_filtering) {
  const Params params =
      make_params(mode, tau, lambda, theta, nscales, warps, epsilon, inner_iterations,
                  outer_iterations, scale_step, gamma, median_filtering);
  const Problem problem = make_problem(frame0, frame1, initial_flow);
  // Pixels are counted in 32 bits, the padding of rows and the last steps of loops included.
  check(problem.size.height * (problem.size.width + 8) < int64_t(1) << 30,
        "frame0 must have images of less than 2^30 pixels, got ", problem.size.height, " x ",
        problem.size.width);
  const torch::stable::accelerator::DeviceGuard guard(frame0.get_device_index());
  auto [flow, iterations] = make_outputs(frame0, problem, params);
  if (problem.pairs == 0) return {flow, iterations};
  Task task = make_task(params);
  task.pairs = problem.pairs;
  task.bytes = problem.bytes;
  task.frames0 = frame0.const_data_ptr();
  // Without a second clip a pair is a frame and the next one.
  const int64_t frame_bytes = problem.size.pixels() * (problem.bytes ? 1 : sizeof(float));
  task.frames1 = frame1 ? frame1->const_data_ptr()
                        : static_cast<const char*>(frame0.const_data_ptr()) + frame_bytes;
  task.initial = initial_flow ? static_cast<const float*>(initial_flow->const_data_ptr()) : nullptr;
  task.flow = static_cast<float*>(flow.mutable_data_ptr());
  task.iterations = static_cast<int32_t*>(iterations.mutable_data_ptr());
  if (params.gamma != 0.0) {
    launch<V, 3>(task, params, problem.size, frame0);
  } else {
    launch<V, 2>(task, params, problem.size, frame0);
  }
  return {flow, iterations};
}

}  // namespace
}  // namespace fasti3d::tvl1

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CUDA, m) {
  m.impl("tvl1", TORCH_BOX(&fasti3d::tvl1::tvl1<fasti3d::tvl1::Fast>));
  m.impl("tvl1_exact", TORCH_BOX(&fasti3d::tvl1::tvl1<fasti3d::tvl1::Exact>));
}
