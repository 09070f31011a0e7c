// TV-L1 for one pair of frames on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../common/memory.h"
#include "image.h"
#include "rows.h"
#include "sweep.h"
#include "team.h"

namespace fasti3d::tvl1 {

// The working memory of one pair; a leader keeps it for its next pair.
class Solver {
 public:
  Solver(const std::vector<Size>& sizes, const Params& params, const Rows& rows);

  // flow: (2, height, width), x first. initial: the same, or null. iterations: (nscales, warps),
  // for the levels that there are.
  void solve(Team& team, const Image& image0, const Image& image1, const float* initial,
             float* flow, int32_t* iterations);

  // What a solver takes; the members' rows in flight are as good as nothing beside it.
  static int64_t bytes(const std::vector<Size>& sizes, const Params& params);

 private:
  struct Share;
  struct Progress {
    int set;  // where the state is
    int32_t iterations;
  };

  Planes state(int set, Size size) const;
  Planes planes_of_data() const;
  void start(const float* initial);
  void upsample(const Member& member, size_t from) const;
  int32_t warp(Team& team, const Level& level0, const Sampled& sampled);
  Progress iterate(const Member& member, const Share& share, const Warp& warp, int64_t warp_begin,
                   int64_t warp_end);

  const std::vector<Size>& sizes_;
  const Params& params_;
  const Rows& rows_;
  const int64_t components_;
  Scratch<float> memory_;
  float *states_[2], *data_, *sampled_;
  std::vector<std::unique_ptr<Sweeper>> sweepers_;  // of the members
  std::vector<double> sums_[2];                     // of two sweeps

  Size size_{};           // of the level at hand
  int set_ = 0;           // where its state is
  bool at_rest_ = true;   // its duals are zeros, and not written
  int64_t previous_ = 0;  // iterations of the warp before
};

}  // namespace fasti3d::tvl1
