// The rows of rows.h, for vectors of kLanes floats. Included once per instruction set, inside a
// namespace of its own which defines kLanes, Vector (of floats), Whole (of int32_t), root(Vector)
// and lanes(Whole), a bit per lane that is true.

template <class V, class T>
inline V broadcast(T value) {
  return V{} + value;
}
inline Whole count_lanes() {  // 0, 1, 2, ...
  Whole count;
  for (int i = 0; i < kLanes; ++i) count[i] = i;
  return count;
}
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }
inline Vector smaller(Vector a, Vector b) { return a < b ? a : b; }
inline Vector reciprocal(Vector v) { return 1.0f / v; }

#include "math.h"

inline Vector load(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
inline void store(float* p, Vector v) { __builtin_memcpy(p, &v, sizeof(v)); }

void convert_row(const void* pixels, bool bytes, float* out, int64_t width) {
  if (bytes) {
    const uint8_t* from = static_cast<const uint8_t*>(pixels);
    for (int64_t x = 0; x < width; ++x) out[x] = from[x];
  } else {
    const float* from = static_cast<const float*>(pixels);
    for (int64_t x = 0; x < width; ++x) out[x] = from[x] * 255.0f;
  }
}

void resize_row(const ResizeRow& a) {
  for (int64_t x = 0; x < a.width; ++x) {
    const int32_t first = a.first[x], second = a.second[x];
    const float w = a.weights[x], v = 1.0f - w;
    const float upper = a.upper[first] * v + a.upper[second] * w;
    const float lower = a.lower[first] * v + a.lower[second] * w;
    a.out[x] = (upper * (1.0f - a.weight) + lower * a.weight) * a.factor;
  }
}

void gradient_row(const GradientRow& a) {
  float *const gray = a.out, *const dx = gray + a.stride, *const dy = dx + a.stride;
  const float *const row = a.row, *const above = a.above, *const below = a.below;
  const int64_t last = a.width - 1;
  for (int64_t x = 0; x <= last; ++x) {
    gray[x] = row[x];
    dy[x] = 0.5f * (below[x] - above[x]);
  }
  dx[0] = 0.5f * (row[1] - row[0]);
  for (int64_t x = 1; x < last; ++x) dx[x] = 0.5f * (row[x + 1] - row[x - 1]);
  dx[last] = 0.5f * (row[last] - row[last - 1]);
  for (float* const plane : {gray, dx, dy}) {
    for (int64_t i = 1; i <= kBorder; ++i) {
      plane[-i] = a.replicate ? plane[0] : 0.0f;
      plane[last + i] = a.replicate ? plane[last] : 0.0f;
    }
  }
}

// Vectors of a row that are warped together, step by step: each step has much to do at a time, and
// a branch that goes another way than expected costs the work of its step alone.
constexpr int kSpan = 128 / kLanes;

// Where pixels are sampled along one axis: the second tap, clamped to where the border still has
// it, less the pixel's own place for an axis along which the pixels lie; and the weights of all
// four taps.
struct Places {
  Whole second[kSpan];
  Vector weights[4][kSpan];
};

// The pixels step along x, from `at` on, and stand still along y.
template <bool kSteps>
inline void place(const float* u, int count, int64_t at, int64_t size, float bicubic_a,
                  Places& out) {
  const Whole step = kSteps ? count_lanes() : Whole{};
  const Vector steps = __builtin_convertvector(step, Vector), a = broadcast<Vector>(bicubic_a);
  // Far outside all taps are border, whatever the fraction. A NaN counts as outside.
  const Vector lowest = broadcast<Vector>(-3.0f);
  const Vector highest = broadcast<Vector>(static_cast<float>(size + 1));
  for (int v = 0; v < count; ++v) {
    const float first = static_cast<float>(kSteps ? at + v * kLanes : at);
    const Vector x = (broadcast<Vector>(first) + steps) + load(u + v * kLanes);
    const Vector inside = smaller(larger(x, lowest), highest);
    const Whole down = __builtin_convertvector(inside, Whole);
    const Vector truncated = __builtin_convertvector(down, Vector);
    const Whole second = down + (truncated > inside);  // a true comparison is -1
    const Vector fraction = inside - __builtin_convertvector(second, Vector);
    const Taps<Vector> taps = bicubic(fraction, a);
    out.second[v] = second - step;
    for (int i = 0; i < 4; ++i) out.weights[i][v] = taps.w[i];
  }
}

// A plane sampled where all pixels of a vector have the same whole motion; `tap` is the upper left
// tap of the first one.
inline Vector sample_plane(const float* tap, int64_t row, const Places& xs, const Places& ys,
                           int v) {
  Vector columns[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    columns[k] = ys.weights[0][v] * load(tap + k);
#pragma GCC unroll 3
    for (int j = 1; j < 4; ++j) columns[k] += ys.weights[j][v] * load(tap + j * row + k);
  }
  const Taps<Vector> taps{{xs.weights[0][v], xs.weights[1][v], xs.weights[2][v], xs.weights[3][v]}};
  return sample(taps, columns[0], columns[1], columns[2], columns[3]);
}

// Pixels side by side mostly move alike, up to a fraction: so a vector of them is sampled whole,
// once for each whole motion that is found in it.
void warp_row(const WarpRow& a) {
  Places xs, ys;
  Vector sampled[kSampled][kSpan] = {};
  const int64_t width = a.size.width, row = kSampled * a.stride;
  for (int64_t begin = 0; begin < width; begin += kSpan * kLanes) {
    const int64_t rest = width - begin;
    const int count = rest < kSpan * kLanes ? (rest + kLanes - 1) / kLanes : kSpan;
    place<true>(a.u1 + begin, count, begin, width, a.bicubic, xs);
    place<false>(a.u2 + begin, count, a.y, a.size.height, a.bicubic, ys);
    for (int v = 0; v < count; ++v) {
      const int64_t pixels = rest - v * kLanes;
      unsigned pending = (1u << (pixels < kLanes ? pixels : kLanes)) - 1;
      while (pending != 0) {
        const int lane = __builtin_ctz(pending);
        const int32_t left = xs.second[v][lane], top = ys.second[v][lane];
        const Whole alike = (xs.second[v] == left) & (ys.second[v] == top);
        pending &= ~lanes(alike);
        const float* const tap = a.sampled + (top - 1) * row + (left - 1);
#pragma GCC unroll 3
        for (int c = 0; c < kSampled; ++c) {
          const Vector values = sample_plane(tap + c * a.stride, row, xs, ys, v);
          sampled[c][v] = alike ? values : sampled[c][v];
        }
      }
    }
    for (int v = 0; v < count; ++v) {
      const int64_t x = begin + v * kLanes;
      const Data<Vector> data = linearize(load(a.i0 + x), sampled[0][v], sampled[1][v],
                                          sampled[2][v], load(a.u1 + x), load(a.u2 + x));
      store(a.data + x, data.ix);
      store(a.data + a.stride + x, data.iy);
      store(a.data + 2 * a.stride + x, data.inverse);
      store(a.data + 3 * a.stride + x, data.rho);
    }
  }
}

constexpr int64_t kLine = 16;  // floats of a cache line

template <bool kPrimal, bool kDual, bool kGamma>
double iterate_row(const IterateRow& a) {
  constexpr int kComponents = kGamma ? 3 : 2;
  constexpr int kParts = kBlock / kLanes;
  const Vector limit = broadcast<Vector>(a.limit), theta = broadcast<Vector>(a.theta);
  const Vector taut = broadcast<Vector>(a.taut), gamma = broadcast<Vector>(a.gamma);
  // Copies, since for all the compiler knows a store could change what `a` refers to.
  const int64_t stride = a.stride, width = a.width;
  const float *const us = a.u, *const ps = a.p, *const ps_up = a.p_up, *const vs = a.v;
  const float *const ixs = a.data, *const iys = ixs + stride, *const inverses = iys + stride;
  const float* const rhos = inverses + stride;
  float *const outs = a.out, *const qs = a.q;
  Vector error[kParts] = {};

  const auto update = [&](int64_t x, int part, bool whole) {
    Vector after[kComponents], up[kComponents];
#pragma GCC unroll 3
    for (int c = 0; c < kComponents; ++c) up[c] = load(ps_up + (2 * c + 1) * stride + x);
    if constexpr (kPrimal) {
      Vector u[kComponents];
#pragma GCC unroll 3
      for (int c = 0; c < kComponents; ++c) u[c] = load(us + c * stride + x);
      const Vector ix = load(ixs + x), iy = load(iys + x);
      Vector rho = load(rhos + x) + (ix * u[0] + iy * u[1]);
      if constexpr (kGamma) rho = rho + gamma * u[2];
      const Vector step = threshold(rho, load(inverses + x), limit);
      const Vector gradient[3] = {ix, iy, gamma};
      Vector change[kComponents];
#pragma GCC unroll 3
      for (int c = 0; c < kComponents; ++c) {
        const float *const px = ps + 2 * c * stride + x, *const py = px + stride;
        const Vector div = divergence(load(px), load(px - 1), load(py), up[c]);
        after[c] = primal(u[c], step, gradient[c], theta, div);
        store(outs + c * stride + x, after[c]);
        change[c] = after[c] - u[c];
      }
      Vector squares = change[0] * change[0] + change[1] * change[1];
      if constexpr (kGamma) squares = squares + change[2] * change[2];
      if (!whole) {
        squares =
            count_lanes() < broadcast<Whole>(static_cast<int32_t>(width - x)) ? squares : Vector{};
      }
      error[part] += squares;
    }
    if constexpr (kDual) {
      Vector ux[kComponents], uy[kComponents], norm[kComponents], scale[kComponents];
#pragma GCC unroll 3
      for (int c = 0; c < kComponents; ++c) {
        const float* const at = vs + c * stride + x;
        const Vector v = load(at);
        ux[c] = load(at + 1) - v;
        uy[c] = kPrimal ? after[c] - v : Vector{};
        norm[c] = dual_norm(ux[c], uy[c], taut);
      }
      if constexpr (kGamma) {
        const Vector all = reciprocal((norm[0] * norm[1]) * norm[2]);
        scale[0] = all * (norm[1] * norm[2]);
        scale[1] = all * (norm[0] * norm[2]);
        scale[2] = all * (norm[0] * norm[1]);
      } else {
        const Scales<Vector> scales = dual_scales(norm[0], norm[1]);
        scale[0] = scales.first;
        scale[1] = scales.second;
      }
#pragma GCC unroll 3
      for (int c = 0; c < kComponents; ++c) {
        const Vector px_up = load(ps_up + 2 * c * stride + x);
        float* const q = qs + 2 * c * stride + x;
        store(q, dual(px_up, taut, ux[c], scale[c]));
        store(q + stride, dual(up[c], taut, uy[c], scale[c]));
      }
    }
  };

  const float* fetch = a.fetch;
  const int64_t fetch_lines = a.fetch_lines;
  int64_t x = 0;
  for (; x + kBlock <= width; x += kBlock) {
    for (int64_t i = 0; i < fetch_lines; ++i, fetch += kLine) __builtin_prefetch(fetch, 0, 2);
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) update(x + part * kLanes, part, true);
  }
  for (int part = 0; part < kParts && x < width; ++part, x += kLanes) update(x, part, false);

  if constexpr (kPrimal) {
    // What the row below finds to the right of the last pixel: itself, so that the forward
    // difference there is 0.
    for (int c = 0; c < kComponents; ++c) {
      float* const out = outs + c * stride;
      out[width] = out[width - 1];
    }
  }
  if constexpr (kDual) {
    for (int c = 0; c < kComponents; ++c) qs[2 * c * stride - 1] = 0.0f;  // outside
  }
  double sum = 0.0;
  for (int part = 0; part < kParts; ++part) {
    for (int i = 0; i < kLanes; ++i) sum += static_cast<double>(error[part][i]);
  }
  return sum;
}

#include "median.h"

extern const Rows rows = {convert_row,
                          resize_row,
                          gradient_row,
                          warp_row,
                          median3_row,
                          median5_row,
                          {{iterate_row<true, false, false>, iterate_row<true, true, false>,
                            iterate_row<false, true, false>},
                           {iterate_row<true, false, true>, iterate_row<true, true, true>,
                            iterate_row<false, true, true>}}};
