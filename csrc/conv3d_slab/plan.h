// All index arithmetic of a convolution over slabs in shared memory: what lies where, what is
// copied when, and what is multiplied with what. The kernel (cuda.cu) and its emulator on the CPU
// use it alike.
//
// A slab is what the outputs of a tile read of the clip, loaded once and read by every tap. It lies
// as [group of 8 channels][position][8 channels], which is the layout of wgmma's core matrices
// without swizzle: a position is 16 bytes, so a tap is a shift of the matrix's start address by
// whole positions. Positions are counted flat over frames, rows and columns; where a tile is as
// wide as the clip, the zeros on the left of a row are those on the right of the row before, so
// that rows are one column apart and no more. The same holds for the zeros above and below a frame.
// Results between rows and frames are dropped.
//
// Output channels are the rows of a product, 64 at a time, and positions its columns.
#pragma once

#include <cstdint>

#include "../sm90/layout.h"

namespace fasti3d::conv3d_slab {

using namespace sm90;

// Blocks of threads that share the weights, and warpgroups of a block that multiply.
constexpr int kCluster = 2, kMaxConsumers = 2;
constexpr int kThreads = kWarpgroup * kMaxConsumers + 2 * 32;
constexpr int kMaxKernel = 16;
// Products of a stage of weights, and columns of a product, whose sums a thread has registers for.
constexpr int kMaxBlocks = 4, kMaxColumns = 232;
constexpr int kMaxStages = 8, kMaxBuffers = 2, kBarriers = 2 * (kMaxBuffers + kMaxStages);
constexpr int64_t kMaxTiles = 1 << 30;

// A convolution at stride 1. `before` are zeros before each axis, negative to skip places; those
// after it follow from the size of the output.
struct Problem {
  int batch, channels, out_channels;
  Triple in, out, kernel, before;
};

// How a block of threads cuts its work. Its warpgroups are `across` over output channels times
// `along` over positions; each of the latter takes `box` outputs with one product of `positions`
// columns. They are stacked along time or along rows.
struct Tile {
  int positions, across, along, by_frames;
  Triple box;
  // Of channels: those of a slab, and slabs and stages of weights that fit.
  int units, buffers, stages;
};

// What a cluster's block works at: outputs from (n, t, h, w) on, and channels from 64 * row on.
struct Place {
  int n, t, h, w, row;
};

struct Plan {
  Problem problem;
  Tile tile;
  // Outputs of a block.
  Triple box;
  // Of the slab: columns from row to row, rows from frame to frame, frames, and with the zeros
  // after it.
  int pitch, rows, frames, slab_positions, group_positions;
  // A unit of channels is the K of one product or of several: two groups, whose halves of K are a
  // group each; or one group, whose halves of K are two columns beside each other. In the latter
  // case a tap is a row of the window.
  int unit_groups, unit_blocks, all_units, chunks;
  Triple taps;
  // From the first product of a stage to the others, in bytes of the slab.
  int block_at[kMaxBlocks];
  int row_blocks, row_tiles, tiles_t, tiles_h, tiles_w, pixel_tiles;
  int64_t work;  // of clusters
  bool fits;
  int slab_bytes, stage_bytes, stages_at, passes_at, barriers_at, shared_bytes;

  FASTI3D_HOST_DEVICE int consumers() const { return tile.across * tile.along; }
  FASTI3D_HOST_DEVICE int group_bytes() const { return group_positions * kPosition; }
  FASTI3D_HOST_DEVICE int chunk_units(int chunk) const {
    return at_most(tile.units, all_units - chunk * tile.units);
  }

  // Where things lie in shared memory.
  FASTI3D_HOST_DEVICE int slab_at(int buffer) const { return buffer * slab_bytes; }
  FASTI3D_HOST_DEVICE int stage_at(int stage) const { return stages_at + stage * stage_bytes; }
  FASTI3D_HOST_DEVICE int pass_at(int consumer) const { return passes_at + consumer * kPassBytes; }
  FASTI3D_HOST_DEVICE int slab_full(int buffer) const { return barriers_at + 8 * buffer; }
  FASTI3D_HOST_DEVICE int slab_empty(int buffer) const { return slab_full(kMaxBuffers + buffer); }
  FASTI3D_HOST_DEVICE int stage_full(int stage) const { return slab_full(2 * kMaxBuffers + stage); }
  FASTI3D_HOST_DEVICE int stage_empty(int stage) const { return stage_full(kMaxStages + stage); }

