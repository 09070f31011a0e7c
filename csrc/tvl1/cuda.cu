// fasti3d::tvl1 and fasti3d::tvl1_exact on CUDA: one kernel for the whole batch.
//
// Its blocks run in groups; a group takes a pair from a queue, solves it from the frames to the
// flow (cuda_solver.h), and takes the next. Pairs differ tenfold in iterations, so no group waits
// for other pairs, and the host waits for nothing.
//
// There are two designs, which give the same bits. In "groups" all blocks of the GPU run at the
// same time, and those of a group exchange tiles through the L2 cache (cuda_sweep.h). In "cluster"
// a group is a thread-block cluster that keeps the pair it iterates on the chip (cuda_resident.h);
// that takes a GPU with clusters, and frames that fit into one.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>

#include "../common/cuda.h"
#include "cuda_block.h"
#include "cuda_plan.h"
#include "cuda_resident.h"
#include "cuda_solver.h"
#include "cuda_sweep.h"
#include "operator.h"

namespace fasti3d::tvl1 {
namespace {

// Two blocks per SM, of different groups where there are several: one computes while the
// other waits. With the illumination term the registers only suffice for one.
template <class V, int kComponents>
__global__ void __launch_bounds__(kThreads, kComponents == 2 ? 2 : 1)
    _tvl1_kernel(const __grid_constant__ Task task, Queue* queue, GroupState* groups) {
  using GroupSolver = Solver<Sweeper, GroupBlock, V, kComponents>;
  __shared__ typename GroupSolver::Shared shared;
  GroupBlock block(queue, groups);
  GroupSolver(block, shared, task).run();
}

// One block per SM.
template <class V, int kComponents>
__global__ void __launch_bounds__(kResidentThreads, 1)
    _tvl1_cluster_kernel(const __grid_constant__ Task task, Queue* queue, GroupState* groups) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  using ClusterSolver = Solver<Resident, ClusterBlock, V, kComponents>;
  extern __shared__ __align__(16) char memory[];
  __shared__ ClusterBlock::Barriers barriers;
  ClusterBlock block(queue, groups, barriers);
  ClusterSolver(block, *reinterpret_cast<typename ClusterSolver::Shared*>(memory), task).run();
#endif
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

enum class Design { kGroups, kCluster, kAuto };

// FASTI3D_TVL1_CUDA_DESIGN: groups, cluster, or auto for clusters wherever a pair fits into one.
// Groups are the default as long as no GPU has timed the two side by side.
Design asked_design() {
  const char* const value = std::getenv("FASTI3D_TVL1_CUDA_DESIGN");
  const std::string name = value == nullptr || *value == 0 ? "groups" : value;
  check(name == "groups" || name == "cluster" || name == "auto",
        "FASTI3D_TVL1_CUDA_DESIGN must be groups, cluster or auto, got ", name);
  return name == "groups" ? Design::kGroups : name == "auto" ? Design::kAuto : Design::kCluster;
}

// A kernel, how to launch it, and the plan that it works by.
struct Launch {
  const void* kernel;
  cudaLaunchConfig_t config;
  cudaLaunchAttribute attribute;
  Plan plan;
};

template <class V, int kComponents>
Launch in_groups(Size size, int64_t pairs, const Params& params, int device) {
  void (*const kernel)(Task, Queue*, GroupState*) = _tvl1_kernel<V, kComponents>;
  int blocks_per_sm = 0;
  STD_CUDA_CHECK(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_sm, kernel, kThreads, 0));
  const int64_t blocks = int64_t(blocks_per_sm) * attribute(cudaDevAttrMultiProcessorCount, device);
  check(blocks > 0 && attribute(cudaDevAttrCooperativeLaunch, device) == 1,
        "tvl1: this GPU cannot run the solver's blocks side by side: move the frames to the CPU");
  Launch launch{};
  launch.kernel = reinterpret_cast<const void*>(kernel);
  launch.config.blockDim = dim3(kThreads);
  launch.attribute.id = cudaLaunchAttributeCooperative;
  launch.attribute.val.cooperative = 1;
  launch.plan = make_plan(size, pairs, params, {blocks, attribute(cudaDevAttrL2CacheSize, device)});
  return launch;
}

// Nothing if this GPU has no clusters, or none that a pair fits into.
template <class V, int kComponents>
std::optional<Launch> in_clusters(Size size, int64_t pairs, const Params& params, int device) {
  void (*const kernel)(Task, Queue*, GroupState*) = _tvl1_cluster_kernel<V, kComponents>;
  constexpr int kBytes = sizeof(ResidentShared<kComponents>);
  cudaFuncAttributes compiled{};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&compiled, kernel));
  // What was compiled for an older GPU, if only to be translated for this one, is empty.
  if (compiled.ptxVersion < 90 || attribute(cudaDevAttrClusterLaunch, device) != 1 ||
      attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device) <
          kBytes + static_cast<int>(compiled.sharedSizeBytes)) {
    return std::nullopt;
  }
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  Launch launch{};
  launch.kernel = reinterpret_cast<const void*>(kernel);
  launch.config.gridDim = dim3(kMaxClusterBlocks);
  launch.config.blockDim = dim3(kResidentThreads);
  launch.config.dynamicSmemBytes = kBytes;
  int max_blocks = 0, clusters = 0;
  STD_CUDA_CHECK(cudaOccupancyMaxPotentialClusterSize(&max_blocks, kernel, &launch.config));
  const int64_t blocks = choose_cluster(size, pairs, kComponents, max_blocks,
                                        attribute(cudaDevAttrMultiProcessorCount, device));
  if (blocks == 0) return std::nullopt;
  launch.config.gridDim = dim3(static_cast<unsigned>(blocks));
  launch.attribute.id = cudaLaunchAttributeClusterDimension;
  launch.attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
  launch.attribute.val.clusterDim.y = launch.attribute.val.clusterDim.z = 1;
  launch.config.attrs = &launch.attribute;
  launch.config.numAttrs = 1;
  STD_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config));
  if (clusters == 0) return std::nullopt;
  launch.plan = make_cluster_plan(size, params, std::min<int64_t>(pairs, clusters), blocks);
  return launch;
}

