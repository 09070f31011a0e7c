// The direct form: one product per tap, channel and output.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <vector>

#include "../common/parallel.h"
#include "blocking.h"
#include "conv.h"

namespace fasti3d {

template <class T>
void convolve_direct(const T* x, const ClipView& in, T* out, const ClipView& result,
                     const Window& window, const Taps& taps, const Tensor& packed,
                     const Epilogue& epilogue, const ConvKernels& kernels) {
  const int64_t rows = kernels.rows;
  const int64_t pixels = in.n * result.t * result.h * result.w;
  const int64_t tiles = (pixels + rows - 1) / rows;
  const int64_t panels = packed.size(0);
  const int64_t panel_stride = taps.count * taps.packed_run * kPanel;
  const int64_t kernel_w = taps.merged ? 1 : window.w.kernel;
  const Blocking b = block(tiles, panels, kernels.max_panels, torch::stable::get_num_threads());
  const int64_t panel_blocks = (panels + b.panels - 1) / b.panels;
  const int64_t units = (tiles + b.tiles - 1) / b.tiles * panel_blocks;
  const char* const weights = static_cast<const char*>(packed.const_data_ptr());
  const std::vector<T> zeros(taps.packed_run, T(0.0f));

  const T* const residual = static_cast<const T*>(epilogue.residual);

  // Fills one tile's table of inputs, its row of outputs and, if there is one, of the residual.
  const auto describe = [&](int64_t tile, const void** inputs, T** outputs, const T** added) {
    Place place(tile * rows, result);
    for (int64_t r = 0; r < rows; ++r, place.next(result)) {
      if (place.n == result.n) {
        for (int64_t tap = 0; tap < taps.count; ++tap) inputs[tap * rows + r] = zeros.data();
        outputs[r] = nullptr;
        continue;
      }
      outputs[r] = out + result.pixel(place.n, place.t, place.h, place.w);
      if (residual != nullptr) {
        added[r] = residual + epilogue.residual_view.pixel(place.n, place.t, place.h, place.w);
      }
      const int64_t it = window.t.start(epilogue.start + place.t), ih = window.h.start(place.h);
      // The padded copy starts at the window of output 0.
      const int64_t iw = taps.merged ? place.w * window.w.stride : window.w.start(place.w);
      const void** slot = inputs + r;
      for (int64_t t = it; t < it + window.t.kernel; ++t) {
        for (int64_t h = ih; h < ih + window.h.kernel; ++h) {
          const bool inside = t >= 0 && t < in.t && h >= 0 && h < in.h;
          for (int64_t w = iw; w < iw + kernel_w; ++w, slot += rows) {
            *slot = inside && w >= 0 && w < in.w ? x + in.pixel(place.n, t, h, w) : zeros.data();
          }
        }
      }
    }
  };

  parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
    std::vector<const void*> inputs(b.tiles * taps.count * rows);
    std::vector<T*> outputs(b.tiles * rows);
    std::vector<const T*> added(b.tiles * rows);
    std::vector<void*> shifted(rows);
    std::vector<const void*> shifted_added(rows);
    int64_t described = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / panel_blocks * b.tiles;
      const int64_t count = std::min(b.tiles, tiles - first);
      if (first != described) {
        for (int64_t i = 0; i < count; ++i) {
          describe(first + i, inputs.data() + i * taps.count * rows, outputs.data() + i * rows,
                   added.data() + i * rows);
        }
        described = first;
      }
      const int64_t panel_begin = unit % panel_blocks * b.panels;
      const int64_t panel_end = std::min(panels, panel_begin + b.panels);
      for (int64_t panel = panel_begin; panel < panel_end;) {
        const int64_t width = std::min(kernels.max_panels, panel_end - panel);
        const size_t element = packed.element_size();
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t r = 0; r < rows; ++r) {
            T* const target = outputs[i * rows + r];
            shifted[r] = target == nullptr ? nullptr : target + panel * kPanel;
            if (target != nullptr && residual != nullptr) {
              shifted_added[r] = added[i * rows + r] + panel * kPanel;
            }
          }
          kernels.run[width - 1]({inputs.data() + i * taps.count * rows, taps.count,
                                  taps.packed_run, 0, weights + panel * panel_stride * element,
                                  panel_stride, epilogue.bias + panel * kPanel, epilogue.relu,
                                  shifted.data(),
                                  residual == nullptr ? nullptr : shifted_added.data(),
                                  std::min(result.c - panel * kPanel, width * kPanel)});
        }
        panel += width;
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
