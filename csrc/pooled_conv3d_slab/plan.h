// All index arithmetic of a max-pool 3x3x3 (stride 1, SAME) and the convolution 1x1x1 of it, over
// slabs in shared memory: what lies where, what is copied when, what is pooled and multiplied. The
// kernel (cuda.cu) and its emulator on the CPU use it alike.
//
// A slab is what the windows of a tile read of 32 channels of the clip, and lies as the copy engine
// writes it: [frame][row][column][32 channels], with zeros for what is beside the clip, which are
// no larger than any value of a map that is never negative. Threads pool it into the right matrix
// of a product, [group of 8 channels][output][8 channels], which is the layout of wgmma's core
// matrices without swizzle. Outputs are counted frame by frame and row by row, with nothing
// between. Output channels are the rows of a product, 64 at a time, and outputs its columns: no
// output is pooled twice.
#pragma once

#include <cstdint>

#include "../sm90/layout.h"

namespace fasti3d::pooled_conv3d_slab {

using namespace sm90;

constexpr int kWindow = 3;
// Of a slab: channels, groups of them, products that reduce them, and bytes of a position.
constexpr int kChannels = 32, kGroups = kChannels / kGroup, kProducts = kGroups / 2;
constexpr int kSlabPosition = kChannels * 2;
constexpr int kMaxRowBlocks = 2;
// Warpgroups that pool and multiply; one more copies, with a single thread: it is a warpgroup so
// that it can leave its registers to the others. How many each then has per thread.
constexpr int kMaxConsumers = 2, kThreads = kWarpgroup * (kMaxConsumers + 1);
constexpr int kFewRegisters = 24, kManyRegisters = 240;
// Columns of a product whose sums a thread has registers for, of one row of blocks or of two.
constexpr int kMaxColumns = 224;
// Groups of the pooled matrix are apart by what spreads 4 of them, 2 outputs each, over the banks.
constexpr int kOperandSkew = 32;
constexpr int kMaxStages = 4, kBarriers = 2 * kMaxStages;
// Frames that are pooled together: the maximum of two rows between them is found once.
constexpr int kTogether = 2;
constexpr int64_t kMaxTiles = 1 << 30;

struct Problem {
  int batch, channels, out_channels;
  Triple size;
};

// How a block of threads cuts its work. Each of `along` warpgroups takes `box` outputs with
// products of `columns`; they are stacked along time or along rows. A thread pools `strip` rows of
// a column.
struct Tile {
  int columns, along, by_frames;
  Triple box;
  int strip, stages;
};

// Quotients of small numbers by one divisor, without a division.
struct Divider {
  int divisor;
  uint32_t multiplier;  // 2^32 / divisor, rounded up

  FASTI3D_HOST_DEVICE int quotient(int n) const {
    if (divisor == 1) return n;
    return static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier >> 32);
  }
};
FASTI3D_HOST_DEVICE constexpr Divider divider(int divisor) {
  return {divisor, static_cast<uint32_t>(((uint64_t(1) << 32) + divisor - 1) / divisor)};
}

// Outputs of a tile's block from (n, t, h, w) on.
struct Place {
  int n, t, h, w;
};

// A thread's share of pooling: a group of channels in a column of outputs, `rows` of them in
// `frames`, 1 or 2, from (t, h, w) of a warpgroup's box on.
struct Share {
  int group, t, h, w, frames, rows;
};

struct Plan {
  Problem problem;
  Tile tile;
  Triple box;  // outputs of a block
  // Of the slab.
  int pitch, rows, frames;
  // Of channels: row blocks of the output's, chunks of the input's.
  int row_blocks, chunks;
  int tiles_t, tiles_h, tiles_w, tiles;
  bool fits;
  // Shares of a warpgroup.
  int shares;
  Divider columns, strips;
  int slab_bytes, weights_at, stage_bytes, operands_at, operand_group, operand_bytes, passes_at,
      barriers_at, shared_bytes;

