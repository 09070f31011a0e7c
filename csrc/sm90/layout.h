// What lies where in shared memory and in a thread's registers, as wgmma and the copy engine of
// compute capability 9.0 want it. Kernels and their emulators on the CPU use it alike.
#pragma once

#include <cstdint>

#include "../common/host_device.h"

namespace fasti3d::sm90 {

// Channels of a group, and their bytes, which are also those of a position.
constexpr int kGroup = 8, kPosition = 16;
// Output channels of a product, and the bytes of its weights: [2 halves of K][64][8 channels].
constexpr int kRows = 64, kHalf = kRows * kPosition, kBlock = 2 * kHalf;
// Positions that lie together in a core matrix, and its bytes.
constexpr int kCore = 8, kCoreBytes = kCore * kPosition;
// Warps of a warpgroup, and threads.
constexpr int kWarps = 4, kWarpgroup = 32 * kWarps;
// The most places of a tensor map's box along an axis, and what it must be aligned to in shared
// memory.
constexpr int kMaxBox = 256, kAlignment = 128;
constexpr int kSharedBytes = 227 << 10;

// Results go through shared memory in passes of so many positions; rows there are apart by what
// spreads them over the banks.
constexpr int kPass = 16, kPassPitch = kRows + 4, kPassBytes = kPass * kPassPitch * 4;

struct Triple {
  int t, h, w;
};

// A pixel of the results, or one beside them.
struct Output {
  int n, t, h, w;
  bool exists;
};

FASTI3D_HOST_DEVICE constexpr int ceil_divide(int a, int b) { return (a + b - 1) / b; }
FASTI3D_HOST_DEVICE constexpr int round_up(int a, int b) { return ceil_divide(a, b) * b; }
FASTI3D_HOST_DEVICE constexpr int at_least(int a, int b) { return a > b ? a : b; }
FASTI3D_HOST_DEVICE constexpr int at_most(int a, int b) { return a < b ? a : b; }

// Of a matrix in shared memory without swizzle, both of whose axes lie in core matrices of 8 rows
// by 16 bytes: `leading` bytes from one to the next along K, `stride` bytes along the other axis.
// Source: PTX ISA, "Matrix descriptor format" of wgmma.
FASTI3D_HOST_DEVICE constexpr uint64_t descriptor(uint32_t address, uint32_t leading,
                                                  uint32_t stride) {
  const auto encode = [](uint32_t bytes) { return uint64_t((bytes & 0x3ffff) >> 4); };
  return encode(address) | encode(leading) << 16 | encode(stride) << 32;
}

// By so many bytes. The address is in the lower half, which never overflows: shared memory is
// smaller.
FASTI3D_HOST_DEVICE constexpr uint64_t advance(uint64_t descriptor, int bytes) {
  const uint32_t low = static_cast<uint32_t>(descriptor) + (static_cast<uint32_t>(bytes) >> 4);
  return descriptor >> 32 << 32 | low;
}

// Where a thread's accumulators belong in the product: row and column of register i, of thread
// `thread` of a warpgroup. Source: PTX ISA, "wgmma.mma_async, accumulator D".
struct Cell {
  int row, column;
};
FASTI3D_HOST_DEVICE constexpr Cell accumulator_cell(int thread, int i) {
  const int warp = thread / 32, lane = thread % 32;
  return {16 * warp + 8 * (i / 2 % 2) + lane / 4, 8 * (i / 4) + 2 * (lane % 4) + i % 2};
}

// In a pass the accumulators of so many columns go through shared memory, as floats: where the
// value of a cell lies, and which 8 output channels of which column a thread then writes.
FASTI3D_HOST_DEVICE constexpr int pass_place(Cell cell) {
  return cell.column % kPass * kPassPitch + cell.row;
}
FASTI3D_HOST_DEVICE constexpr Cell pass_share(int thread) {
  return {thread % (kRows / kGroup) * kGroup, thread / (kRows / kGroup)};
}
constexpr int kPassRegisters = kPass / 2;  // of a thread's accumulators

// A place in a ring of buffers, and the parity of the barrier's phase that is next to complete
// there.
struct Ring {
  int slot = 0;
  unsigned phase = 0;

  FASTI3D_HOST_DEVICE void advance(int slots) {
    if (++slot < slots) return;
    slot = 0;
    phase ^= 1;
  }
};

}  // namespace fasti3d::sm90
