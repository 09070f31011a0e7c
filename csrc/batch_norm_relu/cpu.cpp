// fasti3d::batch_norm_stats_, scale_shift_relu_, batch_norm_relu_sums_ and batch_norm_relu_backward_
// on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/overlap.h"
#include "../common/parallel.h"
#include "norm.h"

namespace fasti3d {
namespace {

NormKernels choose(ScalarType type) {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512::norm_kernels(type);
  if (isa() >= Isa::kAvx2) return avx2::norm_kernels(type);
#endif
  return baseline::norm_kernels(type);
}

// Values of a run: what is read twice stays in a core's L2 cache, and float32 sums stay short.
constexpr int64_t kRunValues = 1 << 14;
constexpr int64_t kMaxRunPixels = 512;
// Sums are added up in this many parts, whatever the number of threads: the result is always the
// same.
constexpr int64_t kParts = 64;

struct Map {
  ClipView view;
  const char* data;
  int64_t element;

  // The pixel at which a row begins, counted over clips, frames and rows.
  const char* row(int64_t i) const {
    const int64_t h = i % view.h, t = i / view.h % view.t, n = i / (view.h * view.t);
    return data + view.pixel(n, t, h, 0) * element;
  }
};

// Whether all pixels lie a step apart, so that they are one row.
bool is_one_row(const ClipView& v) {
  const auto follows = [](int64_t places, int64_t stride, int64_t expected) {
    return places < 2 || stride == expected;
  };
  return follows(v.h, v.stride_h, v.w * v.stride_w) &&
         follows(v.t, v.stride_t, v.h * v.w * v.stride_w) &&
         follows(v.n, v.stride_n, v.t * v.h * v.w * v.stride_w);
}

// The runs of pixels of maps of one shape.
class Runs {
 public:
  Runs(const Tensor& x, const Tensor* grad, const Tensor* out) : x_(map(x, "x")) {
    grad_ = grad ? map(*grad, "grad") : x_;
    out_ = out ? map(*out, "out") : x_;
    const ClipView& v = x_.view;
    // A stride along an axis of one place may be any number.
    step_fixed(x_), step_fixed(grad_), step_fixed(out_);
    one_row_ = is_one_row(x_.view) && is_one_row(grad_.view) && is_one_row(out_.view);
    rows_ = one_row_ ? 1 : product({v.n, v.t, v.h});
    length_ = one_row_ ? product({v.n, v.t, v.h, v.w}) : v.w;
    pixels_ = std::clamp<int64_t>(kRunValues / std::max<int64_t>(v.c, 1), 1, kMaxRunPixels);
    per_row_ = (length_ + pixels_ - 1) / pixels_;
  }

  int64_t count() const { return rows_ * per_row_; }
  // Runs that are worth waking a thread for.
  int64_t grain() const { return std::max<int64_t>(1, kRunValues / values()); }

  Run at(int64_t i) const {
    const int64_t row = i / per_row_, first = i % per_row_ * pixels_;
    return {std::min(pixels_, length_ - first),
            x_.view.c,
            {place(x_, row, first), x_.view.stride_w},
            {place(grad_, row, first), grad_.view.stride_w},
            {const_cast<void*>(place(out_, row, first)), out_.view.stride_w}};
  }

 private:
  static Map map(const Tensor& x, const char* name) {
    return {channels_last_view(x, name), static_cast<const char*>(x.const_data_ptr()),
            static_cast<int64_t>(x.element_size())};
  }

  static void step_fixed(Map& map) {
    ClipView& v = map.view;
    if (v.w > 1) return;
    v.stride_w = v.h > 1 ? v.stride_h : v.t > 1 ? v.stride_t : v.n > 1 ? v.stride_n : v.c;
  }

  int64_t values() const {
    return std::max<int64_t>(1, std::min(pixels_, length_) * x_.view.c);
  }

  const void* place(const Map& map, int64_t row, int64_t first) const {
    return map.row(row) + first * map.view.stride_w * map.element;
  }