  // Where things lie in shared memory. A stage is a slab, then weights.
  FASTI3D_HOST_DEVICE int stage_at(int stage) const { return stage * stage_bytes; }
  FASTI3D_HOST_DEVICE int stage_weights(int stage) const { return stage_at(stage) + weights_at; }
  FASTI3D_HOST_DEVICE int operand_at(int consumer) const {
    return operands_at + consumer * operand_bytes;
  }
  FASTI3D_HOST_DEVICE int pass_at(int consumer) const { return passes_at + consumer * kPassBytes; }
  FASTI3D_HOST_DEVICE int full(int stage) const { return barriers_at + 8 * stage; }
  FASTI3D_HOST_DEVICE int empty(int stage) const { return full(kMaxStages + stage); }

  // Barriers lie one after the other; how many arrivals complete a phase of each.
  FASTI3D_HOST_DEVICE int arrivals(int barrier) const {
    return barrier < kMaxStages ? 1 : tile.along * kWarps;
  }

  FASTI3D_HOST_DEVICE Place place(int64_t item) const {
    int rest = static_cast<int>(item);
    Place its;
    its.w = rest % tiles_w * box.w;
    rest /= tiles_w;
    its.h = rest % tiles_h * box.h;
    rest /= tiles_h;
    its.t = rest % tiles_t * box.t;
    its.n = rest / tiles_t;
    return its;
  }

  FASTI3D_HOST_DEVICE int64_t weight_bytes() const {
    return int64_t(row_blocks) * ceil_divide(problem.channels, 2 * kGroup) * kBlock;
  }
  // Products of a chunk: of the last there may be fewer.
  FASTI3D_HOST_DEVICE int products(int chunk) const {
    return at_most(kProducts, ceil_divide(problem.channels, 2 * kGroup) - chunk * kProducts);
  }
  // Weights of a row of blocks and a chunk, as bytes from the first.
  FASTI3D_HOST_DEVICE int64_t weights_from(int row, int chunk) const {
    return (int64_t(row) * ceil_divide(problem.channels, 2 * kGroup) + chunk * kProducts) * kBlock;
  }

  // Of the box of a warpgroup in that of its block.
  FASTI3D_HOST_DEVICE int first_frame(int along) const {
    return tile.by_frames ? along * tile.box.t : 0;
  }
  FASTI3D_HOST_DEVICE int first_row(int along) const {
    return tile.by_frames ? 0 : along * tile.box.h;
  }

  // Neighboring shares are of one output's groups, and then of neighboring outputs: their reads
  // are of neighboring bytes.
  FASTI3D_HOST_DEVICE Share share(int i) const {
    Share its;
    its.group = i % kGroups;
    i /= kGroups;
    const int line = columns.quotient(i), pair = strips.quotient(line);
    its.w = i - line * columns.divisor;
    its.h = (line - pair * strips.divisor) * tile.strip;
    its.t = pair * kTogether;
    its.frames = at_most(kTogether, tile.box.t - its.t);
    its.rows = at_most(tile.strip, tile.box.h - its.h);
    return its;
  }
  // The first value of the window of an output of a warpgroup's box, as bytes from the slab's.
  FASTI3D_HOST_DEVICE int slab_place(int along, const Share& its) const {
    const int t = first_frame(along) + its.t, h = first_row(along) + its.h;
    return ((t * rows + h) * pitch + its.w) * kSlabPosition + its.group * kPosition;
  }
  FASTI3D_HOST_DEVICE int row_step() const { return pitch * kSlabPosition; }
  FASTI3D_HOST_DEVICE int frame_step() const { return rows * row_step(); }
  // Where the maximum of a share's first output belongs, as bytes from the pooled matrix.
  FASTI3D_HOST_DEVICE int operand_place(const Share& its) const {
    const int column = (its.t * tile.box.h + its.h) * tile.box.w + its.w;
    return its.group * operand_group + column * kPosition;
  }
  FASTI3D_HOST_DEVICE int operand_row() const { return tile.box.w * kPosition; }
  FASTI3D_HOST_DEVICE int operand_frame() const { return tile.box.h * operand_row(); }

  // Of a column of a warpgroup's product.
  FASTI3D_HOST_DEVICE Output output(const Place& place, int along, int column) const {
    const int line = columns.quotient(column), w = column - line * columns.divisor;
    const int t = line / tile.box.h, h = line - t * tile.box.h;
    Output its{place.n, place.t + first_frame(along) + t, place.h + first_row(along) + h,
               place.w + w, false};
    its.exists = t < tile.box.t && its.t < problem.size.t && its.h < problem.size.h &&
                 its.w < problem.size.w;
    return its;
  }
};

