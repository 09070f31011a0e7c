// The checked arguments of fasti3d::tvl1, for every device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "../common/allocate.h"
#include "../common/check.h"
#include "params.h"

namespace fasti3d::tvl1 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// As in fasti3d/tvl1_limits.py, which says why.
constexpr int64_t kMaxIterations = 0x7fffffff;
constexpr double kMaxValue = 1e6;
// Of an initial flow, in pixels, and how far floats of 0 to 1 may lie outside.
constexpr float kMaxFlow = 1e9f, kRounding = 1e-3f;

inline Params make_params(const std::string& mode, double tau, double lambda, double theta,
                          int64_t nscales, int64_t warps, double epsilon, int64_t inner_iterations,
                          int64_t outer_iterations, double scale_step, double gamma,
                          int64_t median_filtering) {
  check(mode == "opencv-cpu" || mode == "opencv-cuda",
        "mode must be opencv-cpu or opencv-cuda, got ", mode);
  check(tau > 0, "tau must be above 0, got ", tau);
  check(lambda > 0, "lambda_ must be above 0, got ", lambda);
  check(theta > 0, "theta must be above 0, got ", theta);
  check(nscales >= 1 && nscales <= 1000, "nscales must be 1 to 1000, got ", nscales);
  check(warps >= 0 && warps <= 1000, "warps must be 0 to 1000, got ", warps);
  check(epsilon >= 0, "epsilon must be at least 0, got ", epsilon);
  check(inner_iterations >= 1, "inner_iterations must be at least 1, got ", inner_iterations);
  check(outer_iterations >= 1, "outer_iterations must be at least 1, got ", outer_iterations);
  check(inner_iterations <= kMaxIterations / outer_iterations,
        "inner_iterations * outer_iterations must be less than 2**31, got ", inner_iterations,
        " * ", outer_iterations);
  check(scale_step > 0 && scale_step < 1, "scale_step must lie between 0 and 1, got ", scale_step);
  check(gamma >= 0, "gamma must be at least 0, got ", gamma);
  const auto check_max = [](const char* name, double value) {
    check(value <= kMaxValue, name, " must be at most ", kMaxValue, ", got ", value);
  };
  check_max("theta", theta);
  check_max("gamma", gamma);
  check_max("tau / theta", tau / theta);
  check_max("lambda_ * theta", lambda * theta);
  check(median_filtering == 0 || median_filtering == 1 || median_filtering == 3 ||
            median_filtering == 5,
        "median_filtering must be 0, 1, 3 or 5, got ", median_filtering);
  return {mode == "opencv-cuda",
          tau,
          lambda,
          theta,
          nscales,
          warps,
          epsilon,
          inner_iterations,
          outer_iterations,
          scale_step,
          gamma,
          median_filtering};
}

// The maximum absolute value of float frames.
inline float max_frame_value(double lambda, double theta) {
  return std::max(1.0 + kRounding, std::min(kMaxValue / (lambda * theta), kMaxValue));
}

// Fails for a value of a float32 tensor on the CPU that is not between the two; NaN is not.
inline void check_values(const std::optional<Tensor>& tensor, const char* name, float low,
                         float high) {
  if (!tensor || tensor->scalar_type() != ScalarType::Float) return;
  const float* const values = static_cast<const float*>(tensor->const_data_ptr());
  bool inside = true;
  const int64_t count = tensor->numel();
  for (int64_t i = 0; i < count; ++i) inside &= values[i] >= low && values[i] <= high;
  check(inside, name, " must be finite and lie in ", low, " to ", high, ", being float32");
}

struct Problem {
  int64_t pairs;
  Size size;
  bool bytes;  // frames are uint8 of 0 to 255, else float32 of 0 to 1
};

inline void check_frames(const Tensor& frames, const char* name) {
  const ScalarType type = frames.scalar_type();
  check(frames.dim() == 3, name, " must be (N, H, W), got ", frames.dim(), " dimensions");
  check(type == ScalarType::Byte || type == ScalarType::Float, name, " must be uint8 or float32");
  check(frames.is_contiguous(), name, " must be contiguous");
  for (int axis = 1; axis < 3; ++axis) {
    check(frames.size(axis) >= kMinSide, name, " must have sides of at least ", kMinSide,
          " pixels, got ", frames.size(axis));
    check(frames.size(axis) <= kMaxSide, name, " must have sides of at most ", kMaxSide,
          " pixels, got ", frames.size(axis));
  }
}

inline Problem make_problem(const Tensor& frame0, const std::optional<Tensor>& frame1,
                            const std::optional<Tensor>& initial_flow) {
  check_frames(frame0, "frame0");
  const int64_t images = frame0.size(0);
  Problem problem{images > 0 ? images - 1 : 0,
                  {frame0.size(1), frame0.size(2)},
                  frame0.scalar_type() == ScalarType::Byte};
  if (frame1) {
    check_frames(*frame1, "frame1");
    check(frame1->scalar_type() == frame0.scalar_type(), "frame1 must have frame0's dtype");
    check(frame1->device() == frame0.device(), "frame1 must be on frame0's device");
    for (int axis = 0; axis < 3; ++axis) {
      check(frame1->size(axis) == frame0.size(axis), "frame1 must have frame0's shape, got ",
            frame1->size(axis), " instead of ", frame0.size(axis), " in axis ", axis);
    }
    problem.pairs = images;
  }
  if (initial_flow) {
    const Tensor& flow = *initial_flow;
    check(flow.dim() == 4 && flow.size(0) == problem.pairs && flow.size(1) == 2 &&
              flow.size(2) == problem.size.height && flow.size(3) == problem.size.width,
          "initial_flow must be (", problem.pairs, ", 2, ", problem.size.height, ", ",
          problem.size.width, ")");
    check(flow.scalar_type() == ScalarType::Float, "initial_flow must be float32");
    check(flow.is_contiguous(), "initial_flow must be contiguous");
    check(flow.device() == frame0.device(), "initial_flow must be on frame0's device");
  }
  return problem;
}

// (pairs, 2, H, W) float32, and (pairs, nscales, warps) int32 of zeros.
inline std::tuple<Tensor, Tensor> make_outputs(const Tensor& frame0, const Problem& problem,
                                               const Params& params) {
  Tensor flow = allocate("tvl1", {problem.pairs, 2, problem.size.height, problem.size.width},
                         ScalarType::Float, frame0);
  Tensor iterations =
      allocate("tvl1", {problem.pairs, params.nscales, params.warps}, ScalarType::Int, frame0);
  torch::stable::zero_(iterations);
  return {flow, iterations};
}

}  // namespace fasti3d::tvl1
