// The direct form on matrix tiles: how the work is cut, and its loops.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../common/memory.h"
#include "../common/parallel.h"
#include "place.h"
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
  static constexpr double kMissed = 8;  // per byte that is not in the L2 cache
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

// One convolution.
struct Job {
  const Bfloat* x;
  const ClipView& in;
  Bfloat* out;
  const ClipView& result;
  const Window& window;
  const Form& form;
  const Bfloat* weights;
  const Epilogue& epilogue;
  const TileKernels& kernels;
};

// What a thread computes with: pixels of the result, in a list, and their sums.
class Worker {
 public:
  Worker(const Job& job, int64_t most_pixels)
      : job_(job),
        session_(job.kernels, job.form.pairs),
        sums_(kBlockPixels * kBlockChannels),
        out_(most_pixels),
        residual_(job.epilogue.residual == nullptr ? 0 : most_pixels) {}

  void store_nowhere(int64_t index) { out_[index] = nullptr; }
  void store_to(int64_t index, int64_t n, int64_t t, int64_t h, int64_t w) {
    out_[index] = job_.out + job_.result.pixel(n, t, h, w);
    if (residual_.empty()) return;
    residual_[index] = static_cast<const Bfloat*>(job_.epilogue.residual) +
                       job_.epilogue.residual_view.pixel(n, t, h, w);
  }

  // Multiplies as many pixels as the list has, from `pixels` on, of which `readable` can be read.
  void multiply(const Bfloat* pixels, int64_t stride, int64_t count, int64_t readable,
                const std::vector<TileTap>& taps, int64_t panel_begin, int64_t panel_end) const {
    const Form& form = job_.form;
    for (int64_t panel = panel_begin; panel < panel_end; panel += kBlockTiles) {
      const int64_t panels = std::min(kBlockTiles, panel_end - panel);
      for (int64_t at = 0; at < count; at += kBlockPixels) {
        const int64_t tiles = std::min(over(count - at, kTileRows), kBlockTiles);
        TileBlock block{{nullptr, nullptr},
                        stride,
                        taps.data(),
                        static_cast<int64_t>(taps.size()),
                        form.steps,
                        form.pairs,
                        job_.weights + panel * form.panel_stride,
                        form.panel_stride,
                        sums_.get()};
        int64_t first[kBlockTiles] = {};
        for (int64_t i = 0; i < tiles; ++i) {
          // The last tile of a clip overlaps with the one before.
          first[i] = std::min(at + i * kTileRows, readable - kTileRows);
          block.pixels[i] = pixels + first[i] * stride;
        }
        job_.kernels.multiply[tiles - 1][panels - 1](block);
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t begin = at + i * kTileRows, skipped = begin - first[i];
          job_.kernels.store(
              {sums_.get() + (i * kTileRows + skipped) * kBlockChannels,
               std::min(kTileRows, count - begin), job_.epilogue.bias + panel * kPanel,
               job_.epilogue.relu, out_.data() + begin,
               residual_.empty() ? nullptr : residual_.data() + begin, panel * kPanel,
               std::min(job_.result.c - panel * kPanel, panels * kPanel)});
        }
      }
    }
  }

 private:
  const Job& job_;
  const TileSession session_;
  const Scratch<float> sums_;
  std::vector<Bfloat*> out_;
  std::vector<const Bfloat*> residual_;
};

// Whether each pixel is an output's whole window, and all are at one distance.
bool is_list_of_pixels(const Job& job) {
  const ClipView& in = job.in;
  const auto is_plain = [](const Axis& axis) {
    return axis.kernel == 1 && axis.stride == 1 && axis.front == 0 && axis.out == axis.in;
  };
  const bool plain = is_plain(job.window.t) && is_plain(job.window.h) && is_plain(job.window.w) &&
                     job.result.t == in.t && in.stride_c == 1 && job.form.channels == in.c;
  return plain && in.stride_h == in.w * in.stride_w && in.stride_t == in.h * in.stride_h &&
         (in.n == 1 || in.stride_n == in.t * in.stride_t) && in.n * in.t * in.h * in.w >= kTileRows;
}

void convolve_pixels(const Job& job) {
  const ClipView& in = job.in;
  const Form& form = job.form;
  const int64_t pixels = in.n * in.t * in.h * in.w;
  const Cut cut = choose_cut(1, 1, 1, pixels, kBlockPixels, form, [&](const Cut& c) {
    const int64_t bytes = 2 * c.rows * in.c;
    return Cost::products(c.rows, c.panels, form) + Cost::weights(c.panels, form) +
           (bytes > kSlabBytes ? Cost::kMissed * bytes : 0.0);
  });
  const int64_t blocks = over(pixels, cut.rows);
  const std::vector<TileTap> taps{{0, 0}};
  parallel_for(0, blocks * over(form.panels, cut.panels), 1, [&](int64_t begin, int64_t end) {
    Worker worker(job, cut.rows);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % blocks * cut.rows, panel = unit / blocks * cut.panels;
      const int64_t count = std::min(cut.rows, pixels - first);
      Place place(first, job.result);
      for (int64_t i = 0; i < count; ++i, place.next(job.result)) {
        worker.store_to(i, place.n, place.t, place.h, place.w);
      }
      worker.multiply(job.x + first * in.stride_w, in.stride_w, count, pixels - first, taps, panel,
                      std::min(panel + cut.panels, form.panels));
    }
  });
}

// Outputs whose windows a slab holds: so many from these on.
struct Part {
  int64_t n, t, h, w, frames, rows, columns;
};

