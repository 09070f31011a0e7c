// TV-L1 of one pair by a group of thread blocks, as one block sees it: the levels of one launch.
//
// The blocks of a group run this code side by side, each on its share of the pixels or tiles, and
// meet at block.meet(). Between two meetings no block reads what another one writes. Inside a
// block, block.each(n, f) calls f(0) to f(n - 1) on its threads, and block.threads(registers, f)
// calls f on every thread with what that thread keeps in registers; both end with a barrier of the
// block. All other code here runs on every thread alike.
//
// So the same source runs on the GPU (cuda.cu) and, thread by thread, on a CPU, where its logic is
// tested (tests/ops/tvl1_serial.cpp).
//
// How the iterations share the pixels out and exchange what they need is a matter of its own: see
// cuda_sweep.h and cuda_resident.h.
#pragma once

#include <cstdint>

#include "cuda_median.h"
#include "cuda_plan.h"
#include "cuda_state.h"
#include "cuda_value.h"

namespace fasti3d::tvl1 {
FASTI3D_BLOCK int32_t clamp(int32_t i, int32_t size) { return i < 0 ? 0 : i < size ? i : size - 1; }

// Iterations: Sweeper or Resident. V: Exact or Fast. kComponents: 2, or 3 with the illumination
// that gamma weighs.
template <template <class, class, int> class Iterations, class Block, class V, int kComponents>
class Solver {
 public:
  using Shared = typename Iterations<Block, V, kComponents>::Shared;

  FASTI3D_BLOCK Solver(Block& block, Shared& shared, const Task& task)
      : block_(block), shared_(shared), task_(task), state_(task, block.group(), block.count()) {}

  FASTI3D_BLOCK void run() {
    for (int64_t pair = block_.next_pair(); pair < task_.pairs; pair = block_.next_pair()) {
      solve(pair);
    }
  }

 private:
  FASTI3D_BLOCK void solve(int64_t pair) {
    const int32_t coarsest = task_.part.end - 1;
    build_pyramids(pair);
    if (coarsest + 1 == task_.level_count) start(pair);
    block_.meet();
    for (int32_t i = coarsest; i >= task_.part.first; --i) {
      if (i + 1 < task_.level_count) upsample(i, pair, i == coarsest);
      prepare(task_.levels[i]);
      block_.meet();
      for (int64_t w = 0; w < task_.warps; ++w) {
        const int64_t ran = warp(task_.levels[i]);
        block_.each(block_.index() == 0 ? 1 : 0, [&](int32_t) {
          task_.iterations[(pair * task_.nscales + i) * task_.warps + w] =
              static_cast<int32_t>(ran);
        });
      }
    }
    write(pair);
  }

  // Calls f(x, y) for this block's share of the pixels of a level.
  template <class F>
  FASTI3D_BLOCK void each_pixel(const Level& level, F f) {
    const uint32_t width = static_cast<uint32_t>(level.width);
    block_.share(level.height * level.width, [&](int32_t i) {
      const uint32_t at = static_cast<uint32_t>(i);
      f(static_cast<int32_t>(at % width), static_cast<int32_t>(at / width));
    });
  }

  // Sets a pixel of a plane that is read two pixels at a time: with the last of an odd row goes
  // what follows it, which counts for nothing but should not be read before it was ever written.
  FASTI3D_BLOCK static void put(float* plane, const Level& level, int32_t x, int32_t y,
                                float value) {
    float* const to = plane + at(level, x, y);
    to[0] = value;
    if (x + 1 == level.width && level.width % kColumns > 0) to[1] = value;
  }

  // Pixel (x, y) of a level, bilinear between the pixels of another, whose rows lie so far apart.
  FASTI3D_BLOCK V resized(const float* from, const Level& in, int32_t pitch, int32_t x, int32_t y,
                          double scale_x, double scale_y) const {
    const Between bx = between(x, scale_x, in.width, task_.cuda_form);
    const Between by = between(y, scale_y, in.height, task_.cuda_form);
    const V one{1.0f}, wx{bx.weight}, wy{by.weight};
    const float* upper = from + by.first * pitch;
    const float* lower = from + by.second * pitch;
    const V above = V{upper[bx.first]} * (one - wx) + V{upper[bx.second]} * wx;
    const V below = V{lower[bx.first]} * (one - wx) + V{lower[bx.second]} * wx;
    return above * (one - wy) + below * wy;
  }

  FASTI3D_BLOCK void build_pyramids(int64_t pair) {
    const Level& finest = task_.levels[0];
    const int64_t first = pair * finest.height * finest.width;
    each_pixel(finest, [&](int32_t x, int32_t y) {
      const int64_t from = first + static_cast<int64_t>(y) * finest.width + x;
      for (int which = 0; which < 2; ++which) {
        const void* frames = which == 0 ? task_.frames0 : task_.frames1;
        state_.image(which, finest)[at(finest, x, y)] =
            task_.bytes ? static_cast<const uint8_t*>(frames)[from]
                        : rounded(static_cast<const float*>(frames)[from], 255.0f);
      }
    });
    for (int32_t i = 1; i < task_.part.end; ++i) {
      block_.meet();
      const Level &in = task_.levels[i - 1], &out = task_.levels[i];
      each_pixel(out, [&](int32_t x, int32_t y) {
        for (int which = 0; which < 2; ++which) {
          const V value =
              resized(state_.image(which, in), in, in.pitch, x, y, task_.scale, task_.scale);
          state_.image(which, out)[at(out, x, y)] = value.value;
        }
      });
    }
  }

