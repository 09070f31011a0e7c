// What a TV-L1 solve is asked to do, and the sizes that follow from it; for host and device.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "../common/host_device.h"

namespace fasti3d::tvl1 {

// As in fasti3d/flow/params.py.
struct Params {
  bool cuda_form;  // OpenCV's CUDA form instead of its CPU form
  double tau, lambda, theta;
  int64_t nscales, warps;
  double epsilon;
  int64_t inner_iterations, outer_iterations;
  double scale_step, gamma;
  int64_t median;  // side of the median, 3 or 5, or 1 for none

  int components() const { return gamma != 0.0 ? 3 : 2; }  // of u
  float limit() const { return static_cast<float>(lambda * theta); }
  float taut() const { return static_cast<float>(tau / theta); }
  // The sum of squared changes of u at which the iterations of a warp stop.
  double tolerance(int64_t pixels) const { return epsilon * epsilon * static_cast<double>(pixels); }
  float bicubic() const { return cuda_form ? -0.5f : -0.75f; }
};

// When the iterations of a warp end, beside their number. The CPU form checks every iteration;
// the CUDA form only at odd ones, and only once an estimate, which shrinks by the tolerance at each
// iteration not checked, is small. That estimate starts at 0.
struct StopRule {
  bool cuda_form;
  double tolerance;
  int64_t iteration = 0;
  double estimate = 0.0;

  // Whether the sum of squared changes of the next iteration will be checked.
  FASTI3D_HOST_DEVICE bool checks_next() const {
    return !cuda_form || (tolerance > 0.0 && iteration % 2 == 1 && estimate < tolerance);
  }
  // Takes that iteration's sum; true if it was the last.
  FASTI3D_HOST_DEVICE bool stops(double sum) {
    const bool look = checks_next();
    ++iteration;
    if (!look) {
      estimate -= tolerance;
      return false;
    }
    estimate = sum;
    return !(sum > tolerance);
  }
};

struct Size {
  int64_t height, width;
  int64_t pixels() const { return height * width; }
};

constexpr int64_t kMinSide = 3;                 // sides of an image, as OpenCV asserts
constexpr int64_t kMaxSide = int64_t(1) << 24;  // float32 has no place for every pixel beyond
constexpr int64_t kMinLevelSide = 16;           // of every level but the finest

// The sizes of the pyramid's levels, finest first. Halves round to even, as in OpenCV.
inline std::vector<Size> pyramid(Size finest, const Params& params) {
  std::vector<Size> levels{finest};
  while (static_cast<int64_t>(levels.size()) < params.nscales) {
    const Size last = levels.back();
    const auto scaled = [&](int64_t side) {
      return static_cast<int64_t>(std::nearbyint(static_cast<double>(side) * params.scale_step));
    };
    const Size next{scaled(last.height), scaled(last.width)};
    if (next.height < kMinLevelSide || next.width < kMinLevelSide) break;
    levels.push_back(next);
  }
  return levels;
}

// Where output pixel `i` of a bilinear resize lies between two input pixels: `first` * (1 - weight)
// + `second` * weight. `scale` is input over output size. OpenCV's CPU form aligns the pixels'
// areas, its CUDA form their upper left corners.
struct Between {
  int64_t first, second;
  float weight;
};

FASTI3D_HOST_DEVICE inline Between between(int64_t i, double scale, int64_t size, bool cuda_form) {
  const double pixel = cuda_form ? i : i + 0.5;
#if defined(__CUDA_ARCH__)
  const double product = __dmul_rn(pixel, scale);  // not to be fused with the sum that follows
#else
  const double product = pixel * scale;
#endif
  const double at = cuda_form ? product : product - 0.5;
  const int64_t first = static_cast<int64_t>(floor(at));
  if (first < 0) return {0, 0, 0.0f};
  if (first >= size - 1) return {size - 1, size - 1, 0.0f};
  return {first, first + 1, static_cast<float>(at - static_cast<double>(first))};
}

}  // namespace fasti3d::tvl1
