// Estimated clock cycles of the CUDA solver, to compare ways of dividing its work by: from counts
// of instructions and usual latencies, not measured on a GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cuda_plan.h"

namespace fasti3d::tvl1 {

// Of one iteration of a level by a group of so many blocks, two per SM.
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

// Pieces of a level that warps of a cluster keep.
inline int64_t pieces_of(Size size, int components) {
  return ceil_div<int64_t>(size.width, kTileWidth) *
         ceil_div<int64_t>(size.height, resident_strips(components) * kRows);
}

// Of one iteration of a level by a cluster of so many blocks, one per SM.
inline double resident_cycles(int64_t pieces, int64_t blocks) {
  constexpr double kExchange = 2700, kPiece = 200;
  return kExchange + kPiece * static_cast<double>(ceil_div(pieces, blocks));
}

// Of a group of so many blocks that solves a pair, summed up over levels.
struct PairCycles {
  // [i]: of building the first i levels of the pyramids, and of solving the finest i levels.
  std::vector<double> pyramids{0.0}, solving{0.0};

  PairCycles(const std::vector<Size>& sizes, bool clusters, int components, int64_t blocks) {
    // Iterations that ran in all warps of a level, measured with the default parameters: the mean
    // of 44 pairs of real clips at 340 x 256. The coarsest level runs most.
    constexpr double kIterations = 92, kCoarsestIterations = 150;
    // Passes over the pixels of a level beside: samples and medians of 5 warps, and what comes
    // before. Of a pass: per pixel of a thread, at the full load of an SM.
    constexpr double kPasses = 12, kPass = 1200, kResize = 600;
    const double meeting = clusters ? 800 : 3000;
    const int64_t threads = blocks * (clusters ? kResidentThreads : kThreads);
    for (size_t i = 0; i < sizes.size(); ++i) {
      const double pixels = static_cast<double>(ceil_div(sizes[i].pixels(), threads));
      const double iteration = clusters ? resident_cycles(pieces_of(sizes[i], components), blocks)
                                        : cycles(choose_tiling(sizes[i], blocks), blocks);
      const double iterations = i + 1 == sizes.size() ? kCoarsestIterations : kIterations;
      pyramids.push_back(pyramids.back() + kResize * pixels + meeting);
      solving.push_back(solving.back() + iterations * iteration +
                        kPasses * (kPass * pixels + meeting));
    }
  }

  // A launch builds the pyramids anew, as far as its levels go.
  double of(int32_t first, int32_t end) const {
    return pyramids[end] + solving[end] - solving[first];
  }
};

// Of a launch that takes so long per pair. Pairs differ in their iterations, so that some groups
// wait for the last one, estimated at kSpread of the mean pair.
inline double launch_cycles(double pair, int64_t pairs, int64_t groups) {
  constexpr double kLaunch = 10000, kSpread = 0.7;
  const double share = static_cast<double>(pairs) / static_cast<double>(groups);
  return kLaunch + pair * (share + kSpread * (1.0 - 1.0 / static_cast<double>(groups)));
}

}  // namespace fasti3d::tvl1