  Map x_, grad_, out_;
  bool one_row_;
  int64_t rows_, length_, pixels_, per_row_;
};

void check_map(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16, "x must be float32 or bfloat16");
  channels_last_view(x, "x");
}

void check_like(const Tensor& map, const Tensor& x, const char* name) {
  check(map.scalar_type() == x.scalar_type(), name, " must have x's dtype");
  const ClipView a = channels_last_view(map, name), b = channels_last_view(x, "x");
  check(a.n == b.n && a.c == b.c && a.t == b.t && a.h == b.h && a.w == b.w, name,
        " must have x's shape (", b.n, ", ", b.c, ", ", b.t, ", ", b.h, ", ", b.w, "), got (", a.n,
        ", ", a.c, ", ", a.t, ", ", a.h, ", ", a.w, ")");
}

void check_vectors(const Tensor& x, std::initializer_list<Input> vectors) {
  for (const Input& v : vectors) {
    check(v.tensor.dim() == 1 && v.tensor.size(0) == x.size(1) && v.tensor.is_contiguous() &&
              v.tensor.scalar_type() == ScalarType::Float,
          v.name, " must be contiguous float32 of shape (", x.size(1),
          ",), a number per channel of x");
  }
}

void check_apart(const Tensor& a, const char* name, std::initializer_list<Input> others) {
  for (const Input& other : others) {
    check(!share_memory(a, other.tensor), "unsupported operation: some elements of ", other.name,
          " and ", name, " refer to a single memory location: clone one of them");
  }
}

const float* values(const Tensor& vector) {
  return static_cast<const float*>(vector.const_data_ptr());
}

float* written(Tensor& vector) { return static_cast<float*>(vector.mutable_data_ptr()); }

// Adds up a pair of numbers per channel over all runs: `add` takes those of a run and a part's sums
// so far, `join` those of a part and all parts' before it.
template <class Sums, class Of>
Sums sum(const Runs& runs, int64_t channels, const Of& of) {
  const int64_t count = runs.count(), parts = std::min(kParts, count);
  std::vector<Sums> sums(parts, Sums(channels));
  const int64_t grain = (runs.grain() * parts + count - 1) / count;
  parallel_for(0, parts, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> first(channels), second(channels);
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i) {
        const Run run = runs.at(i);
        of(run, first.data(), second.data());
        sums[part].add(run.pixels, first.data(), second.data());
      }
    }
  });
  for (int64_t part = 1; part < parts; ++part) sums[0].add(sums[part]);
  return std::move(sums[0]);
}

// Means, and squares of distances from them, of parts that are joined (Chan, Golub & LeVeque 1979).
struct Moments {
  int64_t pixels = 0;
  std::vector<double> total, squares;

  explicit Moments(int64_t channels) : total(channels), squares(channels) {}

  void add(int64_t more, const float* sum, const float* distance) { join(more, sum, distance); }
  void add(const Moments& other) {
    join(other.pixels, other.total.data(), other.squares.data());
  }

 private:
  template <class T>
  void join(int64_t more, const T* sum, const T* distance) {
    const double n = static_cast<double>(pixels), m = static_cast<double>(more);
    for (size_t c = 0; c < total.size(); ++c) {
      const double apart = pixels == 0 ? 0. : sum[c] / m - total[c] / n;
      squares[c] += distance[c] + apart * apart * (n * m / (n + m));
      total[c] += sum[c];
    }
    pixels += more;
  }
};

struct Totals {
  std::vector<double> first, second;

  explicit Totals(int64_t channels) : first(channels), second(channels) {}

  void add(int64_t, const float* a, const float* b) { join(a, b); }
  void add(const Totals& other) { join(other.first.data(), other.second.data()); }

 private:
  template <class T>
  void join(const T* a, const T* b) {
    for (size_t c = 0; c < first.size(); ++c) {
      first[c] += a[c];
      second[c] += b[c];
    }
  }
};

void each_run(const Runs& runs, void (*kernel)(const Run&, const Vectors&), const Vectors& of) {
  parallel_for(0, runs.count(), runs.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernel(runs.at(i), of);
  });
}

void advise(Tensor& out) {
  advise_huge_pages(out.mutable_data_ptr(),
                    channels_last_view(out, "out").span() * out.element_size());
}

