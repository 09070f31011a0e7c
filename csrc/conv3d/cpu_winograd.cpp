// The Winograd form: fewer products along the filtered axes. Every thread transforms a unit of
// tiles, multiplies it component by component, and transforms it back, in its own cache.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <vector>

#include "../common/memory.h"
#include "../common/parallel.h"
#include "winograd_tiles.h"

namespace fasti3d {
namespace {

// Rows of a unit's products, about: few enough that its transformed inputs stay in the L2 cache
// with the sums, and so many that the weights, which every unit reads, keep up with the products.
constexpr int64_t kUnitRows = 28;
// Of so few rows in all, threads share the panels: each then reads its weights once.
constexpr int64_t kFewRows = 112;
// Sums that are transformed back together, about: a part of an L2 cache.
constexpr int64_t kSumBytes = 256 << 10;
// Values after a component: components a power of two apart would share the cache's sets.
constexpr int64_t kGap = 16;

// Of so many values, in whole cache lines.
template <class T>
int64_t bytes(int64_t count) {
  const int64_t line = kAlignment;
  return (product({count, static_cast<int64_t>(sizeof(T))}) + line - 1) / line * line;
}

int64_t quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What all threads share.
template <class T, class V>
struct Problem {
  const T* x;
  const ClipView& in;
  T* out;
  const ClipView& result;
  const Epilogue& epilogue;
  const WinogradKernels& kernels;
  bool merged;
  TransformedInputs inputs;
  Triple tile_rows, row_outputs, tiles;
  int64_t all_tiles;
  const V* weights;
  int64_t panels, tap_count, run;
  // Components with a use for the same taps share a table of inputs.
  std::vector<TapOrder> orders;
  std::vector<int64_t> order_of;

  Problem(const T* x_, const ClipView& in_, T* out_, const ClipView& result_, const Taps& taps,
          const TransformedInputs& inputs_, const Tensor& packed, const Epilogue& epilogue_,
          const WinogradKernels& kernels_)
      : x(x_),
        in(in_),
        out(out_),
        result(result_),
        epilogue(epilogue_),
        kernels(kernels_),
        merged(taps.merged),
        inputs(inputs_),
        tile_rows{inputs.t.rows, inputs.h.rows, inputs.w.rows},
        row_outputs{inputs.t.outputs_per_row(), inputs.h.outputs_per_row(),
                    inputs.w.outputs_per_row()},
        tiles{inputs.t.count, inputs.h.count, inputs.w.count},
        all_tiles(product({in.n, tiles.t, tiles.h, tiles.w})),
        weights(static_cast<const V*>(packed.const_data_ptr())),
        panels(packed.size(1)),
        tap_count(packed.size(2)),
        run(packed.size(3)) {
    const AxisTiles* const axes[] = {&inputs.t, &inputs.h, &inputs.w};
    const auto uses = [&](int64_t axis, int64_t component, int64_t phase) {
      return axes[axis]->uses(component, phase);
    };
    for (int64_t c = 0; c < inputs.components.count(); ++c) {
      const TapOrder order(inputs.components.at(c), axis_taps(), uses);
      const auto same = [&](const TapOrder& other) { return other.taps == order.taps; };
      order_of.push_back(std::find_if(orders.begin(), orders.end(), same) - orders.begin());
      if (order_of.back() == static_cast<int64_t>(orders.size())) orders.push_back(order);
    }
  }

