// The Winograd form: fewer products along the filtered axes. A unit of tiles is transformed,
// multiplied component by component with the direct form's inner loops, and transformed back, by
// one thread and in its cache.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <vector>

#include "../common/memory.h"
#include "../common/parallel.h"
#include "winograd.h"

namespace fasti3d {
namespace {

// Rows of a unit's products, about: few enough that its transformed inputs stay in the L2 cache with
// the sums, and so many that the weights, which every unit reads, keep up with the products.
constexpr int64_t kUnitRows = 28;
// Outputs of a tile along direct axes, about: each side of theirs is transformed twice.
constexpr int64_t kTileRows = 64;
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

// How one axis is cut into tiles.
struct AxisTiles {
  const MinimalFilter& filter;
  const Axis& window;
  int64_t outputs;    // per tile
  int64_t rows;       // of products per tile
  int64_t positions;  // of transformed inputs per tile
  int64_t taps;       // of a component
  int64_t first;      // number of the first tile: they are counted from output 0
  int64_t count;

  AxisTiles(const MinimalFilter& filter_, const Axis& window_, int64_t start, int64_t length,
            int64_t direct_outputs, bool merged)
      : filter(filter_),
        window(window_),
        outputs(filter_.direct() ? direct_outputs : filter_.output_count),
        rows(filter_.direct() ? direct_outputs : 1),
        positions(filter_.direct() ? (direct_outputs - 1) * window_.stride + window_.kernel : 1),
        taps(merged ? 1 : filter_.phases),
        first(start / outputs),
        count((start + length - 1) / outputs - first + 1) {}

  // Inputs that one position is made of.
  int64_t frames() const { return filter.direct() ? 1 : filter.phases * filter.frames; }
  // Which of the axis' inputs is one of them.
  int64_t input(int64_t tile, int64_t position, int64_t frame) const {
    const int64_t begin = window.start((first + tile) * outputs) + position;
    if (filter.direct()) return begin;
    return begin + frame / filter.frames + frame % filter.frames * window.stride;
  }
  // Which of the axis' outputs is the j-th that a row of products gives.
  int64_t output(int64_t tile, int64_t row, int64_t j) const {
    return (first + tile) * outputs + row + j;
  }
  int64_t outputs_per_row() const { return filter.direct() ? 1 : outputs; }
  // Positions of transformed inputs from one to the next.
  int64_t row_step() const { return filter.direct() ? window.stride : 0; }
  int64_t tap_step() const { return filter.direct() ? 1 : 0; }

  TransformAxis transform() const {
    if (filter.direct()) return {filter.inputs, 1, 1, 1};
    return {filter.inputs, filter.components, filter.phases, filter.frames};
  }
  TransformAxis inverse() const {
    return {filter.outputs, filter.output_count, 1, filter.components};
  }
  bool uses(int64_t component, int64_t phase) const {
    if (filter.direct()) return true;
    const int64_t row = component * filter.phases + phase;
    return has_nonzero(filter.inputs + row * filter.frames, filter.frames);
  }
};

// Outputs per tile along each axis, of which those that are direct share a tile of kTileRows.
Triple direct_outputs(const MinimalFilters& filters, const ClipView& result, const Window& window) {
  int64_t left = kTileRows;
  const auto share = [&](const MinimalFilter& filter, const Axis& axis, int64_t length) {
    // Windows of one tap share no inputs.
    if (!filter.direct() || axis.kernel == 1) return int64_t(1);
    const int64_t most = std::clamp<int64_t>(left, 1, length);
    const int64_t even = (length + (length + most - 1) / most - 1) / ((length + most - 1) / most);
    left /= even;
    return even;
  };
  Triple outputs;
  outputs.w = share(filters[2], window.w, result.w);
  outputs.h = share(filters[1], window.h, result.h);
  outputs.t = share(filters[0], window.t, result.t);
  return outputs;
}

// The transformed inputs of a unit, [component][tile][phase][position][channel], and where what is
// multiplied lies in them.
struct Inputs {
  AxisTiles t, h, w;
  Triple components, phases, positions;
  int64_t width;  // values of a position
  int64_t tile_values;

