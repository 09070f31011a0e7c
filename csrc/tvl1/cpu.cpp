// fasti3d::tvl1 and fasti3d::tvl1_exact, which are the same on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>
#include <tuple>

#include "../common/isa.h"
#include "batch.h"
#include "operator.h"

namespace fasti3d::tvl1 {
namespace {

const Rows& choose() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512::rows;
  if (isa() >= Isa::kAvx2) return avx2::rows;
#elif defined(__aarch64__)
  if (isa() >= Isa::kNeon) return neon::rows;
#endif
  return baseline::rows;
}

std::tuple<Tensor, Tensor> tvl1(Tensor frame0, std::optional<Tensor> frame1,
                                std::optional<Tensor> initial_flow, std::string mode, double tau,
                                double lambda, double theta, int64_t nscales, int64_t warps,
                                double epsilon, int64_t inner_iterations, int64_t outer_iterations,
                                double scale_step, double gamma, int64_t median_filtering) {
  const Params params =
      make_params(mode, tau, lambda, theta, nscales, warps, epsilon, inner_iterations,
                  outer_iterations, scale_step, gamma, median_filtering);
  const Problem problem = make_problem(frame0, frame1, initial_flow);
  const float largest = max_frame_value(lambda, theta);
  check_values(frame0, "frame0", -largest, largest);
  check_values(frame1, "frame1", -largest, largest);
  check_values(initial_flow, "initial_flow", -kMaxFlow, kMaxFlow);
  auto [flow, iterations] = make_outputs(frame0, problem, params);
  if (problem.pairs == 0) return {flow, iterations};
  const Batch batch{
      frame0.const_data_ptr(),
      frame1 ? frame1->const_data_ptr() : nullptr,
      problem.bytes,
      problem.pairs,
      problem.size,
      initial_flow ? static_cast<const float*>(initial_flow->const_data_ptr()) : nullptr,
      static_cast<float*>(flow.mutable_data_ptr()),
      static_cast<int32_t*>(iterations.mutable_data_ptr())};
  solve_batch(batch, params, choose());
  return {flow, iterations};
}

}  // namespace
}  // namespace fasti3d::tvl1

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("tvl1", TORCH_BOX(&fasti3d::tvl1::tvl1));
  m.impl("tvl1_exact", TORCH_BOX(&fasti3d::tvl1::tvl1));
}
