// What the CUDA solver's kernels are told: the levels, their tiles, and the memory of a group of
// blocks. What is left open here cuda_choice.h chooses.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "params.h"

namespace fasti3d::tvl1 {

// A thread keeps a strip of kRows x 2 pixels in registers, a warp's strips lie side by side, the
// warps of a block one below the other.
constexpr int kWarps = 8, kWarpSize = 32, kThreads = kWarps * kWarpSize;
constexpr int kRows = 4, kColumns = 2;
constexpr int kTileWidth = kWarpSize * kColumns, kTileHeight = kWarps * kRows;
// Iterations between two exchanges with other tiles, and width of the halo they need, at most. A
// multiple of kRows, so that every strip belongs to a tile's core or to its halo as a whole, and
// covers the same pixels in every tiling: the sums of its changes do not depend on the tiling.
constexpr int kMaxSweep = 8;

// A block of a cluster keeps pieces of a level, as many as it has warps: as far as the registers go
// for so many strips per thread, one below the other.
constexpr int kResidentWarps = 12, kResidentThreads = kResidentWarps * kWarpSize;
FASTI3D_HOST_DEVICE constexpr int resident_strips(int components) {
  return components == 2 ? 2 : 1;
}
constexpr int kMaxClusterBlocks = 16;  // of any GPU
constexpr int kExchanges = 4;  // between the blocks, that may be under way; see ClusterBlock

// Tiles overlap by two halos: tile i starts at i * step.
struct Tiling {
  int32_t halo, sweep;  // sweep: max iterations between two exchanges
  int32_t across, down, step_y;

  FASTI3D_HOST_DEVICE int32_t step_x() const { return kTileWidth - 2 * halo; }
  FASTI3D_HOST_DEVICE int32_t tiles() const { return across * down; }
};

struct Level {
  int32_t height, width, pitch;  // pitch: floats from row to row
  Tiling tiling;
  int64_t image;            // of this level in a pyramid, in floats
  double tolerance;         // as Params::tolerance
  double scale_y, scale_x;  // size of the next coarser level over that of this one

  Size size() const { return {height, width}; }
  int64_t floats() const { return static_cast<int64_t>(pitch) * height; }
};

// Levels that one launch solves, of all pairs. A group of blocks, which may be a thread-block
// cluster, solves a pair at a time.
struct Part {
  bool clusters;
  int32_t first, end;      // the levels, of which the first is the finest
  int64_t groups, blocks;  // blocks: of a group

  bool operator==(const Part&) const = default;
};

// The part of the workspace that a group of blocks solves its pairs in: offsets in floats.
struct Layout {
  int64_t image[2], taps, data[4], u[2][3], px[2][3], py[2][3];
  int64_t errors;  // double[2][kMaxSweep][blocks of the group]
  int64_t floats;
};

template <class T>
FASTI3D_HOST_DEVICE constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up_to(int64_t value, int64_t unit) { return ceil_div(value, unit) * unit; }

inline Tiling make_tiling(Size size, int halo, int step_y) {
  const auto count = [&](int64_t side, int64_t step) {
    return static_cast<int32_t>(std::max<int64_t>(1, ceil_div<int64_t>(side - 2 * halo, step)));
  };
  return {halo, halo, count(size.width, kTileWidth - 2 * halo), count(size.height, step_y), step_y};
}

inline int components_of(const Params& params) { return params.gamma != 0.0 ? 3 : 2; }

// Of a group of a part. An initial flow is scaled down from the finest level of all.
inline Layout make_layout(const std::vector<Level>& levels, const Part& part, int components,
                          bool initial_flow) {
  Layout layout{};
  const auto take = [&](int64_t floats) {
    const int64_t offset = layout.floats;
    layout.floats += round_up_to(floats, 32);
    return offset;
  };
  const Level& coarsest = levels[part.end - 1];
  const bool starts = initial_flow && part.end == static_cast<int32_t>(levels.size());
  const int64_t plane = levels[part.first].floats();
  for (int64_t& image : layout.image) image = take(coarsest.image + coarsest.floats());
  layout.taps = take(4 * plane);
  for (int64_t& data : layout.data) data = take(plane);
  for (int side = 0; side < 2; ++side) {
    for (int c = 0; c < components; ++c) {
      layout.u[side][c] = take(starts && c < 2 ? levels[0].floats() : plane);
      layout.px[side][c] = take(plane);
      layout.py[side][c] = take(plane);
    }
  }
  layout.errors = take(2 * kMaxSweep * part.blocks * 2);
  return layout;
}

// Pixels of the illumination that a pair hands on from launch to launch, `last` being the last.
inline int64_t illumination_pixels(const std::vector<Level>& levels, const Part& last,
                                   int components) {
  if (components == 2 || last.end == static_cast<int32_t>(levels.size())) return 0;
  return levels[last.end].size().pixels();
}

// Finest first, without tilings.
inline std::vector<Level> make_levels(const std::vector<Size>& sizes, const Params& params) {
  std::vector<Level> levels;
  int64_t image = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    Level level{};
    level.height = static_cast<int32_t>(sizes[i].height);
    level.width = static_cast<int32_t>(sizes[i].width);
    level.pitch = static_cast<int32_t>(round_up_to(level.width, 8));
    level.image = image;
    level.tolerance = params.tolerance(sizes[i].pixels());
    if (i + 1 < sizes.size()) {
      level.scale_y =
          static_cast<double>(sizes[i + 1].height) / static_cast<double>(sizes[i].height);
      level.scale_x = static_cast<double>(sizes[i + 1].width) / static_cast<double>(sizes[i].width);
    }
    image += round_up_to(level.floats(), 32);
    levels.push_back(level);
  }
  return levels;
}

}  // namespace fasti3d::tvl1
