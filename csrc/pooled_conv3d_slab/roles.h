// The schedule of a block: what its warps do, in which order, and what they wait for.
//
// One warp loads slabs and weights, and one or two warpgroups pool, multiply and write. They meet
// at barriers in shared memory (mbarrier): "full" is completed by copies, "empty" by warpgroups
// that have read. While one warpgroup waits for its products, the other pools.
//
// M is the machine: the GPU (device.h), or the CPU with fibers for warps (tests/ops). Its Values
// are 8 channels of a pixel.
#pragma once

#include "plan.h"

namespace fasti3d::pooled_conv3d_slab {

template <class M>
FASTI3D_HOST_DEVICE void load(M& machine, const Plan& p) {
  Ring stage;
  for (int64_t item = machine.block(); item < p.tiles; item += machine.blocks()) {
    const Place place = p.place(item);
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const int full = p.full(stage.slot), weights = p.products(chunk) * kBlock;
      machine.wait(p.empty(stage.slot), stage.phase ^ 1);
      machine.expect(full, p.slab_bytes + p.row_blocks * weights);
      machine.load_box(full, p.stage_at(stage.slot), p.slab_bytes, chunk * kChannels, place.w - 1,
                       place.h - 1, place.t - 1, place.n);
      for (int row = 0; row < p.row_blocks; ++row) {
        machine.load_weights(full, p.stage_weights(stage.slot) + row * kProducts * kBlock,
                             p.weights_from(row, chunk), weights);
      }
      stage.advance(p.tile.stages);
    }
  }
}

// Pools a share of kFrames frames, from `from` in the slab to `to` in the pooled matrix. Of each
// row of windows it finds the maximum over columns and frames, of which each output takes three
// rows: per output 9 reads of 8 channels in one frame and 6 in two, times (rows + 2) / rows.
template <int kFrames, class M>
FASTI3D_HOST_DEVICE void pool(M& machine, const Plan& p, int from, int to, int rows) {
  using Values = typename M::Values;
  Values above[kFrames] = {}, last[kFrames] = {};
  const int frame_step = p.frame_step(), row_step = p.row_step();
#pragma unroll 1
  for (int row = 0; row < rows + kWindow - 1; ++row, from += row_step) {
    Values across[kFrames + kWindow - 1], here[kFrames];
#pragma unroll
    for (int frame = 0; frame < kFrames + kWindow - 1; ++frame) {
      const int at = from + frame * frame_step;
      across[frame] = machine.max(machine.max(machine.read(at), machine.read(at + kSlabPosition)),
                                  machine.read(at + 2 * kSlabPosition));
    }
    const Values shared = machine.max(across[1], across[kFrames]);
#pragma unroll
    for (int frame = 0; frame < kFrames; ++frame) {
      here[frame] = kFrames == 1 ? machine.max(machine.max(across[0], across[1]), across[2])
                                 : machine.max(shared, across[frame * (kFrames + 1)]);
    }
#pragma unroll
    for (int frame = 0; frame < kFrames; ++frame) {
      if (row >= kWindow - 1) {
        machine.write(to + frame * p.operand_frame() + (row - kWindow + 1) * p.operand_row(),
                      machine.max(above[frame], here[frame]));
      }
      above[frame] = machine.max(last[frame], here[frame]);
      last[frame] = here[frame];
    }
  }
}

// The products of a chunk. Their number is known to the compiler: none under way outlasts a loop.
template <int kCount, class M>
FASTI3D_HOST_DEVICE void multiply(M& machine, const Plan& p, uint64_t weights, uint64_t pooled,
                                  bool accumulate) {
  machine.begin();
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int row = 0; row < machine.row_blocks(); ++row) {
      machine.multiply(row, advance(weights, (row * kProducts + k) * kBlock),
                       advance(pooled, k * 2 * p.operand_group), accumulate || k > 0);
    }
  }
  machine.commit();
  machine.wait_for_products();
}

template <class M>
FASTI3D_HOST_DEVICE void pool_and_multiply(M& machine, const Plan& p, int consumer) {
  const int operand = p.operand_at(consumer);
  const uint64_t pooled = descriptor(machine.address(operand), p.operand_group, kCoreBytes);
  Ring stage;
  for (int64_t item = machine.block(); item < p.tiles; item += machine.blocks()) {
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const int slab = p.stage_at(stage.slot), products = p.products(chunk);
      const uint64_t weights =
          descriptor(machine.address(p.stage_weights(stage.slot)), kHalf, kCoreBytes);
      machine.wait(p.full(stage.slot), stage.phase);
      // What a warp has waited for are its own rows of the products: others may still be read for.
      machine.meet(consumer);
      machine.each_thread([&](int thread) {
#pragma unroll 1
        for (int i = thread; i < p.shares; i += kWarpgroup) {
          const Share its = p.share(i);
          if (its.group >= 2 * products) continue;
          const int from = slab + p.slab_place(consumer, its), to = operand + p.operand_place(its);
          its.frames == 1 ? pool<1>(machine, p, from, to, its.rows)
                          : pool<kTogether>(machine, p, from, to, its.rows);
        }
      });
      machine.hand_over(consumer);
      products == 1 ? multiply<1>(machine, p, weights, pooled, chunk > 0)
                    : multiply<kProducts>(machine, p, weights, pooled, chunk > 0);
      machine.arrive(p.empty(stage.slot));
      stage.advance(p.tile.stages);
    }
    machine.write_results(p, p.place(item), consumer);
  }
}

}  // namespace fasti3d::pooled_conv3d_slab
