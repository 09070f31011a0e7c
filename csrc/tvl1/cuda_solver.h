// TV-L1 of one pair by a group of thread blocks, as one block sees it.
//
// The blocks of a group run this code side by side, each on its share of the pixels or tiles, and
// meet at block.meet(). Between two meetings nobody reads what another block writes. Inside a
// block, block.each(n, f) calls f(0) to f(n - 1) on its threads, and block.threads(registers, f)
// calls f on every thread with what that thread keeps in registers; both end with a barrier of the
// block. All other code here runs on every thread alike.
//
// So the same source runs on the GPU (cuda.cu) and, thread by thread, on a CPU, where its logic is
// tested (tests/ops/tvl1_serial.cpp).
//
// An iteration needs a pixel's neighbours, so that tiles which overlap by 2n pixels can be iterated
// n times between two meetings: what reaches into the halo from outside is one pixel more wrong
// with every iteration. Such a sweep reads one copy of the state and writes the other. If its sums
// of changes show that the iterations had to stop within it, it is run again from the copy it read,
// as far as that.
#pragma once

#include <cstdint>

#include "cuda_median.h"
#include "cuda_plan.h"
#include "cuda_value.h"

#if defined(__CUDACC__)
#define FASTI3D_BLOCK __device__ __forceinline__
#else
#define FASTI3D_BLOCK inline
#endif

namespace fasti3d::tvl1 {

// What is to be done: all that is the same for every block.
struct Task {
  bool cuda_form;
  int32_t median;  // side, or 1 for none
  int64_t warps, inner_iterations, outer_iterations;
  float limit, taut, theta, gamma, bicubic;
  float step, inverse_step;  // scale_step and 1 / scale_step
  double scale;              // 1 / scale_step

  const void *frames0, *frames1;  // pair i is frame i of both
  bool bytes;                     // uint8 of 0 to 255 instead of float of 0 to 1
  const float* initial;           // or null
  float* flow;
  int32_t* iterations;
  int64_t pairs, nscales;

  const Level* levels;
  int32_t level_count;
  Layout layout;
  float* workspace;  // of all groups
};

// All but the frames, the results and the plan.
inline Task make_task(const Params& params) {
  Task task{};
  task.cuda_form = params.cuda_form;
  task.median = static_cast<int32_t>(params.median);
  task.warps = params.warps;
  task.inner_iterations = params.inner_iterations;
  task.outer_iterations = params.outer_iterations;
  task.limit = params.limit();
  task.taut = params.taut();
  task.theta = static_cast<float>(params.theta);
  task.gamma = static_cast<float>(params.gamma);
  task.bicubic = params.bicubic();
  task.step = static_cast<float>(params.scale_step);
  task.inverse_step = static_cast<float>(1.0 / params.scale_step);
  task.scale = 1.0 / params.scale_step;
  task.nscales = params.nscales;
  return task;
}

// What a tap of a bicubic sample reads at once: grey value and derivatives of the second image.
struct alignas(16) Tap {
  float grey, along_x, along_y, unused;
};

// Two pixels side by side.
struct alignas(8) Two {
  float first, second;
};

constexpr int kPartialSums = 16;
constexpr int kMedianWidth = 64, kMedianHeight = 16, kLargestMedian = 5;

// What a block keeps for its threads to exchange.
template <int kComponents>
struct Shared {
  union {
    struct {
      // Rows that the warp above (u) or below (py) needs: warp i's are rows i and i + 1. Row 0 of
      // py is zero, as p is outside the image.
      float u[kComponents][kWarps + 1][kTileWidth];
      float py[kComponents][kWarps + 1][kTileWidth];
      float change[kLongestSweep][kThreads];
    };
    float sorted[kLargestMedian][kMedianHeight][kMedianWidth + kLargestMedian - 1];
  };
  double partial[kLongestSweep][kPartialSums];
  double total[kLongestSweep];
};

// The pixels of one thread in a tile.
template <class V, int kComponents>
struct Strip {
  V u[kComponents][kRows][kColumns];
  V px[kComponents][kRows][kColumns], py[kComponents][kRows][kColumns];
  Data<V> data[kRows][kColumns];
  bool active;  // whether the warp has rows of the image
  // Whether pixels of the warp have no left, right or lower neighbour in the image, or lie outside.
  // Those without an upper neighbour find zeros in shared memory.
  bool edge;
  bool core;
};

// A tile's place in the image. Its core is what it contributes to the result.
struct Window {
  int32_t x, y, warps;    // warps: those that have rows of the image
  int32_t width, height;  // of the image
  int32_t core_left, core_right, core_top, core_bottom;

