// What a group of thread blocks works on and where it keeps it.
#pragma once

#include <cstdint>

#include "cuda_plan.h"

#if defined(__CUDACC__)
#define FASTI3D_BLOCK __device__ __forceinline__
#else
#define FASTI3D_BLOCK inline
#endif

namespace fasti3d::tvl1 {

// What is to be done: all that is the same for every block.
struct Task {
  bool cuda_form;
  int32_t median;  // side, or 1 for none
  int64_t warps, inner_iterations, outer_iterations;
  float limit, taut, theta, gamma, bicubic;
  float step, inverse_step;  // scale_step and 1 / scale_step
  double scale;              // 1 / scale_step

  const void *frames0, *frames1;  // pair i is frame i of both
  bool bytes;                     // uint8 of 0 to 255 instead of float of 0 to 1
  const float* initial;           // or null
  float* flow;
  // Launches hand the flow of coarser levels on in the memory of the result, and the illumination,
  // if there is any, here: so many floats per pair.
  float* illumination;
  int64_t illumination_pixels;
  int32_t* iterations;
  int64_t pairs, nscales;

  const Level* levels;
  int32_t level_count;
  Part part;  // of the levels that this launch solves
  Layout layout;
  float* workspace;  // of all groups
};

// All but the frames, the results and the plan.
inline Task make_task(const Params& params) {
  Task task{};
  task.cuda_form = params.cuda_form;
  task.median = static_cast<int32_t>(params.median);
  task.warps = params.warps;
  task.inner_iterations = params.inner_iterations;
  task.outer_iterations = params.outer_iterations;
  task.limit = params.limit();
  task.taut = params.taut();
  task.theta = static_cast<float>(params.theta);
  task.gamma = static_cast<float>(params.gamma);
  task.bicubic = params.bicubic();
  task.step = static_cast<float>(params.scale_step);
  task.inverse_step = static_cast<float>(1.0 / params.scale_step);
  task.scale = 1.0 / params.scale_step;
  task.nscales = params.nscales;
  return task;
}

// What a tap of a bicubic sample reads at once: gray value and derivatives of the second image.
struct alignas(16) Tap {
  float gray, along_x, along_y, unused;
};

// Two pixels side by side.
struct alignas(8) Two {
  float first, second;
};

// What the threads of a block exchange for a median: sorted columns of a part of the image.
constexpr int kMedianWidth = 64, kMedianHeight = 16, kMaxMedian = 5;
using Sorted = float[kMaxMedian][kMedianHeight][kMedianWidth + kMaxMedian - 1];

// The memory of a group. There are two copies of u, of p and of the errors: the current one is
// read, the next one is written, and they take turns.
class State {
 public:
  FASTI3D_BLOCK State(const Task& task, int group, int blocks)
      : layout_(task.layout),
        memory_(task.workspace + group * task.layout.floats),
        blocks_(blocks) {}

  FASTI3D_BLOCK float* u(int c) const { return memory_ + layout_.u[u_][c]; }
  FASTI3D_BLOCK float* next_u(int c) const { return memory_ + layout_.u[1 - u_][c]; }
  FASTI3D_BLOCK void turn_u() { u_ = 1 - u_; }

  FASTI3D_BLOCK float* px(int c) const { return memory_ + layout_.px[p_][c]; }
  FASTI3D_BLOCK float* py(int c) const { return memory_ + layout_.py[p_][c]; }
  FASTI3D_BLOCK float* next_px(int c) const { return memory_ + layout_.px[1 - p_][c]; }
  FASTI3D_BLOCK float* next_py(int c) const { return memory_ + layout_.py[1 - p_][c]; }
  FASTI3D_BLOCK void turn_p() { p_ = 1 - p_; }

  // The sums of changes of an iteration of a sweep, of every block of the group.
  FASTI3D_BLOCK double* errors(int32_t iteration) const {
    return reinterpret_cast<double*>(memory_ + layout_.errors) +
           (errors_ * kMaxSweep + iteration) * blocks_;
  }
  FASTI3D_BLOCK void turn_errors() { errors_ = 1 - errors_; }

  FASTI3D_BLOCK Tap* taps() const { return reinterpret_cast<Tap*>(memory_ + layout_.taps); }
  FASTI3D_BLOCK float* data(int which) const { return memory_ + layout_.data[which]; }
  FASTI3D_BLOCK float* image(int which, const Level& level) const {
    return memory_ + layout_.image[which] + level.image;
  }

 private:
  const Layout& layout_;
  float* const memory_;
  const int blocks_;
  int u_ = 0, p_ = 0, errors_ = 0;
};

FASTI3D_BLOCK int32_t at(const Level& level, int32_t x, int32_t y) { return y * level.pitch + x; }

}  // namespace fasti3d::tvl1
