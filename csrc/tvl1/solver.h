// TV-L1 for one pair of frames on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../common/memory.h"
#include "image.h"
#include "rows.h"
#include "team.h"

namespace fasti3d::tvl1 {

// Rows of floats with guards on both sides; `data` is pixel (0, 0).
struct Plane {
  float* data;
  int64_t stride;
  float* row(int64_t y) const { return data + y * stride; }
};

// What a member of the team keeps for itself, and the edges of its band as they were after the last
// iteration, for its neighbors: twice, since they may still read one while it writes the other.
struct MemberRows;

// The working memory of one pair; a leader keeps it for its next pair.
class Solver {
 public:
  Solver(const std::vector<Size>& sizes, const Params& params, const Rows& rows);
  ~Solver();

  // flow: (2, height, width), x first. initial: the same, or null. iterations: (nscales, warps),
  // for the levels that there are.
  void solve(Team& team, const Image& image0, const Image& image1, const float* initial,
             float* flow, int32_t* iterations);

  // What a solver takes; the edges of the members' bands are as good as nothing beside it.
  static int64_t bytes(const std::vector<Size>& sizes, const Params& params);

 private:
  struct Share;

  void lay_out(Size size);
  void start(Team& team, const float* initial);
  void upsample(Team& team, size_t from);
  int32_t warp(Team& team, const Level& level0, const Level& level1);
  int32_t iterate(const Member& member, const Share& share);
  void take_median(const Member& member, const Share& share, int from);
  void iterate_band(const Share& share, int set, int read, int write);
  void publish(const Share& share, int set, int write);

  const std::vector<Size>& sizes_;
  const Params& params_;
  const Rows& rows_;
  const int components_;  // of u: the flow's two, and with gamma the illumination
  const int64_t plane_floats_;
  Scratch<float> memory_;
  std::vector<float> zeros_;

  Size size_{};  // of the level at hand
  int64_t stride_ = 0;
  // u twice: medians and upsampling go from one set to the other.
  Plane u_[2][3], p_[3][2], ix_, iy_, inverse_, rho_;
  int set_ = 0;
  std::vector<std::unique_ptr<MemberRows>> members_;
  std::vector<double> sums_[2];  // of the squared changes in each group of rows, for two iterations
};

}  // namespace fasti3d::tvl1
