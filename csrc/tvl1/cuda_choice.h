// Which levels each launch of the CUDA solver solves, and with which blocks. Host code only; the
// choices made here change the time a solve takes, never its result.
//
// The coarsest level runs the most iterations, on the fewest pixels: a launch of its own, in which
// smaller groups solve more pairs at a time, pays as soon as there are pairs enough.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda_cost.h"
#include "cuda_plan.h"

namespace fasti3d::tvl1 {

// Groups, clusters, the coarse levels in clusters and the fine ones in groups, or what is fastest.
enum class Design { kGroups, kCluster, kMixed, kAuto };

// What a user asked for: a design and a number of launches, 0 for the fastest.
struct Asked {
  std::string name;
  Design design;
  int64_t launches;
};

// groups, cluster, mixed or auto; with a number of launches of 1 to 9 as in groups/1.
inline std::optional<Asked> parse_design(const std::string& text) {
  const size_t slash = text.find('/');
  Asked asked{text.substr(0, slash), Design::kGroups, 0};
  if (slash != std::string::npos) {
    const std::string number = text.substr(slash + 1);
    if (number.size() != 1 || number[0] < '1' || number[0] > '9') return std::nullopt;
    asked.launches = number[0] - '0';
  }
  const std::string names[] = {"groups", "cluster", "mixed", "auto"};
  const auto* const found = std::find(std::begin(names), std::end(names), asked.name);
  if (found == std::end(names)) return std::nullopt;
  asked.design = static_cast<Design>(found - std::begin(names));
  return asked;
}

// Sizes of the clusters that are considered: powers of two up to kMaxClusterBlocks.
constexpr int kClusterSizes = 5;

// What runs at the same time.
struct Device {
  int64_t blocks;    // in groups
  bool cooperative;  // whether groups may have several blocks
  int64_t l2_bytes;
  int64_t clusters[kClusterSizes];  // [i]: clusters of 2^i blocks; 0 where there are none
};

struct Batch {
  std::vector<Size> sizes;  // of the levels, finest first
  int64_t pairs;
  int components;

  int32_t levels() const { return static_cast<int32_t>(sizes.size()); }
};

class Planner {
 public:
  Planner(const Batch& batch, const Device& device) : batch_(batch), device_(device) {}

  // The parts in the order of their launches, coarsest levels first: so many, or as many as take
  // the minimum time for 0. None if no cluster of the GPU can hold a level that has to be in one.
  std::vector<Part> choose(Design design, int64_t launches) {
    // More levels than kCuts move from launch to launch several at a time.
    constexpr int32_t kCuts = 8;
    const int32_t levels = batch_.levels(), stride = ceil_div(levels, kCuts);
    const int32_t cuts = ceil_div(levels, stride);
    const auto level = [&](int32_t cut) { return std::min(cut * stride, levels); };
    const bool apart = design == Design::kMixed && cuts > 1;
    const int64_t least = launches > 0 ? std::min<int64_t>(launches, cuts) : apart ? 2 : 1;
    const int64_t most = launches > 0 ? least : cuts;

    // best[n][cut]: of the levels from a cut on, in n launches.
    struct Best {
      double time = -1.0;
      std::vector<Part> parts;
    };
    std::vector<std::vector<Best>> best(most + 1, std::vector<Best>(cuts + 1));
    best[0][cuts].time = 0.0;
    for (int64_t n = 1; n <= most; ++n) {
      for (int32_t first = cuts - 1; first >= 0; --first) {
        for (int32_t end = first + 1; end <= cuts; ++end) {
          const Best& coarser = best[n - 1][end];
          if (coarser.time < 0.0) continue;
          const auto found = fastest(design, level(first), level(end));
          if (!found) continue;
          const double time = coarser.time + found->time;
          Best& its = best[n][first];
          if (its.time >= 0.0 && its.time <= time) continue;
          its = {time, coarser.parts};
          its.parts.push_back(found->part);
        }
      }
    }
    // A launch more has to save more than the estimate may be wrong by.
    constexpr double kGain = 0.98;
    const Best* result = nullptr;
    for (int64_t n = least; n <= most; ++n) {
      const Best& its = best[n][0];
      if (its.time < 0.0 || (result != nullptr && its.time >= kGain * result->time)) continue;
      result = &its;
    }
    return result == nullptr ? std::vector<Part>{} : result->parts;
  }

  // Has take(part) launch a part as it is planned or, as long as take returns false, otherwise;
  // false if nothing was taken.
  template <class Take>
  bool launch(const Part& planned, Design design, Take take) {
    if (take(planned)) return true;
    const std::vector<Part> others = retreats(planned, design);
    return std::any_of(others.begin(), others.end(), take);
  }

  // Modelled, of a launch.
  double time(const Part& part) {
    return launch_cycles(pair_cycles(part.clusters, part.blocks).of(part.first, part.end),
                         batch_.pairs, part.groups);
  }

 private:
  struct Timed {
    double time;
    Part part;
  };

  // For the states of blocks that are alone, of which there may be more than the L2 cache holds.
  static constexpr int64_t kRoom = int64_t(1) << 31;