  FASTI3D_BLOCK bool in_core(int32_t column, int32_t row) const {
    return column >= core_left && column < core_right && row >= core_top && row < core_bottom;
  }
};

FASTI3D_BLOCK Window window(const Level& level, int32_t tile) {
  const Tiling& t = level.tiling;
  const int32_t i = tile % t.across, j = tile / t.across;
  Window w;
  w.x = i * t.step_x();
  w.y = j * t.step_y;
  w.width = level.width;
  w.height = level.height;
  w.core_left = i == 0 ? 0 : w.x + t.halo;
  w.core_right = i == t.across - 1 ? level.width : w.x + t.halo + t.step_x();
  w.core_top = j == 0 ? 0 : w.y + t.halo;
  w.core_bottom = j == t.down - 1 ? level.height : w.y + t.halo + t.step_y;
  const int32_t rows = t.step_y + 2 * t.halo;
  const int32_t left = level.height - w.y;
  w.warps = ((rows < left ? rows : left) + kRows - 1) / kRows;
  return w;
}

FASTI3D_BLOCK int32_t clamp(int32_t i, int32_t size) { return i < 0 ? 0 : i < size ? i : size - 1; }

// Iterations until the sum of changes reaches the tolerance, if it goes on falling as it did from
// `previous` to `last`; between 1 and `most`.
FASTI3D_BLOCK int32_t iterations_left(double previous, double last, double tolerance,
                                      int32_t most) {
  if (!(last < previous) || !(tolerance > 0.0)) return most;
  const float fall = logf(static_cast<float>(last / previous));
  const float left = ceilf(logf(static_cast<float>(tolerance / last)) / fall);
  return left < static_cast<float>(most) ? (left > 1.0f ? static_cast<int32_t>(left) : 1) : most;
}

// V: Exact or Fast. kComponents: 2, or 3 with the illumination that gamma weighs.
template <class Block, class V, int kComponents>
class Solver {
 public:
  FASTI3D_BLOCK Solver(Block& block, Shared<kComponents>& shared, const Task& task)
      : block_(block),
        shared_(shared),
        task_(task),
        memory_(task.workspace + block.group() * task.layout.floats) {}

  FASTI3D_BLOCK void run() {
    for (int64_t pair = block_.next_pair(); pair < task_.pairs; pair = block_.next_pair()) {
      solve(pair);
    }
  }

 private:
  using Tile = Strip<V, kComponents>;
  using Tiles = typename Block::template Registers<Tile>;

