// Iterations of TV-L1 on the tiles of a thread block.
//
// They run in sweeps of several. If the sums of changes show that they had to stop within a sweep,
// it is run again, as far as that, from the copy of the state that it read.
//
// An iteration needs a pixel's neighbors, so that tiles which overlap by 2n pixels can be iterated
// n times between two meetings: what reaches into the halo from outside is one pixel more wrong
// with every iteration. Such a sweep reads one copy of the state and writes the other.
#pragma once

#include <cstdint>

#include "cuda_plan.h"
#include "cuda_state.h"
#include "cuda_strip.h"
#include "cuda_value.h"

namespace fasti3d::tvl1 {

constexpr int kPartialSums = 16;

// Iterations until the sum of changes reaches the tolerance, if it goes on falling as it did from
// `previous` to `last`; between 1 and `max_iterations`.
FASTI3D_BLOCK int32_t iterations_left(double previous, double last, double tolerance,
                                      int32_t max_iterations) {
  if (!(last < previous) || !(tolerance > 0.0)) return max_iterations;
  const float fall = logf(static_cast<float>(last / previous));
  const float left = ceilf(logf(static_cast<float>(tolerance / last)) / fall);
  return left < static_cast<float>(max_iterations) ? (left > 1.0f ? static_cast<int32_t>(left) : 1)
                                                   : max_iterations;
}

// What a block keeps for its threads to exchange.
template <int kComponents>
struct SweepShared {
  union {
    struct {
      // Rows that the warp above (u) or below (py) needs: warp i's are rows i and i + 1. Row 0 of
      // py is zero, as p is outside the image.
      float u[kComponents][kWarps + 1][kTileWidth];
      float py[kComponents][kWarps + 1][kTileWidth];
      float change[kMaxSweep][kThreads];
    };
    Sorted sorted;
  };
  double partial[kMaxSweep][kPartialSums];
  double total[kMaxSweep];
};

// The pixels of one thread in a tile.
template <class V, int kComponents>
struct TileStrip : Strip<V, kComponents> {
  Data<V> data[kRows][kColumns];
  bool active;  // whether the warp has rows of the image
  // Whether pixels of the warp have no left, right or lower neighbor in the image, or lie outside.
  // Those without an upper neighbor find zeros in shared memory.
  bool edge;
  bool core;
};

// A tile's place in the image. Its core is what it contributes to the result.
struct Window {
  int32_t x, y, warps;    // warps: those that have rows of the image
  int32_t width, height;  // of the image
  int32_t core_left, core_right, core_top, core_bottom;

  FASTI3D_BLOCK bool in_core(int32_t column, int32_t row) const {
    return column >= core_left && column < core_right && row >= core_top && row < core_bottom;
  }
};

FASTI3D_BLOCK Window window(const Level& level, int32_t tile) {
  const Tiling& t = level.tiling;
  const int32_t i = tile % t.across, j = tile / t.across;
  Window w;
  w.x = i * t.step_x();
  w.y = j * t.step_y;
  w.width = level.width;
  w.height = level.height;
  w.core_left = i == 0 ? 0 : w.x + t.halo;
  w.core_right = i == t.across - 1 ? level.width : w.x + t.halo + t.step_x();
  w.core_top = j == 0 ? 0 : w.y + t.halo;
  w.core_bottom = j == t.down - 1 ? level.height : w.y + t.halo + t.step_y;
  const int32_t rows = t.step_y + 2 * t.halo;
  const int32_t left = level.height - w.y;
  w.warps = ((rows < left ? rows : left) + kRows - 1) / kRows;
  return w;
}

template <class Block, class V, int kComponents>
class Sweeper {
 public:
  using Shared = SweepShared<kComponents>;

  FASTI3D_BLOCK Sweeper(Block& block, Shared& shared, const Task& task, State& state)
      : block_(block), shared_(shared), task_(task), state_(state) {}

