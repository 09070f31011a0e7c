// The rows of rows.h, for vectors of kLanes floats. Included once per instruction set, inside a
// namespace of its own which defines kLanes, Vector (of floats), root(Vector) and, for eight lanes
// or more, add_halves(of eight floats).

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

// As many of a tap row's four pixels as a register of the sampler holds, two or one.
constexpr int kPixels = kLanes >= 8 ? 2 : 1;
typedef float Pixel __attribute__((vector_size(kPacked * sizeof(float))));
typedef float PixelsOrPixel __attribute__((vector_size(kPixels * kPacked * sizeof(float))));

template <class V>
inline V load_as(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

// `sample` in math.h of all three values of a pixel at once; `tap` is its upper left tap.
template <class Pixels>
inline Pixel sample_pixel(const float* tap, int64_t stride, const Place& px, const Place& py,
                          int i) {
  Pixels column[4 / kPixels];
  for (int k = 0; k < 4 / kPixels; ++k) {
    const float* at = tap + k * kPixels * kPacked;
    column[k] = py.weight[0][i] * load_as<Pixels>(at);
    for (int j = 1; j < 4; ++j) column[k] += py.weight[j][i] * load_as<Pixels>(at + j * stride);
  }
  const float w0 = px.weight[0][i], w1 = px.weight[1][i];
  const float w2 = px.weight[2][i], w3 = px.weight[3][i];
  if constexpr (kPixels == 2) {
    const Pixels first{w0, w0, w0, w0, w1, w1, w1, w1}, second{w2, w2, w2, w2, w3, w3, w3, w3};
    return add_halves(first * column[0] + second * column[1]);
  } else {
    return (w0 * column[0] + w2 * column[2]) + (w1 * column[1] + w3 * column[3]);
  }
}

void warp_row(const WarpRow& a) {
  Place px, py;
  float sampled[3][kBlock];
  for (int64_t x = 0; x < a.size.width; x += kBlock) {
    place<true>(a.u1 + x, x, a.size.width, a.bicubic, px);
    place<false>(a.u2 + x, a.y, a.size.height, a.bicubic, py);
    for (int i = 0; i < kBlock; ++i) {
      const float* tap = a.packed + (py.base[i] - 1) * a.packed_stride + (px.base[i] - 1) * kPacked;
      const Pixel pixel = sample_pixel<PixelsOrPixel>(tap, a.packed_stride, px, py, i);
      for (int c = 0; c < 3; ++c) sampled[c][i] = pixel[c];
    }
    for (int part = 0; part < kBlock; part += kLanes) {
      const int64_t at = x + part;
      const Data<Vector> data =
          linearize(load(a.i0 + at), load(sampled[0] + part), load(sampled[1] + part),
                    load(sampled[2] + part), load(a.u1 + at), load(a.u2 + at));
      store(a.data + at, data.ix);
      store(a.data + a.stride + at, data.iy);
      store(a.data + 2 * a.stride + at, data.inverse);
      store(a.data + 3 * a.stride + at, data.rho);
    }
  }
}

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
  struct Gradients {
    Vector x[kComponents], y[kComponents];
  };

  // u at a vector of pixels, and its gradients in the row above.
  const auto update = [&](int64_t x, int part, bool whole) {
    Vector after[kComponents];
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
        const Vector up = load(ps_up + (2 * c + 1) * stride + x);
        const Vector div = divergence(load(px), load(px - 1), load(py), up);
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
    Gradients result{};
    if constexpr (kDual) {
#pragma GCC unroll 3
      for (int c = 0; c < kComponents; ++c) {
        const float* const at = vs + c * stride + x;
        const Vector v = load(at);
        result.x[c] = load(at + 1) - v;
        if constexpr (kPrimal) result.y[c] = after[c] - v;
      }
    }
    return result;
  };
  // The duals of the row above.
  const auto update_duals = [&](int64_t x, const Gradients& u) {
    Vector norm[kComponents], scale[kComponents];
#pragma GCC unroll 3
    for (int c = 0; c < kComponents; ++c) norm[c] = dual_norm(u.x[c], u.y[c], taut);
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
      const float* const before = ps_up + 2 * c * stride + x;
      const Vector qx = load(before), qy = load(before + stride);
      float* const q = qs + 2 * c * stride + x;
      store(q, dual(qx, taut, u.x[c], scale[c]));
      store(q + stride, dual(qy, taut, u.y[c], scale[c]));
    }
  };

  // Roots and divisions take long: they come a block later than what they depend on, or most of the
  // instructions that a processor can look ahead to would wait for others.
  Gradients behind[2][kParts];
  Fetch fetch[3] = {a.fetch[0], a.fetch[1], a.fetch[2]};
  int64_t x = 0;
  int now = 0;
  for (; x + kBlock <= width; x += kBlock, now = 1 - now) {
#pragma GCC unroll 3
    for (Fetch& memory : fetch) {
      const float* const end = memory.at + memory.step;
      for (const float* at = memory.at; at < end; at += kBlock) __builtin_prefetch(at, 0, 2);
      memory.at = end;
    }
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      behind[now][part] = update(x + part * kLanes, part, true);
      if (kDual && x > 0) update_duals(x - kBlock + part * kLanes, behind[1 - now][part]);
    }
  }
  if constexpr (kDual) {
    for (int part = 0; part < kParts && x > 0; ++part) {
      update_duals(x - kBlock + part * kLanes, behind[1 - now][part]);
    }
  }
  for (int part = 0; part < kParts && x < width; ++part, x += kLanes) {
    const Gradients gradients = update(x, part, false);
    if constexpr (kDual) update_duals(x, gradients);
  }

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