  FASTI3D_BLOCK void solve(int64_t pair) {
    build_pyramids(pair);
    start(pair);
    block_.meet();
    for (int32_t i = task_.level_count - 1; i >= 0; --i) {
      if (i + 1 < task_.level_count) upsample(i);
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

  FASTI3D_BLOCK static int32_t at(const Level& level, int32_t x, int32_t y) {
    return y * level.pitch + x;
  }

  FASTI3D_BLOCK float* u(int side, int c) { return memory_ + task_.layout.u[side][c]; }
  FASTI3D_BLOCK float* px(int side, int c) { return memory_ + task_.layout.px[side][c]; }
  FASTI3D_BLOCK float* py(int side, int c) { return memory_ + task_.layout.py[side][c]; }
  FASTI3D_BLOCK Tap* taps() { return reinterpret_cast<Tap*>(memory_ + task_.layout.taps); }
  FASTI3D_BLOCK float* image(int which, const Level& level) {
    return memory_ + task_.layout.image[which] + level.image;
  }
  // Of every block of the group.
  FASTI3D_BLOCK double* errors(int side, int32_t iteration) {
    return reinterpret_cast<double*>(memory_ + task_.layout.errors) +
           (side * kLongestSweep + iteration) * block_.count();
  }

  // Pixel (x, y) of a level, bilinear between the pixels of another.
  FASTI3D_BLOCK V resized(const float* from, const Level& in, int32_t x, int32_t y, double scale_x,
                          double scale_y) const {
    const Between bx = between_rounded(x, scale_x, in.width, task_.cuda_form);
    const Between by = between_rounded(y, scale_y, in.height, task_.cuda_form);
    const V one{1.0f}, wx{bx.weight}, wy{by.weight};
    const float* upper = from + by.first * in.pitch;
    const float* lower = from + by.second * in.pitch;
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
        image(which, finest)[at(finest, x, y)] =
            task_.bytes ? static_cast<const uint8_t*>(frames)[from]
                        : rounded(static_cast<const float*>(frames)[from], 255.0f);
      }
    });
    for (int32_t i = 1; i < task_.level_count; ++i) {
      block_.meet();
      const Level &in = task_.levels[i - 1], &out = task_.levels[i];
      each_pixel(out, [&](int32_t x, int32_t y) {
        for (int which = 0; which < 2; ++which) {
          const V value = resized(image(which, in), in, x, y, task_.scale, task_.scale);
          image(which, out)[at(out, x, y)] = value.value;
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
        u(u_side_, c)[at(level, x, y)] = given ? task_.initial[from] : 0.0f;
      }
    });
    if (given) {
      for (int32_t i = 1; i < task_.level_count; ++i) {
        block_.meet();
        const Level &in = task_.levels[i - 1], &out = task_.levels[i];
        each_pixel(out, [&](int32_t x, int32_t y) {
          for (int c = 0; c < 2; ++c) {
            const V value = resized(u(u_side_, c), in, x, y, task_.scale, task_.scale);
            u(1 - u_side_, c)[at(out, x, y)] = V(value * V{task_.step}).value;
          }
        });
        u_side_ = 1 - u_side_;
      }
    }
    if constexpr (kComponents == 3) {
      each_pixel(coarsest, [&](int32_t x, int32_t y) { u(u_side_, 2)[at(coarsest, x, y)] = 0.0f; });
    }
  }

  // The flow of level i from that of the next coarser one.
  FASTI3D_BLOCK void upsample(int32_t i) {
    const Level &in = task_.levels[i + 1], &out = task_.levels[i];
    each_pixel(out, [&](int32_t x, int32_t y) {
      for (int c = 0; c < kComponents; ++c) {
        V value = resized(u(u_side_, c), in, x, y, out.scale_x, out.scale_y);
        if (c < 2) value = value * V{task_.inverse_step};
        u(1 - u_side_, c)[at(out, x, y)] = value.value;
      }
    });
    u_side_ = 1 - u_side_;
  }

  // The second image with its central differences, and duals of zero.
  FASTI3D_BLOCK void prepare(const Level& level) {
    const float* from = image(1, level);
    each_pixel(level, [&](int32_t x, int32_t y) {
      const auto grey = [&](int32_t i, int32_t j) {
        return V{from[at(level, clamp(i, level.width), clamp(j, level.height))]};
      };
      const V half{0.5f};
      const V along_x = half * (grey(x + 1, y) - grey(x - 1, y));
      const V along_y = half * (grey(x, y + 1) - grey(x, y - 1));
      const int32_t to = at(level, x, y);
      taps()[to] = {grey(x, y).value, along_x.value, along_y.value, 0.0f};
      for (int c = 0; c < kComponents; ++c) px(p_side_, c)[to] = py(p_side_, c)[to] = 0.0f;
    });
  }

