// The rows of rows.h, for vectors of kLanes floats. Included once per instruction set, inside a
// namespace of its own which defines kLanes, Vector (of floats), root(Vector) and, for eight lanes
// or more, weigh(weights, vectors of a tap row).

typedef int32_t Whole __attribute__((vector_size(kLanes * sizeof(int32_t))));

template <class V>
inline V broadcast(float value) {
  return V{} + value;
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

void pack_row(const PackRow& a) {
  float* out = a.out + kBorder * kPacked;
  for (int64_t x = 0; x < a.width; ++x, out += kPacked) {
    const int64_t left = x > 0 ? x - 1 : 0, right = x + 1 < a.width ? x + 1 : x;
    out[0] = a.row[x];
    out[1] = 0.5f * (a.row[right] - a.row[left]);
    out[2] = 0.5f * (a.below[x] - a.above[x]);
    out[3] = 0.0f;
  }
  const size_t pixel = kPacked * sizeof(float);
  for (int64_t i = 0; i < kBorder; ++i) {
    float* left = a.out + i * kPacked;
    float* right = out + i * kPacked;
    if (a.replicate) {
      __builtin_memcpy(left, a.out + kBorder * kPacked, pixel);
      __builtin_memcpy(right, out - kPacked, pixel);
    } else {
      __builtin_memset(left, 0, pixel);
      __builtin_memset(right, 0, pixel);
    }
  }
}

// The sample's place along one axis: its second tap, clamped to where the border still has it, and
// the weights of all four.
struct Place {
  int32_t base[kBlock];
  float weight[4][kBlock];
};

// The pixels of a block step along x, from `at` on, and stand still along y.
template <bool kSteps>
inline void place(const float* u, int64_t at, int64_t size, float bicubic_a, Place& out) {
  Vector step{};
  for (int i = 0; i < kLanes; ++i) step[i] = kSteps ? static_cast<float>(i) : 0.0f;
  for (int part = 0; part < kBlock; part += kLanes) {
    const float start = static_cast<float>(kSteps ? at + part : at);
    const Vector x = (broadcast<Vector>(start) + step) + load(u + part);
    // Far outside all taps are border, whatever the fraction. A NaN counts as outside.
    const Vector lowest = broadcast<Vector>(-3.0f);
    const Vector highest = broadcast<Vector>(static_cast<float>(size + 1));
    const Vector inside = smaller(larger(x, lowest), highest);
    const Whole down = __builtin_convertvector(inside, Whole);
    const Vector truncated = __builtin_convertvector(down, Vector);
    const Whole base = down + (truncated > inside);  // a true comparison is -1
    const Vector fraction = inside - __builtin_convertvector(base, Vector);
    const Taps<Vector> taps = bicubic(fraction, broadcast<Vector>(bicubic_a));
    __builtin_memcpy(out.base + part, &base, sizeof(base));
    for (int i = 0; i < 4; ++i) store(out.weight[i] + part, taps.w[i]);
  }
}

// As many of a tap row's four pixels as a register holds.
constexpr int kPixels = kLanes / kPacked;
typedef float Pixel __attribute__((vector_size(kPacked * sizeof(float))));

// The four pixels of a tap row by their weights along x, in the order of `sample` in math.h. Longer
// vectors have forms of their own.
template <class V>
inline Pixel weigh(const float* w, const V (&columns)[4]) {
  return (w[0] * columns[0] + w[2] * columns[2]) + (w[1] * columns[1] + w[3] * columns[3]);
}

// All three values of a pixel at once; `tap` is its upper left tap.
inline Pixel sample_pixel(const float* tap, int64_t stride, const Place& px, const Place& py,
                          int i) {
  Vector columns[4 / kPixels];
#pragma GCC unroll 4
  for (int k = 0; k < 4 / kPixels; ++k) {
    const float* at = tap + k * kLanes;
    columns[k] = py.weight[0][i] * load(at);
#pragma GCC unroll 3
    for (int j = 1; j < 4; ++j) columns[k] += py.weight[j][i] * load(at + j * stride);
  }
  const float weights[4] = {px.weight[0][i], px.weight[1][i], px.weight[2][i], px.weight[3][i]};
  return weigh(weights, columns);
}

void warp_row(const WarpRow& a) {
  // Samples are stored pixel by pixel and then read as vectors: of several blocks, since vectors
  // would have to wait for pixels just stored.
  constexpr int64_t kSpan = 4 * kBlock;
  Place px, py;
  float sampled[3][kSpan];
  const int64_t width = a.size.width, stride = a.packed_stride;
  for (int64_t begin = 0; begin < width; begin += kSpan) {
    const int64_t end = begin + kSpan < width ? begin + kSpan : width;
    for (int64_t x = begin; x < end; x += kBlock) {
      place<true>(a.u1 + x, x, a.size.width, a.bicubic, px);
      place<false>(a.u2 + x, a.y, a.size.height, a.bicubic, py);
      for (int i = 0; i < kBlock; ++i) {
        const float* tap = a.packed + (py.base[i] - 1) * stride + (px.base[i] - 1) * kPacked;
        const Pixel pixel = sample_pixel(tap, stride, px, py, i);
        for (int c = 0; c < 3; ++c) sampled[c][x - begin + i] = pixel[c];
      }
    }
    for (int64_t x = begin; x < end; x += kLanes) {
      const int64_t at = x - begin;
      const Data<Vector> data =
          linearize(load(a.i0 + x), load(sampled[0] + at), load(sampled[1] + at),
                    load(sampled[2] + at), load(a.u1 + x), load(a.u2 + x));
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
        for (int i = 0; i < kLanes; ++i) {
          if (x + i >= width) squares[i] = 0.0f;
        }
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
                          pack_row,
                          warp_row,
                          median3_row,
                          median5_row,
                          {{iterate_row<true, false, false>, iterate_row<true, true, false>,
                            iterate_row<false, true, false>},
                           {iterate_row<true, false, true>, iterate_row<true, true, true>,
                            iterate_row<false, true, true>}}};
