// Iterations of TV-L1 by a cluster of thread blocks that keeps a whole level on the chip.
//
// A level is cut into one piece per warp: kStrips strips per thread, one below the other. What the
// iterations change stays in registers, their constants in shared memory. After u and after p a
// warp sends its edges to the warps beside it, in whichever block of the cluster they are; with p
// goes the block's sum of changes, to all blocks, so that each of them can decide over the next
// iteration.
//
// block.send(rank, to, value) writes to another block's copy of a place in shared memory, and
// block.exchange(bytes) ends a step: it waits for all threads of the block, and for as many bytes
// as other blocks send in this step. Nothing more keeps the blocks together: a block can be ahead
// of another by what it has received from it. So a place must not be written before its reader has
// answered. An edge of u is read before the edge of p that follows from it is sent back, and the
// other way round. Sums take turns between as many places as there are exchanges under way.
#pragma once

#include <cstdint>

#include "cuda_plan.h"
#include "cuda_state.h"
#include "cuda_strip.h"
#include "cuda_value.h"

namespace fasti3d::tvl1 {

static_assert(kRows == 4, "a strip's column is a Four");

// The constants of a pixel.
struct alignas(16) Constants {
  float ix, iy, inverse, rho;
};
struct alignas(16) Four {
  float v[4];
};

// A warp of the cluster, or none.
struct Warp {
  int16_t block, warp;

  FASTI3D_BLOCK bool exists() const { return block >= 0; }
};

// What a warp works on.
struct alignas(16) Piece {
  Corner corner;                   // of its first pixel
  Warp above, below, left, right;  // beside it
  bool active;                     // whether it has pixels of the image
  bool edge;  // whether pixels have no right or lower neighbor in the image, or lie outside
};

template <int kComponents>
struct ResidentShared {
  static constexpr int kSide = resident_strips(kComponents) * kRows;

  Constants constants[kSide * kColumns][kResidentThreads];
  union {
    // What a warp receives: u from below and from the right, p from above and from the left. Where
    // no warp sends it, p is zero, and so is u on the right: columns beside the image are computed
    // too.
    struct {
      float below[kComponents][kResidentWarps][kTileWidth];
      float above[kComponents][kResidentWarps][kTileWidth];
      float right[kResidentWarps][kComponents][kSide];
      float left[kResidentWarps][kComponents][kSide];
    };
    Sorted sorted;
  };
  Piece pieces[kResidentWarps];
  int32_t u_bytes, p_bytes;  // that other blocks send in a step
  double changes[kResidentWarps];
  double totals[kExchanges][kMaxClusterBlocks];
};

template <class Block, class V, int kComponents>
class Resident {
 public:
  using Shared = ResidentShared<kComponents>;

  FASTI3D_BLOCK Resident(Block& block, Shared& shared, const Task& task, State& state)
      : block_(block), shared_(shared), task_(task), state_(state) {}

  // Runs at most `max_iterations`; returns whether the rule stopped them.
  FASTI3D_BLOCK bool iterate(const Level& level, int64_t max_iterations, int32_t, StopRule& rule) {
    cut(level);
    Registers registers{};
    const bool has_constants = rule.iteration > 0;  // only u has changed then
    block_.step(registers, [&](int32_t thread, Pixels& pixels) {
      load(level, thread, pixels, has_constants);
    });
    block_.exchange(shared_.p_bytes);
    const int32_t total_bytes = (block_.count() - 1) * static_cast<int32_t>(sizeof(double));
    bool stopped = false;
    for (; max_iterations > 0 && !stopped; --max_iterations) {
      block_.sums(
          registers,
          [&](int32_t thread, Pixels& pixels) { return advance_u(thread, registers, pixels); },
          [&](int32_t warp, double sum) { shared_.changes[warp] = sum; });
      block_.exchange(shared_.u_bytes);
      const int32_t turn = block_.turn();
      block_.step(registers, [&](int32_t thread, Pixels& pixels) {
        // The last warp is the first to have nothing else to do.
        if (thread / kWarpSize == kResidentWarps - 1) send_total(thread % kWarpSize, turn);
        advance_p(thread, registers, pixels);
      });
      block_.exchange(shared_.p_bytes + total_bytes);
      stopped = rule.stops(
          block_.sum(block_.count(), [&](int32_t rank) { return shared_.totals[turn][rank]; }));
    }
    block_.step(registers,
                [&](int32_t thread, const Pixels& pixels) { store(level, thread, pixels); });
    block_.meet();
    return stopped;
  }

 private:
  static constexpr int kStrips = resident_strips(kComponents), kSide = Shared::kSide;

  struct Pixels {
    Strip<V, kComponents> strip[kStrips];
  };
  using Registers = typename Block::template Registers<Pixels>;

