// What the CPU solver does to one row of pixels, once for every instruction set.
#pragma once

#include <cstdint>

#include "params.h"

namespace fasti3d::tvl1 {

// Rows of planes have room for a vector before their first pixel and after their last, so that
// neighbors can be read without a test and the last vector written whole.
constexpr int64_t kGuard = 16;
// Rows of several planes, those of the same row side by side, `stride` floats apart.
struct Planes {
  float* data;  // pixel (0, 0) of the first plane
  int64_t count, stride;
  float* row(int64_t y, int64_t plane = 0) const { return data + (y * count + plane) * stride; }
};

// Rows are a whole number of vectors with a guard on each side: an odd number of guards, or the
// same pixel of all planes would compete for the same few places in the cache.
inline int64_t row_stride(int64_t width) { return (((width - 1) / kGuard + 4) | 1) * kGuard; }

// Pixels added side by side into the sums of an error, whatever the vector length, so that every
// instruction set gives the same sums.
constexpr int kBlock = 16;

// Bilinear resize of a row: between two input rows, at the columns of a table.
struct ResizeRow {
  const float *upper, *lower;
  float weight;  // of the lower row
  const int32_t *first, *second;
  const float* weights;  // of the second column
  float factor;
  float* out;
  int64_t width;
};

// What warps sample has three planes, gray values and their derivatives along x and y, and a border
// of kBorder pixels on every side.
constexpr int64_t kSampled = 3;
constexpr int64_t kBorder = 4;

struct GradientRow {
  const float *above, *row, *below;
  float* out;  // the three planes, `stride` floats apart
  int64_t stride, width;
  bool replicate;  // fills the border with the edge pixels instead of zeros
};

struct WarpRow {
  const float* sampled;  // pixel (0, 0) of the first plane; planes are `stride` floats apart
  Size size;
  float bicubic;
  int64_t y;
  const float *i0, *u1, *u2;
  float* data;  // ix, iy, inverse, rho, `stride` floats apart
  int64_t stride;
};

struct MedianRow {
  const float* rows[5];  // the rows around, the middle one in the middle; 3 of them for a side of 3
  float* out;
  int64_t width;
};

// Of the components of the flow (and the illumination), `stride` floats apart, and their duals
// along x and y, likewise.
struct IterateRow {
  const float *u, *p;  // before
  float* out;          // u after
  const float* p_up;   // of the row above, before
  const float* v;      // u of the row above, after
  float* q;            // p of the row above, after
  const float* data;   // ix, iy, inverse, rho, `stride` floats apart
  int64_t stride, width;
  float limit, theta, taut, gamma;
  const float* fetch;  // to the L2 cache meanwhile: so many lines per block of pixels
  int64_t fetch_lines;
};

// An iteration updates u in a row, and then the duals of the row above, which need u in both. The
// first row of a band has nothing above, and after the last one only the duals remain.
enum IteratePart { kFirst, kInner, kLast };

struct Rows {
  void (*convert)(const void* pixels, bool bytes, float* out, int64_t width);
  void (*resize)(const ResizeRow&);
  void (*gradient)(const GradientRow&);
  void (*warp)(const WarpRow&);
  void (*median3)(const MedianRow&);
  void (*median5)(const MedianRow&);
  // By [gamma in use][IteratePart]; returns the sum of squared changes of u.
  double (*iterate[2][3])(const IterateRow&);
};

namespace baseline {
extern const Rows rows;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Rows rows;
}
namespace avx512 {
extern const Rows rows;
}
#elif defined(__aarch64__)
namespace neon {
extern const Rows rows;
}
#endif

}  // namespace fasti3d::tvl1
