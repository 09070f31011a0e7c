// The direct form: one product per tap, channel and output.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../common/memory.h"
#include "../common/parallel.h"
#include "place.h"
#include "conv.h"
#include "direct_blocking.h"

namespace fasti3d {

template <class T>
void convolve_direct(const T* x, const ClipView& in, T* out, const ClipView& result,
                     const Window& window, const Taps& taps, const Tensor& packed,
                     const Epilogue& epilogue, const ConvKernels& kernels) {
  const int64_t rows = kernels.rows;
  const int64_t pixels = in.n * result.t * result.h * result.w;
  const int64_t tiles = divide_up(pixels, rows);
  const int64_t panels = packed.size(0);
  const int64_t groups = divide_up(panels, kernels.max_panels);
  const int64_t panel_stride = taps.count * taps.packed_run * kPanel;
  const int64_t kernel_w = taps.merged ? 1 : window.w.kernel;
  const DirectBlocking b =
      block({rows, kernels.max_panels, tiles, panels, taps.count, taps.packed_run, window.t.kernel,
             sizeof(T), std::is_same_v<T, float>},
            caches(), torch::stable::get_num_threads());
  const T* const weights = static_cast<const T*>(packed.const_data_ptr());
  const std::vector<T> zeros(taps.packed_run, T(0.0f));
  const T* const residual = static_cast<const T*>(epilogue.residual);
  const int64_t table = taps.count * rows;                       // inputs of a tile
  const int64_t tile_sums = rows * kernels.max_panels * kPanel;  // of a call
  const int64_t length = summed_length(taps.packed_run);

  // Fills one tile's table of inputs, its row of outputs and, if there is one, of the residual.
  const auto describe = [&](int64_t tile, const void** inputs, T** outputs, const T** added) {
    Place place(tile * rows, result);
    for (int64_t r = 0; r < rows;) {
      if (place.n == result.n) {
        for (int64_t tap = 0; tap < taps.count; ++tap) {
          std::fill(inputs + tap * rows + r, inputs + (tap + 1) * rows, zeros.data());
        }
        std::fill(outputs + r, outputs + rows, nullptr);
        return;
      }
      // As many as lie side by side.
      const int64_t count = std::min(rows - r, result.w - place.w);
      T* const target = out + result.pixel(place.n, place.t, place.h, place.w);
      for (int64_t i = 0; i < count; ++i) outputs[r + i] = target + i * result.stride_w;
      if (residual != nullptr) {
        const ClipView& view = epilogue.residual_view;
        const T* const first = residual + view.pixel(place.n, place.t, place.h, place.w);
        for (int64_t i = 0; i < count; ++i) added[r + i] = first + i * view.stride_w;
      }
      const int64_t it = window.t.start(epilogue.start + place.t), ih = window.h.start(place.h);
      // The padded copy starts at the window of output 0.
      const int64_t iw = taps.merged ? place.w * window.w.stride : window.w.start(place.w);
      const void** slot = inputs + r;
      for (int64_t t = it; t < it + window.t.kernel; ++t) {
        for (int64_t h = ih; h < ih + window.h.kernel; ++h) {
          const bool inside = t >= 0 && t < in.t && h >= 0 && h < in.h;
          const T* const row = inside ? x + in.pixel(place.n, t, h, 0) : nullptr;
          for (int64_t w = iw; w < iw + kernel_w; ++w, slot += rows) {
            for (int64_t i = 0; i < count; ++i) {
              const int64_t column = w + i * window.w.stride;
              slot[i] = inside && column >= 0 && column < in.w ? row + column * in.stride_w
                                                               : zeros.data();
            }
          }
        }
      }
      r += count;
      place.skip(count, result);
    }
  };

  const auto share_begin = [](int64_t count, int64_t shares, int64_t i) {
    return count * i / shares;
  };

  parallel_for(0, b.tile_shares * b.panel_shares, 1, [&](int64_t begin, int64_t end) {
    std::vector<const void*> inputs(b.tiles * table);
    std::vector<T*> outputs(b.tiles * rows);
    std::vector<const T*> added(b.tiles * rows);
    std::vector<void*> shifted(rows);
    std::vector<const void*> shifted_added(rows);
    const Scratch<float> sums(b.tiles * tile_sums);

    // One call: a part of the products, of a tile and a group of panels.
    const auto multiply = [&](int64_t i, int64_t group, int64_t tap, int64_t from) {
      const int64_t panel = group * kernels.max_panels;
      const int64_t width = std::min(kernels.max_panels, panels - panel);
      const int64_t count = std::min(b.taps, taps.count - tap);
      const int64_t run = std::min(b.run, taps.packed_run - from);
      const bool continued = tap + from > 0;
      const bool unfinished = tap + count < taps.count || from + run < taps.packed_run;
      if (!unfinished) {
        for (int64_t r = 0; r < rows; ++r) {
          T* const target = outputs[i * rows + r];
          shifted[r] = target == nullptr ? nullptr : target + panel * kPanel;
          if (target != nullptr && residual != nullptr) {
            shifted_added[r] = added[i * rows + r] + panel * kPanel;
          }
        }
      }
      kernels.run[width - 1](
          {inputs.data() + i * table + tap * rows, count, run, from,
           weights + panel * panel_stride + (tap * taps.packed_run + from) * kPanel, panel_stride,
           epilogue.bias + panel * kPanel, epilogue.relu, shifted.data(),
           residual == nullptr ? nullptr : shifted_added.data(),
           std::min(result.c - panel * kPanel, width * kPanel),
           continued || unfinished ? sums.get() + i * tile_sums : nullptr, continued, unfinished,
           length, taps.run != taps.packed_run});
    };

    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t tile_share = unit / b.panel_shares, panel_share = unit % b.panel_shares;
      const int64_t tile_end = share_begin(tiles, b.tile_shares, tile_share + 1);
      const int64_t group_end = share_begin(groups, b.panel_shares, panel_share + 1);
      for (int64_t first = share_begin(tiles, b.tile_shares, tile_share); first < tile_end;
           first += b.tiles) {
        const int64_t count = std::min(b.tiles, tile_end - first);
        for (int64_t i = 0; i < count; ++i) {
          describe(first + i, inputs.data() + i * table, outputs.data() + i * rows,
                   added.data() + i * rows);
        }
        for (int64_t group = share_begin(groups, b.panel_shares, panel_share); group < group_end;
             ++group) {
          for (int64_t tap = 0; tap < taps.count; tap += b.taps) {
            for (int64_t from = 0; from < taps.packed_run; from += b.run) {
              for (int64_t i = 0; i < count; ++i) multiply(i, group, tap, from);
            }
          }
        }
      }
    }
  });
}

#define FASTI3D_CONVOLVE(T)                                                                       \
  template void convolve_direct<T>(const T*, const ClipView&, T*, const ClipView&, const Window&, \
                                   const Taps&, const Tensor&, const Epilogue&,                   \
                                   const ConvKernels&);
FASTI3D_CONVOLVE(float)
FASTI3D_CONVOLVE(c10::BFloat16)
#undef FASTI3D_CONVOLVE

}  // namespace fasti3d
