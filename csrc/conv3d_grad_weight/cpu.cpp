// fasti3d::conv3d_grad_weight on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../common/allocate.h"
#include "../common/clip.h"
#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/parallel.h"
#include "grad_weight.h"

namespace fasti3d {
namespace {

// Pixels that are summed in registers, before they are added to what was summed so far: a rounding
// error grows with either count. Together with its x such a run fits into the L1 cache.
constexpr int64_t kRunPixels = 64;
// Transformed values held at a time: as many as there are sums, which each such group reads and
// writes once, within these bounds.
constexpr int64_t kMinGroup = 1 << 19, kMaxGroup = 1 << 22;

const GradWeightKernels& choose() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512::grad_weight::kKernels;
  if (isa() >= Isa::kAvx2) return avx2::grad_weight::kKernels;
#elif defined(__aarch64__)
  if (isa() >= Isa::kNeon) return neon::grad_weight::kKernels;
#endif
  return baseline::grad_weight::kKernels;
}

int64_t rounded_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

struct Filter {
  const float* inputs;         // [components][phases][frames]
  std::vector<float> outputs;  // [components][outputs]: how gradients become components
  std::vector<float> weights;  // [components][phases][taps]
  int64_t components, phases, frames, output_count, taps;

  int64_t parts() const { return components * phases; }
  // Whether a part is not zero in all.
  bool has(int64_t part) const {
    const float* const row = inputs + part * frames;
    return std::any_of(row, row + frames, [](float v) { return v != 0.0f; });
  }
};

// Output rows [begin, end) of one tile of frames, and where they lie in a group's memory.
struct Run {
  int64_t n, tile, begin, end;
  int64_t first = 0;                 // of grad
  int64_t x_begin = 0, x_first = 0;  // of x
};

// A row to transform, and where to.
struct Row {
  int64_t n, tile, h, to;
};

struct Group {
  std::vector<Run> runs;
  std::vector<Row> grad, x;
  int64_t x_rows = 0;
};

class GradWeight {
 public:
  GradWeight(const float* grad, const ClipView& grad_view, const float* x, const ClipView& x_view,
             const Window& window, const Filter& filter)
      : kernels_(choose()),
        grad_(grad),
        x_(x),
        out_(grad_view),
        in_(x_view),
        window_(window),
        filter_(filter),
        taps_(in_.c, window.t.kernel, window.h.kernel, window.w.kernel, false),
        width_(padded_width(window.w)),
        step_(taps_.merged && taps_.run % kernels_.rows != 0 ? kernels_.odd_rows : kernels_.rows),
        run_(rounded_up(taps_.run, step_)),
        outputs_(rounded_up(out_.c, kBlock)),
        kernel_w_(taps_.merged ? 1 : window.w.kernel),
        blocks_(taps_.merged ? 1 : (in_.c + kBlock - 1) / kBlock),
        // What is read past the last of few channels' values stays inside.
        x_row_(taps_.merged ? rounded_up(width_ * in_.c + kBlock, kBlock) : width_ * kBlock),
        grad_row_(out_.w * kBlock),
        place_(product({run_, outputs_})),
        part_(product({window.h.kernel, kernel_w_, place_})),
        groups_(plan()),
        grad_rows_(longest([](const Group& group) { return group.grad.size(); })),
        x_rows_(longest([](const Group& group) { return group.x_rows; })),
        spread_grad_(product({filter.components, outputs_ / kBlock, grad_rows_, grad_row_})),
        spread_x_(product({filter.parts(), blocks_, x_rows_, x_row_})),
        sums_(product({filter.parts(), part_})) {}

  void run(float* weight) {
    if (!taps_.merged) clear_borders();
    for (const Group& group : groups_) {
      spread(group);
      multiply(group);
    }
    gather(weight);
  }

 private:
  std::vector<Group> plan() const {
    const int64_t tiles = (out_.t + filter_.output_count - 1) / filter_.output_count;
    const int64_t rows = std::clamp<int64_t>(kRunPixels / out_.w, 1, out_.h);
    const int64_t row_values = product({filter_.components, outputs_, out_.w}) +
                               product({filter_.parts(), blocks_, x_row_, window_.h.stride});
    const int64_t values = std::clamp(product({filter_.parts(), part_}), kMinGroup, kMaxGroup);
    const size_t runs = std::max<int64_t>(values / (rows * row_values), 1);
    std::vector<Group> groups;
    for (int64_t tile = 0; tile < out_.n * tiles; ++tile) {
      for (int64_t h = 0; h < out_.h; h += rows) {
        if (groups.empty() || groups.back().runs.size() == runs) groups.emplace_back();
        append(groups.back(), {tile / tiles, tile % tiles, h, std::min(h + rows, out_.h)});
      }
    }
    return groups;
  }

