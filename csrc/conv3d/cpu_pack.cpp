// fasti3d::conv3d_pack: weights in the layout of the kernels, transformed for the Winograd form.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <vector>

#include "../common/allocate.h"
#include "../common/memory.h"
#include "../common/parallel.h"
#include "winograd.h"

namespace fasti3d {
namespace {

// Where a convolution's weights lie in memory: (Cout, Cin, kt, kh, kw), or, of the convolution that
// gives the gradient of its input, with channels exchanged and taps in reverse.
struct WeightView {
  const float* values;
  int64_t outputs, channels, kernel_t, kernel_h, kernel_w;
  int64_t stride_output, stride_channel;
  std::vector<int64_t> taps;

  WeightView(const Tensor& weight, bool gradient)
      : values(static_cast<const float*>(weight.const_data_ptr())),
        outputs(weight.size(gradient ? 1 : 0)),
        channels(weight.size(gradient ? 0 : 1)),
        kernel_t(weight.size(2)),
        kernel_h(weight.size(3)),
        kernel_w(weight.size(4)),
        stride_output(weight.stride(gradient ? 1 : 0)),
        stride_channel(weight.stride(gradient ? 0 : 1)) {
    for (int64_t t = 0; t < kernel_t; ++t) {
      for (int64_t h = 0; h < kernel_h; ++h) {
        for (int64_t w = 0; w < kernel_w; ++w) {
          taps.push_back(t * weight.stride(2) + h * weight.stride(3) + w * weight.stride(4));
        }
      }
    }
    if (gradient) std::reverse(taps.begin(), taps.end());
  }

  // The taps of one input channel for the output channels of a panel, [tap][kPanel].
  void read(int64_t panel, int64_t channel, float* target) const {
    const int64_t lanes = std::min(kPanel, outputs - panel * kPanel);
    const float* source = values + panel * kPanel * stride_output + channel * stride_channel;
    for (int64_t lane = 0; lane < lanes; ++lane, source += stride_output) {
      for (size_t tap = 0; tap < taps.size(); ++tap)
        target[tap * kPanel + lane] = source[taps[tap]];
    }
  }
};

// Input channels that are packed together: their values of one tap lie side by side.
constexpr int64_t kPackedTogether = 16;

// How weights are transformed: an axis without a filter is direct, every tap a phase of its own.
struct FilterTransform {
  FilterAxis t, h, w;
  bool winograd;

