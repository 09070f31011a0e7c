// A frame as the CPU solver needs it: its pyramid, and of one level at a time the gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/memory.h"
#include "rows.h"
#include "team.h"

namespace fasti3d::tvl1 {

constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The columns between which a bilinear resize interpolates; shared by all rows.
struct Columns {
  std::vector<int32_t> first, second;
  std::vector<float> weights;

  Columns(int64_t in, int64_t out, double scale, bool cuda_form);
};

// A member's share of `rows` rows.
struct Band {
  int64_t begin, end;
  Band(int64_t rows, const Member& member)
      : begin(rows * member.index / member.count), end(rows * (member.index + 1) / member.count) {}
};

struct Level {
  Size size;
  float* gray;
  int64_t stride;

  const float* row(int64_t y) const { return gray + y * stride; }
};

class Image {
 public:
  Image(const std::vector<Size>& sizes, const Params& params);

  // From (height, width) pixels, uint8 of 0 to 255 or floats of 0 to 1.
  void build(Team& team, const Rows& rows, const void* pixels, bool bytes);

  const Level& level(size_t i) const { return levels_[i]; }

  // What an image of these levels takes.
  static int64_t bytes(const std::vector<Size>& sizes);

 private:
  const Params& params_;
  std::vector<Level> levels_;
  std::vector<Columns> columns_;  // from each level to the next
  Scratch<float> memory_;
};

// What the warps of a level sample: gray values and gradients, with a border.
struct Sampled {
  Planes planes;

  // In memory for floats(size), a member's band of it by build.
  Sampled(float* memory, Size size);
  void build(const Rows& rows, const Params& params, const Level& level, const Band& band) const;

  static int64_t floats(Size size);
};

}  // namespace fasti3d::tvl1