  // Windows of a run share rows of x with those of the run before, if it is of the same frames.
  void append(Group& group, Run run) const {
    run.first = group.grad.size();
    for (int64_t h = run.begin; h < run.end; ++h) {
      group.grad.push_back({run.n, run.tile, h, static_cast<int64_t>(group.grad.size())});
    }
    run.x_begin = window_.h.first(run.begin);
    run.x_first = group.x_rows;
    int64_t next = run.x_begin;
    if (!group.x.empty() && group.x.back().n == run.n && group.x.back().tile == run.tile) {
      next = std::max(next, group.x.back().h + 1);
      run.x_first = group.x.back().to + run.x_begin - group.x.back().h;
    }
    for (; next < window_.h.last(run.end - 1); ++next) {
      group.x.push_back({run.n, run.tile, next, run.x_first + next - run.x_begin});
      group.x_rows = group.x.back().to + 1;
    }
    group.runs.push_back(run);
  }

  template <class Rows>
  int64_t longest(const Rows& rows) const {
    int64_t most = 0;
    for (const Group& group : groups_) most = std::max<int64_t>(most, rows(group));
    return most;
  }

  // The zeros before and after each row of x.
  void clear_borders() {
    const int64_t front = window_.w.front * kBlock, end = front + in_.w * kBlock;
    for (int64_t row = 0; row < filter_.parts() * blocks_ * x_rows_; ++row) {
      float* const values = spread_x_.get() + row * x_row_;
      std::fill(values, values + front, 0.0f);
      std::fill(values + end, values + x_row_, 0.0f);
    }
  }

