// The max-pools, which are exact, and batch norm with ReLU.
#include <limits>
#include <optional>

#include "cases.h"
#include "clips.h"

using host::ScalarType;
using host::Tensor;

namespace {

using Triple = std::vector<int64_t>;
using Padding = std::optional<std::vector<int64_t>>;

// Values of which some are not finite and some are equal, -0 among them.
void fill_special(Clip& clip, Pick& pick) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float special[] = {0.0f, -0.0f, infinity, -infinity, std::nanf(""), 1e-40f, -1e-40f, 1.0f};
  clip.each([&](int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) {
    const float value = pick.up_to(4) == 0 ? special[pick.up_to(8)] : pick.value();
    clip.set(clip.index(n, c, t, h, w), value);
  });
}

bool same(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof(a)) == 0;
}

struct Window {
  Side t, h, w;
  Window(const host::Sizes& size, const Triple& kernel, const Triple& stride)
      : t(size[2], kernel[0], stride[0]),
        h(size[3], kernel[1], stride[1]),
        w(size[4], kernel[2], stride[2]) {}

  // Every tap that lies inside, by its number and its place.
  template <class Function>
  void each(int64_t ot, int64_t oh, int64_t ow, const Function& function) const {
    int64_t tap = 0;
    for (int64_t a = 0; a < t.kernel; ++a)
      for (int64_t b = 0; b < h.kernel; ++b)
        for (int64_t d = 0; d < w.kernel; ++d, ++tap) {
          const int64_t it = ot * t.stride - t.front + a, ih = oh * h.stride - h.front + b;
          const int64_t iw = ow * w.stride - w.front + d;
          if (it >= 0 && it < t.in && ih >= 0 && ih < h.in && iw >= 0 && iw < w.in)
            function(tap, it, ih, iw);
        }
  }
};

const Triple kKernels[] = {{1, 3, 3}, {3, 3, 3}, {2, 2, 2}, {1, 1, 4}, {3, 1, 2}, {1, 1, 1}};
const Triple kStrides[] = {{1, 2, 2}, {1, 1, 1}, {2, 2, 2}, {1, 1, 3}};

}  // namespace

void pools() {
  for (uint32_t seed = 0; seed < 24; ++seed) {
    Pick pick(seed);
    const ScalarType type = seed % 2 == 0 ? ScalarType::Float : ScalarType::BFloat16;
    const Triple kernel = kKernels[seed % 6], stride = kStrides[pick.up_to(4)];
    Clip x({1 + pick.up_to(2), pick.of({1, 3, 4, 7, 16, 29}), 1 + pick.up_to(4), 1 + pick.up_to(7),
            1 + pick.up_to(9)},
           type, pick.chance());
    fill_special(x, pick);
    const Window window(x.size, kernel, stride);
    Clip out({x.size[0], x.size[1], window.t.out, window.h.out, window.w.out}, type, pick.chance());
    host::call("max_pool3d_", 0, x.tensor, kernel, stride, Padding(), false, out.tensor);
    bool right = out.untouched();
    out.each([&](int64_t n, int64_t c, int64_t ot, int64_t oh, int64_t ow) {
      float best = -std::numeric_limits<float>::infinity();
      window.each(ot, oh, ow, [&](int64_t, int64_t it, int64_t ih, int64_t iw) {
        const float next = x.at(n, c, it, ih, iw);
        // Of zeros the positive one is larger here.
        const bool larger = next > best || (next == best && std::signbit(best));
        if (!std::isnan(best) && (larger || std::isnan(next))) best = next;
      });
      right = right && same(out.at(n, c, ot, oh, ow), best);
    });
    expect(right, "max-pool of " + std::to_string(x.size[1]) + " channels");
  }
}