  // Barriers lie one after the other; how many arrivals complete a phase of each. Every warp
  // arrives for itself: what it has waited for are its own rows of the products.
  FASTI3D_HOST_DEVICE int arrivals(int barrier) const {
    if (barrier < kMaxBuffers) return 1;
    if (barrier < 2 * kMaxBuffers) return consumers() * kWarps;
    return barrier < 2 * kMaxBuffers + kMaxStages ? 1 : consumers() * kWarps * kCluster;
  }
  // Zeros after the positions of a group, which no copy writes: how many there are in all, and
  // where.
  FASTI3D_HOST_DEVICE int zeros() const {
    return tile.buffers * tile.units * unit_groups * (group_positions - slab_positions);
  }
  FASTI3D_HOST_DEVICE int zero_at(int i) const {
    const int each = group_positions - slab_positions;
    return i / each * group_bytes() + (slab_positions + i % each) * kPosition;
  }

  // The blocks of a cluster take neighboring pixels and the same channels; without pixels left, the
  // clip after the last, which is all zeros.
  FASTI3D_HOST_DEVICE Place place(int64_t item, int rank) const {
    Place its;
    its.row = static_cast<int>(item % row_tiles) * tile.across;
    int pixels = static_cast<int>(item / row_tiles) * kCluster + rank;
    its.w = pixels % tiles_w * box.w;
    pixels /= tiles_w;
    its.h = pixels % tiles_h * box.h;
    pixels /= tiles_h;
    its.t = pixels % tiles_t * box.t;
    its.n = pixels / tiles_t;
    return its;
  }

  FASTI3D_HOST_DEVICE int64_t weight_bytes() const {
    return int64_t(row_blocks) * taps.t * taps.h * taps.w * all_units * unit_blocks * kBlock;
  }

  // Weights of a row of products, a tap and a chunk, as bytes from the first: blocks lie as
  // [row][tap][block]. Rows beyond the last take its weights, and what comes of them is dropped.
  FASTI3D_HOST_DEVICE int64_t weights_from(int row, int tap, int chunk) const {
    const int64_t its_row = at_most(row, row_blocks - 1);
    return ((its_row * taps.t * taps.h * taps.w + tap) * all_units + chunk * tile.units) *
           unit_blocks * kBlock;
  }

  // The first position that a warpgroup's outputs read.
  FASTI3D_HOST_DEVICE int first_position(int along) const {
    return along * (tile.by_frames ? tile.box.t * rows : tile.box.h) * pitch;
  }
  // How far a tap reads from there.
  FASTI3D_HOST_DEVICE int shift(int t, int h, int w) const { return (t * rows + h) * pitch + w; }
  // From the first half of a product's K to the second, in bytes.
  FASTI3D_HOST_DEVICE int leading() const { return unit_groups == 2 ? group_bytes() : kPosition; }