  void spread(const Group& group) {
    const int64_t rows = group.grad.size() + group.x.size();
    parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      const int64_t few = taps_.merged ? width_ * in_.c : 0;
      std::vector<float> padded(filter_.phases * filter_.frames * few);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t of_x = i - static_cast<int64_t>(group.grad.size());
        if (of_x < 0) {
          spread_grad(group.grad[i]);
        } else {
          spread_x(group.x[of_x], padded.data());
        }
      }
    });
  }

  void spread_grad(const Row& row) {
    const float* frames[kMaxFrames];
    for (int64_t i = 0; i < filter_.output_count; ++i) {
      const int64_t t = row.tile * filter_.output_count + i;
      frames[i] = t < out_.t ? grad_ + out_.pixel(row.n, t, row.h, 0) : nullptr;
    }
    const int64_t block = grad_rows_ * grad_row_;
    kernels_.spread({frames, filter_.outputs.data(), filter_.components, 1, filter_.output_count,
                     out_.w, out_.stride_w, out_.c, spread_grad_.get() + row.to * grad_row_,
                     outputs_ / kBlock * block, block});
  }

  void spread_x(const Row& row, float* padded) {
    const float* frames[kMaxFrames];
    const int64_t values = width_ * in_.c;
    for (int64_t i = 0; i < filter_.phases * filter_.frames; ++i) {
      const int64_t t = window_.t.start(row.tile * filter_.output_count) + i / filter_.frames +
                        i % filter_.frames * window_.t.stride;
      const float* const source = x_ + in_.pixel(row.n, t, row.h, 0);
      if (t < 0 || t >= in_.t) {
        frames[i] = nullptr;
      } else if (taps_.merged) {
        copy_row(source, in_, -window_.w.front, width_, padded + i * values);
        frames[i] = padded + i * values;
      } else {
        frames[i] = source;
      }
    }
    const int64_t block = x_rows_ * x_row_;
    float* const target = spread_x_.get() + row.to * x_row_;
    if (taps_.merged) {
      kernels_.spread({frames, filter_.inputs, filter_.parts(), filter_.phases, filter_.frames, 1,
                       0, values, target, block, kBlock});
    } else {
      kernels_.spread({frames, filter_.inputs, filter_.parts(), filter_.phases, filter_.frames,
                       in_.w, in_.stride_w, in_.c, target + window_.w.front * kBlock,
                       blocks_ * block, block});
    }
  }

  // Each sum is one thread's, which adds in an order that depends on the sizes alone.
  void multiply(const Group& group) {
    const int64_t vectors = (out_.c + kernels_.lanes - 1) / kernels_.lanes;
    const int64_t columns = (vectors + kMaxVectors - 1) / kMaxVectors;
    std::vector<int64_t> parts;
    for (int64_t part = 0; part < filter_.parts(); ++part) {
      if (filter_.has(part)) parts.push_back(part);
    }
    const int64_t units = static_cast<int64_t>(parts.size()) * columns * blocks_;
    const bool first = &group == &groups_.front();
    parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t column = unit / blocks_ % columns;
        const int64_t vector = column * vectors / columns;
        const int64_t next = (column + 1) * vectors / columns;
        for (const Run& run : group.runs) {
          multiply(run, first && &run == &group.runs.front(), parts[unit / blocks_ / columns],
                   unit % blocks_, vector, next - vector);
        }
      }
    });
  }

  // One run's products of a block of channels with some vectors of grad's, for all taps of a frame.
  void multiply(const Run& run, bool first, int64_t part, int64_t block, int64_t vector,
                int64_t vectors) {
    const Axis& h = window_.h;
    const int64_t from = block * kBlock, to = taps_.merged ? run_ : std::min(from + kBlock, run_);
    const auto* const products = step_ == kernels_.rows ? kernels_.products : kernels_.odd_products;
    const int64_t component = part / filter_.phases;
    for (int64_t tap = 0; tap < h.kernel; ++tap) {
      // Rows whose tap is inside the clip: 0 <= row * stride - front + tap < in.
      const int64_t begin =
          std::max(run.begin, (std::max<int64_t>(h.front - tap, 0) + h.stride - 1) / h.stride);
      const int64_t last = h.in - 1 + h.front - tap;
      const int64_t end = std::min(run.end, last < 0 ? 0 : last / h.stride + 1);
      const int64_t rows = std::max<int64_t>(end - begin, 0);
      if (rows == 0 && !first) continue;
      ProductArgs args{};
      if (rows > 0) {
        const int64_t x_at = run.x_first + h.start(begin) + tap - run.x_begin;
        args.x = spread_x_.get() + ((part * blocks_ + block) * x_rows_ + x_at) * x_row_;
        for (int64_t v = 0; v < vectors; ++v) {
          const int64_t c = (vector + v) * kernels_.lanes;
          const int64_t row = (component * (outputs_ / kBlock) + c / kBlock) * grad_rows_ +
                              run.first + begin - run.begin;
          args.grad[v] = spread_grad_.get() + row * grad_row_ + c % kBlock;
        }
      }
      args.x_row = h.stride * x_row_;
      args.x_pixel = window_.w.stride * (taps_.merged ? in_.c : kBlock);
      args.grad_row = grad_row_;
      args.rows = rows;
      args.pixels = out_.w;
      args.sums_stride = outputs_;
      args.first = first;
      const float* const x = args.x;
      float* const sums =
          sums_.get() + part * part_ + tap * kernel_w_ * place_ + vector * kernels_.lanes;
      for (int64_t w = 0; w < kernel_w_; ++w) {
        for (int64_t value = from; value < to; value += step_) {
          if (rows > 0) args.x = x + w * kBlock + value - from;
          args.sums = sums + w * place_ + value * outputs_;
          products[vectors - 1](args);
        }
      }
    }
  }

  void gather(float* weight) const {
    const int64_t channels = in_.c;
    const int64_t window = window_.t.kernel * window_.h.kernel * window_.w.kernel;
    parallel_for(0, outputs_ / kBlock * channels, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t output = i / channels * kBlock, channel = i % channels;
        kernels_.gather({sums_.get() + channel * outputs_ + output, part_, kernel_w_ * place_,
                         taps_.merged ? channels * outputs_ : place_, filter_.weights.data(),
                         filter_.components, filter_.phases, filter_.taps, window_.t.kernel,
                         window_.h.kernel, window_.w.kernel, std::min(kBlock, out_.c - output),
                         weight + (output * channels + channel) * window, channels * window});
      }
    });
  }

  const GradWeightKernels& kernels_;
  const float *grad_, *x_;
  ClipView out_, in_;
  Window window_;
  const Filter& filter_;
  Taps taps_;
  int64_t width_, step_, run_, outputs_, kernel_w_, blocks_;
  int64_t x_row_, grad_row_;  // values of a transformed row
  int64_t place_, part_;      // sums of one place of a frame's window, and of one component
  std::vector<Group> groups_;
  int64_t grad_rows_, x_rows_;
  Scratch<float> spread_grad_, spread_x_;  // [component][block][row][w][16]
  Scratch<float> sums_;                    // [component][place][value][output]
};

