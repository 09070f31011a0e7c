// The direct form on matrix tiles: how the work is cut, and its loops.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../common/memory.h"
#include "../common/parallel.h"
#include "blocking.h"
#include "slab.h"

namespace fasti3d {
namespace {

// Half of the L2 cache of a CPU with AMX, which is 2 MB, for weights and a quarter for a slab.
constexpr int64_t kWeightBytes = 1 << 20;
constexpr int64_t kSlabBytes = 512 << 10;

// The processor's tile registers for as long as a thread works here. Others use them too (oneDNN
// does), and find their layout again.
class TileSession {
 public:
  TileSession(const TileKernels& kernels, int64_t pairs) : kernels_(kernels) {
    kernels_.read_configuration(&before_);
    TileConfig config;
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      config.rows[tile] = tile < 6 ? kTileRows : pairs;
      config.row_bytes[tile] = tile == 4 || tile == 5 ? 4 * pairs : 64;
    }
    kernels_.configure(config);
  }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
  ~TileSession() { kernels_.configure(before_); }

 private:
  const TileKernels& kernels_;
  TileConfig before_;
};

// How the work is cut: units of so many output frames and rows (of pixels, where no slab is
// copied), times panels.
struct Cut {
  int64_t frames, rows, panels;
};

// An estimate of a unit's time, in cycles: measured on one kind of CPU, and only to compare cuts.
struct Cost {
  static double products(int64_t pixels, int64_t panels, const Form& form) {
    constexpr double kProduct = 17, kStore = 80;  // of a tile
    return over(pixels, kTileRows) * panels * (form.taps * form.steps * kProduct + kStore);
  }
  static double copy(int64_t values) { return values / 8.0; }
  // Weights that leave the L2 cache before the next unit.
  static double weights(int64_t panels, const Form& form) {
    const int64_t bytes = 2 * panels * form.panel_stride;
    return bytes > kWeightBytes ? bytes / 8.0 : 0.0;
  }
};

// The cut of least time among a few, of `clips` times `frames` times `rows`.
template <class UnitCost>
Cut choose_cut(int64_t clips, int64_t frames, int64_t most_frames, int64_t rows, int64_t row_step,
               const Form& form, const UnitCost& cost_of) {
  const int64_t threads = torch::stable::get_num_threads();
  Cut best{1, row_step, form.panels};
  double least = std::numeric_limits<double>::infinity();
  for (int64_t groups = 1; groups <= std::min<int64_t>(over(form.panels, kBlockTiles), 16);
       groups *= 2) {
    const int64_t panels = over(over(form.panels, groups), kBlockTiles) * kBlockTiles;
    for (int64_t frame_count = 1; frame_count <= most_frames; frame_count *= 2) {
      for (int64_t parts = 1; parts <= std::min<int64_t>(rows, 64); parts += parts < 16 ? 1 : 8) {
        const int64_t row_count = over(over(rows, parts), row_step) * row_step;
        const Cut cut{frame_count, row_count, panels};
        const int64_t units =
            clips * over(frames, frame_count) * over(rows, row_count) * over(form.panels, panels);
        const double total = over(units, threads) * cost_of(cut);
        if (total < least) {
          least = total;
          best = cut;
        }
      }
    }
  }
  return best;
}

// Multiplies the pixels from `pixels` on into out, for the panels of a unit.
struct Multiplication {
  const TileKernels& kernels;
  const Form& form;
  const Epilogue& epilogue;
  const Bfloat* weights;
  int64_t channels;  // of the result