  // Of a column of a warpgroup's product.
  FASTI3D_HOST_DEVICE Output output(const Place& place, int along, int column) const {
    const int t = column / (rows * pitch), in_frame = column - t * rows * pitch;
    const int h = in_frame / pitch, w = in_frame - h * pitch;
    Output its{place.n, place.t + t + (tile.by_frames ? along * tile.box.t : 0),
               place.h + h + (tile.by_frames ? 0 : along * tile.box.h), place.w + w, false};
    its.exists = t < tile.box.t && h < tile.box.h && w < tile.box.w && its.n < problem.batch &&
                 its.t < problem.out.t && its.h < problem.out.h && its.w < problem.out.w;
    return its;
  }
};

// Zeros that the last and the first tap meet on both sides of an axis: where a tile covers all of
// it they need to be there only once.
FASTI3D_HOST_DEVICE constexpr int shared_zeros(int in, int out, int kernel, int before, int box) {
  return box < out ? 0 : at_least(0, at_most(before, out + kernel - 1 - before - in));
}

FASTI3D_HOST_DEVICE inline Plan make_plan(const Problem& problem, const Tile& tile) {
  const Triple in = problem.in, out = problem.out, kernel = problem.kernel, before = problem.before;
  Plan p{};
  p.problem = problem;
  p.tile = tile;
  p.box = tile.box;
  (tile.by_frames ? p.box.t : p.box.h) *= tile.along;
  p.pitch = p.box.w + kernel.w - 1 - shared_zeros(in.w, out.w, kernel.w, before.w, p.box.w);
  p.rows = p.box.h + kernel.h - 1 - shared_zeros(in.h, out.h, kernel.h, before.h, p.box.h);
  p.frames = p.box.t + kernel.t - 1;
  p.slab_positions = p.frames * p.rows * p.pitch;

  const int groups = ceil_divide(problem.channels, kGroup);
  const bool by_columns = groups % 2 == 1 && kernel.w % 2 == 0;
  p.unit_groups = by_columns ? 1 : 2;
  p.unit_blocks = by_columns ? kernel.w / 2 : 1;
  p.all_units = ceil_divide(groups, p.unit_groups);
  p.chunks = ceil_divide(p.all_units, tile.units);
  p.taps = {kernel.t, kernel.h, by_columns ? 1 : kernel.w};

  // Columns of products that are dropped may read further than the slab.
  const int last = p.first_position(tile.along - 1) + tile.positions +
                   p.shift(kernel.t - 1, kernel.h - 1, kernel.w - 1);
  p.group_positions = round_up(at_least(p.slab_positions, last), kAlignment / kPosition);

  p.row_blocks = ceil_divide(problem.out_channels, kRows);
  p.row_tiles = ceil_divide(p.row_blocks, tile.across);
  p.tiles_t = ceil_divide(out.t, p.box.t);
  p.tiles_h = ceil_divide(out.h, p.box.h);
  p.tiles_w = ceil_divide(out.w, p.box.w);
  const int64_t pixel_tiles = int64_t(problem.batch) * p.tiles_t * p.tiles_h * p.tiles_w;
  p.pixel_tiles = static_cast<int>(pixel_tiles);
  p.work = static_cast<int64_t>(ceil_divide(p.pixel_tiles, kCluster)) * p.row_tiles;

  // What does not fit need not be a number of 32 bits.
  const int64_t slab = int64_t(tile.units) * p.unit_groups * p.group_positions * kPosition;
  const int64_t stage = int64_t(tile.across) * tile.units * p.unit_blocks * kBlock;
  const int64_t passes_at = tile.buffers * slab + tile.stages * stage;
  const int64_t barriers_at = passes_at + p.consumers() * kPassBytes;
  p.fits = barriers_at + kBarriers * 8 <= kSharedBytes && pixel_tiles <= kMaxTiles;
  if (!p.fits) return p;
  for (int i = 0; i < kMaxBlocks; ++i) {
    p.block_at[i] =
        i / p.unit_blocks * p.unit_groups * p.group_bytes() + i % p.unit_blocks * 2 * kPosition;
  }
  p.slab_bytes = static_cast<int>(slab);
  p.stage_bytes = static_cast<int>(stage);
  p.stages_at = tile.buffers * p.slab_bytes;
  p.passes_at = static_cast<int>(passes_at);
  p.barriers_at = static_cast<int>(barriers_at);
  p.shared_bytes = p.barriers_at + kBarriers * 8;
  return p;
}

// Why a tile cannot run; null if it can.
FASTI3D_HOST_DEVICE inline const char* refusal(const Problem& problem, const Tile& tile) {
  const auto within = [](int value, int low, int high) { return value >= low && value <= high; };
  for (const int length : {problem.kernel.t, problem.kernel.h, problem.kernel.w}) {
    if (!within(length, 1, kMaxKernel)) return "the kernel must be 1 to 16 on every axis";
  }
  if (!within(tile.positions, 8, kMaxColumns) || tile.positions % 8 != 0) {
    return "positions must be a multiple of 8 up to 232";
  }
  if (!within(tile.across, 1, kMaxConsumers) || !within(tile.along, 1, kMaxConsumers) ||
      tile.across * tile.along > kMaxConsumers) {
    return "a tile must have 1 or 2 warpgroups";
  }
  for (const int length : {tile.box.t, tile.box.h, tile.box.w}) {
    if (!within(length, 1, kMaxColumns)) return "a box must have outputs, as many as positions";
  }
  if (!within(tile.units, 1, kMaxBlocks)) return "a slab must have 1 to 4 units of channels";
  if (!within(tile.buffers, 1, kMaxBuffers) || !within(tile.stages, 2, kMaxStages)) {
    return "a tile must have 1 or 2 slabs and 2 to 8 stages of weights";
  }
  const Plan p = make_plan(problem, tile);
  if (tile.units * p.unit_blocks > kMaxBlocks) return "a stage must have at most 4 products";
  if (p.shift(tile.box.t - 1, tile.box.h - 1, tile.box.w - 1) >= tile.positions) {
    return "positions must hold the box";
  }
  if (p.pitch > kMaxBox || p.rows > kMaxBox || p.frames > kMaxBox) {
    return "a slab must have at most 256 frames, rows and columns";
  }
  return p.fits ? nullptr : "the tile must fit into shared memory, and take at most 2^30 blocks";
}

}  // namespace fasti3d::conv3d_slab