  // One linearisation and its iterations; how many.
  FASTI3D_BLOCK int64_t warp(const Level& level) {
    linearise_at_flow(level);
    const bool medians = !task_.cuda_form && task_.median > 1;
    const int64_t all = task_.inner_iterations * task_.outer_iterations;
    const int64_t round = medians ? task_.inner_iterations : all;
    StopRule rule{task_.cuda_form, level.tolerance};
    bool stopped = false;
    while (!stopped && rule.iteration < all) {
      if (medians) smooth(level);
      block_.meet();
      // A warp takes about as many iterations as the one before.
      stopped = iterate(level, round, rule.iteration == 0 ? usual_ : level.tiling.sweep, rule);
    }
    usual_ = static_cast<int32_t>(rule.iteration < kLongestSweep ? rule.iteration : kLongestSweep);
    return rule.iteration;
  }

  // At most so many iterations, `length` of them in the first sweep; whether the rule stopped them.
  FASTI3D_BLOCK bool iterate(const Level& level, int64_t most, int32_t length, StopRule& rule) {
    const Tiling& tiling = level.tiling;
    const int32_t tiles = tiling.tiles();
    Tiles registers{};  // set here, they need not be kept through everything that comes before
    // Whether they hold, of the block's only tile, what does not change but through this block.
    bool held = false;
    bool stopped = false, again = false;
    double previous = 0.0, last = 0.0;
    while (most > 0 && !(stopped && !again)) {
      if (length > tiling.sweep) length = tiling.sweep;
      if (length > most) length = static_cast<int32_t>(most);
      sweep(level, registers, length, held, held && !again);
      held = tiles <= block_.count();
      block_.meet();
      if (again) {
        again = false;
      } else {
        const double* sums = errors(error_side_, 0);
        add_up(
            length, block_.count() < tiles ? block_.count() : tiles,
            [&](int32_t i, int32_t block) { return sums[i * block_.count() + block]; },
            [&](int32_t i, double sum) { shared_.total[i] = sum; });
        error_side_ = 1 - error_side_;
        int32_t kept = 0;
        while (kept < length && !stopped) {
          previous = last;
          last = shared_.total[kept];
          stopped = rule.stops(last);
          ++kept;
        }
        again = kept < length;
        if (again) {
          length = kept;
          continue;
        }
      }
      u_side_ = 1 - u_side_;
      p_side_ = 1 - p_side_;
      most -= length;
      // The first iteration of all shows no trend.
      length = previous > 0.0 ? iterations_left(previous, last, level.tolerance, tiling.sweep)
                              : 2 * length;
    }
    return stopped;
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

  FASTI3D_BLOCK void linearise_at_flow(const Level& level) {
    const float *u1 = u(u_side_, 0), *u2 = u(u_side_, 1);
    each_pixel(level, [&](int32_t x, int32_t y) {
      const int32_t to = at(level, x, y);
      const Place px = place(x, u1[to], level.width), py = place(y, u2[to], level.height);
      V columns[3][4] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Tap* line = taps() + py.at[j] * level.pitch;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Tap tap = line[px.at[k]];
          const V values[3] = {{tap.grey}, {tap.along_x}, {tap.along_y}};
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
      const Data<V> data = linearise(V{image(0, level)[to]}, sampled[0], sampled[1], sampled[2],
                                     V{u1[to]}, V{u2[to]});
      (memory_ + task_.layout.data[0])[to] = data.ix.value;
      (memory_ + task_.layout.data[1])[to] = data.iy.value;
      (memory_ + task_.layout.data[2])[to] = data.inverse.value;
      (memory_ + task_.layout.data[3])[to] = data.rho.value;
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
        const int32_t to = at(level, x, y);
        u(1 - u_side_, 2)[to] = u(u_side_, 2)[to];
      });
    }
    u_side_ = 1 - u_side_;
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
      const float* from = u(u_side_, c);
      float* to = u(1 - u_side_, c);
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
        to[at(level, left + column, top + row)] = median_of_sorted_columns(w);
      });
    }
  }

  // Iterates every tile of this block, and writes the cores to the other side of u and p and the
  // sum of changes of every iteration to errors. What the registers hold already is not read again.
  FASTI3D_BLOCK void sweep(const Level& level, Tiles& tiles, int32_t iterations, bool has_data,
                           bool has_core) {
    for (int32_t tile = block_.index(); tile < level.tiling.tiles(); tile += block_.count()) {
      const Window w = window(level, tile);
      block_.threads(tiles, [&](int32_t thread, Tile& strip) {
        load(level, w, thread, strip, has_data, has_core);
      });
      for (int32_t i = 0; i < iterations; ++i) {
        block_.threads(tiles, [&](int32_t thread, Tile& strip) {
          float change = 0.0f;
          if (strip.active) {
            change = strip.edge ? update_u<true>(w, thread, tiles, strip)
                                : update_u<false>(w, thread, tiles, strip);
          }
          shared_.change[i][thread] = strip.core ? change : 0.0f;
        });
        block_.threads(tiles, [&](int32_t thread, Tile& strip) {
          if (!strip.active) return;
          if (strip.edge) {
            update_p<true>(w, thread, tiles, strip);
          } else {
            update_p<false>(w, thread, tiles, strip);
          }
        });
      }
      block_.threads(tiles, [&](int32_t thread, Tile& strip) { store(level, w, thread, strip); });
      add_up(
          iterations, kThreads,
          [&](int32_t i, int32_t thread) { return static_cast<double>(shared_.change[i][thread]); },
          [&](int32_t i, double sum) {
            double& error = errors(error_side_, i)[block_.index()];
            error = tile == block_.index() ? sum : error + sum;
          });
    }
  }

  FASTI3D_BLOCK static int32_t column(const Window& w, int32_t thread) {
    return w.x + thread % kWarpSize * kColumns;
  }
  FASTI3D_BLOCK static int32_t row(const Window& w, int32_t thread) {
    return w.y + thread / kWarpSize * kRows;
  }

  FASTI3D_BLOCK void load(const Level& level, const Window& w, int32_t thread, Tile& strip,
                          bool has_data, bool has_core) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    const int32_t x = column(w, thread), top = row(w, thread);
    strip.active = warp < w.warps;
    strip.edge = w.x == 0 || w.x + kTileWidth >= level.width || top + kRows >= level.height;
    strip.core = w.in_core(x, top);
    if (strip.active && !(has_core && strip.core)) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const bool inside = x < level.width && top + j < level.height;
        const int32_t from = at(level, x, top + j);
