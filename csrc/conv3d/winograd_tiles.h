// How the Winograd form cuts a convolution into tiles, and where their transformed inputs lie.
#pragma once

#include <algorithm>
#include <vector>

#include "winograd.h"

namespace fasti3d {

// Outputs of a tile along direct axes, about: each side of theirs is transformed twice.
constexpr int64_t kTileRows = 64;

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
inline Triple direct_outputs(const MinimalFilters& filters, const ClipView& result,
                             const Window& window) {
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
struct TransformedInputs {
  AxisTiles t, h, w;
  Triple components, phases, positions;
  int64_t width;  // values of a position
  int64_t tile_values;

  TransformedInputs(const AxisTiles& t_, const AxisTiles& h_, const AxisTiles& w_, int64_t width_)
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

}  // namespace fasti3d
