// A part of a clip, copied for the matrix tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tiles.h"

namespace fasti3d {

using Bfloat = c10::BFloat16;

inline int64_t over(int64_t value, int64_t by) { return (value + by - 1) / by; }

// What the shape of packed weights says.
struct Form {
  bool merged;  // a tap is a row of the window
  int64_t panels, taps, steps, pairs;
  int64_t channels;  // of a pixel in the slab, with the zeros after the clip's
  int64_t tap_values, panel_stride;

  Form(const Tensor& packed, const Window& window)
      : merged(packed.size(1) != window.t.kernel * window.h.kernel * window.w.kernel),
        panels(packed.size(0)),
        taps(packed.size(1)),
        steps(packed.size(2)),
        pairs(packed.size(3)),
        channels(2 * pairs * steps / (merged ? window.w.kernel : 1)),
        tap_values(steps * pairs * 2 * kPanel),
        panel_stride(taps * tap_values) {}
};

// The pixels that the windows of `frames` x `rows` x `columns` outputs hold. Rows and columns lie
// apart by their remainders of the stride (columns of merged taps do not, for a tap is a run of
// them), so that the inputs of neighboring outputs are neighbors, and row follows row. What lies
// between windows is left out.
struct Slab {
  const Window& window;
  bool merged;
  int64_t channels, frames, plane_rows, width, row_phases, pitch;

  Slab(const Window& its_window, const Form& form, int64_t output_frames, int64_t rows,
       int64_t columns)
      : window(its_window),
        merged(form.merged),
        channels(form.channels),
        frames((output_frames - 1) * window.t.stride + window.t.kernel),
        plane_rows(rows - 1 + over(window.h.kernel, window.h.stride)),
        width(columns - 1 + over(window.w.kernel, window.w.stride)),
        row_phases(std::min(window.h.kernel, window.h.stride)),
        pitch(std::min(window.w.kernel, window.w.stride)) {}

  // From the inputs of an output to those of the next.
  int64_t pixel_stride() const { return merged ? pitch * channels : channels; }
  // Of a place in the windows, counted from that of the first output.
  int64_t at(int64_t frame, int64_t row, int64_t column) const {
    const int64_t phase = column % window.w.stride;
    const int64_t plane =
        (frame * row_phases + row % window.h.stride) * (merged ? 1 : pitch) + (merged ? 0 : phase);
    const int64_t pixel = (plane * plane_rows + row / window.h.stride) * width;
    return (pixel + column / window.w.stride) * pixel_stride() + (merged ? phase * channels : 0);
  }
  // The last tile may begin at the last pixel.
  int64_t values(const Form& form) const {
    return product({frames, row_phases, plane_rows, width, pitch, channels}) +
           kTileRows * pixel_stride() + form.steps * form.pairs * 2;
  }
};

inline void zero(Bfloat* values, int64_t count) {
  std::memset(static_cast<void*>(values), 0, count * sizeof(Bfloat));
}

// Copies a row of the clip into a row of the slab whose first column is the clip's `column`, with
// zeros for what lies outside; all are zeros where `source` is null.
inline void fill_row(const Bfloat* source, const ClipView& in, int64_t column, const Slab& slab,
                     int64_t frame, int64_t row, Bfloat* memory, const TileKernels& kernels) {
  const auto fill_pixel = [&](Bfloat* pixel, const Bfloat* values) {
    if (in.stride_c == 1) {
      std::copy_n(values, in.c, pixel);
    } else {
      for (int64_t c = 0; c < in.c; ++c) pixel[c] = values[c * in.stride_c];
    }
    zero(pixel + in.c, slab.channels - in.c);
  };
  const Axis& w = slab.window.w;
  if (w.stride > w.kernel || (w.stride > 1 && !slab.merged)) {
    for (int64_t i = 0; i < slab.width; ++i) {
      for (int64_t phase = 0; phase < slab.pitch; ++phase) {
        const int64_t place = i * w.stride + phase;
        Bfloat* const pixel = memory + slab.at(frame, row, place);
        if (source != nullptr && column + place >= 0 && column + place < in.w) {
          fill_pixel(pixel, source + (column + place) * in.stride_w);
        } else {
          zero(pixel, slab.channels);
        }
      }
    }
    return;
  }
  // Without gaps.
  const int64_t columns = slab.width * slab.pitch;
  const int64_t first = std::clamp<int64_t>(-column, 0, columns);
  const int64_t last = std::clamp<int64_t>(in.w - column, first, columns);
  Bfloat* const target = memory + slab.at(frame, row, 0);
  if (source == nullptr || first == last) return zero(target, columns * slab.channels);
  zero(target, first * slab.channels);
  zero(target + last * slab.channels, (columns - last) * slab.channels);
  Bfloat* const begin = target + first * slab.channels;
  source += (column + first) * in.stride_w;
  if (in.stride_c == 1 && in.stride_w == in.c && slab.channels == in.c) {
    std::copy_n(source, (last - first) * in.c, begin);
  } else if (slab.channels == 4) {
    kernels.interleave(source, in, last - first, begin);
  } else {
    for (int64_t i = 0; i < last - first; ++i) {
      fill_pixel(begin + i * slab.channels, source + i * in.stride_w);
    }
  }
}

}  // namespace fasti3d