  Inputs(const AxisTiles& t_, const AxisTiles& h_, const AxisTiles& w_, int64_t width_)
      : t(t_),
        h(h_),
        w(w_),
        components{t.filter.components, h.filter.components, w.filter.components},
        phases{phases_of(t), phases_of(h), phases_of(w)},
        positions{t.positions, h.positions, w.positions},
        width(width_),
        tile_values(product({phases.count(), positions.count(), width})) {}

  static int64_t phases_of(const AxisTiles& axis) {
    return axis.filter.direct() ? 1 : axis.filter.phases;
  }

  // From the tile's first value.
  int64_t offset(const Triple& row, const Triple& tap) const {
    const auto phase = [](const AxisTiles& axis, int64_t i) {
      return axis.filter.direct() ? 0 : i;
    };
    const auto position = [](const AxisTiles& axis, int64_t i, int64_t j) {
      return i * axis.row_step() + j * axis.tap_step();
    };
    const int64_t of_phases =
        (phase(t, tap.t) * phases.h + phase(h, tap.h)) * phases.w + phase(w, tap.w);
    const int64_t of_positions =
        (position(t, row.t, tap.t) * positions.h + position(h, row.h, tap.h)) * positions.w +
        position(w, row.w, tap.w);
    return (of_phases * positions.count() + of_positions) * width;
  }

  // Where the transform writes, from a position's first value.
  std::vector<int64_t> places(int64_t component_stride) const {
    std::vector<int64_t> found;
    for (int64_t i = 0; i < components.t * phases.t; ++i) {
      for (int64_t j = 0; j < components.h * phases.h; ++j) {
        for (int64_t k = 0; k < components.w * phases.w; ++k) {
          const Triple c{i / phases.t, j / phases.h, k / phases.w};
          const Triple p{i % phases.t, j % phases.h, k % phases.w};
          const bool used = t.uses(c.t, p.t) && h.uses(c.h, p.h) && w.uses(c.w, p.w);
          const int64_t component = (c.t * components.h + c.h) * components.w + c.w;
          const int64_t phase = (p.t * phases.h + p.h) * phases.w + p.w;
          found.push_back(used ? component * component_stride + phase * positions.count() * width
                               : -1);
        }
      }
    }
    return found;
  }
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
  const Inputs inputs(t, h, w, in.c);
  const Triple tile_rows{t.rows, h.rows, w.rows};
  const int64_t all_tiles = product({in.n, t.count, h.count, w.count});
  const int64_t components = inputs.components.count();
  const int64_t panels = packed.size(1), tap_count = packed.size(2), run = packed.size(3);
  const int64_t panel_stride = tap_count * run * kPanel;
  const V* const weights = static_cast<const V*>(packed.const_data_ptr());
  const T* const residual = static_cast<const T*>(epilogue.residual);

  // Units of whole kernel tiles of rows, but some for every thread; then of a part of the panels.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t round = std::max<int64_t>(kernels.rows / tile_rows.count(), 1);
  const int64_t most = std::max<int64_t>(kUnitRows / tile_rows.count() / round, 1) * round;
  const int64_t fair = (all_tiles + 2 * threads - 1) / (2 * threads);
  const int64_t unit_tiles = std::clamp<int64_t>((fair + round - 1) / round * round, 1, most);
  const int64_t tile_units = (all_tiles + unit_tiles - 1) / unit_tiles;
  const int64_t panel_groups = (panels + kernels.max_panels - 1) / kernels.max_panels;
  const int64_t parts =
      std::clamp<int64_t>((2 * threads + tile_units - 1) / tile_units, 1, panel_groups);
  const int64_t part_panels = (panel_groups + parts - 1) / parts * kernels.max_panels;

  const int64_t all_rows = product({unit_tiles, tile_rows.count()});
  const int64_t row_tiles = (all_rows + kernels.rows - 1) / kernels.rows;
  const int64_t component_stride = unit_tiles * inputs.tile_values + kGap;
  const int64_t sum_rows = row_tiles * kernels.rows;
  const int64_t panel_bytes = product({components, sum_rows, kPanel, int64_t(sizeof(float))});
  const int64_t together =
      std::clamp<int64_t>(kSumBytes / panel_bytes / kernels.max_panels, 1,
                          part_panels / kernels.max_panels) *
      kernels.max_panels;
  const int64_t wide = together * kPanel;
  const int64_t sum_stride = sum_rows * wide + kGap;