  void run(const Bfloat* pixels, int64_t pixel_stride, int64_t count, int64_t readable,
           const std::vector<TileTap>& taps, int64_t panel_begin, int64_t panel_end,
           Bfloat* const* out, const Bfloat* const* residual, float* sums) const {
    for (int64_t panel = panel_begin; panel < panel_end; panel += kBlockTiles) {
      const int64_t used = std::min(kBlockTiles, panel_end - panel);
      for (int64_t at = 0; at < count; at += kBlockPixels) {
        const int64_t tiles = std::min(over(count - at, kTileRows), kBlockTiles);
        TileBlock block{{nullptr, nullptr},
                        pixel_stride,
                        taps.data(),
                        static_cast<int64_t>(taps.size()),
                        form.steps,
                        form.pairs,
                        weights + panel * form.panel_stride,
                        form.panel_stride,
                        sums};
        int64_t first[kBlockTiles] = {};
        for (int64_t i = 0; i < tiles; ++i) {
          // The last tile of a clip overlaps with the one before.
          first[i] = std::min(at + i * kTileRows, readable - kTileRows);
          block.pixels[i] = pixels + first[i] * pixel_stride;
        }
        kernels.multiply[tiles - 1][used - 1](block);
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t begin = at + i * kTileRows;
          kernels.store({sums + (i * kTileRows + begin - first[i]) * kBlockChannels,
                         std::min(kTileRows, count - begin), epilogue.bias + panel * kPanel,
                         epilogue.relu, out + begin,
                         residual == nullptr ? nullptr : residual + begin, panel * kPanel,
                         std::min(channels - panel * kPanel, used * kPanel)});
        }
      }
    }
  }
};

// Pixels at one distance over all frames and clips, each of which is an output's whole window.
bool is_list_of_pixels(const ClipView& in, const Window& window, const Form& form, int64_t start,
                       int64_t frames) {
  const auto is_plain = [](const Axis& axis) {
    return axis.kernel == 1 && axis.stride == 1 && axis.front == 0 && axis.out == axis.in;
  };
  return is_plain(window.t) && is_plain(window.h) && is_plain(window.w) && start == 0 &&
         frames == in.t && in.stride_c == 1 && form.channels == in.c &&
         in.stride_h == in.w * in.stride_w && in.stride_t == in.h * in.stride_h &&
         (in.n == 1 || in.stride_n == in.t * in.stride_t) && in.n * in.t * in.h * in.w >= kTileRows;
}

}  // namespace

