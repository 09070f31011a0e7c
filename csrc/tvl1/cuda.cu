// fasti3d::tvl1 and fasti3d::tvl1_exact on CUDA: one launch for the whole batch, or a few, each
// for some of the levels, the coarsest first (cuda_choice.h).
//
// Blocks run in groups; a group takes a pair from a queue, solves the levels of the launch
// (cuda_solver.h), and takes the next. Pairs differ tenfold in iterations, so no group waits for
// other pairs before the launch ends, and the host waits for nothing.
//
// There are two designs, which give the same bits. In "groups" all blocks of the GPU run at the
// same time, and those of a group exchange tiles through the L2 cache (cuda_sweep.h). In "cluster"
// a group is a thread-block cluster that keeps the pair it iterates on the chip (cuda_resident.h);
// that takes a GPU with clusters, and levels that fit into one.
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
#include <vector>

#include "../common/cuda.h"
#include "cuda_choice.h"
#include "cuda_kernels.h"
#include "cuda_plan.h"
#include "cuda_resident.h"
#include "operator.h"

namespace fasti3d::tvl1 {
namespace {

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

// FASTI3D_TVL1_CUDA_DESIGN, see parse_design. Groups are the default as long as no GPU has timed
// the designs side by side.
Asked asked_design() {
  const char* const value = std::getenv("FASTI3D_TVL1_CUDA_DESIGN");
  const std::string text = value == nullptr || *value == 0 ? "groups" : value;
  const auto asked = parse_design(text);
  check(asked.has_value(),
        "FASTI3D_TVL1_CUDA_DESIGN must be groups, cluster, mixed or auto, alone or followed by a "
        "number of launches, as in groups/1, got ",
        text);
  return *asked;
}

// Of one arithmetic and number of components.
struct Kernels {
  Kernel groups, cluster;
};

// Whether an error says that a launch needs more at the same time than this process may have; then
// the error is over.
bool is_refusal(cudaError_t error) {
  const bool refused = error == cudaErrorCooperativeLaunchTooLarge ||
                       error == cudaErrorLaunchOutOfResources ||
                       error == cudaErrorInvalidClusterSize || error == cudaErrorNotSupported;
  if (refused) cudaGetLastError();
  return refused;
}

struct LaunchConfig {
  cudaLaunchConfig_t its{};
  cudaLaunchAttribute attribute{};

  LaunchConfig(const Part& part, int components) {
    its.gridDim = dim3(static_cast<unsigned>(part.blocks), static_cast<unsigned>(part.groups));
    its.blockDim = dim3(part.clusters ? kResidentThreads : kThreads);
    its.attrs = &attribute;
    if (part.clusters) {
      its.dynamicSmemBytes = resident_bytes(components);
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(part.blocks);
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
      its.numAttrs = 1;
    } else if (part.blocks > 1) {
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
      its.numAttrs = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;  // one member points to the other

  static int resident_bytes(int components) {
    return components == 2 ? sizeof(ResidentShared<2>) : sizeof(ResidentShared<3>);
  }
};

void add_clusters(Device& gpu, Kernel kernel, int components, int device) {
  const int bytes = LaunchConfig::resident_bytes(components);
  cudaFuncAttributes compiled{};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&compiled, kernel));
  // What was compiled for an older GPU, if only to be translated for this one, is empty.
  if (compiled.ptxVersion < 90 || attribute(cudaDevAttrClusterLaunch, device) != 1 ||
      attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device) <
          bytes + static_cast<int>(compiled.sharedSizeBytes)) {
    return;
  }
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  LaunchConfig largest({true, 0, 0, 1, kMaxClusterBlocks}, components);
  largest.its.numAttrs = 0;
  int max_blocks = 0;
  STD_CUDA_CHECK(cudaOccupancyMaxPotentialClusterSize(&max_blocks, kernel, &largest.its));
  for (int i = 0; i < kClusterSizes && 1 << i <= max_blocks; ++i) {
    const LaunchConfig config({true, 0, 0, 1, 1 << i}, components);
    int clusters = 0;
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config.its);
    if (is_refusal(error)) continue;
    STD_CUDA_CHECK(error);
    gpu.clusters[i] = clusters;
  }
}

Device describe(const Kernels& kernels, int device) {
  int blocks_per_sm = 0;
  STD_CUDA_CHECK(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_sm, kernels.groups, kThreads, 0));
  check(blocks_per_sm > 0, "tvl1: this GPU cannot run the solver: move the frames to the CPU");
  Device gpu{};
  gpu.blocks = int64_t(blocks_per_sm) * attribute(cudaDevAttrMultiProcessorCount, device);
  gpu.cooperative = attribute(cudaDevAttrCooperativeLaunch, device) == 1;
  gpu.l2_bytes = attribute(cudaDevAttrL2CacheSize, device);
  return gpu;
}

