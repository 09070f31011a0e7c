// fasti3d::conv3d_pack, conv3d_packed_, conv3d_tiles_ and conv3d_winograd_ on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../common/allocate.h"
#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/overlap.h"
#include "../common/parallel.h"
#include "../common/target.h"
#include "conv.h"
#include "tiles.h"

namespace fasti3d {
namespace {

const ConvKernels& choose(bool pairs) {
#if defined(__x86_64__)
  if (pairs) return avx512_bf16::kBfloatDot;
  if (isa() >= Isa::kAvx512) return avx512::kFloat;
  if (isa() >= Isa::kAvx2) return avx2::kFloat;
#elif defined(__aarch64__)
#if defined(FASTI3D_NEON_BF16)
  if (pairs) return neon_bf16::kBfloatDot;
#endif
  if (isa() >= Isa::kNeon) return neon::kFloat;
#endif
  return baseline::kFloat;
}

const WinogradKernels& choose_winograd(ScalarType type, bool pairs) {
#if defined(__x86_64__)
  if (pairs) return avx512_bf16::kWinograd;
  if (type == ScalarType::BFloat16) return avx512_bf16::kWinogradInFloat;
  if (isa() >= Isa::kAvx512) return avx512::kWinograd;
  if (isa() >= Isa::kAvx2) return avx2::kWinograd;
#elif defined(__aarch64__)
#if defined(FASTI3D_NEON_BF16)
  if (pairs) return neon_bf16::kWinograd;
  if (type == ScalarType::BFloat16) return neon_bf16::kWinogradInFloat;
#endif
  if (isa() >= Isa::kNeon) return neon::kWinograd;
#endif
  return baseline::kWinograd;
}

// A minimal filter's matrix for the weights; for the direct form every tap is a phase of its own.
struct FilterTransform {
  const double* matrix;  // [components][phases][taps]; null: one component, phases as they are
  int64_t components, phases, taps;
};

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

// One panel of weights, transformed, in the kernels' layout.
template <class T>
void pack_panel(const WeightView& weight, const Taps& form, const FilterTransform& transform,
                void (*mix)(const MixArgs&), int64_t panel, int64_t component_stride, T* out) {
  const int64_t plane = weight.kernel_h * weight.kernel_w;
  const int64_t places = transform.phases * plane;  // of a component
  constexpr int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  const int64_t rows = transform.components * places;
  std::vector<float> taps(weight.kernel_t * plane * kPanel);
  std::vector<float> mixed(kPackedTogether * rows * kPanel);
  for (int64_t first = 0; first < weight.channels; first += kPackedTogether) {
    const int64_t count = std::min(kPackedTogether, weight.channels - first);
    for (int64_t i = 0; i < count; ++i) {
      float* const values = mixed.data() + i * rows * kPanel;
      if (transform.matrix == nullptr) {
        weight.read(panel, first + i, values);
      } else {
        weight.read(panel, first + i, taps.data());
        mix({taps.data(), transform.matrix, transform.components, transform.phases, transform.taps,
             weight.kernel_t, plane, values});
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t component = row / places, place = row % places;
      const int64_t tap = form.merged ? place / weight.kernel_w : place;
      const int64_t run = form.merged ? place % weight.kernel_w * weight.channels : 0;
      T* const target = out + component * component_stride + tap * form.packed_run * kPanel;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t k = run + first + i;
        const float* const values = mixed.data() + (i * rows + row) * kPanel;
        T* const at = target + k / kPair * kPair * kPanel + k % kPair;
        for (int64_t lane = 0; lane < kPanel; ++lane) at[lane * kPair] = values[lane];
      }
    }
  }
}

template <class T>
Tensor pack(const Tensor& weight, ScalarType dtype, const FilterTransform& transform, bool winograd,
            bool gradient) {
  const WeightView view(weight, gradient);
  const Taps form(view.channels, view.kernel_t, view.kernel_h, view.kernel_w,
                  dtype == ScalarType::BFloat16);
  const int64_t panels = (view.outputs + kPanel - 1) / kPanel;
  const int64_t taps = product({form.count / view.kernel_t, transform.phases});
  const int64_t panel_stride = product({taps, form.packed_run, kPanel});
  std::vector<int64_t> shape{panels, taps, form.packed_run, kPanel};
  if (winograd) shape.insert(shape.begin(), transform.components);
  Tensor packed = allocate("conv3d_pack", shape, dtype, weight);
  T* const out = static_cast<T*>(packed.mutable_data_ptr());
  advise_huge_pages(out, packed.numel() * sizeof(T));
  // What rounds a run up to a pair stays zero.
  if (form.packed_run != form.run) std::fill_n(out, packed.numel(), T(0.0f));
  const auto mix = choose_winograd(ScalarType::Float, false).mix;
  parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(view, form, transform, mix, panel, panels * panel_stride,
                 out + panel * panel_stride);
    }
  });
  return packed;
}

