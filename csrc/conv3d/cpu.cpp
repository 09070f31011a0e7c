// fasti3d::conv3d_pack and fasti3d::conv3d_packed_ on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../common/isa.h"
#include "conv.h"

namespace fasti3d {
namespace {

using torch::stable::parallel_for;

const ConvKernels& choose(ScalarType type, bool pairs) {
#if defined(__x86_64__)
  if (pairs) return avx512_bf16::kBfloatDot;
#endif
#define FASTI3D_BY_TYPE(isa)                      \
  (type == ScalarType::Float      ? isa::kFloat   \
   : type == ScalarType::BFloat16 ? isa::kBfloat \
                                  : isa::kHalf)
#if defined(__x86_64__)
  switch (fasti3d::isa()) {
    case Isa::kAvx512: return FASTI3D_BY_TYPE(avx512);
    case Isa::kAvx2: return FASTI3D_BY_TYPE(avx2);
    default: break;
  }
#endif
  return FASTI3D_BY_TYPE(baseline);
#undef FASTI3D_BY_TYPE
}

// (Cout, Cin, kt, kh, kw) float32 -> (panels, taps, packed_run, 16) float32, or bfloat16 with the two
// values of a pair side by side. Rows that round a run or a panel up are zero.
template <class T>
void pack(const float* weight, const Taps& taps, const int64_t (&size)[5], T* out) {
  const int64_t channels = size[1], kernel_w = size[4], window = size[2] * size[3] * size[4];
  const int64_t pair = sizeof(T) == 2 ? 2 : 1;
  const int64_t panels = (size[0] + kPanel - 1) / kPanel;
  parallel_for(0, panels * taps.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t panel = i / taps.count, tap = i % taps.count;
      T* const block = out + i * taps.packed_run * kPanel;
      for (int64_t k = 0; k < taps.packed_run; ++k) {
        const int64_t place = taps.merged ? tap * kernel_w + k / channels : tap;
        const int64_t channel = taps.merged ? k % channels : k;
        for (int64_t lane = 0; lane < kPanel; ++lane) {
          const int64_t o = panel * kPanel + lane;
          const bool real = o < size[0] && k < taps.run;
          block[(k / pair * kPanel + lane) * pair + k % pair] =
              real ? weight[(o * channels + channel) * window + place] : 0.0f;
        }
      }
    }
  });
}

Tensor conv3d_pack(Tensor weight, ScalarType dtype) {
  check(weight.dim() == 5, "weight must have 5 dimensions (Cout, Cin, kt, kh, kw), got ",
        weight.dim());
  check(weight.scalar_type() == ScalarType::Float && weight.is_contiguous(),
        "weight must be contiguous float32");
  const bool pairs = dtype == ScalarType::BFloat16;
  check(pairs || dtype == ScalarType::Float, "dtype must be float32 or bfloat16");
  int64_t size[5];
  for (int axis = 0; axis < 5; ++axis) size[axis] = weight.size(axis);
  const Taps taps(size[1], size[2], size[3], size[4], pairs);
  const std::vector<int64_t> shape{(size[0] + kPanel - 1) / kPanel, taps.count, taps.packed_run,
                                   kPanel};
  Tensor packed = torch::stable::empty(shape, dtype);
  const float* const source = static_cast<const float*>(weight.const_data_ptr());
  if (pairs) {
    pack(source, taps, size, static_cast<c10::BFloat16*>(packed.mutable_data_ptr()));
  } else {
    pack(source, taps, size, static_cast<float*>(packed.mutable_data_ptr()));
  }
  return packed;
}

