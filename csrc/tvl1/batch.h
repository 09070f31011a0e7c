// TV-L1 for many pairs of frames on the CPU.
#pragma once

#include <cstdint>

#include "rows.h"

namespace fasti3d::tvl1 {

// The frames of a batch and what is asked of them. Pair i is frame i of both arrays; without a
// second array it is frames i and i + 1 of the first.
struct Batch {
  const void *frames0, *frames1;
  bool bytes;  // uint8 of 0 to 255, else floats of 0 to 1
  int64_t pairs;
  Size size;
  const float* initial;  // (pairs, 2, height, width), or null
  float* flow;           // the same
  int32_t* iterations;   // (pairs, nscales, warps)
};

// Solves all pairs on torch's threads. The result does not depend on how many there are.
void solve_batch(const Batch& batch, const Params& params, const Rows& rows);

}  // namespace fasti3d::tvl1