Tensor conv3d_pack(Tensor weight, ScalarType dtype, std::optional<Tensor> filters, bool gradient) {
  check(weight.dim() == 5, "weight must have 5 dimensions (Cout, Cin, kt, kh, kw), got ",
        weight.dim());
  check(weight.scalar_type() == ScalarType::Float && weight.numel() > 0,
        "weight must be float32 and not empty");
  check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16,
        "dtype must be float32 or bfloat16");
  FilterTransform transform{nullptr, 1, weight.size(2), 1};
  if (filters) {
    check(filters->dim() == 3 && filters->is_contiguous() &&
              filters->scalar_type() == ScalarType::Double && filters->numel() > 0 &&
              filters->size(1) * filters->size(2) >= weight.size(2) && filters->size(2) <= kMaxTaps,
          "filters must be the float64 matrix (components, phases, taps) of a minimal filter");
    transform = {static_cast<const double*>(filters->const_data_ptr()), filters->size(0),
                 filters->size(1), filters->size(2)};
  }
  return dtype == ScalarType::Float
             ? pack<float>(weight, dtype, transform, filters.has_value(), gradient)
             : pack<c10::BFloat16>(weight, dtype, transform, filters.has_value(), gradient);
}

// A channels-last copy of x with its padding along w, for clips of few channels. One value
// more than the clip: a bfloat16 pair may read, and multiply by zero, what follows a run.
int64_t padded_size(const ClipView& in, const Axis& w) {
  return product({in.n, in.t, in.h, padded_width(w), in.c}) + 1;
}

template <class T>
ClipView pad_clip(const T* x, const ClipView& in, const Axis& w, T* copy) {
  const int64_t width = padded_width(w), row = width * in.c;
  copy[padded_size(in, w) - 1] = T(0.0f);
  parallel_for(0, in.n * in.t * in.h, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pad_row(x + in.pixel(i / (in.t * in.h), i / in.h % in.t, i % in.h, 0), in, w, copy + i * row);
    }
  });
  return {in.n, in.c, in.t, in.h, width, in.t * in.h * row, 1, in.h * row, row, in.c};
}

template <class T>
void convolve(const Tensor& x, const ClipView& in, Tensor& out, const ClipView& result,
              const Window& window, const Taps& taps, const Tensor& packed,
              const Epilogue& epilogue, const ConvKernels& kernels) {
  const T* const source = static_cast<const T*>(x.const_data_ptr());
  T* const target = static_cast<T*>(out.mutable_data_ptr());
  if (!taps.merged) {
    return convolve_direct(source, in, target, result, window, taps, packed, epilogue, kernels);
  }
  const Scratch<T> copy(padded_size(in, window.w));
  const ClipView padded = pad_clip(source, in, window.w, copy.get());
  convolve_direct<T>(copy.get(), padded, target, result, window, taps, packed, epilogue, kernels);
}

// Zeros on both sides of each axis, or SAME.
using Padding = std::optional<std::vector<int64_t>>;

// What the direct and the Winograd form check alike.
struct Problem {
  ScalarType type;
  bool pairs;
  ClipView in, result;
  Window window;
  Taps taps;
  Epilogue epilogue;