  // The flow at the coarsest level: nothing, or the initial flow scaled down level by level.
  FASTI3D_BLOCK void start(int64_t pair) {
    const Level &finest = task_.levels[0], &coarsest = task_.levels[task_.level_count - 1];
    const bool given = task_.initial != nullptr;
    each_pixel(given ? finest : coarsest, [&](int32_t x, int32_t y) {
      const Level& level = given ? finest : coarsest;
      for (int c = 0; c < 2; ++c) {
        const int64_t from = ((pair * 2 + c) * level.height + y) * level.width + x;
        put(state_.u(c), level, x, y, given ? task_.initial[from] : 0.0f);
      }
    });
    if (given) {
      for (int32_t i = 1; i < task_.level_count; ++i) {
        block_.meet();
        const Level &in = task_.levels[i - 1], &out = task_.levels[i];
        each_pixel(out, [&](int32_t x, int32_t y) {
          for (int c = 0; c < 2; ++c) {
            const V value = resized(state_.u(c), in, in.pitch, x, y, task_.scale, task_.scale);
            put(state_.next_u(c), out, x, y, V(value * V{task_.step}).value);
          }
        });
        state_.turn_u();
      }
    }
    if constexpr (kComponents == 3) {
      each_pixel(coarsest, [&](int32_t x, int32_t y) { put(state_.u(2), coarsest, x, y, 0.0f); });
    }
  }

  // The flow of level i from that of the next coarser one, which another launch may have solved.
  FASTI3D_BLOCK void upsample(int32_t i, int64_t pair, bool handed) {
    const Level &in = task_.levels[i + 1], &out = task_.levels[i];
    each_pixel(out, [&](int32_t x, int32_t y) {
      for (int c = 0; c < kComponents; ++c) {
        const float* const from = handed ? handed_on(pair, c) : state_.u(c);
        const int32_t pitch = handed ? in.width : in.pitch;
        V value = resized(from, in, pitch, x, y, out.scale_x, out.scale_y);
        if (c < 2) value = value * V{task_.inverse_step};
        put(state_.next_u(c), out, x, y, value.value);
      }
    });
    state_.turn_u();
  }

  // The second image with its central differences, and duals of zero.
  FASTI3D_BLOCK void prepare(const Level& level) {
    const float* from = state_.image(1, level);
    each_pixel(level, [&](int32_t x, int32_t y) {
      const auto gray = [&](int32_t i, int32_t j) {
        return V{from[at(level, clamp(i, level.width), clamp(j, level.height))]};
      };
      const V half{0.5f};
      const V along_x = half * (gray(x + 1, y) - gray(x - 1, y));
      const V along_y = half * (gray(x, y + 1) - gray(x, y - 1));
      const int32_t to = at(level, x, y);
      state_.taps()[to] = {gray(x, y).value, along_x.value, along_y.value, 0.0f};
      for (int c = 0; c < kComponents; ++c) {
        put(state_.px(c), level, x, y, 0.0f);
        put(state_.py(c), level, x, y, 0.0f);
      }
      // Of this only what follows the rows lasts.
      for (int k = 0; k < 4; ++k) put(state_.data(k), level, x, y, 0.0f);
    });
  }

  // Linearizes once and iterates; returns the number of iterations.
  FASTI3D_BLOCK int64_t warp(const Level& level) {
    linearize_at_flow(level);
    const bool medians = !task_.cuda_form && task_.median > 1;
    const int64_t all = task_.inner_iterations * task_.outer_iterations;
    const int64_t round = medians ? task_.inner_iterations : all;
    StopRule rule{task_.cuda_form, level.tolerance};
    bool stopped = false;
    while (!stopped && rule.iteration < all) {
      if (medians) smooth(level);
      block_.meet();
      // A warp takes about as many iterations as the one before.
      const int32_t expected = rule.iteration == 0 ? usual_ : kMaxSweep;
      Iterations<Block, V, kComponents> iterations(block_, shared_, task_, state_);
      stopped = iterations.iterate(level, round, expected, rule);
    }
    usual_ = static_cast<int32_t>(rule.iteration < kMaxSweep ? rule.iteration : kMaxSweep);
    return rule.iteration;
  }

  // The four taps of a bicubic sample along an axis. Outside the image, where the CPU form has
  // zeros, weights are zero.
  struct Place {
    int32_t at[4];
    Taps<V> taps;
  };

