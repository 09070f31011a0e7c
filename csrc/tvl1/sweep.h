// Several iterations of TV-L1 in one pass over rows, each a row behind the one before.
#pragma once

#include <cstdint>
#include <vector>

#include "rows.h"

namespace fasti3d::tvl1 {

// Errors are summed over groups of rows, and bands are made of whole groups, so that the sums, and
// with them the stop, do not depend on the number of bands.
constexpr int64_t kGroup = 8;

// Rows that an iteration takes in turn, before the next iteration has its turn: each finds the row
// above it in the L1 cache.
constexpr int64_t kTurn = 2;

// Repeats the edge pixels of a row in its guards, where medians look.
inline void extend(float* row, int64_t width) {
  for (int64_t i = 1; i <= 2; ++i) {
    row[-i] = row[0];
    row[width - 1 + i] = row[width - 1];
  }
}

// What warps the rows of a level.
struct Warp {
  Size size;
  float bicubic;
  const float* gray;  // of the first frame
  int64_t gray_stride;
  Planes sampled, u, data;

  void run(const Rows& rows, int64_t y) const {
    rows.warp({sampled.row(0), size, bicubic, y, gray + y * gray_stride, u.row(y, 0), u.row(y, 1),
               data.row(y), data.stride});
  }
};

// Of one band in one level. A state is the components of u, which are the flow's two and with gamma
// the illumination, and then the duals of each along x and y.
struct Sweep {
  Size size;
  Planes data;      // ix, iy, inverse, rho of the warp
  Planes from, to;  // states
  bool at_rest;     // the duals are zeros, whatever `from` holds
  bool median;      // of the flow, before the first iteration
  int64_t depth;    // iterations
  int64_t begin, end;
  double* sums;  // (depth, groups of the level): squared changes of u, written for the band
  // The warp of the rows whose data is not there yet: it is written when the first iteration comes
  // to them, while both have use of u in the cache.
  const Warp* warp = nullptr;
  int64_t warp_begin = 0, warp_end = 0;
};

// The rows that a member of the team has in flight. It reads the neighbors' rows as they are in
// `from` and repeats what their owners do with them: nobody waits for anybody within a sweep.
class Sweeper {
 public:
  // For the level with the longest rows, and sweeps of at most `depth`.
  Sweeper(const Params& params, const Rows& rows, int64_t width, int64_t depth);

  void run(const Sweep& sweep);

 private:
  void iterate(const Sweep& sweep, int64_t iteration, int64_t y, IteratePart part, int64_t next);
  void fetch(const Sweep& sweep, int64_t iteration, int64_t y, IterateRow& a) const;
  void take_median(const Sweep& sweep, int64_t y);
  float* in_flight(const Sweep& sweep, int64_t y) const;

  const Params& params_;
  const Rows& rows_;
  const int64_t components_, in_flight_;
  std::vector<float> memory_;
  float *rows_in_flight_, *zeros_, *smooth_;
};

}  // namespace fasti3d::tvl1