  Problem(const Tensor& x, const Tensor& packed, const Tensor& bias,
          const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
          const Padding& padding, bool relu, const Tensor& out, int64_t start,
          const std::optional<Tensor>& residual)
      : type(x.scalar_type()),
        pairs(packed.scalar_type() == ScalarType::BFloat16),
        in(clip_view(x, "x")),
        result(channels_last_view(out, "out")),
        window(padding ? padded_window(in, kernel, stride, *padding)
                       : same_window(in, kernel, stride)),
        taps(in.c, kernel[0], kernel[1], kernel[2], pairs),
        epilogue{static_cast<const float*>(bias.const_data_ptr()), relu, start, nullptr, {}} {
    check(type == ScalarType::Float || type == ScalarType::BFloat16,
          "x must be float32 or bfloat16");
    check(out.scalar_type() == type, "out must have x's dtype");
    check(pairs || packed.scalar_type() == ScalarType::Float, "packed must be float32 or bfloat16");
    check(taps.merged || in.stride_c == 1,
          "x must be channels-last (channel stride 1), got channel stride ", in.stride_c,
          ": call .contiguous(memory_format=torch.channels_last_3d)");
    check(in.c > 0 && (in.n == 0 || (in.t > 0 && in.h > 0 && in.w > 0)),
          "x must have channels, frames, rows and columns, got (", in.n, ", ", in.c, ", ", in.t,
          ", ", in.h, ", ", in.w, ")");
    check(result.n == in.n && result.h == window.h.out && result.w == window.w.out && start >= 0 &&
              start <= window.t.out - result.t,
          "out must hold frames from ", start, " on of (", in.n, ", C, ", window.t.out, ", ",
          window.h.out, ", ", window.w.out, "), got (", result.n, ", ", result.c, ", ", result.t,
          ", ", result.h, ", ", result.w, ")");
    check(bias.dim() == 1 && bias.is_contiguous() && bias.scalar_type() == ScalarType::Float &&
              bias.size(0) == panels() * kPanel,
          "bias must be float32 with ", panels() * kPanel, " values (whole panels of 16)");
    check_written(out, {{"x", x}, {"packed", packed}, {"bias", bias}});
    if (residual) add(*residual, out);
  }

  void add(const Tensor& residual, const Tensor& out) {
    const ClipView view = epilogue.residual_view = channels_last_view(residual, "residual");
    check(residual.scalar_type() == type, "residual must have x's dtype");
    check(view.n == result.n && view.c == result.c && view.t == result.t && view.h == result.h &&
              view.w == result.w,
          "residual must have out's shape (", result.n, ", ", result.c, ", ", result.t, ", ",
          result.h, ", ", result.w, "), got (", view.n, ", ", view.c, ", ", view.t, ", ", view.h,
          ", ", view.w, ")");
    // In place each value is read once, by the thread that then writes it.
    check(is_same_place(residual, out) || !share_memory(out, residual),
          "unsupported operation: some elements of residual and out refer to a single memory "
          "location: pass out itself as residual, or clone one of them");
    epilogue.residual = residual.const_data_ptr();
  }

  // Of the kernels with vectors: those with tiles run everywhere.
  void check_vectors() const {
    check(type == ScalarType::Float || has_bf16_dot(),
          "x must be float32, or bfloat16 on a CPU with AVX512_BF16");
  }

  int64_t panels() const { return (result.c + kPanel - 1) / kPanel; }

  void check_packed(const Tensor& packed, const std::vector<int64_t>& expected) const {
    check(packed.is_contiguous() && packed.dim() == static_cast<int64_t>(expected.size()) &&
              std::equal(expected.begin(), expected.end(), packed.sizes().begin()),
          "packed does not hold weights of shape (", result.c, ", ", in.c, ", ", window.t.kernel,
          ", ", window.h.kernel, ", ", window.w.kernel, ")");
  }
};

void conv3d_packed_(Tensor x, Tensor packed, Tensor bias, std::vector<int64_t> kernel,
                    std::vector<int64_t> stride, Padding padding, bool relu, Tensor out,
                    int64_t start, std::optional<Tensor> residual) {
  const Problem p(x, packed, bias, kernel, stride, padding, relu, out, start, residual);
  p.check_vectors();
  check(p.type == packed.scalar_type(), "packed must have x's dtype");
  p.check_packed(packed, {p.panels(), p.taps.count, p.taps.packed_run, kPanel});
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), p.result.span() * out.element_size());
  const auto run = [&](auto element) {
    convolve<decltype(element)>(x, p.in, out, p.result, p.window, p.taps, packed, p.epilogue,
                                choose(p.pairs));
  };
  return p.pairs ? run(c10::BFloat16()) : run(float());
}

const TileKernels& choose_tiles() {
#if defined(__x86_64__)
  if (has_amx_bf16()) return amx::kTiles;
#endif
  return emulated::kTiles;
}

