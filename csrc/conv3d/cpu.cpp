// fasti3d::conv3d_packed_, conv3d_tiles_ and conv3d_winograd_ on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/overlap.h"
#include "../common/parallel.h"
#include "../common/target.h"
#include "bytes.h"
#include "conv.h"
#include "tiles.h"
#include "winograd.h"

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
      const T* const source = x + in.pixel(i / (in.t * in.h), i / in.h % in.t, i % in.h, 0);
      copy_row(source, in, -w.front, width, copy + i * row);
    }
  });
  return {in.n, in.c, in.t, in.h, width, in.t * in.h * row, 1, in.h * row, row, in.c};
}

template <class T>
void convolve(const T* source, const ClipView& in, Tensor& out, const ClipView& result,
              const Window& window, const Taps& taps, const Tensor& packed,
              const Epilogue& epilogue, const ConvKernels& kernels) {
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
  ScalarType type;  // of the values
  bool pairs, is_bytes;
  ClipView in, result;
  Window window;
  Taps taps;
  Epilogue epilogue;

  Problem(const Tensor& x, const Tensor& packed, const Tensor& bias,
          const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
          const Padding& padding, bool relu, const Tensor& out, int64_t start,
          const std::optional<Tensor>& residual, const std::optional<Tensor>& bytes)
      : type(x.scalar_type() == ScalarType::Byte && bytes ? out.scalar_type() : x.scalar_type()),
        pairs(packed.scalar_type() == ScalarType::BFloat16),
        in(clip_view(x, "x")),
        result(channels_last_view(out, "out")),
        window(padding ? padded_window(in, kernel, stride, *padding)
                       : same_window(in, kernel, stride)),
        taps(in.c, kernel[0], kernel[1], kernel[2], pairs),
        epilogue{static_cast<const float*>(bias.const_data_ptr()), relu, start, nullptr, {}} {
    check(type == ScalarType::Float || type == ScalarType::BFloat16,
          "x must be float32 or bfloat16, or uint8 with what its bytes stand for");
    is_bytes = x.scalar_type() == ScalarType::Byte;
    if (is_bytes) check_table(*bytes);
    check(out.scalar_type() == type, "out must have x's dtype");
    check(pairs || packed.scalar_type() == ScalarType::Float, "packed must be float32 or bfloat16");
    check(taps.merged || in.stride_c == 1 || is_bytes,
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
    if (is_bytes) check_written(out, {{"bytes", *bytes}});
    if (residual) add(*residual, out);
  }

  void check_table(const Tensor& table) const {
    check(table.dim() == 2 && table.size(0) == in.c && table.size(1) == 256 &&
              table.is_contiguous() && table.scalar_type() == ScalarType::Float,
          "bytes must be float32 (", in.c, ", 256): what each byte of each channel stands for");
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

  // Of the clip, that the result is made of: from the one up to the other.
  int64_t first_frame() const { return window.t.start(epilogue.start); }
  int64_t last_frame() const {
    return window.t.start(epilogue.start + result.t - 1) + window.t.kernel;
  }

  const std::optional<Tensor>& table(const std::optional<Tensor>& bytes) const {
    static const std::optional<Tensor> none;
    return is_bytes ? bytes : none;
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
                    int64_t start, std::optional<Tensor> residual, std::optional<Tensor> bytes) {
  Problem p(x, packed, bias, kernel, stride, padding, relu, out, start, residual, bytes);
  p.check_vectors();
  check(p.type == packed.scalar_type(), "packed must have x's dtype");
  p.check_packed(packed, {p.panels(), p.taps.count, p.taps.packed_run, kPanel});
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), p.result.span() * out.element_size());
  const auto run = [&](auto element) {
    // The padded copy is of all frames.
    const Source<decltype(element)> source(x, p.in, p.table(bytes), 0, p.in.t);
    convolve(source.values(), p.in, out, p.result, p.window, p.taps, packed, p.epilogue,
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
                   int64_t start, std::optional<Tensor> residual, std::optional<Tensor> bytes) {
  Problem p(x, packed, bias, kernel, stride, padding, relu, out, start, residual, bytes);
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
  const Source<c10::BFloat16> source(x, p.in, p.table(bytes), p.first_frame(), p.last_frame());
  convolve_tiles(source.values(), p.in, static_cast<c10::BFloat16*>(out.mutable_data_ptr()),
                 p.result, p.window, packed, p.epilogue, choose_tiles());
}

// The filters of t, h and w from their matrices.
MinimalFilters minimal_filters(const std::vector<Tensor>& inputs,
                               const std::vector<Tensor>& outputs, const Problem& p) {
  check(inputs.size() == 3 && outputs.size() == 3, "inputs and outputs must be of 3 axes, got ",
        inputs.size(), " and ", outputs.size());
  const Axis* const axes[] = {&p.window.t, &p.window.h, &p.window.w};
  MinimalFilters filters;
  Triple frames{1, 1, 1}, rows{1, 1, 1}, counts{1, 1, 1};
  for (size_t i = 0; i < 3; ++i) {
    const Tensor &in = inputs[i], &out = outputs[i];
    check(in.dim() == 3 && in.is_contiguous() && in.numel() > 0 && out.dim() == 2 &&
              out.is_contiguous() && out.numel() > 0 && in.scalar_type() == ScalarType::Float &&
              out.scalar_type() == ScalarType::Float && out.size(1) == in.size(0),
          "inputs and outputs must be float32 matrices of a minimal filter per axis, (components, "
          "phases, frames) and (outputs, components)");
    filters[i] = {static_cast<const float*>(in.const_data_ptr()),
                  static_cast<const float*>(out.const_data_ptr()),
                  in.size(0),
                  in.size(1),
                  in.size(2),
                  out.size(0)};
    if (filters[i].direct()) {
      check(in.size(1) == axes[i]->kernel && in.size(2) == 1 && out.size(0) == 1,
            "inputs and outputs of one component must be those of a direct axis, (1, kernel ",
            axes[i]->kernel, ", 1) and (1, 1)");
      continue;
    }
    check(in.size(1) == axes[i]->stride && in.size(0) <= kMaxComponents &&
              out.size(0) <= kMaxComponents && in.size(2) <= kMaxComponents &&
              in.size(1) * in.size(2) <= kMaxFrames,
          "inputs and outputs must have as many phases as the stride, ", axes[i]->stride, ", and ",
          "components, frames and outputs up to ", kMaxComponents);
    int64_t* const of_frames[] = {&frames.t, &frames.h, &frames.w};
    int64_t* const of_rows[] = {&rows.t, &rows.h, &rows.w};
    int64_t* const of_counts[] = {&counts.t, &counts.h, &counts.w};
    *of_frames[i] = in.size(1) * in.size(2);
    *of_rows[i] = in.size(0) * in.size(1);
    *of_counts[i] = std::max(out.size(0), in.size(0));
  }
  check(std::max(frames.t, rows.t) * std::max(frames.h, rows.h) * std::max(frames.w, rows.w) <=
                kMaxTile &&
            counts.count() <= kMaxTile,
        "inputs and outputs must make tiles of at most ", kMaxTile, " values");
  check(!p.taps.merged || filters[2].direct(),
        "inputs and outputs must leave the width direct below ", kFewChannels, " channels");
  return filters;
}

void conv3d_winograd_(Tensor x, Tensor packed, Tensor bias, std::vector<Tensor> inputs,
                      std::vector<Tensor> outputs, std::vector<int64_t> kernel,
                      std::vector<int64_t> stride, Padding padding, bool relu, Tensor out,
                      int64_t start, std::optional<Tensor> residual, std::optional<Tensor> bytes) {
  Problem p(x, packed, bias, kernel, stride, padding, relu, out, start, residual, bytes);
  p.check_vectors();
  check(p.type == ScalarType::Float ? !p.pairs : p.pairs != p.taps.merged,
        "packed must be float32 for float32 clips; for bfloat16 clips float32 below ", kFewChannels,
        " channels and bfloat16 from there on");
  const MinimalFilters filters = minimal_filters(inputs, outputs, p);
  check_written(out, {{"inputs", inputs[0]},
                      {"inputs", inputs[1]},
                      {"inputs", inputs[2]},
                      {"outputs", outputs[0]},
                      {"outputs", outputs[1]},
                      {"outputs", outputs[2]}});
  const auto& [t, h, w] = filters;
  const int64_t width_taps = p.taps.merged ? 1 : w.phases;
  p.check_packed(packed, {t.components * h.components * w.components, p.panels(),
                          product({t.phases, h.phases, width_taps}), p.taps.packed_run, kPanel});
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), p.result.span() * out.element_size());
  const auto run = [&](auto element, auto weight) {
    using T = decltype(element);
    using V = decltype(weight);
    const Source<T> source(x, p.in, p.table(bytes), 0, p.in.t);
    convolve_winograd<T, V>(source.values(), p.in, static_cast<T*>(out.mutable_data_ptr()),
                            p.result, p.window, p.taps, filters, packed, p.epilogue,
                            choose_winograd(p.type, p.pairs));
  };
  if (p.pairs) return run(c10::BFloat16(), c10::BFloat16());
  return p.type == ScalarType::Float ? run(float(), float()) : run(c10::BFloat16(), float());
}

}  // namespace

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

}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("conv3d_winograd_", TORCH_BOX(&fasti3d::conv3d_winograd_));
  m.impl("conv3d_packed_", TORCH_BOX(&fasti3d::conv3d_packed_));
  m.impl("conv3d_tiles_", TORCH_BOX(&fasti3d::conv3d_tiles_));
}