  FASTI3D_BLOCK Place place(int32_t pixel, float flow, int32_t size) const {
    const V position = V{static_cast<float>(pixel)} + V{flow};
    // Farther outside nothing changes any more.
    const float inside = fminf(fmaxf(position.value, -3.0f), static_cast<float>(size + 1));
    const float whole = floorf(inside);
    Place result{{}, bicubic(V{inside} - V{whole}, V{task_.bicubic})};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int32_t at = static_cast<int32_t>(whole) - 1 + k;
      result.at[k] = clamp(at, size);
      if (!task_.cuda_form && at != result.at[k]) result.taps.w[k] = V{0.0f};
    }
    return result;
  }

  FASTI3D_BLOCK void linearize_at_flow(const Level& level) {
    const float *u1 = state_.u(0), *u2 = state_.u(1);
    each_pixel(level, [&](int32_t x, int32_t y) {
      const int32_t to = at(level, x, y);
      const Place px = place(x, u1[to], level.width), py = place(y, u2[to], level.height);
      V columns[3][4] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Tap* line = state_.taps() + py.at[j] * level.pitch;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Tap tap = line[px.at[k]];
          const V values[3] = {{tap.gray}, {tap.along_x}, {tap.along_y}};
#pragma unroll
          for (int i = 0; i < 3; ++i) {
            if (j == 0) {
              columns[i][k] = py.taps.w[0] * values[i];
            } else {
              columns[i][k] = columns[i][k] + py.taps.w[j] * values[i];
            }
          }
        }
      }
      V sampled[3];
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        const V(&c)[4] = columns[i];
        sampled[i] = sample(px.taps, c[0], c[1], c[2], c[3]);
      }
      const Data<V> data = linearize(V{state_.image(0, level)[to]}, sampled[0], sampled[1],
                                     sampled[2], V{u1[to]}, V{u2[to]});
      state_.data(0)[to] = data.ix.value;
      state_.data(1)[to] = data.iy.value;
      state_.data(2)[to] = data.inverse.value;
      state_.data(3)[to] = data.rho.value;
    });
  }

  // The median of the flow, onto the other side; the illumination is copied.
  FASTI3D_BLOCK void smooth(const Level& level) {
    if (task_.median == 3) {
      median<3>(level);
    } else {
      median<5>(level);
    }
    if constexpr (kComponents == 3) {
      each_pixel(level, [&](int32_t x, int32_t y) {
        put(state_.next_u(2), level, x, y, state_.u(2)[at(level, x, y)]);
      });
    }
    state_.turn_u();
  }

  template <int kSide>
  FASTI3D_BLOCK void median(const Level& level) {
    constexpr int kWidth = kMedianWidth, kHeight = kMedianHeight;
    constexpr int kReach = kSide / 2, kSorted = kWidth + 2 * kReach;
    const int32_t across = ceil_div(level.width, kWidth);
    const int32_t parts = across * ceil_div(level.height, kHeight);
    for (int32_t part = block_.index(); part < 2 * parts; part += block_.count()) {
      const int c = part / parts;
      const int32_t left = part % parts % across * kWidth, top = part % parts / across * kHeight;
      const float* from = state_.u(c);
      float* to = state_.next_u(c);
      block_.each(kHeight * kSorted, [&](int32_t i) {
        const int32_t column = i % kSorted, row = i / kSorted;
        const int32_t x = clamp(left + column - kReach, level.width);
        float v[kSide];
#pragma unroll
        for (int k = 0; k < kSide; ++k) {
          v[k] = from[at(level, x, clamp(top + row + k - kReach, level.height))];
        }
        sort(v);
#pragma unroll
        for (int k = 0; k < kSide; ++k) shared_.sorted[k][row][column] = v[k];
      });
      block_.each(kHeight * kWidth, [&](int32_t i) {
        const int32_t column = i % kWidth, row = i / kWidth;
        if (left + column >= level.width || top + row >= level.height) return;
        float w[kSide][kSide];
#pragma unroll
        for (int j = 0; j < kSide; ++j) {
#pragma unroll
          for (int k = 0; k < kSide; ++k) w[j][k] = shared_.sorted[j][row][column + k];
        }
        put(to, level, left + column, top + row, median_of_sorted_columns(w));
      });
    }
  }

  // A component of the flow of a pair between two launches, without gaps between rows; in the end
  // the result.
  FASTI3D_BLOCK float* handed_on(int64_t pair, int c) const {
    if (c == 2) return task_.illumination + pair * task_.illumination_pixels;
    return task_.flow + (pair * 2 + c) * (task_.levels[0].height * task_.levels[0].width);
  }

  FASTI3D_BLOCK void write(int64_t pair) {
    const Level& level = task_.levels[task_.part.first];
    const int components = task_.part.first > 0 ? kComponents : 2;
    each_pixel(level, [&](int32_t x, int32_t y) {
      for (int c = 0; c < components; ++c) {
        handed_on(pair, c)[y * level.width + x] = state_.u(c)[at(level, x, y)];
      }
    });
  }

  Block& block_;
  Shared& shared_;
  const Task& task_;
  State state_;
  int32_t usual_ = kMaxSweep;  // iterations of a warp
};

}  // namespace fasti3d::tvl1