void conv3d_tiles_(Tensor x, Tensor packed, Tensor bias, std::vector<int64_t> kernel,
                   std::vector<int64_t> stride, Padding padding, bool relu, Tensor out,
                   int64_t start, std::optional<Tensor> residual) {
  const Problem p(x, packed, bias, kernel, stride, padding, relu, out, start, residual);
  check(p.pairs && p.type == ScalarType::BFloat16, "x and packed must be bfloat16");
  // Of a tap per pixel of the window, or one per row with its pixels' channels side by side.
  const auto holds = [&](int64_t taps, int64_t pixels) {
    const int64_t values = packed.size(2) * packed.size(3) * 2;
    return packed.size(1) == taps && values % pixels == 0 && values / pixels >= p.in.c;
  };
  check(packed.dim() == 5 && packed.is_contiguous() && packed.size(0) == p.panels() &&
            packed.size(3) >= 1 && packed.size(3) <= kMaxPairs && packed.size(4) == 2 * kPanel &&
            (holds(product({kernel[0], kernel[1], kernel[2]}), 1) ||
             holds(product({kernel[0], kernel[1]}), kernel[2])),
        "packed does not hold weights of shape (", p.result.c, ", ", p.in.c, ", ", kernel[0], ", ",
        kernel[1], ", ", kernel[2], ")");
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), p.result.span() * out.element_size());
  convolve_tiles(static_cast<const c10::BFloat16*>(x.const_data_ptr()), p.in,
                 static_cast<c10::BFloat16*>(out.mutable_data_ptr()), p.result, p.window, packed,
                 p.epilogue, choose_tiles());
}

void conv3d_winograd_(Tensor x, Tensor packed, Tensor bias, Tensor inputs, Tensor outputs,
                      std::vector<int64_t> kernel, std::vector<int64_t> stride, Padding padding,
                      bool relu, Tensor out, int64_t start, std::optional<Tensor> residual) {
  const Problem p(x, packed, bias, kernel, stride, padding, relu, out, start, residual);
  p.check_vectors();
  check(p.type == ScalarType::Float ? !p.pairs : p.pairs != p.taps.merged,
        "packed must be float32 for float32 clips; for bfloat16 clips float32 below ", kFewChannels,
        " channels and bfloat16 from there on");
  check(inputs.dim() == 3 && inputs.is_contiguous() && inputs.numel() > 0 && outputs.dim() == 2 &&
            outputs.is_contiguous() && outputs.numel() > 0 &&
            inputs.scalar_type() == ScalarType::Float &&
            outputs.scalar_type() == ScalarType::Float && outputs.size(1) == inputs.size(0) &&
            inputs.size(1) == stride[0] && inputs.size(0) <= kMaxComponents &&
            inputs.size(1) * inputs.size(2) <= kMaxFrames,
        "inputs and outputs must be the float32 matrices of a minimal filter, (components, stride ",
        stride[0], ", frames) and (outputs, components)");
  check_written(out, {{"inputs", inputs}, {"outputs", outputs}});
  const MinimalFilter filter{static_cast<const float*>(inputs.const_data_ptr()),
                             static_cast<const float*>(outputs.const_data_ptr()),
                             inputs.size(0),
                             inputs.size(1),
                             inputs.size(2),
                             outputs.size(0)};
  const int64_t tap_count = product({filter.phases, p.taps.count / kernel[0]});
  p.check_packed(packed, {filter.components, p.panels(), tap_count, p.taps.packed_run, kPanel});
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), p.result.span() * out.element_size());
  const auto run = [&](auto element, auto weight) {
    using T = decltype(element);
    using V = decltype(weight);
    convolve_winograd<T, V>(static_cast<const T*>(x.const_data_ptr()), p.in,
                            static_cast<T*>(out.mutable_data_ptr()), p.result, p.window, p.taps,
                            filter, packed, p.epilogue, choose_winograd(p.type, p.pairs));
  };
  if (p.pairs) return run(c10::BFloat16(), c10::BFloat16());
  return p.type == ScalarType::Float ? run(float(), float()) : run(c10::BFloat16(), float());
}

}  // namespace

int64_t padded_width(const Axis& w) {
  return std::max((w.out - 1) * w.stride + w.kernel, w.front + w.in);
}

}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("conv3d_pack", TORCH_BOX(&fasti3d::conv3d_pack));
  m.impl("conv3d_winograd_", TORCH_BOX(&fasti3d::conv3d_winograd_));
  m.impl("conv3d_packed_", TORCH_BOX(&fasti3d::conv3d_packed_));
  m.impl("conv3d_tiles_", TORCH_BOX(&fasti3d::conv3d_tiles_));
}