// Solves the levels of task.part.
cudaError_t launch(const Kernels& kernels, Task task, std::vector<Level> levels, int components,
                   const Tensor& frames) {
  const cudaStream_t stream = current_stream(frames);
  const Part& part = task.part;
  if (!part.clusters) cut_into_tiles(levels, part);
  task.layout = make_layout(levels, part, components, task.initial != nullptr);

  const auto aligned = [](int64_t bytes) { return round_up_to(bytes, 128); };
  const int64_t level_count = static_cast<int64_t>(levels.size());
  const int64_t states = aligned(sizeof(Queue) + part.groups * sizeof(GroupState));
  const int64_t table = aligned(level_count * sizeof(Level));
  const int64_t bytes = states + table + part.groups * task.layout.floats * sizeof(float);
  Tensor workspace = allocate("tvl1", {bytes}, ScalarType::Byte, frames);
  char* const memory = static_cast<char*>(workspace.mutable_data_ptr());
  Queue* queue = reinterpret_cast<Queue*>(memory);
  GroupState* groups = reinterpret_cast<GroupState*>(queue + 1);
  Level* const to = reinterpret_cast<Level*>(memory + states);
  STD_CUDA_CHECK(cudaMemsetAsync(memory, 0, states, stream));
  for (int64_t first = 0; first < level_count; first += kLevelsAtOnce) {
    const int64_t count = std::min<int64_t>(level_count - first, kLevelsAtOnce);
    Levels some{};
    std::copy_n(levels.data() + first, count, some.level);
    _tvl1_levels_kernel<<<1, kLevelsAtOnce, 0, stream>>>(some, static_cast<int>(count), to + first);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  task.levels = to;
  task.workspace = reinterpret_cast<float*>(memory + states + table);
  void* arguments[] = {&task, &queue, &groups};
  LaunchConfig config(part, components);
  config.its.stream = stream;
  const void* const kernel =
      reinterpret_cast<const void*>(part.clusters ? kernels.cluster : kernels.groups);
  return cudaLaunchKernelExC(&config.its, kernel, arguments);
}

void solve(const Kernels& kernels, Task task, const Params& params, Size size,
           const Tensor& frames) {
  const int device = frames.get_device_index();
  const Asked asked = asked_design();
  const Batch batch{pyramid(size, params), task.pairs, components_of(params)};
  Device gpu = describe(kernels, device);
  if (asked.design != Design::kGroups) {
    add_clusters(gpu, kernels.cluster, batch.components, device);
  }
  Planner planner(batch, gpu);
  const std::vector<Part> parts = planner.choose(asked.design, asked.launches);
  check(!parts.empty(), "FASTI3D_TVL1_CUDA_DESIGN=", asked.name, ": images of ", size.height, " x ",
        size.width, " do not fit into a thread-block cluster of this GPU: use groups");

  const std::vector<Level> levels = make_levels(batch.sizes, params);
  task.level_count = batch.levels();
  task.illumination_pixels = illumination_pixels(levels, parts.back(), batch.components);
  std::optional<Tensor> illumination;
  if (task.illumination_pixels > 0) {
    illumination =
        allocate("tvl1", {task.pairs, task.illumination_pixels}, ScalarType::Float, frames);
    task.illumination = static_cast<float*>(illumination->mutable_data_ptr());
  }
  cudaError_t error = cudaSuccess;
  const auto take = [&](const Part& part) {
    task.part = part;
    error = launch(kernels, task, levels, batch.components, frames);
    if (!is_refusal(error)) return true;
    add_clusters(gpu, kernels.cluster, batch.components, device);  // which may replace groups
    return false;
  };
  for (const Part& part : parts) {
    const bool taken = planner.launch(part, asked.design, take);
    check(taken || !part.clusters || asked.design == Design::kAuto,
          "FASTI3D_TVL1_CUDA_DESIGN=", asked.name, ": the driver refuses thread-block clusters (",
          cudaGetErrorString(error), "): use groups");
    STD_CUDA_CHECK(error);
  }
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
  const int components = components_of(params);
  const Kernels kernels{group_kernel<V>(components), cluster_kernel<V>(components)};
  solve(kernels, task, params, problem.size, frame0);
  return {flow, iterations};
}

}  // namespace
}  // namespace fasti3d::tvl1

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CUDA, m) {
  m.impl("tvl1", TORCH_BOX(&fasti3d::tvl1::tvl1<fasti3d::tvl1::Fast>));
  m.impl("tvl1_exact", TORCH_BOX(&fasti3d::tvl1::tvl1<fasti3d::tvl1::Exact>));
}
