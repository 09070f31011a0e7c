// The schedule of a block: what its warps do, in which order, and what they wait for.
//
// One warp loads slabs, one loads weights, and one or two warpgroups multiply and write. They meet
// at barriers in shared memory (mbarrier): "full" is completed by copies, "empty" by warpgroups
// that have read. Blocks of a cluster load half of the weights each, for both.
//
// M is the machine: the GPU (device.h), or the CPU with fibers for warps (tests/ops).
#pragma once

#include "plan.h"

namespace fasti3d::conv3d_slab {

template <class M>
FASTI3D_HOST_DEVICE void load_slabs(M& machine, const Plan& p) {
  const int bytes = p.slab_positions * kPosition;
  Ring slab;
  for (int64_t item = machine.cluster(); item < p.work; item += machine.clusters()) {
    const Place place = p.place(item, machine.rank());
    const Triple before = p.problem.before;
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const int first = chunk * p.tile.units * p.unit_groups;
      const int groups = p.chunk_units(chunk) * p.unit_groups;
      const int full = p.slab_full(slab.slot);
      machine.wait(p.slab_empty(slab.slot), slab.phase ^ 1);
      machine.expect(full, groups * bytes);
#pragma unroll 1
      for (int group = 0; group < groups; ++group) {
        machine.load_box(full, p.slab_at(slab.slot) + group * p.group_bytes(), bytes,
                         (first + group) * kGroup, place.w - before.w, place.h - before.h,
                         place.t - before.t, place.n);
      }
      slab.advance(p.tile.buffers);
    }
  }
}

template <class M>
FASTI3D_HOST_DEVICE void load_weights(M& machine, const Plan& p) {
  const int taps = p.taps.t * p.taps.h * p.taps.w;
  Ring stage;
  for (int64_t item = machine.cluster(); item < p.work; item += machine.clusters()) {
    const Place place = p.place(item, machine.rank());
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const int bytes = p.chunk_units(chunk) * p.unit_blocks * kBlock;
      const int half = bytes / kCluster, from = machine.rank() * half;
      for (int tap = 0; tap < taps; ++tap) {
        const int full = p.stage_full(stage.slot);
        machine.wait(p.stage_empty(stage.slot), stage.phase ^ 1);
        machine.expect(full, p.tile.across * bytes);
#pragma unroll 1
        for (int row = 0; row < p.tile.across; ++row) {
          machine.load_for_both(
              full, p.stage_at(stage.slot) + row * (p.stage_bytes / p.tile.across) + from,
              p.weights_from(place.row + row, tap, chunk) + from, half);
        }
        stage.advance(p.tile.stages);
      }
    }
  }
}

// The products of a stage, as one group, and waits for all groups before it. Their number is known
// to the compiler: products under way do not outlast a loop around them.
template <int kBlocks, class M>
FASTI3D_HOST_DEVICE void multiply(M& machine, const Plan& p, uint64_t weights, uint64_t positions,
                                  bool accumulate) {
  machine.begin();
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    machine.multiply(advance(weights, block * kBlock), advance(positions, p.block_at[block]),
                     accumulate || block > 0);
  }
  machine.commit();
  machine.wait_for_products(1);
}

template <class M>
FASTI3D_HOST_DEVICE void multiply_and_write(M& machine, const Plan& p, int consumer) {
  const int row = consumer % p.tile.across, along = consumer / p.tile.across;
  const int row_from = row * (p.stage_bytes / p.tile.across);
  Ring slab, stage;
  for (int64_t item = machine.cluster(); item < p.work; item += machine.clusters()) {
    bool accumulate = false;
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const int blocks = p.chunk_units(chunk) * p.unit_blocks;
      const uint64_t first =
          descriptor(machine.address(p.slab_at(slab.slot)) + p.first_position(along) * kPosition,
                     p.leading(), kCoreBytes);
      int read = -1;  // the stage that the products under way read
      machine.wait(p.slab_full(slab.slot), slab.phase);
      for (int t = 0; t < p.taps.t; ++t) {
        for (int h = 0; h < p.taps.h; ++h) {
          for (int w = 0; w < p.taps.w; ++w) {
            const uint64_t weights =
                descriptor(machine.address(p.stage_at(stage.slot)) + row_from, kHalf, kCoreBytes);
            const uint64_t positions = advance(first, p.shift(t, h, w) * kPosition);
            machine.wait(p.stage_full(stage.slot), stage.phase);
            switch (blocks) {
              case 1: multiply<1>(machine, p, weights, positions, accumulate); break;
              case 2: multiply<2>(machine, p, weights, positions, accumulate); break;
              case 3: multiply<3>(machine, p, weights, positions, accumulate); break;
              default: multiply<4>(machine, p, weights, positions, accumulate);
            }
            accumulate = true;
            if (read >= 0) machine.arrive_at_both(p.stage_empty(read));
            read = stage.slot;
            stage.advance(p.tile.stages);
          }
        }
      }
      machine.wait_for_products(0);
      machine.arrive_at_both(p.stage_empty(read));
      machine.arrive(p.slab_empty(slab.slot));
      slab.advance(p.tile.buffers);
    }
    machine.write(p, p.place(item, machine.rank()), consumer, row, along);
  }
}

}  // namespace fasti3d::conv3d_slab