  Triple axis_taps() const { return {inputs.t.taps, inputs.h.taps, inputs.w.taps}; }
  int64_t rows(int64_t tile_count) const { return product({tile_count, tile_rows.count()}); }
};

// What one thread does, with memory for units of `unit_tiles` tiles and `unit_panels` panels.
template <class T, class V>
class Worker {
 public:
  Worker(const Problem<T, V>& problem, int64_t unit_tiles, int64_t unit_panels)
      : p_(problem),
        t_(p_.inputs.t),
        h_(p_.inputs.h),
        w_(p_.inputs.w),
        unit_tiles_(unit_tiles),
        components_(p_.inputs.components.count()),
        frame_count_(product({t_.frames(), h_.frames(), w_.frames()})),
        width_(p_.merged ? product({w_.positions, p_.in.c}) : p_.in.c),
        component_stride_(product({unit_tiles, p_.inputs.tile_values}) + kGap),
        sum_rows_(quotient(p_.rows(unit_tiles), p_.kernels.rows) * p_.kernels.rows),
        together_(panels_together(unit_panels)),
        sum_stride_(product({sum_rows_, together_, kPanel}) + kGap),
        transformed_bytes_(bytes<V>(product({component_stride_, components_}))),
        sum_bytes_(bytes<float>(product({sum_stride_, components_}))),
        // In one piece, for that comes on large pages.
        memory_(std::max<int64_t>(transformed_bytes_ + sum_bytes_ +
                                      (p_.merged ? bytes<V>(product({frame_count_, width_})) : 0),
                                  kHugePage)),
        transformed_(reinterpret_cast<V*>(memory_.get())),
        sums_(reinterpret_cast<float*>(memory_.get() + transformed_bytes_)),
        padded_(reinterpret_cast<V*>(memory_.get() + transformed_bytes_ + sum_bytes_)),
        zeros_(width_, V(0.0f)),
        of_t_(t_.frames()),
        of_h_(h_.frames()),
        of_w_(w_.frames()),
        frames_(frame_count_),
        places_(p_.inputs.places(component_stride_)),
        table_(product({static_cast<int64_t>(p_.orders.size()), sum_rows_, p_.tap_count})),
        pixels_(product({p_.rows(unit_tiles), p_.row_outputs.count()})),
        added_(p_.epilogue.residual == nullptr ? 0 : pixels_.size()),
        targets_(p_.row_outputs.count()),
        residuals_(p_.row_outputs.count()) {}

  // The outputs of some tiles and panels.
  void run(int64_t tile_begin, int64_t tile_end, int64_t panel_begin, int64_t panel_end) {
    int64_t described = -1;
    for (int64_t first = tile_begin; first < tile_end; first += unit_tiles_) {
      const int64_t count = std::min(unit_tiles_, tile_end - first);
      for (int64_t i = 0; i < count; ++i) {
        transform(first + i, transformed_ + i * p_.inputs.tile_values);
      }
      if (count != described) describe(count);
      described = count;
      locate(first, count);
      for (int64_t panel = panel_begin; panel < panel_end; panel += together_) {
        const int64_t end = std::min(panel_end, panel + together_);
        multiply(p_.rows(count), panel, end);
        invert(p_.rows(count), panel, end);
      }
    }
  }

 private:
  int64_t panels_together(int64_t unit_panels) const {
    const int64_t panel_bytes = product({components_, sum_rows_, kPanel, int64_t(sizeof(float))});
    const int64_t groups = quotient(unit_panels, p_.kernels.max_panels);
    return std::clamp<int64_t>(kSumBytes / (panel_bytes * p_.kernels.max_panels), 1, groups) *
           p_.kernels.max_panels;
  }

  // A tile's clip, and which of its tiles it is.
  std::pair<int64_t, Triple> place(int64_t tile) const {
    return {tile / p_.tiles.count(), p_.tiles.at(tile % p_.tiles.count())};
  }

  void transform(int64_t tile, V* target) {
    const auto [n, at] = place(tile);
    const T* const clip = p_.x + p_.in.pixel(n, 0, 0, 0);
    const Triple positions{t_.positions, h_.positions, p_.merged ? 1 : w_.positions};
    for (int64_t i = 0; i < positions.count(); ++i, target += width_) {
      const Triple position = positions.at(i);
      find_inputs(t_, at.t, position.t, p_.in.t, p_.in.stride_t, of_t_);
      find_inputs(h_, at.h, position.h, p_.in.h, p_.in.stride_h, of_h_);
      if (!p_.merged) find_inputs(w_, at.w, position.w, p_.in.w, p_.in.stride_w, of_w_);
      const int64_t iw = w_.input(at.w, position.w, 0);
      size_t f = 0;
      for (const int64_t of_t : of_t_) {
        for (const int64_t of_h : of_h_) {
          const bool inside = of_t >= 0 && of_h >= 0;
          if (p_.merged) {
            V* const row = padded_ + f * width_;
            if (inside) copy_row(clip + of_t + of_h, p_.in, iw, w_.positions, row);
            frames_[f++] = inside ? row : zeros_.data();
            continue;
          }
          for (const int64_t of_w : of_w_) {
            const void* const pixel = clip + of_t + of_h + of_w;
            frames_[f++] = inside && of_w >= 0 ? pixel : zeros_.data();
          }
        }
      }
      p_.kernels.transform({frames_.data(),
                            {t_.transform(), h_.transform(), w_.transform()},
                            width_,
                            target,
                            places_.data()});
    }
  }