  // Shares the level out, piece by piece in rows.
  FASTI3D_BLOCK void cut(const Level& level) {
    const int32_t across = ceil_div(level.width, kTileWidth);
    const int32_t all = across * ceil_div<int32_t>(level.height, kSide);
    const int32_t share = ceil_div<int32_t>(all, block_.count());
    block_.each(kResidentWarps, [&](int32_t warp) {
      const int32_t i = block_.index() * share + warp, column = i % across;
      const auto warp_of = [&](bool exists, int32_t piece) {
        return exists
                   ? Warp{static_cast<int16_t>(piece / share), static_cast<int16_t>(piece % share)}
                   : Warp{-1, 0};
      };
      Piece& piece = shared_.pieces[warp];
      const Corner corner{column * kTileWidth, i / across * kSide, level.width, level.height};
      piece.corner = corner;
      piece.active = warp < share && i < all;
      piece.edge = corner.x + kTileWidth >= level.width || corner.top + kSide >= level.height;
      piece.above = warp_of(i >= across, i - across);
      piece.below = warp_of(i + across < all, i + across);
      piece.left = warp_of(column > 0, i - 1);
      piece.right = warp_of(column + 1 < across, i + 1);
    });
    block_.each(1, [&](int32_t) {
      constexpr int32_t kRow = kComponents * kTileWidth * 4, kColumn = kComponents * kSide * 4;
      int32_t u_bytes = 0, p_bytes = 0;
      for (const Piece& piece : shared_.pieces) {
        if (!piece.active) break;
        const auto other = [&](Warp beside) {
          return beside.exists() && beside.block != block_.index();
        };
        u_bytes += (other(piece.below) ? kRow : 0) + (other(piece.right) ? kColumn : 0);
        p_bytes += (other(piece.above) ? kRow : 0) + (other(piece.left) ? kColumn : 0);
      }
      shared_.u_bytes = u_bytes;
      shared_.p_bytes = p_bytes;
    });
  }

  // Sends a value to a place of a warp, which place(warp) names.
  template <class T, class Place>
  FASTI3D_BLOCK void send(Warp to, Place place, T value) const {
    block_.send(to.block, reinterpret_cast<T*>(place(to.warp)), value);
  }

  FASTI3D_BLOCK const Piece& piece(int32_t thread) const {
    return shared_.pieces[thread / kWarpSize];
  }
  FASTI3D_BLOCK Corner corner(int32_t thread, int strip) const {
    Corner corner = piece(thread).corner;
    corner.x += thread % kWarpSize * kColumns;
    corner.top += strip * kRows;
    return corner;
  }

  FASTI3D_BLOCK void load(const Level& level, int32_t thread, Pixels& pixels, bool has_constants) {
    if (!piece(thread).active) return;
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    const Corner first = corner(thread, 0);
#pragma unroll
    for (int row = 0; row < kSide; ++row) {
      Strip<V, kComponents>& strip = pixels.strip[row / kRows];
      const int j = row % kRows;
      const bool inside = first.x < level.width && first.top + row < level.height;
      const int32_t from = at(level, first.x, first.top + row);
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        read(state_.u(c) + from, inside, strip.u[c][j]);
        read(state_.px(c) + from, inside, strip.px[c][j]);
        read(state_.py(c) + from, inside, strip.py[c][j]);
      }
      if (!has_constants) {
        V v[4][kColumns];
#pragma unroll
        for (int k = 0; k < 4; ++k) read(state_.data(k) + from, inside, v[k]);
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          shared_.constants[row * kColumns + i][thread] = {v[0][i].value, v[1][i].value,
                                                           v[2][i].value, v[3][i].value};
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kComponents; ++c) {
      if (!piece(thread).above.exists()) {
        reinterpret_cast<Two*>(shared_.above[c][warp])[lane] = {0.0f, 0.0f};
      }
      if (!piece(thread).left.exists() && lane == 0) {
#pragma unroll
        for (int row = 0; row < kSide; ++row) shared_.left[warp][c][row] = 0.0f;
      }
      if (!piece(thread).right.exists() && lane == kWarpSize - 1) {
#pragma unroll
        for (int row = 0; row < kSide; ++row) shared_.right[warp][c][row] = 0.0f;
      }
    }
    send_p(thread, pixels);
  }

  FASTI3D_BLOCK void read(const float* from, bool inside, V (&to)[kColumns]) const {
    Two pair{};
    if (inside) pair = block_.load(reinterpret_cast<const Two*>(from));
    to[0] = V{pair.first};
    to[1] = V{pair.second};
  }

