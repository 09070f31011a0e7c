// How the direct form is cut for threads and caches: a pure function, which tests print.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/caches.h"
#include "conv.h"

namespace fasti3d {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A convolution as the kernels see it.
struct DirectProblem {
  int64_t rows, max_panels;  // of the kernels' tile
  int64_t tiles, panels;
  int64_t taps, run;    // per window
  int64_t frames;       // of the window
  int64_t value_bytes;  // of inputs and weights
  bool splits;          // whether the kernels take a part of the products a call
};

struct DirectBlocking {
  // Every thread gets one unit: a share of the tiles times a share of the panels.
  int64_t tile_shares, panel_shares;
  // Tiles of a pass, which go through the unit's panels together.
  int64_t tiles;
  // What a call multiplies: whole taps, or a part of the values of one.
  int64_t taps, run;
};

// Sets the shares so that the largest is least, of all panels unless there are too few tiles: a
// panel is packed weights, which each of its shares reads.
inline void share(const DirectProblem& p, int64_t threads, DirectBlocking& b) {
  const int64_t groups = divide_up(p.panels, p.max_panels);
  int64_t least = 0;
  for (int64_t panel_shares = 1; panel_shares <= std::min(threads, groups); ++panel_shares) {
    const int64_t tile_shares = std::min(threads / panel_shares, p.tiles);
    const int64_t work = divide_up(p.tiles, tile_shares) * divide_up(groups, panel_shares);
    if (least > 0 && work >= least) continue;
    least = work;
    b.tile_shares = tile_shares;
    b.panel_shares = panel_shares;
  }
}

// Sets what a call multiplies: its weights take no more than a third of the L1 cache, where a
// tile's inputs and sums are as well. Runs of products that are summed by themselves stay whole, so
// that the result depends on no cache.
inline void split(const DirectProblem& p, const Caches& caches, DirectBlocking& b) {
  b.taps = p.taps;
  b.run = p.run;
  if (!p.splits) return;
  const int64_t product_bytes = p.max_panels * kPanel * p.value_bytes;
  const int64_t products = caches.l1 / 3 / product_bytes;
  if (p.run <= kSummed) {
    const int64_t together = p.taps > 1 ? kSummed / p.run : 1;
    b.taps = std::min(std::max<int64_t>(products / (together * p.run), 1) * together, p.taps);
  } else if (p.run <= products) {
    b.taps = std::min(products / p.run, p.taps);
  } else {
    const int64_t length = summed_length(p.run);
    b.taps = 1;
    b.run = std::min(std::max<int64_t>(products / length, 1) * length, p.run);
  }
}

constexpr int64_t kMaxTiles = 8, kMinTiles = 2;

inline DirectBlocking block(const DirectProblem& p, const Caches& caches, int64_t threads) {
  DirectBlocking b{};
  share(p, threads, b);
  split(p, caches, b);
  // A call's weights are read from L2 once per pass, inputs once per group of panels. Where one
  // call multiplies all, weights come cheap, and results are written a few whole pixels at a time.
  const int64_t inputs = product({p.rows, p.run, p.frames, p.value_bytes});
  const int64_t results = product({p.rows, p.panels, kPanel, p.value_bytes});
  const bool whole = b.taps == p.taps && b.run == p.run;
  const int64_t fit = whole ? caches.l1 / 2 / (inputs + results) : caches.l2 / 2 / inputs;
  b.tiles = std::clamp(fit, kMinTiles, kMaxTiles);
  return b;
}

}  // namespace fasti3d