  // Where the inputs of a position lie along an axis, -1 for those outside of the clip.
  static void find_inputs(const AxisTiles& axis, int64_t tile, int64_t position, int64_t length,
                          int64_t stride, std::vector<int64_t>& found) {
    for (int64_t frame = 0; frame < axis.frames(); ++frame) {
      const int64_t i = axis.input(tile, position, frame);
      found[frame] = i >= 0 && i < length ? i * stride : -1;
    }
  }

  // Pointers to what is multiplied, of `count` tiles; rows beyond those are the first once more.
  void describe(int64_t count) {
    size_t slot = 0;
    for (const TapOrder& order : p_.orders) {
      for (int64_t first = 0; first < sum_rows_; first += p_.kernels.rows) {
        for (const int64_t tap : order.taps) {
          for (int64_t r = first; r < first + p_.kernels.rows; ++r) {
            const int64_t row = r < p_.rows(count) ? r : 0;
            table_[slot++] = transformed_ + row / p_.tile_rows.count() * p_.inputs.tile_values +
                             p_.inputs.offset(p_.tile_rows.at(row % p_.tile_rows.count()),
                                              p_.axis_taps().at(tap));
          }
        }
      }
    }
  }

  // Pointers to the outputs of a unit's rows, and to what is added to them.
  void locate(int64_t first_tile, int64_t count) {
    const T* const residual = static_cast<const T*>(p_.epilogue.residual);
    size_t j = 0;
    for (int64_t row = 0; row < p_.rows(count); ++row) {
      const auto [n, at] = place(first_tile + row / p_.tile_rows.count());
      const Triple spot = p_.tile_rows.at(row % p_.tile_rows.count());
      for (int64_t i = 0; i < p_.row_outputs.count(); ++i, ++j) {
        const Triple output = p_.row_outputs.at(i);
        const int64_t t = t_.output(at.t, spot.t, output.t) - p_.epilogue.start;
        const int64_t h = h_.output(at.h, spot.h, output.h);
        const int64_t w = w_.output(at.w, spot.w, output.w);
        const bool wanted = t >= 0 && t < p_.result.t && h < p_.result.h && w < p_.result.w;
        pixels_[j] = wanted ? p_.out + p_.result.pixel(n, t, h, w) : nullptr;
        if (residual != nullptr) {
          added_[j] = wanted ? residual + p_.epilogue.residual_view.pixel(n, t, h, w) : nullptr;
        }
      }
    }
  }

  void multiply(int64_t rows, int64_t begin, int64_t end) {
    const int64_t wide = together_ * kPanel, panel_stride = p_.tap_count * p_.run * kPanel;
    const auto weights_of = [&](int64_t c, int64_t panel) {
      return p_.weights + (c * p_.panels + panel) * panel_stride;
    };
    const int64_t steps = components_ * quotient(end - begin, p_.kernels.max_panels);
    const int64_t pixels = rows * p_.row_outputs.count();
    int64_t step = 0;
    for (int64_t c = 0; c < components_; ++c) {
      const TapOrder& order = p_.orders[p_.order_of[c]];
      const void* const* const its = table_.data() + p_.order_of[c] * sum_rows_ * p_.tap_count;
      for (int64_t panel = begin; panel < end; panel += p_.kernels.max_panels, ++step) {
        const int64_t used = std::min(p_.kernels.max_panels, end - panel);
        fetch_results(pixels * step / steps, pixels * (step + 1) / steps, begin, end);
        // The weights of the step after this: a panel of them during each of the first tiles.
        const int64_t next = panel + p_.kernels.max_panels;
        const V* const ahead = next < end            ? weights_of(c, next)
                               : c + 1 < components_ ? weights_of(c + 1, begin)
                                                     : weights_of(0, end % p_.panels);
        for (int64_t r = 0, i = 0; r < rows; r += p_.kernels.rows, ++i) {
          p_.kernels.multiply[used - 1](
              {its + r * p_.tap_count, order.used, p_.run, c * component_stride_,
               weights_of(c, panel), panel_stride,
               sums_ + c * sum_stride_ + r * wide + (panel - begin) * kPanel, wide,
               i < used ? reinterpret_cast<const char*>(ahead + i * panel_stride) : nullptr});
        }
      }
    }
  }

  // Brings a part of a unit's outputs, and what is added to them, into the cache: they are far away
  // when the sums of all components are there.
  void fetch_results(int64_t first, int64_t last, int64_t begin, int64_t end) const {
    const auto fetch = [&](const T* pixel, auto written) {
      if (pixel == nullptr) return;
      const int64_t channels = std::min(p_.result.c, end * kPanel);
      for (int64_t c = begin * kPanel; c < channels; c += kAlignment / sizeof(T)) {
        __builtin_prefetch(pixel + c, written());
      }
    };
    for (int64_t i = first; i < last; ++i) {
      fetch(pixels_[i], [] { return 1; });
      if (!added_.empty()) fetch(added_[i], [] { return 0; });
    }
  }