  const std::vector<int64_t> places = inputs.places(component_stride);
  // Components with a use for the same taps share a table of inputs.
  const Triple axis_taps{t.taps, h.taps, w.taps};
  std::vector<TapOrder> orders;
  std::vector<int64_t> order_of(components);
  for (int64_t c = 0; c < components; ++c) {
    const AxisTiles* const axes[] = {&t, &h, &w};
    const TapOrder order(inputs.components.at(c), axis_taps,
                         [&](int64_t axis, int64_t component, int64_t phase) {
                           return axes[axis]->uses(component, phase);
                         });
    const auto same = [&](const TapOrder& other) {
      return other.used == order.used && other.taps == order.taps;
    };
    order_of[c] = std::find_if(orders.begin(), orders.end(), same) - orders.begin();
    if (order_of[c] == static_cast<int64_t>(orders.size())) orders.push_back(order);
  }

  parallel_for(0, tile_units * parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t frame_count = t.frames() * h.frames() * w.frames();
    const int64_t merged_width = taps.merged ? w.positions * in.c : 0;
    const std::vector<V> zeros(std::max(in.c, merged_width), V(0.0f));
    // In one piece, for that comes on large pages.
    const int64_t padded_bytes = bytes<V>(product({frame_count, merged_width}));
    const int64_t transformed_bytes = bytes<V>(component_stride * components);
    const int64_t sum_bytes = bytes<float>(sum_stride * components);
    const Scratch<char> memory(std::max<int64_t>(padded_bytes + transformed_bytes + sum_bytes, kHugePage));
    V* const transformed = reinterpret_cast<V*>(memory.get());
    float* const sums = reinterpret_cast<float*>(memory.get() + transformed_bytes);
    V* const padded = reinterpret_cast<V*>(memory.get() + transformed_bytes + sum_bytes);
    std::vector<const void*> frames(frame_count);
    std::vector<const void*> table(orders.size() * row_tiles * tap_count * kernels.rows);
    const Triple row_outputs{t.outputs_per_row(), h.outputs_per_row(), w.outputs_per_row()};
    std::vector<void*> pixels(row_outputs.count());
    std::vector<const void*> added(row_outputs.count());
    const auto place_of = [&](int64_t tile) {
      return std::pair(tile / (t.count * h.count * w.count),
                       Triple{t.count, h.count, w.count}.at(tile % (t.count * h.count * w.count)));
    };

    const auto transform = [&](int64_t tile, V* target) {
      const auto [n, at] = place_of(tile);
      const Triple positions{t.positions, h.positions, taps.merged ? 1 : w.positions};
      for (int64_t i = 0; i < positions.count(); ++i) {
        const Triple position = positions.at(i);
        size_t f = 0;
        for (int64_t ft = 0; ft < t.frames(); ++ft) {
          const int64_t it = t.input(at.t, position.t, ft);
          for (int64_t fh = 0; fh < h.frames(); ++fh) {
            const int64_t ih = h.input(at.h, position.h, fh);
            const bool outside = it < 0 || it >= in.t || ih < 0 || ih >= in.h;
            for (int64_t fw = 0; fw < w.frames(); ++fw, ++f) {
              const int64_t iw = w.input(at.w, position.w, fw);
              if (outside) {
                frames[f] = zeros.data();
              } else if (taps.merged) {
                V* const row = padded + f * merged_width;
                copy_row(x + in.pixel(n, it, ih, 0), in, iw, w.positions, row);
                frames[f] = row;
              } else {
                frames[f] = iw < 0 || iw >= in.w ? static_cast<const void*>(zeros.data())
                                                 : x + in.pixel(n, it, ih, iw);
              }
            }
          }
        }
        kernels.transform({frames.data(),
                           {t.transform(), h.transform(), w.transform()},
                           taps.merged ? merged_width : in.c,
                           target + i * (taps.merged ? merged_width : in.c),
                           places.data()});
      }
    };

    // What the kernel reads, of `count` tiles; rows beyond those are the first once more.
    const auto describe = [&](int64_t count) {
      size_t slot = 0;
      for (const TapOrder& order : orders) {
        for (int64_t first = 0; first < sum_rows; first += kernels.rows) {
          for (const int64_t tap : order.taps) {
            for (int64_t r = first; r < first + kernels.rows; ++r) {
              const int64_t row = r < count * tile_rows.count() ? r : 0;
              table[slot++] = transformed + row / tile_rows.count() * inputs.tile_values +
                              inputs.offset(tile_rows.at(row % tile_rows.count()),
                                            axis_taps.at(tap));
            }
          }
        }
      }
    };

    const auto invert = [&](int64_t tile, int64_t row, int64_t panel, const float* from,
                            int64_t channels) {
      const auto [n, at] = place_of(tile);
      const Triple spot = tile_rows.at(row);
      const ClipView& view = epilogue.residual_view;
      size_t j = 0;
      bool any = false;
      for (int64_t jt = 0; jt < row_outputs.t; ++jt) {
        const int64_t ot = t.output(at.t, spot.t, jt) - epilogue.start;
        for (int64_t jh = 0; jh < row_outputs.h; ++jh) {
          const int64_t oh = h.output(at.h, spot.h, jh);
          for (int64_t jw = 0; jw < row_outputs.w; ++jw, ++j) {
            const int64_t ow = w.output(at.w, spot.w, jw);
            const bool wanted =
                ot >= 0 && ot < result.t && oh < result.h && ow < result.w;
            any |= wanted;
            pixels[j] = wanted ? out + result.pixel(n, ot, oh, ow) + panel * kPanel : nullptr;
            if (wanted && residual != nullptr) {
              added[j] = residual + view.pixel(n, ot, oh, ow) + panel * kPanel;
            }
          }
        }
      }
      if (!any) return;
      kernels.inverse({from,
                       sum_stride,
                       {t.inverse(), h.inverse(), w.inverse()},
                       epilogue.bias + panel * kPanel,
                       epilogue.relu,
                       channels,
                       pixels.data(),
                       residual == nullptr ? nullptr : added.data()});
    };

    int64_t transformed_unit = -1, described = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first_tile = unit / parts * unit_tiles;
      const int64_t count = std::min(unit_tiles, all_tiles - first_tile);
      if (unit / parts != transformed_unit) {
        for (int64_t i = 0; i < count; ++i) {
          transform(first_tile + i, transformed + i * inputs.tile_values);
        }
        transformed_unit = unit / parts;
      }
      if (count != described) describe(count);
      described = count;
      const int64_t rows = count * tile_rows.count();
      const int64_t part_begin = unit % parts * part_panels;
      const int64_t part_end = std::min(panels, part_begin + part_panels);
      for (int64_t block = part_begin; block < part_end; block += together) {
        const int64_t block_end = std::min(part_end, block + together);
        for (int64_t c = 0; c < components; ++c) {
          const TapOrder& order = orders[order_of[c]];
          const void* const* const its = table.data() + order_of[c] * sum_rows * tap_count;
          for (int64_t panel = block; panel < block_end; panel += kernels.max_panels) {
            const int64_t used = std::min(kernels.max_panels, block_end - panel);
            const V* const its_weights = weights + (c * panels + panel) * panel_stride;
            for (int64_t r = 0; r < rows; r += kernels.rows) {
              kernels.multiply[used - 1](
                  {its + r * tap_count, order.used, run, c * component_stride, its_weights,
                   panel_stride, sums + c * sum_stride + r * wide + (panel - block) * kPanel,
                   wide});
            }
          }
        }
        const int64_t channels =
            std::min(result.c - block * kPanel, (block_end - block) * kPanel);
        for (int64_t r = 0; r < rows; ++r) {
          invert(first_tile + r / tile_rows.count(), r % tile_rows.count(), block,
                 sums + r * wide, channels);
        }
      }
    }
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