  Triple components() const { return {t.components, h.components, w.components}; }
  Triple phases() const { return {t.phases, h.phases, w.phases}; }
  int64_t rows() const { return product({t.rows(), h.rows(), w.rows()}); }
  int64_t row(const Triple& c, const Triple& p) const {
    return ((c.t * t.phases + p.t) * h.rows() + c.h * h.phases + p.h) * w.rows() + c.w * w.phases +
           p.w;
  }
  bool uses(int64_t axis, int64_t component, int64_t phase) const {
    const FilterAxis& its = axis == 0 ? t : axis == 1 ? h : w;
    const int64_t at = component * its.phases + phase;
    return its.components == 1 || has_nonzero(its.matrix + at * its.taps, its.taps);
  }
};

// Where the values of a tap lie: of a row of the window where taps are merged.
struct PackedTap {
  Triple component, phase;
  int64_t offset;  // from the panel of component 0
};

// One panel of weights, transformed, in the kernels' layout.
template <class T>
void pack_panel(const WeightView& weight, const Taps& form, const FilterTransform& transform,
                const std::vector<PackedTap>& taps, void (*mix)(const MixArgs&), int64_t panel,
                T* out) {
  constexpr int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  const int64_t rows = transform.rows();
  const int64_t window = product({weight.kernel_t, weight.kernel_h, weight.kernel_w});
  std::vector<float> read(window * kPanel);
  std::vector<float> mixed(kPackedTogether * rows * kPanel);
  MixArgs args{read.data(), {transform.t, transform.h, transform.w}, nullptr, nullptr};
  std::vector<double> scratch(transform.winograd ? 2 * args.scratch_count() : 0);
  args.scratch = scratch.data();
  for (int64_t first = 0; first < weight.channels; first += kPackedTogether) {
    const int64_t count = std::min(kPackedTogether, weight.channels - first);
    for (int64_t i = 0; i < count; ++i) {
      args.out = mixed.data() + i * rows * kPanel;
      weight.read(panel, first + i, transform.winograd ? read.data() : args.out);
      if (transform.winograd) mix(args);
    }
    for (const PackedTap& tap : taps) {
      // A merged tap holds all columns of its row of the window.
      const int64_t columns = form.merged ? weight.kernel_w : 1;
      for (int64_t w = 0; w < columns; ++w) {
        const Triple phase{tap.phase.t, tap.phase.h, tap.phase.w + w};
        const int64_t row = transform.row(tap.component, phase);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t k = w * weight.channels + first + i;
          const float* const values = mixed.data() + (i * rows + row) * kPanel;
          T* const at = out + tap.offset + k / kPair * kPair * kPanel + k % kPair;
          for (int64_t lane = 0; lane < kPanel; ++lane) at[lane * kPair] = values[lane];
        }
      }
    }
  }
}

template <class T>
Tensor pack(const Tensor& weight, ScalarType dtype, const FilterTransform& transform,
            bool gradient) {
  const WeightView view(weight, gradient);
  const Taps form(view.channels, view.kernel_t, view.kernel_h, view.kernel_w,
                  dtype == ScalarType::BFloat16);
  check(!form.merged || transform.w.components == 1, "filters must leave the width direct below ",
        kFewChannels, " channels");
  const int64_t panels = (view.outputs + kPanel - 1) / kPanel;
  Triple phases = transform.phases();
  if (form.merged) phases.w = 1;
  const int64_t tap_count = product({phases.t, phases.h, phases.w});
  const int64_t panel_stride = product({tap_count, form.packed_run, kPanel});
  std::vector<int64_t> shape{panels, tap_count, form.packed_run, kPanel};
  const Triple components = transform.components();
  if (transform.winograd) shape.insert(shape.begin(), components.count());
  Tensor packed = allocate("conv3d_pack", shape, dtype, weight);
  T* const out = static_cast<T*>(packed.mutable_data_ptr());
  advise_huge_pages(out, packed.numel() * sizeof(T));
  // What rounds a run up to a pair stays zero.
  if (form.packed_run != form.run) std::fill_n(out, packed.numel(), T(0.0f));
  std::vector<PackedTap> taps;
  for (int64_t c = 0; c < components.count(); ++c) {
    const TapOrder order(components.at(c), phases, [&](int64_t axis, int64_t component, int64_t p) {
      return transform.uses(axis, component, p);
    });
    for (int64_t i = 0; i < tap_count; ++i) {
      taps.push_back({components.at(c), phases.at(order.taps[i]),
                      c * panels * panel_stride + i * form.packed_run * kPanel});
    }
  }
  const auto mix = choose_winograd(ScalarType::Float, false).mix;
  parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(view, form, transform, taps, mix, panel, out + panel * panel_stride);
    }
  });
  return packed;
}

FilterTransform filter_transform(const Tensor& weight, const std::vector<Tensor>& filters) {
  check(filters.empty() || filters.size() == 3, "filters must be of 3 axes or none, got ",
        filters.size());
  FilterAxis axes[3];
  for (size_t i = 0; i < 3; ++i) {
    const int64_t kernel = weight.size(2 + i);
    axes[i] = {nullptr, 1, kernel, 1, kernel};
    if (filters.empty()) continue;
    const Tensor& filter = filters[i];
    check(filter.dim() == 3 && filter.is_contiguous() &&
              filter.scalar_type() == ScalarType::Double && filter.numel() > 0 &&
              filter.size(0) <= kMaxComponents && filter.size(2) <= kMaxTaps &&
              filter.size(1) * filter.size(2) >= kernel &&
              (filter.size(0) > 1 || filter.size(1) == kernel),
          "filters must be the float64 matrices (components, phases, taps) of a minimal filter "
          "per axis");
    axes[i] = {static_cast<const double*>(filter.const_data_ptr()), filter.size(0), filter.size(1),
               filter.size(2), kernel};
  }
  return {axes[0], axes[1], axes[2], !filters.empty()};
}

Tensor conv3d_pack(Tensor weight, ScalarType dtype, std::vector<Tensor> filters, bool gradient) {
  check(weight.dim() == 5, "weight must have 5 dimensions (Cout, Cin, kt, kh, kw), got ",
        weight.dim());
  check(weight.scalar_type() == ScalarType::Float && weight.numel() > 0,
        "weight must be float32 and not empty");
  check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16,
        "dtype must be float32 or bfloat16");
  const FilterTransform transform = filter_transform(weight, filters);
  return dtype == ScalarType::Float ? pack<float>(weight, dtype, transform, gradient)
                                    : pack<c10::BFloat16>(weight, dtype, transform, gradient);
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("conv3d_pack", TORCH_BOX(&fasti3d::conv3d_pack));
}