// A channels-last copy of x with its SAME padding along w, for clips of few channels. The copy is
// what the change of layout costs anyway; the margin makes every window row one run.
template <class T>
ClipView pad_width(const T* x, const ClipView& in, const Axis& w, std::vector<T>& copy) {
  const int64_t width = std::max((w.out - 1) * w.stride + w.kernel, w.front + w.in);
  const int64_t row = width * in.c;
  // One value more than the clip: a bfloat16 pair may read, and multiply by zero, what follows a run.
  copy.resize(in.n * in.t * in.h * row + 1);
  copy.back() = T(0.0f);
  parallel_for(0, in.n * in.t * in.h, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const target = copy.data() + i * row;
      const T* const source = x + in.pixel(i / (in.t * in.h), i / in.h % in.t, i % in.h, 0);
      std::fill_n(target, w.front * in.c, T(0.0f));
      T* const middle = target + w.front * in.c;
      for (int64_t c = 0; c < in.c; ++c) {
        for (int64_t iw = 0; iw < w.in; ++iw) {
          middle[iw * in.c + c] = source[iw * in.stride_w + c * in.stride_c];
        }
      }
      std::fill(middle + w.in * in.c, target + row, T(0.0f));
    }
  });
  return {in.n, in.c, in.t, in.h, width, in.t * in.h * row, 1, in.h * row, row, in.c};
}

// How the work is cut: units of `tiles` pixel tiles times `panels` panels.
struct Blocking {
  int64_t tiles, panels;
};

Blocking block(int64_t tiles, int64_t panels, int64_t max_panels, int64_t threads) {
  // Eight tiles reuse a panel from the first-level cache and their inputs from the second; fewer,
  // and then fewer panels, when that would leave threads without work.
  Blocking b{8, panels};
  const auto units = [&] {
    return ((tiles + b.tiles - 1) / b.tiles) * ((panels + b.panels - 1) / b.panels);
  };
  while (units() < 4 * threads && b.panels > max_panels) {
    b.panels = std::max((b.panels / 2 + max_panels - 1) / max_panels * max_panels, max_panels);
  }
  while (units() < 4 * threads && b.tiles > 1) b.tiles /= 2;
  return b;
}

template <class T>
void convolve(const T* x, const ClipView& in, T* out, const ClipView& result, const Window& window,
              const Taps& taps, const Tensor& packed, const float* bias, bool relu,
              const ConvKernels& kernels) {
  const int64_t rows = kernels.rows;
  const int64_t pixels = in.n * window.t.out * window.h.out * window.w.out;
  const int64_t tiles = (pixels + rows - 1) / rows;
  const int64_t panels = packed.size(0);
  const int64_t panel_stride = taps.count * taps.packed_run * kPanel;
  const int64_t kernel_w = taps.merged ? 1 : window.w.kernel;
  const Blocking b = block(tiles, panels, kernels.max_panels, torch::stable::get_num_threads());
  const int64_t panel_blocks = (panels + b.panels - 1) / b.panels;
  const int64_t units = (tiles + b.tiles - 1) / b.tiles * panel_blocks;
  const char* const weights = static_cast<const char*>(packed.const_data_ptr());
  const std::vector<T> zeros(taps.packed_run, T(0.0f));

  // Fills one tile's table of inputs and its row of outputs.
  const auto describe = [&](int64_t tile, const void** inputs, T** outputs) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t pixel = tile * rows + r;
      if (pixel >= pixels) {
        for (int64_t tap = 0; tap < taps.count; ++tap) inputs[tap * rows + r] = zeros.data();
        outputs[r] = nullptr;
        continue;
      }
      const int64_t ow = pixel % window.w.out, oh = pixel / window.w.out % window.h.out;
      const int64_t ot = pixel / (window.w.out * window.h.out) % window.t.out;
      const int64_t n = pixel / (window.w.out * window.h.out * window.t.out);
      outputs[r] = out + result.pixel(n, ot, oh, ow);
      const int64_t it = window.t.start(ot), ih = window.h.start(oh);
      // The padded copy starts at the window of output 0.
      const int64_t iw = taps.merged ? ow * window.w.stride : window.w.start(ow);
      const void** slot = inputs + r;
      for (int64_t t = it; t < it + window.t.kernel; ++t) {
        for (int64_t h = ih; h < ih + window.h.kernel; ++h) {
          const bool inside = t >= 0 && t < in.t && h >= 0 && h < in.h;
          for (int64_t w = iw; w < iw + kernel_w; ++w, slot += rows) {
            *slot = inside && w >= 0 && w < in.w ? x + in.pixel(n, t, h, w) : zeros.data();
          }
        }
      }
    }
  };

  parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
    std::vector<const void*> inputs(b.tiles * taps.count * rows);
    std::vector<T*> outputs(b.tiles * rows);
    std::vector<void*> shifted(rows);
    int64_t described = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / panel_blocks * b.tiles;
      const int64_t count = std::min(b.tiles, tiles - first);
      if (first != described) {
        for (int64_t i = 0; i < count; ++i) {
          describe(first + i, inputs.data() + i * taps.count * rows, outputs.data() + i * rows);
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
          }
          kernels.run[width - 1]({inputs.data() + i * taps.count * rows, taps.count,
                                  taps.packed_run, weights + panel * panel_stride * element,
                                  panel_stride, bias + panel * kPanel, relu, shifted.data(),
                                  std::min(result.c - panel * kPanel, width * kPanel)});
        }
        panel += width;
      }
    }
  });
}