Filter filter_of(const Tensor& inputs, const Tensor& outputs, const Tensor& filters,
                 const Window& window) {
  const auto is = [](const Tensor& matrix, int64_t dim, ScalarType type) {
    return matrix.dim() == dim && matrix.is_contiguous() && matrix.scalar_type() == type &&
           matrix.numel() > 0;
  };
  const int64_t phases = std::min(window.t.stride, window.t.kernel);
  check(is(inputs, 3, ScalarType::Float) && is(outputs, 2, ScalarType::Float) &&
            is(filters, 3, ScalarType::Double) && outputs.size(1) == inputs.size(0) &&
            filters.size(0) == inputs.size(0) && inputs.size(1) == phases &&
            filters.size(1) == phases &&
            filters.size(2) >= (window.t.kernel + phases - 1) / phases &&
            inputs.size(0) <= kMaxComponents && outputs.size(0) <= kMaxFrames &&
            phases * inputs.size(2) <= kMaxFrames,
        "inputs, outputs and filters must be the matrices of a minimal filter of ", window.t.kernel,
        " taps at stride ", window.t.stride,
        ": (components, phases, frames) and (outputs, components) in float32, (components, phases, "
        "taps) in float64");
  Filter filter{static_cast<const float*>(inputs.const_data_ptr()),
                {},
                {},
                inputs.size(0),
                phases,
                inputs.size(2),
                outputs.size(0),
                filters.size(2)};
  const float* const back = static_cast<const float*>(outputs.const_data_ptr());
  for (int64_t component = 0; component < filter.components; ++component) {
    for (int64_t i = 0; i < filter.output_count; ++i) {
      filter.outputs.push_back(back[i * filter.components + component]);
    }
  }
  const double* const weights = static_cast<const double*>(filters.const_data_ptr());
  filter.weights.assign(weights, weights + filters.numel());
  return filter;
}

Tensor conv3d_grad_weight(Tensor grad, Tensor x, Tensor inputs, Tensor outputs, Tensor filters,
                          std::vector<int64_t> kernel, std::vector<int64_t> stride) {
  check(x.scalar_type() == ScalarType::Float && grad.scalar_type() == ScalarType::Float,
        "grad and x must be float32");
  const ClipView in = clip_view(x, "x"), out = channels_last_view(grad, "grad");
  const Window window = same_window(in, kernel, stride);
  check(in.c > 0 && out.c > 0 && in.t > 0 && in.h > 0 && in.w > 0,
        "x and grad must have channels, frames, rows and columns, got (", in.n, ", ", in.c, ", ",
        in.t, ", ", in.h, ", ", in.w, ") and ", out.c, " channels");
  check(in.c < kFewChannels || in.stride_c == 1,
        "x must be channels-last (channel stride 1), got channel stride ", in.stride_c,
        ": call .contiguous(memory_format=torch.channels_last_3d)");
  check(out.n == in.n && out.t == window.t.out && out.h == window.h.out && out.w == window.w.out,
        "grad must be (", in.n, ", C, ", window.t.out, ", ", window.h.out, ", ", window.w.out,
        "), got (", out.n, ", ", out.c, ", ", out.t, ", ", out.h, ", ", out.w, ")");
  const Filter filter = filter_of(inputs, outputs, filters, window);
  product({out.c, in.c, kernel[0], kernel[1], kernel[2]});
  Tensor weight = allocate("conv3d_grad_weight", {out.c, in.c, kernel[0], kernel[1], kernel[2]},
                           ScalarType::Float, x);
  float* const target = static_cast<float*>(weight.mutable_data_ptr());
  if (in.n == 0) {
    std::fill_n(target, weight.numel(), 0.0f);
    return weight;
  }
  GradWeight(static_cast<const float*>(grad.const_data_ptr()), out,
             static_cast<const float*>(x.const_data_ptr()), in, window, filter)
      .run(target);
  return weight;
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("conv3d_grad_weight", TORCH_BOX(&fasti3d::conv3d_grad_weight));
}