  // u of a thread's pixels; the sum of their squared changes.
  FASTI3D_BLOCK double advance_u(int32_t thread, Registers& registers, Pixels& pixels) {
    if (!piece(thread).active) return 0.0;
    return piece(thread).edge ? advance_u<true>(thread, registers, pixels)
                              : advance_u<false>(thread, registers, pixels);
  }
  template <bool kEdge>
  FASTI3D_BLOCK double advance_u(int32_t thread, Registers& registers, Pixels& pixels) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    V above[kComponents][kColumns];
#pragma unroll
    for (int c = 0; c < kComponents; ++c) receive(shared_.above[c][warp], lane, above[c]);
    double sum = 0.0;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      sum += update_u<kEdge, V, kComponents>(
          task_, corner(thread, s), pixels.strip[s], above,
          [&](int j, int i) {
            const Constants k = shared_.constants[(s * kRows + j) * kColumns + i][thread];
            return Data<V>{{k.ix}, {k.iy}, {k.inverse}, {k.rho}};
          },
          [&](int c, int j) {
            const V left = block_.from_left(
                registers, thread, [&](const Pixels& p) { return p.strip[s].px[c][j][1]; });
            return lane == 0 ? V{shared_.left[warp][c][s * kRows + j]} : left;
          });
    }
    send_u(thread, pixels);
    return sum;
  }

  FASTI3D_BLOCK void advance_p(int32_t thread, Registers& registers, Pixels& pixels) {
    if (!piece(thread).active) return;
    if (piece(thread).edge) {
      advance_p<true>(thread, registers, pixels);
    } else {
      advance_p<false>(thread, registers, pixels);
    }
    send_p(thread, pixels);
  }
  template <bool kEdge>
  FASTI3D_BLOCK void advance_p(int32_t thread, Registers& registers, Pixels& pixels) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      V below[kComponents][kColumns];
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        if (s + 1 < kStrips) {
#pragma unroll
          for (int i = 0; i < kColumns; ++i)
            below[c][i] = pixels.strip[(s + 1) % kStrips].u[c][0][i];
        } else {
          receive(shared_.below[c][warp], lane, below[c]);
        }
      }
      update_p<kEdge, V, kComponents>(
          task_, corner(thread, s), pixels.strip[s], below, [&](int c, int j) {
            const V right = block_.from_right(
                registers, thread, [&](const Pixels& p) { return p.strip[s].u[c][j][0]; });
            return lane == kWarpSize - 1 ? V{shared_.right[warp][c][s * kRows + j]} : right;
          });
    }
  }

  // The uppermost row and the first column of u.
  FASTI3D_BLOCK void send_u(int32_t thread, const Pixels& pixels) const {
    const int32_t lane = thread % kWarpSize;
    const Warp above = piece(thread).above, left = piece(thread).left;
#pragma unroll
    for (int c = 0; c < kComponents; ++c) {
      const V(&row)[kColumns] = pixels.strip[0].u[c][0];
      if (above.exists()) {
        send(
            above, [&](int32_t warp) { return shared_.below[c][warp] + lane * kColumns; },
            Two{row[0].value, row[1].value});
      }
      if (!left.exists() || lane > 0) continue;
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        const V(&u)[kRows][kColumns] = pixels.strip[s].u[c];
        send(
            left, [&](int32_t warp) { return shared_.right[warp][c] + s * kRows; },
            Four{{u[0][0].value, u[1][0].value, u[2][0].value, u[3][0].value}});
      }
    }
  }

  // The lowest row of py and the last column of px.
  FASTI3D_BLOCK void send_p(int32_t thread, const Pixels& pixels) const {
    const int32_t lane = thread % kWarpSize;
    const Warp below = piece(thread).below, right = piece(thread).right;
#pragma unroll
    for (int c = 0; c < kComponents; ++c) {
      const V(&row)[kColumns] = pixels.strip[kStrips - 1].py[c][kRows - 1];
      if (below.exists()) {
        send(
            below, [&](int32_t warp) { return shared_.above[c][warp] + lane * kColumns; },
            Two{row[0].value, row[1].value});
      }
      if (!right.exists() || lane < kWarpSize - 1) continue;
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        const V(&px)[kRows][kColumns] = pixels.strip[s].px[c];
        send(
            right, [&](int32_t warp) { return shared_.left[warp][c] + s * kRows; },
            Four{{px[0][1].value, px[1][1].value, px[2][1].value, px[3][1].value}});
      }
    }
  }

  // The block's sum of changes, from a whole warp.
  FASTI3D_BLOCK void send_total(int32_t lane, int32_t turn) const {
    const double total =
        block_.sum(kResidentWarps, [&](int32_t warp) { return shared_.changes[warp]; });
    if (lane < block_.count()) block_.send(lane, &shared_.totals[turn][block_.index()], total);
  }

  FASTI3D_BLOCK void store(const Level& level, int32_t thread, const Pixels& pixels) const {
    const Corner first = corner(thread, 0);
    if (!piece(thread).active || first.x >= level.width) return;
#pragma unroll
    for (int row = 0; row < kSide; ++row) {
      if (first.top + row >= level.height) break;
      const Strip<V, kComponents>& strip = pixels.strip[row / kRows];
      const int j = row % kRows;
      const int32_t to = at(level, first.x, first.top + row);
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        write(state_.u(c) + to, strip.u[c][j]);
        write(state_.px(c) + to, strip.px[c][j]);
        write(state_.py(c) + to, strip.py[c][j]);
      }
    }
  }
  FASTI3D_BLOCK static void write(float* to, const V (&from)[kColumns]) {
    *reinterpret_cast<Two*>(to) = {from[0].value, from[1].value};
  }

  Block& block_;
  Shared& shared_;
  const Task& task_;
  State& state_;
};

}  // namespace fasti3d::tvl1