// The clip's frame that is the first of a part's windows.
int64_t first_frame(const Job& job, const Part& part) {
  return job.window.t.start(job.epilogue.start + part.t);
}

void fill_slab(const Job& job, const Part& part, const Slab& slab, Bfloat* memory) {
  const Axis &t = job.window.t, &h = job.window.h;
  const int64_t frame = first_frame(job, part), row = h.start(part.h);
  for (int64_t f = 0; f < (part.frames - 1) * t.stride + t.kernel; ++f) {
    if (frame + f < 0 || frame + f >= job.in.t) continue;
    for (int64_t r = 0; r < (part.rows - 1) * h.stride + h.kernel; ++r) {
      if (r % h.stride >= h.kernel) continue;
      const bool inside = row + r >= 0 && row + r < job.in.h;
      fill_row(inside ? job.x + job.in.pixel(part.n, frame + f, row + r, 0) : nullptr, job.in,
               job.window.w.start(part.w), slab, f, r, memory, job.kernels);
    }
  }
}

// The taps of the outputs of a part's frame. Frames outside of the clip add nothing.
void list_taps(const Job& job, const Part& part, const Slab& slab, int64_t frame,
               std::vector<TileTap>& taps) {
  taps.clear();
  const int64_t kernel_w = job.form.merged ? 1 : job.window.w.kernel;
  for (int64_t dt = 0; dt < job.window.t.kernel; ++dt) {
    const int64_t f = frame * job.window.t.stride + dt;
    if (first_frame(job, part) + f < 0 || first_frame(job, part) + f >= job.in.t) continue;
    for (int64_t dh = 0; dh < job.window.h.kernel; ++dh) {
      for (int64_t dw = 0; dw < kernel_w; ++dw) {
        const int64_t tap = (dt * job.window.h.kernel + dh) * kernel_w + dw;
        taps.push_back({slab.at(f, dh, dw), tap * job.form.tap_values});
      }
    }
  }
}

void convolve_windows(const Job& job) {
  const ClipView& result = job.result;
  const Form& form = job.form;
  // Whole rows, if they are not very long.
  int64_t line = result.w;
  while (2 * Slab(job.window, form, 1, 1, line).values(form) > kSlabBytes && line > kBlockPixels) {
    line = over(line, 2);
  }
  const int64_t lines = over(result.w, line);
  // Frames share what their windows have in common.
  const Axis& t = job.window.t;
  const int64_t most_frames = t.stride < t.kernel ? std::min<int64_t>(result.t, 4) : 1;
  const Cut cut =
      choose_cut(result.n * lines, result.t, most_frames, result.h, 1, form, [&](const Cut& c) {
        const Slab slab(job.window, form, c.frames, c.rows, line);
        const int64_t values = slab.values(form), pixels = (c.rows - 1) * slab.width + line;
        return c.frames * Cost::products(pixels, c.panels, form) + Cost::copy(values) +
               Cost::weights(c.panels, form) +
               Cost::kMissed * std::max<int64_t>(2 * values - kSlabBytes, 0);
      });
  const Slab slab(job.window, form, cut.frames, cut.rows, line);
  const int64_t row_blocks = over(result.h, cut.rows), time_blocks = over(result.t, cut.frames);
  const int64_t blocks = result.n * time_blocks * row_blocks * lines;

  parallel_for(0, blocks * over(form.panels, cut.panels), 1, [&](int64_t begin, int64_t end) {
    Worker worker(job, cut.rows * slab.width);
    // Not all is written: pixels after a row's end read the rest, and are not stored.
    const Scratch<Bfloat> memory(slab.values(form));
    std::vector<TileTap> taps;
    int64_t filled = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit % blocks, panel = unit / blocks * cut.panels;
      Part part{block / (lines * row_blocks * time_blocks),
                block / (lines * row_blocks) % time_blocks * cut.frames,
                block / lines % row_blocks * cut.rows,
                block % lines * line,
                0,
                0,
                0};
      part.frames = std::min(cut.frames, result.t - part.t);
      part.rows = std::min(cut.rows, result.h - part.h);
      part.columns = std::min(line, result.w - part.w);
      if (filled != block) fill_slab(job, part, slab, memory.get());
      filled = block;
      const int64_t count = (part.rows - 1) * slab.width + part.columns;
      for (int64_t frame = 0; frame < part.frames; ++frame) {
        list_taps(job, part, slab, frame, taps);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t row = i / slab.width, column = i % slab.width;
          if (column < part.columns) {
            worker.store_to(i, part.n, part.t + frame, part.h + row, part.w + column);
          } else {
            worker.store_nowhere(i);
          }
        }
        worker.multiply(memory.get(), slab.pixel_stride(), count,
                        std::numeric_limits<int64_t>::max(), taps, panel,
                        std::min(panel + cut.panels, form.panels));
      }
    }
  });
}

}  // namespace

void convolve_tiles(const Bfloat* x, const ClipView& in, Bfloat* out, const ClipView& result,
                    const Window& window, const Tensor& packed, const Epilogue& epilogue,
                    const TileKernels& kernels) {
  const Form form(packed, window);
  const Job job{x,
                in,
                out,
                result,
                window,
                form,
                static_cast<const Bfloat*>(packed.const_data_ptr()),
                epilogue,
                kernels};
  is_list_of_pixels(job) ? convolve_pixels(job) : convolve_windows(job);
}

}  // namespace fasti3d