void pools_with_taps(bool bfloat) {
  const ScalarType type = bfloat ? ScalarType::BFloat16 : ScalarType::Float;
  for (uint32_t seed = 0; seed < 18; ++seed) {
    Pick pick(seed);
    const Triple kernel = kKernels[seed % 6], stride = kStrides[pick.up_to(4)];
    const int64_t channels = pick.of({1, 3, 4, 7, 16, 18, 29});
    Clip x({1 + pick.up_to(2), channels, 1 + pick.up_to(4), 1 + pick.up_to(7), 1 + pick.up_to(9)},
           type, pick.chance());
    fill_special(x, pick);
    const Window window(x.size, kernel, stride);
    const host::Sizes size{x.size[0], channels, window.t.out, window.h.out, window.w.out};
    Clip out(size, type, pick.chance()), grad(size, type, pick.chance());
    Clip back(x.size, type, pick.chance());
    grad.fill(pick);
    const Tensor memory =
        host::make({size[0], size[2], size[3], size[4], channels}, ScalarType::Byte);
    const int64_t row = size[4] * channels;
    const Tensor taps =
        host::view(memory, size, {size[2] * size[3] * row, 1, size[3] * row, row, channels}, 0);
    host::call("max_pool3d_taps_", 0, x.tensor, kernel, stride, out.tensor, taps);
    host::call("max_pool3d_taps_backward_", 0, grad.tensor, taps, kernel, stride, back.tensor);
    const uint8_t* won = static_cast<const uint8_t*>(memory.const_data_ptr());

    bool right = out.untouched() && back.untouched();
    std::vector<float> sums(static_cast<size_t>(x.memory.numel()));
    out.each([&](int64_t n, int64_t c, int64_t ot, int64_t oh, int64_t ow) {
      float best = 0.0f;
      int64_t winner = -1, place = 0;
      window.each(ot, oh, ow, [&](int64_t tap, int64_t it, int64_t ih, int64_t iw) {
        const float next = x.at(n, c, it, ih, iw);
        if (winner >= 0 && !(next > best) && !std::isnan(next)) return;
        best = next;
        winner = tap;
        place = x.index(n, c, it, ih, iw);
      });
      right = right && same(out.at(n, c, ot, oh, ow), best) && *won++ == winner;
      sums[static_cast<size_t>(place)] += grad.at(n, c, ot, oh, ow);
    });
    x.each([&](int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) {
      const float sum = sums[static_cast<size_t>(x.index(n, c, t, h, w))];
      const float want = bfloat ? to_float(to_bfloat(sum)) : sum;
      right = right && back.at(n, c, t, h, w) == want;
    });
    expect(right, "max-pool with taps of " + std::to_string(channels) + " channels");
  }
}

void batch_norms(bool bfloat) {
  const ScalarType type = bfloat ? ScalarType::BFloat16 : ScalarType::Float;
  const double limit = bfloat ? 0.005 : 1e-6;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    Pick pick(seed);
    const int64_t channels = pick.of({1, 3, 4, 7, 16, 29});
    const host::Sizes size{1 + pick.up_to(2), channels, 1 + pick.up_to(3), 1 + pick.up_to(6),
                           1 + pick.up_to(7)};
    Clip x(size, type, pick.chance()), grad(size, type, pick.chance());
    Clip out(size, type, pick.chance()), back(size, type, pick.chance());
    x.fill(pick);
    grad.fill(pick);
    const size_t count = static_cast<size_t>(channels);
    const auto make = [&] { return random_vector(pick, channels); };
    const auto scale = make(), shift = make(), slope = make(), offset = make();
    const Tensor mean = vector_of(make()), var = vector_of(make());
    const Tensor total = vector_of(make()), dot = vector_of(make());
    host::call("batch_norm_stats_", 0, x.tensor, mean, var);
    host::call("scale_shift_relu_", 0, x.tensor, vector_of(scale), vector_of(shift), out.tensor);
    host::call("batch_norm_relu_sums_", 0, grad.tensor, x.tensor, mean, vector_of(scale),
               vector_of(shift), total, dot);
    host::call("batch_norm_relu_backward_", 0, grad.tensor, x.tensor, mean, vector_of(scale),
               vector_of(shift), vector_of(slope), vector_of(offset), back.tensor);
    const auto values = [](const Tensor& tensor) {
      return static_cast<const float*>(tensor.const_data_ptr());
    };

    std::vector<double> sum(count), squares(count), passed(count), weighted(count);
    double pixels = static_cast<double>(size[0] * size[2] * size[3] * size[4]);
    x.each([&](int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) {
      sum[c] += x.at(n, c, t, h, w) / pixels;
    });
    Error outputs, gradients, moments, sums;
    x.each([&](int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) {
      const double value = x.at(n, c, t, h, w), distance = value - sum[c];
      const float z = std::fma(x.at(n, c, t, h, w), scale[c], shift[c]);
      const double d = z <= 0.0f ? 0.0 : grad.at(n, c, t, h, w);
      squares[c] += distance * distance / pixels;
      passed[c] += d;
      weighted[c] += d * distance;
      outputs.add(out.at(n, c, t, h, w), std::max(z, 0.0f));
      gradients.add(back.at(n, c, t, h, w), d * scale[c] + distance * slope[c] + offset[c]);
    });
    for (size_t c = 0; c < count; ++c) {
      moments.add(values(mean)[c], sum[c]);
      moments.add(values(var)[c], squares[c]);
      sums.add(values(total)[c], passed[c]);
      sums.add(values(dot)[c], weighted[c]);
    }
    const std::string what = "batch norm of " + std::to_string(channels) + " channels: ";
    expect(outputs.within(limit), what + "result");
    expect(gradients.within(limit), what + "gradient");
    expect(moments.within(2e-6) && sums.within(2e-6), what + "sums");
    expect(out.untouched() && back.untouched(), what + "wrote beyond its channels");
  }
}