void convolve_tiles(const Bfloat* x, const ClipView& in, Bfloat* out, const ClipView& result,
                    const Window& window, const Tensor& packed, const Epilogue& epilogue,
                    const TileKernels& kernels) {
  const Form form(packed, window);
  const Multiplication multiplication{
      kernels, form, epilogue, static_cast<const Bfloat*>(packed.const_data_ptr()), result.c};
  const Bfloat* const residual = static_cast<const Bfloat*>(epilogue.residual);

  if (is_list_of_pixels(in, window, form, epilogue.start, result.t)) {
    const int64_t pixels = in.n * in.t * in.h * in.w;
    const Cut cut = choose_cut(1, 1, 1, pixels, kBlockPixels, form, [&](const Cut& c) {
      const int64_t bytes = 2 * c.rows * in.c;
      return Cost::products(c.rows, c.panels, form) + Cost::weights(c.panels, form) +
             (bytes > kSlabBytes ? 8.0 * bytes : 0.0);
    });
    const int64_t blocks = over(pixels, cut.rows), groups = over(form.panels, cut.panels);
    const std::vector<TileTap> taps{{0, 0}};
    parallel_for(0, blocks * groups, 1, [&](int64_t begin, int64_t end) {
      const TileSession session(kernels, form.pairs);
      const Scratch<float> sums(kBlockPixels * kBlockChannels);
      std::vector<Bfloat*> outputs(cut.rows);
      std::vector<const Bfloat*> added(residual == nullptr ? 0 : cut.rows);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = unit % blocks * cut.rows, panel = unit / blocks * cut.panels;
        const int64_t count = std::min(cut.rows, pixels - first);
        Place place(first, result);
        for (int64_t i = 0; i < count; ++i, place.next(result)) {
          outputs[i] = out + result.pixel(place.n, place.t, place.h, place.w);
          if (residual != nullptr) {
            added[i] = residual + epilogue.residual_view.pixel(place.n, place.t, place.h, place.w);
          }
        }
        multiplication.run(x + first * in.stride_w, in.stride_w, count, pixels - first, taps, panel,
                           std::min(panel + cut.panels, form.panels), outputs.data(),
                           residual == nullptr ? nullptr : added.data(), sums.get());
      }
    });
    return;
  }

  // Whole rows, if they are not very long.
  int64_t line = result.w;
  while (2 * Slab(window, form, 1, 1, line).values(form) > kSlabBytes && line > kBlockPixels) {
    line = over(line, 2);
  }
  const int64_t lines = over(result.w, line);
  // Frames share what their windows have in common.
  const int64_t most_frames =
      window.t.stride < window.t.kernel ? std::min<int64_t>(result.t, 4) : 1;
  const Cut cut =
      choose_cut(in.n * lines, result.t, most_frames, result.h, 1, form, [&](const Cut& c) {
        const Slab slab(window, form, c.frames, c.rows, line);
        const int64_t values = slab.values(form), pixels = (c.rows - 1) * slab.width + line;
        const double excess = std::max<int64_t>(2 * values - kSlabBytes, 0);
        return c.frames * Cost::products(pixels, c.panels, form) + Cost::copy(values) +
               Cost::weights(c.panels, form) + 8.0 * excess;
      });
  const Slab slab(window, form, cut.frames, cut.rows, line);
  const int64_t time_blocks = over(result.t, cut.frames), row_blocks = over(result.h, cut.rows);
  const int64_t blocks = in.n * time_blocks * row_blocks * lines;
  const int64_t kernel_w = form.merged ? 1 : window.w.kernel;

  parallel_for(0, blocks * over(form.panels, cut.panels), 1, [&](int64_t begin, int64_t end) {
    const TileSession session(kernels, form.pairs);
    const Scratch<float> sums(kBlockPixels * kBlockChannels);
    const Scratch<Bfloat> memory(slab.values(form));
    zero(memory.get(), slab.values(form));
    std::vector<TileTap> taps;
    std::vector<Bfloat*> outputs(cut.rows * slab.width);
    std::vector<const Bfloat*> added(residual == nullptr ? 0 : cut.rows * slab.width);
    int64_t filled = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit % blocks, panel = unit / blocks * cut.panels;
      const int64_t w = block % lines * line, h = block / lines % row_blocks * cut.rows;
      const int64_t t = block / (lines * row_blocks) % time_blocks * cut.frames;
      const int64_t n = block / (lines * row_blocks * time_blocks);
      const int64_t frames = std::min(cut.frames, result.t - t);
      const int64_t rows = std::min(cut.rows, result.h - h);
      const int64_t columns = std::min(line, result.w - w);
      const int64_t it = window.t.start(epilogue.start + t), ih = window.h.start(h);
      if (filled != block) {
        for (int64_t f = 0; f < (frames - 1) * window.t.stride + window.t.kernel; ++f) {
          if (it + f < 0 || it + f >= in.t) continue;
          for (int64_t r = 0; r < (rows - 1) * window.h.stride + window.h.kernel; ++r) {
            if (r % window.h.stride >= window.h.kernel) continue;
            const bool inside = ih + r >= 0 && ih + r < in.h;
            fill_row(inside ? x + in.pixel(n, it + f, ih + r, 0) : nullptr, in, window.w.start(w),
                     slab, f, r, memory.get(), kernels);
          }
        }
        filled = block;
      }
      const int64_t count = (rows - 1) * slab.width + columns;
      for (int64_t f = 0; f < frames; ++f) {
        taps.clear();
        for (int64_t dt = 0; dt < window.t.kernel; ++dt) {
          // Frames outside of the clip add nothing.
          const int64_t frame = f * window.t.stride + dt;
          if (it + frame < 0 || it + frame >= in.t) continue;
          for (int64_t dh = 0; dh < window.h.kernel; ++dh) {
            for (int64_t dw = 0; dw < kernel_w; ++dw) {
              taps.push_back({slab.at(frame, dh, dw),
                              ((dt * window.h.kernel + dh) * kernel_w + dw) * form.tap_values});
            }
          }
        }
        for (int64_t i = 0; i < count; ++i) {
          const int64_t row = h + i / slab.width, column = w + i % slab.width;
          const bool stored = column < w + columns;
          outputs[i] = stored ? out + result.pixel(n, t + f, row, column) : nullptr;
          if (stored && residual != nullptr) {
            added[i] = residual + epilogue.residual_view.pixel(n, t + f, row, column);
          }
        }
        multiplication.run(memory.get(), slab.pixel_stride(), count,
                           std::numeric_limits<int64_t>::max(), taps, panel,
                           std::min(panel + cut.panels, form.panels), outputs.data(),
                           residual == nullptr ? nullptr : added.data(), sums.get());
      }
    }
  });
}

}  // namespace fasti3d
