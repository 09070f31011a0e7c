// The Winograd form: fewer products along time. A group of time tiles is transformed, multiplied
// component by component with the direct form's inner loops, and transformed back while its sums
// are in the cache.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <vector>

#include "../common/memory.h"
#include "../common/parallel.h"
#include "blocking.h"
#include "conv.h"

namespace fasti3d {
namespace {

// Transformed input a group may hold: a few time tiles of the large layers, inside a last-level
// cache.
constexpr int64_t kGroupBytes = 8 << 20;

bool is_zero(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float v) { return v == 0.0f; });
}

}  // namespace

template <class T, class V>
void convolve_winograd(const T* x, const ClipView& in, T* out, const ClipView& result,
                       const Window& window, const Taps& taps, const MinimalFilter& filter,
                       const Tensor& packed, const Epilogue& epilogue,
                       const WinogradKernels& kernels) {
  const int64_t rows = kernels.rows;
  const int64_t width = taps.merged ? padded_width(window.w) : in.w;
  const int64_t row = product({width, in.c});               // values of one input row
  const int64_t parts = filter.components * filter.phases;  // transformed rows an input row becomes
  const int64_t tile_values = product({in.h, parts, row});
  const int64_t time_tiles = (result.t + filter.output_count - 1) / filter.output_count;
  const int64_t all_tiles = in.n * time_tiles;
  const int64_t group_values = kGroupBytes / static_cast<int64_t>(sizeof(V));
  const int64_t group = std::clamp<int64_t>(group_values / tile_values, 1, all_tiles);
  const int64_t phase_taps = packed.size(2) / filter.phases;
  const int64_t tap_count = packed.size(2), run = packed.size(3);
  const int64_t kernel_w = taps.merged ? 1 : window.w.kernel;
  const int64_t panels = packed.size(1);
  const int64_t panel_stride = tap_count * run * kPanel;
  const V* const weights = static_cast<const V*>(packed.const_data_ptr());
  const T* const residual = static_cast<const T*>(epilogue.residual);

  // A component reads only the phases it has a use for; those come first.
  std::vector<int64_t> component_taps(filter.components, tap_count);
  for (int64_t c = 0; c < filter.components; ++c) {
    const float* const last = filter.inputs + ((c + 1) * filter.phases - 1) * filter.frames;
    if (is_zero(last, filter.frames)) component_taps[c] -= phase_taps;
  }

  const Scratch<V> transformed(product({group, tile_values}));
  // Stands for a row outside the clip at every component and phase.
  const std::vector<V> zeros(parts * row, V(0.0f));
  const std::vector<float> no_bias(kernels.max_panels * kPanel, 0.0f);

  for (int64_t group_begin = 0; group_begin < all_tiles; group_begin += group) {
    const int64_t group_size = std::min(group, all_tiles - group_begin);

    parallel_for(0, group_size * in.h, 1, [&](int64_t begin, int64_t end) {
      const int64_t frame_count = filter.phases * filter.frames;
      std::vector<V> padded(taps.merged ? frame_count * row : 0);
      std::vector<const void*> frames(frame_count);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t tile = group_begin + i / in.h, h = i % in.h;
        const int64_t n = tile / time_tiles;
        const int64_t start =
            window.t.start(epilogue.start + tile % time_tiles * filter.output_count);
        // One run per row, or one per pixel where x is a slice of a wider clip.
        const bool dense = taps.merged || in.stride_w == in.c;
        const int64_t runs = dense ? 1 : in.w, values = dense ? row : in.c;
        for (int64_t r = 0; r < runs; ++r) {
          for (int64_t f = 0; f < frame_count; ++f) {
            const int64_t t = start + f / filter.frames + f % filter.frames * window.t.stride;
            if (t < 0 || t >= in.t) {
              frames[f] = zeros.data();
            } else if (taps.merged) {
              V* const target = padded.data() + f * row;
              pad_row(x + in.pixel(n, t, h, 0), in, window.w, target);
              frames[f] = target;
            } else {
              frames[f] = x + in.pixel(n, t, h, r);
            }
          }
          kernels.transform({frames.data(), filter.inputs, parts, filter.phases, filter.frames,
                             values, transformed.get() + i * parts * row + r * values, row});
        }
      }
    });

    const int64_t plane = window.h.out * window.w.out;
    const int64_t pixels = group_size * plane;
    const int64_t tiles = (pixels + rows - 1) / rows;
    const Blocking b = block(tiles, panels, kernels.max_panels, torch::stable::get_num_threads());
    const int64_t panel_blocks = (panels + b.panels - 1) / b.panels;
    const int64_t units = (tiles + b.tiles - 1) / b.tiles * panel_blocks;
    const int64_t wide = kernels.max_panels * kPanel;

    // The group's pixels, a time tile in the place of n.
    const ClipView group_view{group_size, 0, 1, result.h, result.w, 0, 0, 0, 0, 0};

    // Pointers of one pixel to its taps at component 0.
    const auto describe = [&](const Place& place, const void** slot) {
      const int64_t ih = window.h.start(place.h);
      // The padded row starts at the window of output 0.
      const int64_t iw = taps.merged ? place.w * window.w.stride : window.w.start(place.w);
      for (int64_t phase = 0; phase < filter.phases; ++phase) {
        for (int64_t h = ih; h < ih + window.h.kernel; ++h) {
          for (int64_t w = iw; w < iw + kernel_w; ++w, slot += rows) {
            const bool inside = place.n < group_size && h >= 0 && h < in.h && w >= 0 && w < width;
            *slot = inside ? transformed.get() + place.n * tile_values + (h * parts + phase) * row +
                                 w * in.c
                           : zeros.data();
          }
        }
      }
    };

    parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
      std::vector<const void*> inputs(b.tiles * tap_count * rows);
      const int64_t component_stride = b.tiles * rows * wide;
      std::vector<float> sums(filter.components * component_stride);
      std::vector<void*> targets(rows);
      int64_t described = -1;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = unit / panel_blocks * b.tiles;
        const int64_t count = std::min(b.tiles, tiles - first);
        if (first != described) {
          Place place(first * rows, group_view);
          for (int64_t i = 0; i < count * rows; ++i, place.next(group_view)) {
            describe(place, inputs.data() + i / rows * tap_count * rows + i % rows);
          }
          described = first;
        }
        const int64_t panel_begin = unit % panel_blocks * b.panels;
        const int64_t panel_end = std::min(panels, panel_begin + b.panels);
        for (int64_t panel = panel_begin; panel < panel_end; panel += kernels.max_panels) {
          const int64_t used = std::min(kernels.max_panels, panel_end - panel);
          for (int64_t c = 0; c < filter.components; ++c) {
            const V* const component = weights + (c * panels + panel) * panel_stride;
            for (int64_t i = 0; i < count; ++i) {
              for (int64_t r = 0; r < rows; ++r) {
                targets[r] = sums.data() + c * component_stride + (i * rows + r) * wide;
              }
              kernels.run[used - 1]({inputs.data() + i * tap_count * rows, component_taps[c], run,
                                     c * filter.phases * row, component, panel_stride,
                                     no_bias.data(), false, targets.data(), nullptr,
                                     used * kPanel});
            }
          }
          const int64_t channels = std::min(result.c - panel * kPanel, used * kPanel);
          Place place(first * rows, group_view);
          for (int64_t i = 0; i < count * rows && place.n < group_size;
               ++i, place.next(group_view)) {
            const int64_t tile = group_begin + place.n;
            const int64_t ot = tile % time_tiles * filter.output_count;
            T* const target =
                out + panel * kPanel + result.pixel(tile / time_tiles, ot, place.h, place.w);
            const ClipView& view = epilogue.residual_view;
            const T* const added = residual == nullptr
                                       ? nullptr
                                       : residual + panel * kPanel +
                                             view.pixel(tile / time_tiles, ot, place.h, place.w);
            kernels.inverse({sums.data() + i * wide, component_stride, filter.components,
                             filter.outputs, epilogue.bias + panel * kPanel, epilogue.relu,
                             channels, target, result.stride_t,
                             std::min(filter.output_count, result.t - ot), added, view.stride_t});
          }
        }
      }
    });
  }
}

#define FASTI3D_CONVOLVE(T, V)                                                            \
  template void convolve_winograd<T, V>(const T*, const ClipView&, T*, const ClipView&,   \
                                        const Window&, const Taps&, const MinimalFilter&, \
                                        const Tensor&, const Epilogue&, const WinogradKernels&);
FASTI3D_CONVOLVE(float, float)
FASTI3D_CONVOLVE(c10::BFloat16, c10::BFloat16)
FASTI3D_CONVOLVE(c10::BFloat16, float)
#undef FASTI3D_CONVOLVE

}  // namespace fasti3d