#pragma unroll
        for (int c = 0; c < kComponents; ++c) {
          read(u(u_side_, c) + from, inside, strip.u[c][j]);
          read(px(p_side_, c) + from, inside, strip.px[c][j]);
          read(py(p_side_, c) + from, inside, strip.py[c][j]);
        }
      }
    }
    if (strip.active && !has_data) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const bool inside = x < level.width && top + j < level.height;
        const int32_t from = at(level, x, top + j);
        V v[4][kColumns];
#pragma unroll
        for (int k = 0; k < 4; ++k) read(memory_ + task_.layout.data[k] + from, inside, v[k]);
#pragma unroll
        for (int i = 0; i < kColumns; ++i) strip.data[j][i] = {v[0][i], v[1][i], v[2][i], v[3][i]};
      }
    }
#pragma unroll
    for (int c = 0; c < kComponents; ++c) {
      if (strip.active) publish(shared_.py[c][warp + 1], lane, strip.py[c][kRows - 1]);
      if (warp == 0) {
        const V zeros[kColumns] = {};
        publish(shared_.py[c][0], lane, zeros);
      }
    }
  }

  FASTI3D_BLOCK void read(const float* from, bool inside, V (&to)[kColumns]) const {
    Two pair{};
    if (inside) pair = block_.load(reinterpret_cast<const Two*>(from));
    to[0] = V{pair.first};
    to[1] = V{pair.second};
  }

  FASTI3D_BLOCK static void publish(float* line, int32_t lane, const V (&from)[kColumns]) {
    reinterpret_cast<Two*>(line)[lane] = {from[0].value, from[1].value};
  }
  FASTI3D_BLOCK static void receive(const float* line, int32_t lane, V (&to)[kColumns]) {
    const Two pair = reinterpret_cast<const Two*>(line)[lane];
    to[0] = V{pair.first};
    to[1] = V{pair.second};
  }

  // u of a strip; the sum of its squared changes.
  template <bool kEdge>
  FASTI3D_BLOCK float update_u(const Window& w, int32_t thread, Tiles& tiles, Tile& strip) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    const int32_t x = column(w, thread), top = row(w, thread);
    const V limit{task_.limit}, theta{task_.theta}, gamma{task_.gamma};
    V above[kComponents][kColumns];