  // What a pair's iterations on a level read and write.
  int64_t state_bytes(int32_t level) const {
    const int64_t planes = 4 + 6 * batch_.components;
    return batch_.sizes[level].pixels() * planes * static_cast<int64_t>(sizeof(float));
  }

  Timed timed(const Part& part) { return {time(part), part}; }

  // What is to be launched in place of a part that the driver refused, the fastest first.
  std::vector<Part> retreats(const Part& refused, Design design) {
    std::vector<Timed> found;
    const auto add = [&](const std::optional<Timed>& other) {
      if (other && other->part != refused) found.push_back(*other);
    };
    for (int64_t blocks = refused.clusters ? refused.blocks / 2 : kMaxClusterBlocks; blocks > 0;
         blocks /= 2) {
      add(in_clusters(refused.first, refused.end, blocks));
    }
    if (!refused.clusters || design == Design::kAuto) {
      const int64_t all = refused.clusters ? device_.blocks : refused.groups * refused.blocks / 2;
      for (int64_t blocks = all; blocks > 1; blocks /= 2) {
        add(in_groups(refused.first, refused.end, blocks));
      }
      // Blocks of their own wait for no other, and every driver takes them.
      const int64_t groups = std::max<int64_t>(1, kRoom / state_bytes(refused.first));
      add(timed({false, refused.first, refused.end,
                 std::min({batch_.pairs, device_.blocks, groups}), 1}));
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const Timed& a, const Timed& b) { return a.time < b.time; });
    std::vector<Part> parts;
    for (const Timed& its : found) parts.push_back(its.part);
    return parts;
  }

  std::optional<Timed> fastest(Design design, int32_t first, int32_t end) {
    const bool groups = design == Design::kGroups || design == Design::kAuto ||
                        (design == Design::kMixed && first == 0);
    const bool clusters = design == Design::kCluster || design == Design::kAuto ||
                          (design == Design::kMixed && first > 0);
    std::optional<Timed> best;
    if (groups) best = in_groups(first, end, device_.blocks);
    for (int64_t blocks = clusters ? kMaxClusterBlocks : 0; blocks > 0; blocks /= 2) {
      const auto its = in_clusters(first, end, blocks);
      if (its && (!best || its->time <= best->time)) best = its;
    }
    return best;
  }

  // By groups of as many blocks as take the minimum time, of so many blocks in all. Many small
  // groups waste less time waiting for each other; but what they iterate on should stay in the L2
  // cache, and no block should be idle.
  std::optional<Timed> in_groups(int32_t first, int32_t end, int64_t available) {
    const int64_t cached = std::max<int64_t>(1, device_.l2_bytes / state_bytes(first));
    std::optional<Timed> best;
    int64_t groups = 1;
    const int64_t most = std::min({batch_.pairs, available, cached});
    while (groups <= most) {
      const int64_t blocks = device_.cooperative ? available / groups : 1;
      // As many groups as have so many blocks.
      groups = std::min(most, device_.cooperative ? available / blocks : most);
      const Timed its = timed({false, first, end, groups, blocks});
      if (!best || its.time < best->time) best = its;
      ++groups;
    }
    // Blocks without a tile even in the level with the max number of tiles only make meetings
    // longer.
    int64_t max_tiles = 0;
    for (int32_t i = first; i < end; ++i) {
      const int64_t tiles = choose_tiling(batch_.sizes[i], best->part.blocks).tiles();
      max_tiles = std::max(max_tiles, tiles);
    }
    best->part.blocks = std::min(best->part.blocks, max_tiles);
    return best;
  }

  // By clusters of so many blocks, which keep every level on the chip: nothing if they cannot, or
  // have no warp's work for one of their blocks.
  std::optional<Timed> in_clusters(int32_t first, int32_t end, int64_t blocks) {
    int which = 0;
    while (int64_t(1) << which < blocks) ++which;
    const int64_t clusters = device_.clusters[which];
    const int64_t pieces = pieces_of(batch_.sizes[first], batch_.components);
    if (clusters == 0 || ceil_div<int64_t>(pieces, blocks) > kResidentWarps ||
        (blocks > 1 && blocks / 2 >= pieces)) {
      return std::nullopt;
    }
    return timed({true, first, end, std::min(batch_.pairs, clusters), blocks});
  }

  const PairCycles& pair_cycles(bool clusters, int64_t blocks) {
    const std::pair<bool, int64_t> key{clusters, blocks};
    const auto known = known_.find(key);
    if (known != known_.end()) return known->second;
    return known_.emplace(key, PairCycles(batch_.sizes, clusters, batch_.components, blocks))
        .first->second;
  }

  const Batch& batch_;
  const Device& device_;
  std::map<std::pair<bool, int64_t>, PairCycles> known_;
};

// Cuts the levels of a part into tiles for its blocks.
inline void cut_into_tiles(std::vector<Level>& levels, const Part& part) {
  for (int32_t i = part.first; i < part.end; ++i) {
    levels[i].tiling = choose_tiling(levels[i].size(), part.blocks);
  }
}

}  // namespace fasti3d::tvl1