template <class T>
void convolve_any(const Tensor& x, const ClipView& in, Tensor& out, const ClipView& result,
                  const Window& window, const Taps& taps, const Tensor& packed, const float* bias,
                  bool relu, const ConvKernels& kernels) {
  const T* source = static_cast<const T*>(x.const_data_ptr());
  T* const target = static_cast<T*>(out.mutable_data_ptr());
  if (!taps.merged) {
    check(in.stride_c == 1 || in.c == 1,
          "x must be channels-last (channel stride 1), got channel stride ", in.stride_c);
    return convolve(source, in, target, result, window, taps, packed, bias, relu, kernels);
  }
  std::vector<T> copy;
  const ClipView padded = pad_width(source, in, window.w, copy);
  convolve(static_cast<const T*>(copy.data()), padded, target, result, window, taps, packed, bias,
           relu, kernels);
}

void conv3d_packed_(Tensor x, Tensor packed, Tensor bias, std::vector<int64_t> kernel,
                    std::vector<int64_t> stride, bool relu, Tensor out) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "x must be float32, bfloat16 or float16");
  check(out.scalar_type() == type, "out must have x's dtype");
  const bool pairs = packed.scalar_type() == ScalarType::BFloat16;
  check(!pairs || (type == ScalarType::BFloat16 && has_bf16_dot()),
        "weights packed as bfloat16 need bfloat16 clips and a CPU with AVX512_BF16: pack as float32");
  const ClipView in = clip_view(x, "x");
  const ClipView result = channels_last_view(out, "out");
  const Window window = same_window(in, kernel, stride);
  const Taps taps(in.c, kernel[0], kernel[1], kernel[2], pairs);
  check(packed.dim() == 4 && packed.is_contiguous() && packed.size(0) == (result.c + kPanel - 1) / kPanel &&
            packed.size(1) == taps.count && packed.size(2) == taps.packed_run &&
            packed.size(3) == kPanel,
        "packed is not a conv3d_pack of a (", result.c, ", ", in.c, ", ", kernel[0], ", ", kernel[1],
        ", ", kernel[2], ") weight");
  check(result.n == in.n && result.t == window.t.out && result.h == window.h.out &&
            result.w == window.w.out,
        "out must be (", in.n, ", C, ", window.t.out, ", ", window.h.out, ", ", window.w.out,
        "), got (", result.n, ", ", result.c, ", ", result.t, ", ", result.h, ", ", result.w, ")");
  check(bias.dim() == 1 && bias.is_contiguous() && bias.scalar_type() == ScalarType::Float &&
            bias.size(0) == packed.size(0) * kPanel,
        "bias must be float32 with ", packed.size(0) * kPanel, " values (whole panels of 16)");
  if (out.numel() == 0) return;
  const float* const bias_values = static_cast<const float*>(bias.const_data_ptr());
  const ConvKernels& kernels = choose(type, pairs);
  switch (type) {
    case ScalarType::Float:
      return convolve_any<float>(x, in, out, result, window, taps, packed, bias_values, relu, kernels);
    case ScalarType::BFloat16:
      return convolve_any<c10::BFloat16>(x, in, out, result, window, taps, packed, bias_values, relu,
                                         kernels);
    default:
      return convolve_any<c10::Half>(x, in, out, result, window, taps, packed, bias_values, relu,
                                     kernels);
  }
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("conv3d_pack", TORCH_BOX(&fasti3d::conv3d_pack));
  m.impl("conv3d_packed_", TORCH_BOX(&fasti3d::conv3d_packed_));
}