  void invert(int64_t rows, int64_t begin, int64_t end) {
    const bool adds = p_.epilogue.residual != nullptr;
    const size_t outputs = targets_.size();
    for (int64_t row = 0; row < rows; ++row) {
      for (size_t j = 0; j < outputs; ++j) {
        const auto shifted = [&](auto* pixel) {
          return pixel == nullptr ? nullptr : pixel + begin * kPanel;
        };
        targets_[j] = shifted(pixels_[row * outputs + j]);
        if (adds) residuals_[j] = shifted(added_[row * outputs + j]);
      }
      p_.kernels.inverse({sums_ + row * together_ * kPanel,
                          sum_stride_,
                          {t_.inverse(), h_.inverse(), w_.inverse()},
                          p_.epilogue.bias + begin * kPanel,
                          p_.epilogue.relu,
                          std::min(p_.result.c, end * kPanel) - begin * kPanel,
                          targets_.data(),
                          adds ? residuals_.data() : nullptr});
    }
  }

  const Problem<T, V>& p_;
  const AxisTiles &t_, &h_, &w_;
  int64_t unit_tiles_, components_, frame_count_, width_, component_stride_;
  int64_t sum_rows_, together_, sum_stride_, transformed_bytes_, sum_bytes_;
  Scratch<char> memory_;
  V* transformed_;
  float* sums_;  // [component][row][panels together]
  V* padded_;    // rows of clips of few channels
  std::vector<V> zeros_;
  std::vector<int64_t> of_t_, of_h_, of_w_;  // inputs of a position, per axis
  std::vector<const void*> frames_;
  std::vector<int64_t> places_;
  std::vector<const void*> table_;  // [order][tile of rows][tap][row]
  std::vector<T*> pixels_;          // [row][output]
  std::vector<const T*> added_;
  std::vector<void*> targets_;
  std::vector<const void*> residuals_;
};

}  // namespace

template <class T, class V>
void convolve_winograd(const T* x, const ClipView& in, T* out, const ClipView& result,
                       const Window& window, const Taps& taps, const MinimalFilters& filters,
                       const Tensor& packed, const Epilogue& epilogue,
                       const WinogradKernels& kernels) {
  const Triple direct = direct_outputs(filters, result, window);
  const AxisTiles t(filters[0], window.t, epilogue.start, result.t, direct.t, false);
  const AxisTiles h(filters[1], window.h, 0, result.h, direct.h, false);
  const AxisTiles w(filters[2], window.w, 0, result.w, direct.w, taps.merged);
  const TransformedInputs inputs(t, h, w, in.c);
  const Problem<T, V> problem(x, in, out, result, taps, inputs, packed, epilogue, kernels);
  const int64_t threads = torch::stable::get_num_threads();
  if (problem.rows(problem.all_tiles) <= kFewRows) {
    const int64_t groups = quotient(problem.panels, kernels.max_panels);
    parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kernels.max_panels;
      const int64_t last = std::min(problem.panels, end * kernels.max_panels);
      Worker<T, V>(problem, problem.all_tiles, last - first).run(0, problem.all_tiles, first, last);
    });
    return;
  }
  // Threads share whole kernel tiles of rows.
  const int64_t round = std::max<int64_t>(kernels.rows / problem.tile_rows.count(), 1);
  const int64_t most = std::max<int64_t>(kUnitRows / problem.tile_rows.count() / round, 1) * round;
  const int64_t fair = quotient(quotient(problem.all_tiles, threads), round) * round;
  parallel_for(0, quotient(problem.all_tiles, round), 1, [&](int64_t begin, int64_t end) {
    Worker<T, V>(problem, std::min(most, fair), problem.panels)
        .run(begin * round, std::min(problem.all_tiles, end * round), 0, problem.panels);
  });
}

#define FASTI3D_CONVOLVE(T, V)                                                             \
  template void convolve_winograd<T, V>(const T*, const ClipView&, T*, const ClipView&,    \
                                        const Window&, const Taps&, const MinimalFilters&, \
                                        const Tensor&, const Epilogue&, const WinogradKernels&);
FASTI3D_CONVOLVE(float, float)
FASTI3D_CONVOLVE(c10::BFloat16, c10::BFloat16)
FASTI3D_CONVOLVE(c10::BFloat16, float)
#undef FASTI3D_CONVOLVE

}  // namespace fasti3d
