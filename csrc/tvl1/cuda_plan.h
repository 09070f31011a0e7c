// How the CUDA solver divides a batch among thread blocks, a level into tiles, and its memory. Host
// code only; the choices made here change the time a solve takes, never its result.
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

  int64_t floats() const { return static_cast<int64_t>(pitch) * height; }
};

// The part of the workspace that a group of blocks solves its pairs in: offsets in floats.
struct Layout {
  int64_t image[2], taps, data[4], u[2][3], px[2][3], py[2][3];
  int64_t errors;  // double[2][kMaxSweep][blocks of the group]
  int64_t floats;
};

struct Device {
  int64_t blocks;  // that run at the same time
  int64_t l2_bytes;
};

struct Plan {
  std::vector<Level> levels;  // finest first
  Layout layout;
  int64_t groups, blocks_per_group;
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

// Estimated clock cycles of one iteration of a level by so many blocks, two per SM, to compare
// tilings by: from counts of instructions and usual latencies, not measured.
inline double cycles(const Tiling& tiling, int64_t blocks) {
  constexpr double kMeeting = 3000, kTile = 1500, kTransfer = 250, kIteration = 300, kWarp = 150;
  const int64_t rounds = ceil_div<int64_t>(tiling.tiles(), blocks);
  const double warps = static_cast<double>(tiling.step_y + 2 * tiling.halo) / kRows;
  // Tiles that stay with their block need only their halos renewed.
  const double transfer = kTile + kTransfer * warps * (rounds == 1 ? 1 : 3);
  const double compute = tiling.sweep * (kIteration + kWarp * warps);
  return (kMeeting + static_cast<double>(rounds) * (transfer + compute)) / tiling.sweep;
}

// The tiling of a level that takes so many blocks the minimum time.
inline Tiling choose_tiling(Size size, int64_t blocks) {
  Tiling best{};
  for (int halo = kRows; halo <= kMaxSweep; halo += kRows) {
    for (int step = kRows; step + 2 * halo <= kTileHeight; step += kRows) {
      const Tiling tiling = make_tiling(size, halo, step);
      if (best.halo == 0 || cycles(tiling, blocks) < cycles(best, blocks)) best = tiling;
    }
  }
  return best;
}

// The number of groups of blocks, each of which solves one pair at a time. Many small groups waste
// less time waiting for each other; but what they iterate on should stay in the L2 cache, and no
// block should be idle.
inline int64_t choose_groups(const std::vector<Size>& sizes, int64_t pairs, int components,
                             const Device& device) {
  // Finer levels than these take nearly all the time.
  const size_t levels = std::min<size_t>(sizes.size(), 8);
  const int64_t planes = 4 + 6 * components;
  const int64_t bytes = sizes[0].pixels() * planes * static_cast<int64_t>(sizeof(float));
  const int64_t cached = std::max<int64_t>(1, device.l2_bytes / bytes);
  const int64_t max_groups = std::min({pairs, device.blocks, cached});
  int64_t best = 1;
  double least = 0;
  for (int64_t groups = 1; groups <= max_groups; ++groups) {
    double time = 0;
    for (size_t i = 0; i < levels; ++i) {
      const int64_t blocks = device.blocks / groups;
      time += cycles(choose_tiling(sizes[i], blocks), blocks);
    }
    time *= static_cast<double>(ceil_div(pairs, groups));
    if (groups == 1 || time < least) {
      best = groups;
      least = time;
    }
  }
  return best;
}

inline Layout make_layout(const Plan& plan, int components) {
  Layout layout{};
  const auto take = [&](int64_t floats) {
    const int64_t offset = layout.floats;
    layout.floats += round_up_to(floats, 32);
    return offset;
  };
  const Level &finest = plan.levels.front(), &coarsest = plan.levels.back();
  const int64_t plane = finest.floats();
  for (int64_t& image : layout.image) image = take(coarsest.image + coarsest.floats());
  layout.taps = take(4 * plane);
  for (int64_t& data : layout.data) data = take(plane);
  for (int side = 0; side < 2; ++side) {
    for (int c = 0; c < components; ++c) {
      layout.u[side][c] = take(plane);
      layout.px[side][c] = take(plane);
      layout.py[side][c] = take(plane);
    }
  }
  layout.errors = take(2 * kMaxSweep * plan.blocks_per_group * 2);
  return layout;
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

inline int components_of(const Params& params) { return params.gamma != 0.0 ? 3 : 2; }

inline Plan make_plan(Size size, int64_t pairs, const Params& params, const Device& device) {
  const std::vector<Size> sizes = pyramid(size, params);
  const int components = components_of(params);
  Plan plan{make_levels(sizes, params), {}, 0, 0};
  plan.groups = choose_groups(sizes, pairs, components, device);
  const int64_t available = device.blocks / plan.groups;
  int32_t max_tiles = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    plan.levels[i].tiling = choose_tiling(sizes[i], available);
    max_tiles = std::max(max_tiles, plan.levels[i].tiling.tiles());
  }
  // Blocks without a tile even in the level with the max number of tiles only make meetings longer.
  plan.blocks_per_group = std::min<int64_t>(available, max_tiles);
  plan.layout = make_layout(plan, components);
  return plan;
}

// Blocks of the clusters that solve a pair each and keep every level on the chip; 0 if no cluster
// of at most so many blocks can. Beside a level of a pair a block has room for nothing else, and
// more blocks than the minimum only pay where SMs would be idle.
inline int64_t choose_cluster(Size size, int64_t pairs, int components, int64_t max_blocks,
                              int64_t sms) {
  const int64_t pieces = ceil_div<int64_t>(size.width, kTileWidth) *
                         ceil_div<int64_t>(size.height, resident_strips(components) * kRows);
  int64_t blocks = 1;
  while (ceil_div(pieces, blocks) > kResidentWarps) blocks *= 2;
  if (blocks > std::min<int64_t>(max_blocks, kMaxClusterBlocks)) return 0;
  while (2 * blocks <= std::min<int64_t>(max_blocks, kMaxClusterBlocks) && blocks < pieces &&
         2 * blocks * pairs <= sms) {
    blocks *= 2;
  }
  return blocks;
}

inline Plan make_cluster_plan(Size size, const Params& params, int64_t clusters, int64_t blocks) {
  Plan plan{make_levels(pyramid(size, params), params), {}, clusters, blocks};
  plan.layout = make_layout(plan, components_of(params));
  return plan;
}

}  // namespace fasti3d::tvl1