FASTI3D_HOST_DEVICE inline Plan make_plan(const Problem& problem, const Tile& tile) {
  Plan p{};
  p.problem = problem;
  p.tile = tile;
  p.box = tile.box;
  (tile.by_frames ? p.box.t : p.box.h) *= tile.along;
  p.pitch = p.box.w + kWindow - 1;
  p.rows = p.box.h + kWindow - 1;
  p.frames = p.box.t + kWindow - 1;
  p.row_blocks = ceil_divide(problem.out_channels, kRows);
  p.chunks = ceil_divide(problem.channels, kChannels);
  p.tiles_t = ceil_divide(problem.size.t, p.box.t);
  p.tiles_h = ceil_divide(problem.size.h, p.box.h);
  p.tiles_w = ceil_divide(problem.size.w, p.box.w);
  const int64_t tiles = int64_t(problem.batch) * p.tiles_t * p.tiles_h * p.tiles_w;
  const int strips = ceil_divide(tile.box.h, tile.strip);
  p.columns = divider(tile.box.w);
  p.strips = divider(strips);
  p.shares = kGroups * tile.box.w * strips * ceil_divide(tile.box.t, kTogether);

  // What does not fit need not be a number of 32 bits.
  const int64_t slab = int64_t(p.frames) * p.rows * p.pitch * kSlabPosition;
  const int64_t weights_at = (slab + kAlignment - 1) / kAlignment * kAlignment;
  const int64_t stage = weights_at + int64_t(p.row_blocks) * kProducts * kBlock;
  p.operand_group = tile.columns * kPosition + kOperandSkew;
  p.operand_bytes = kGroups * p.operand_group;
  const int64_t operands_at = tile.stages * stage;
  const int64_t passes_at = operands_at + int64_t(tile.along) * p.operand_bytes;
  const int64_t barriers_at = passes_at + int64_t(tile.along) * kPassBytes;
  p.fits = barriers_at + kBarriers * 8 <= kSharedBytes && tiles <= kMaxTiles;
  if (!p.fits) return p;
  p.tiles = static_cast<int>(tiles);
  p.slab_bytes = static_cast<int>(slab);
  p.weights_at = static_cast<int>(weights_at);
  p.stage_bytes = static_cast<int>(stage);
  p.operands_at = static_cast<int>(operands_at);
  p.passes_at = static_cast<int>(passes_at);
  p.barriers_at = static_cast<int>(barriers_at);
  p.shared_bytes = p.barriers_at + kBarriers * 8;
  return p;
}

// Why a tile cannot run; null if it can.
FASTI3D_HOST_DEVICE inline const char* refusal(const Problem& problem, const Tile& tile) {
  const auto within = [](int value, int low, int high) { return value >= low && value <= high; };
  if (!within(tile.columns, 8, kMaxColumns) || tile.columns % 8 != 0) {
    return "columns must be a multiple of 8 up to 224";
  }
  if (!within(tile.along, 1, kMaxConsumers)) return "a tile must have 1 or 2 warpgroups";
  for (const int length : {tile.box.t, tile.box.h, tile.box.w}) {
    if (!within(length, 1, kMaxColumns)) return "a box must have outputs, as many as columns";
  }
  if (tile.box.t * tile.box.h * tile.box.w > tile.columns) return "columns must hold the box";
  if (!within(tile.strip, 1, tile.box.h)) return "a strip must have rows, as many as the box";
  if (!within(tile.stages, 2, kMaxStages)) return "a tile must have 2 to 4 stages";
  const Plan p = make_plan(problem, tile);
  if (p.row_blocks * tile.columns > kMaxColumns || p.row_blocks > kMaxRowBlocks) {
    return "a thread must have registers for all output channels, at most 128";
  }
  if (p.pitch > kMaxBox || p.rows > kMaxBox || p.frames > kMaxBox) {
    return "a slab must have at most 256 frames, rows and columns";
  }
  return p.fits ? nullptr : "the tile must fit into shared memory, and take at most 2^30 blocks";
}

}  // namespace fasti3d::pooled_conv3d_slab