#pragma unroll
    for (int c = 0; c < kComponents; ++c) receive(shared_.py[c][warp], lane, above[c]);
    V sum{};
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      V left[kComponents];
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        left[c] = block_.from_left(tiles, thread, [&](const Tile& t) { return t.px[c][j][1]; });
        if (kEdge && x == 0) left[c] = V{0.0f};
      }
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const Data<V> data = strip.data[j][i];
        V rho = data.rho + (data.ix * strip.u[0][j][i] + data.iy * strip.u[1][j][i]);
        if constexpr (kComponents == 3) rho = rho + gamma * strip.u[2][j][i];
        const V step = threshold(rho, data.inverse, limit);
        const V slope[3] = {data.ix, data.iy, gamma};
        V change[kComponents];
#pragma unroll
        for (int c = 0; c < kComponents; ++c) {
          const V py = strip.py[c][j][i];
          const V div =
              divergence(strip.px[c][j][i], i == 0 ? left[c] : strip.px[c][j][0], py, above[c][i]);
          above[c][i] = py;
          const V after = primal(strip.u[c][j][i], step, slope[c], theta, div);
          change[c] = after - strip.u[c][j][i];
          strip.u[c][j][i] = after;
        }
        auto squares = change[0] * change[0] + change[1] * change[1];
        V more = sum + squares;
        if constexpr (kComponents == 3) more = sum + (squares + change[2] * change[2]);
        if (!kEdge || (x + i < w.width && top + j < w.height)) sum = more;
      }
    }
#pragma unroll
    for (int c = 0; c < kComponents; ++c) publish(shared_.u[c][warp], lane, strip.u[c][0]);
    return sum.value;
  }

  template <bool kEdge>
  FASTI3D_BLOCK void update_p(const Window& w, int32_t thread, Tiles& tiles, Tile& strip) {
    const int32_t warp = thread / kWarpSize, lane = thread % kWarpSize;
    const int32_t x = column(w, thread), top = row(w, thread);
    const V taut{task_.taut};
    V below[kComponents][kColumns];
#pragma unroll
    for (int c = 0; c < kComponents; ++c) receive(shared_.u[c][warp + 1], lane, below[c]);
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      V right[kComponents];
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        right[c] = block_.from_right(tiles, thread, [&](const Tile& t) { return t.u[c][j][0]; });
      }
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        V ux[kComponents], uy[kComponents], norm[kComponents], scale[kComponents];
#pragma unroll
        for (int c = 0; c < kComponents; ++c) {
          const V u = strip.u[c][j][i];
          ux[c] = (i == 0 ? strip.u[c][j][1] : right[c]) - u;
          uy[c] = (j + 1 < kRows ? strip.u[c][(j + 1) % kRows][i] : below[c][i]) - u;
          if (kEdge && x + i == w.width - 1) ux[c] = V{0.0f};
          if (kEdge && top + j == w.height - 1) uy[c] = V{0.0f};
          norm[c] = dual_norm(ux[c], uy[c], taut);
        }
        if constexpr (kComponents == 3) {
          const V all = reciprocal(V(V(norm[0] * norm[1]) * norm[2]));
          scale[0] = all * V(norm[1] * norm[2]);
          scale[1] = all * V(norm[0] * norm[2]);
          scale[2] = all * V(norm[0] * norm[1]);
        } else {
          const Scales<V> scales = dual_scales(norm[0], norm[1]);
          scale[0] = scales.first;
          scale[1] = scales.second;
        }