template <class V, int kComponents>
Launch choose_launch(Size size, int64_t pairs, const Params& params, int device) {
  const Design design = asked_design();
  if (design != Design::kGroups) {
    const auto launch = in_clusters<V, kComponents>(size, pairs, params, device);
    if (launch) return *launch;
    check(design == Design::kAuto, "FASTI3D_TVL1_CUDA_DESIGN=cluster: images of ", size.height,
          " x ", size.width, " do not fit into a thread-block cluster of this GPU: use groups");
  }
  return in_groups<V, kComponents>(size, pairs, params, device);
}

template <class V, int kComponents>
void solve(Task task, const Params& params, Size size, const Tensor& frames) {
  const cudaStream_t stream = current_stream(frames);
  Launch launch =
      choose_launch<V, kComponents>(size, task.pairs, params, frames.get_device_index());
  const Plan& plan = launch.plan;

  const auto aligned = [](int64_t bytes) { return round_up_to(bytes, 128); };
  const int64_t level_count = static_cast<int64_t>(plan.levels.size());
  const int64_t states = aligned(sizeof(Queue) + plan.groups * sizeof(GroupState));
  const int64_t table = aligned(level_count * sizeof(Level));
  const int64_t bytes = states + table + plan.groups * plan.layout.floats * sizeof(float);
  Tensor workspace = allocate("tvl1", {bytes}, ScalarType::Byte, frames);
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
  launch.config.gridDim =
      dim3(static_cast<unsigned>(plan.blocks_per_group), static_cast<unsigned>(plan.groups));
  launch.config.stream = stream;
  launch.config.attrs = &launch.attribute;
  launch.config.numAttrs = 1;
  STD_CUDA_CHECK(cudaLaunchKernelExC(&launch.config, launch.kernel, arguments));
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
    solve<V, 3>(task, params, problem.size, frame0);
  } else {
    solve<V, 2>(task, params, problem.size, frame0);
  }
  return {flow, iterations};
}

}  // namespace
}  // namespace fasti3d::tvl1

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CUDA, m) {
  m.impl("tvl1", TORCH_BOX(&fasti3d::tvl1::tvl1<fasti3d::tvl1::Fast>));
  m.impl("tvl1_exact", TORCH_BOX(&fasti3d::tvl1::tvl1<fasti3d::tvl1::Exact>));
}