void batch_norm_stats_(Tensor x, Tensor mean, Tensor var) {
  check_map(x);
  check(x.numel() > 0, "x must have clips, channels and pixels");
  check_vectors(x, {{"mean", mean}, {"var", var}});
  check_apart(mean, "mean", {{"x", x}});
  check_apart(var, "var", {{"x", x}, {"mean", mean}});
  const int64_t channels = x.size(1);
  const NormKernels kernels = choose(x.scalar_type());
  const Moments all = sum<Moments>(Runs(x, nullptr, nullptr), channels, kernels.stats);
  for (int64_t c = 0; c < channels; ++c) {
    written(mean)[c] = static_cast<float>(all.total[c] / static_cast<double>(all.pixels));
    written(var)[c] = static_cast<float>(all.squares[c] / static_cast<double>(all.pixels));
  }
}

void scale_shift_relu_(Tensor x, Tensor scale, Tensor shift, Tensor out) {
  check_map(x);
  check_vectors(x, {{"scale", scale}, {"shift", shift}});
  check_like(out, x, "out");
  check_written(out, {{"x", x}, {"scale", scale}, {"shift", shift}});
  if (out.numel() == 0) return;
  advise(out);
  each_run(Runs(x, nullptr, &out), choose(x.scalar_type()).relu,
           {nullptr, values(scale), values(shift), nullptr, nullptr});
}

void batch_norm_relu_sums_(Tensor grad, Tensor x, Tensor mean, Tensor scale, Tensor shift,
                           Tensor total, Tensor dot) {
  check_map(x);
  check_like(grad, x, "grad");
  check_vectors(
      x, {{"mean", mean}, {"scale", scale}, {"shift", shift}, {"total", total}, {"dot", dot}});
  for (const Input& sums : {Input{"total", total}, Input{"dot", dot}}) {
    check_apart(sums.tensor, sums.name,
                {{"grad", grad}, {"x", x}, {"mean", mean}, {"scale", scale}, {"shift", shift}});
  }
  check_apart(dot, "dot", {{"total", total}});
  const int64_t channels = x.size(1);
  if (x.numel() == 0) {
    std::fill_n(written(total), channels, 0.f);
    std::fill_n(written(dot), channels, 0.f);
    return;
  }
  const Vectors of{values(mean), values(scale), values(shift), nullptr, nullptr};
  const auto kernel = choose(x.scalar_type()).sums;
  const Totals all = sum<Totals>(
      Runs(x, &grad, nullptr), channels,
      [&](const Run& run, float* first, float* second) { kernel(run, of, first, second); });
  std::copy(all.first.begin(), all.first.end(), written(total));
  std::copy(all.second.begin(), all.second.end(), written(dot));
}

void batch_norm_relu_backward_(Tensor grad, Tensor x, Tensor mean, Tensor scale, Tensor shift,
                               Tensor slope, Tensor offset, Tensor out) {
  check_map(x);
  check_like(grad, x, "grad");
  check_vectors(x, {{"mean", mean},
                    {"scale", scale},
                    {"shift", shift},
                    {"slope", slope},
                    {"offset", offset}});
  check_like(out, x, "out");
  check_written(out, {{"grad", grad},
                      {"x", x},
                      {"mean", mean},
                      {"scale", scale},
                      {"shift", shift},
                      {"slope", slope},
                      {"offset", offset}});
  if (out.numel() == 0) return;
  advise(out);
  each_run(Runs(x, &grad, &out), choose(x.scalar_type()).backward,
           {values(mean), values(scale), values(shift), values(slope), values(offset)});
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("batch_norm_stats_", TORCH_BOX(&fasti3d::batch_norm_stats_));
  m.impl("scale_shift_relu_", TORCH_BOX(&fasti3d::scale_shift_relu_));
  m.impl("batch_norm_relu_sums_", TORCH_BOX(&fasti3d::batch_norm_relu_sums_));
  m.impl("batch_norm_relu_backward_", TORCH_BOX(&fasti3d::batch_norm_relu_backward_));
}