#pragma unroll
        for (int c = 0; c < kComponents; ++c) {
          strip.px[c][j][i] = dual(strip.px[c][j][i], taut, ux[c], scale[c]);
          strip.py[c][j][i] = dual(strip.py[c][j][i], taut, uy[c], scale[c]);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kComponents; ++c) {
      publish(shared_.py[c][warp + 1], lane, strip.py[c][kRows - 1]);
    }
  }

  FASTI3D_BLOCK void store(const Level& level, const Window& w, int32_t thread, const Tile& strip) {
    const int32_t x = column(w, thread), top = row(w, thread);
    if (!strip.core) return;
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      if (top + j >= level.height) break;
      const int32_t to = at(level, x, top + j);  // a row ends at an even column, inside the pitch
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        const V(&u_)[kColumns] = strip.u[c][j];
        const V(&px_)[kColumns] = strip.px[c][j];
        const V(&py_)[kColumns] = strip.py[c][j];
        *reinterpret_cast<Two*>(u(1 - u_side_, c) + to) = {u_[0].value, u_[1].value};
        *reinterpret_cast<Two*>(px(1 - p_side_, c) + to) = {px_[0].value, px_[1].value};
        *reinterpret_cast<Two*>(py(1 - p_side_, c) + to) = {py_[0].value, py_[1].value};
      }
    }
  }

  // Calls result(i, sum over t of term(i, t)) for every iteration of a sweep, in double, and in an
  // order that depends on nothing else.
  template <class Term, class Result>
  FASTI3D_BLOCK void add_up(int32_t iterations, int32_t terms, Term term, Result result) {
    block_.each(iterations * kPartialSums, [&](int32_t at) {
      const int32_t i = at / kPartialSums, part = at % kPartialSums;
      double sum = 0.0;
      for (int32_t k = part; k < terms; k += kPartialSums) sum += term(i, k);
      shared_.partial[i][part] = sum;
    });
    block_.each(iterations, [&](int32_t i) {
      double sum = 0.0;
      for (int32_t part = 0; part < kPartialSums; ++part) sum += shared_.partial[i][part];
      result(i, sum);
    });
  }

  FASTI3D_BLOCK void write(int64_t pair) {
    const Level& level = task_.levels[0];
    each_pixel(level, [&](int32_t x, int32_t y) {
      for (int c = 0; c < 2; ++c) {
        const int64_t to = ((pair * 2 + c) * level.height + y) * level.width + x;
        task_.flow[to] = u(u_side_, c)[at(level, x, y)];
      }
    });
  }

  Block& block_;
  Shared<kComponents>& shared_;
  const Task& task_;
  float* const memory_;
  // Which of the two copies of u, of p and of the errors is the current one.
  int u_side_ = 0, p_side_ = 0, error_side_ = 0;
  int32_t usual_ = kLongestSweep;  // iterations of a warp
};

}  // namespace fasti3d::tvl1