  // Runs at most `max_iterations`, probably about `expected`; returns whether the rule stopped
  // them.
  FASTI3D_BLOCK bool iterate(const Level& level, int64_t max_iterations, int32_t expected,
                             StopRule& rule) {
    const Tiling& tiling = level.tiling;
    const int32_t tiles = tiling.tiles();
    // Set here, they need not be kept through everything that comes before.
    Tiles registers{};
    // Whether they hold, of the block's only tile, what does not change but through this block.
    bool held = false;
    bool stopped = false, again = false;
    double previous = 0.0, last = 0.0;
    int32_t length = expected;
    while (max_iterations > 0 && !(stopped && !again)) {
      if (length > tiling.sweep) length = tiling.sweep;
      if (length > max_iterations) length = static_cast<int32_t>(max_iterations);
      sweep(level, registers, length, held, held && !again);
      held = tiles <= block_.count();
      block_.meet();
      if (again) {
        again = false;
      } else {
        const double* sums = state_.errors(0);
        add_up(
            length, block_.count() < tiles ? block_.count() : tiles,
            [&](int32_t i, int32_t block) { return sums[i * block_.count() + block]; },
            [&](int32_t i, double sum) { shared_.total[i] = sum; });
        state_.turn_errors();
        int32_t kept = 0;
        while (kept < length && !stopped) {
          previous = last;
          last = shared_.total[kept];
          stopped = rule.stops(last);
          ++kept;
        }
        again = kept < length;
        if (again) {
          length = kept;
          continue;
        }
      }
      state_.turn_u();
      state_.turn_p();
      max_iterations -= length;
      // The first iteration of all shows no trend.
      length = previous > 0.0 ? iterations_left(previous, last, level.tolerance, tiling.sweep)
                              : 2 * length;
    }
    return stopped;
  }

 private:
  using Tile = TileStrip<V, kComponents>;
  using Tiles = typename Block::template Registers<Tile>;

  // Iterates every tile of this block, and writes the cores to the other side of u and p and the
  // sum of changes of every iteration to errors. What the registers hold already is not read again.
  FASTI3D_BLOCK void sweep(const Level& level, Tiles& tiles, int32_t iterations, bool has_data,
                           bool has_core) {
    for (int32_t tile = block_.index(); tile < level.tiling.tiles(); tile += block_.count()) {
      const Window w = window(level, tile);
      block_.threads(tiles, [&](int32_t thread, Tile& strip) {
        load(level, w, thread, strip, has_data, has_core);
      });
      for (int32_t i = 0; i < iterations; ++i) {
        block_.threads(tiles, [&](int32_t thread, Tile& strip) {
          float change = 0.0f;
          if (strip.active) {
            change = strip.edge ? advance_u<true>(w, thread, tiles, strip)
                                : advance_u<false>(w, thread, tiles, strip);
          }
          shared_.change[i][thread] = strip.core ? change : 0.0f;
        });
        block_.threads(tiles, [&](int32_t thread, Tile& strip) {
          if (!strip.active) return;
          if (strip.edge) {
            advance_p<true>(w, thread, tiles, strip);
          } else {
            advance_p<false>(w, thread, tiles, strip);
          }
        });
      }
      block_.threads(tiles, [&](int32_t thread, Tile& strip) { store(level, w, thread, strip); });
      add_up(
          iterations, kThreads,
          [&](int32_t i, int32_t thread) { return static_cast<double>(shared_.change[i][thread]); },
          [&](int32_t i, double sum) {
            double& error = state_.errors(i)[block_.index()];
            error = tile == block_.index() ? sum : error + sum;
          });
    }
  }

  // Calls result(i, sum over t of term(i, t)) for every iteration of a sweep, in double, and in an
  // order that depends on nothing else.
  template <class Term, class Result>
  FASTI3D_BLOCK void add_up(int32_t iterations, int32_t terms, Term term, Result result) {
    block_.each(iterations * kPartialSums, [&](int32_t at) {
      const int32_t i = at / kPartialSums, part = at % kPartialSums;
      double sum = 0.0;
      for (int32_t k = part; k < terms; k += kPartialSums) sum += term(i, k);
      shared_.partial[i][part] = sum;
    });
    block_.each(iterations, [&](int32_t i) {
      double sum = 0.0;
      for (int32_t part = 0; part < kPartialSums; ++part) sum += shared_.partial[i][part];
      result(i, sum);
    });
  }

  FASTI3D_BLOCK static int32_t column(const Window& w, int32_t thread) {
    return w.x + thread % kWarpSize * kColumns;
  }
  FASTI3D_BLOCK static int32_t row(const Window& w, int32_t thread) {
    return w.y + thread / kWarpSize * kRows;
  }

  FASTI3D_BLOCK void load(const Level& level, const Window& w, int32_t thread, Tile& strip,
                          bool has_data, bool has_core) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    const int32_t x = column(w, thread), top = row(w, thread);
    strip.active = warp < w.warps;
    strip.edge = w.x == 0 || w.x + kTileWidth >= level.width || top + kRows >= level.height;
    strip.core = w.in_core(x, top);
    if (strip.active && !(has_core && strip.core)) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const bool inside = x < level.width && top + j < level.height;
        const int32_t from = at(level, x, top + j);
#pragma unroll
        for (int c = 0; c < kComponents; ++c) {
          read(state_.u(c) + from, inside, strip.u[c][j]);
          read(state_.px(c) + from, inside, strip.px[c][j]);
          read(state_.py(c) + from, inside, strip.py[c][j]);
        }
      }
    }
    if (strip.active && !has_data) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const bool inside = x < level.width && top + j < level.height;
        const int32_t from = at(level, x, top + j);
        V v[4][kColumns];
#pragma unroll
        for (int k = 0; k < 4; ++k) read(state_.data(k) + from, inside, v[k]);
#pragma unroll
        for (int i = 0; i < kColumns; ++i) strip.data[j][i] = {v[0][i], v[1][i], v[2][i], v[3][i]};
      }
    }
#pragma unroll
    for (int c = 0; c < kComponents; ++c) {
      if (strip.active) publish(shared_.py[c][warp + 1], lane, strip.py[c][kRows - 1]);
      if (warp == 0) {
        const V zeros[kColumns] = {};
        publish(shared_.py[c][0], lane, zeros);
      }
    }
  }

  FASTI3D_BLOCK void read(const float* from, bool inside, V (&to)[kColumns]) const {
    Two pair{};
    if (inside) pair = block_.load(reinterpret_cast<const Two*>(from));
    to[0] = V{pair.first};
    to[1] = V{pair.second};
  }

  FASTI3D_BLOCK static void publish(float* line, int32_t lane, const V (&from)[kColumns]) {
    reinterpret_cast<Two*>(line)[lane] = {from[0].value, from[1].value};
  }

  template <bool kEdge>
  FASTI3D_BLOCK float advance_u(const Window& w, int32_t thread, Tiles& tiles, Tile& strip) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    const Corner corner{column(w, thread), row(w, thread), w.width, w.height};
    V above[kComponents][kColumns];
#pragma unroll
    for (int c = 0; c < kComponents; ++c) receive(shared_.py[c][warp], lane, above[c]);
    const float change = update_u<kEdge, V, kComponents>(
        task_, corner, strip, above, [&](int j, int i) { return strip.data[j][i]; },
        [&](int c, int j) {
          const V left =
              block_.from_left(tiles, thread, [&](const Tile& t) { return t.px[c][j][1]; });
          return kEdge && corner.x == 0 ? V{0.0f} : left;
        });
#pragma unroll
    for (int c = 0; c < kComponents; ++c) publish(shared_.u[c][warp], lane, strip.u[c][0]);
    return change;
  }

  template <bool kEdge>
  FASTI3D_BLOCK void advance_p(const Window& w, int32_t thread, Tiles& tiles, Tile& strip) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    const Corner corner{column(w, thread), row(w, thread), w.width, w.height};
    V below[kComponents][kColumns];
#pragma unroll
    for (int c = 0; c < kComponents; ++c) receive(shared_.u[c][warp + 1], lane, below[c]);
    update_p<kEdge, V, kComponents>(task_, corner, strip, below, [&](int c, int j) {
      return block_.from_right(tiles, thread, [&](const Tile& t) { return t.u[c][j][0]; });
    });
#pragma unroll
    for (int c = 0; c < kComponents; ++c) {
      publish(shared_.py[c][warp + 1], lane, strip.py[c][kRows - 1]);
    }
  }

  FASTI3D_BLOCK void store(const Level& level, const Window& w, int32_t thread, const Tile& strip) {
    const int32_t x = column(w, thread), top = row(w, thread);
    if (!strip.core) return;
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      if (top + j >= level.height) break;
      const int32_t to = at(level, x, top + j);  // a row ends at an even column, inside the pitch
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        const V(&u_)[kColumns] = strip.u[c][j];
        const V(&px_)[kColumns] = strip.px[c][j];
        const V(&py_)[kColumns] = strip.py[c][j];
        *reinterpret_cast<Two*>(state_.next_u(c) + to) = {u_[0].value, u_[1].value};
        *reinterpret_cast<Two*>(state_.next_px(c) + to) = {px_[0].value, px_[1].value};
        *reinterpret_cast<Two*>(state_.next_py(c) + to) = {py_[0].value, py_[1].value};
      }
    }
  }

  Block& block_;
  Shared& shared_;
  const Task& task_;
  State& state_;
};

}  // namespace fasti3d::tvl1
