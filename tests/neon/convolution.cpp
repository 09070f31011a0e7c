// conv3d in its direct and its Winograd form, the gradient of its weights, and the depthwise form.
#include <torch/headeronly/util/BFloat16.h>

#include <optional>

#include "cases.h"
#include "clips.h"
#include "minimal_filter.h"

using host::ScalarType;
using host::Sizes;
using host::Tensor;

namespace {

using Triple = std::vector<int64_t>;
using Padding = std::optional<std::vector<int64_t>>;

// Sums are of float32 products; bfloat16 results are rounded once more, to 8 bits. Winograd's
// transforms of four outputs a tile amplify the rounding of their inputs, those of two in bfloat16
// round their components to 8 bits (fasti3d/ops/conv3d_bn_relu/winograd.py).
constexpr double kDirect = 1e-6, kWinograd = 1e-5, kBfloat = 0.005, kBfloatWinograd = 0.02;

struct Problem {
  Clip x, out, residual;
  std::vector<float> weight, bias;  // (cout, cin, kt, kh, kw)
  Triple kernel, stride;
  bool relu, added;
  int64_t start, channels;
  Side t, h, w;

  Problem(Pick& pick, ScalarType type, int64_t cin, int64_t cout, const Triple& kernel,
          const Triple& stride, const Triple& size)
      : x({1 + pick.up_to(2), cin, size[0], size[1], size[2]}, type, pick.chance()),
        out(x),
        residual(x),
        kernel(kernel),
        stride(stride),
        relu(pick.chance()),
        added(pick.chance()),
        channels(cout),
        t(size[0], kernel[0], stride[0]),
        h(size[1], kernel[1], stride[1]),
        w(size[2], kernel[2], stride[2]) {
    start = pick.up_to(t.out);
    const Sizes result{x.size[0], cout, 1 + pick.up_to(t.out - start), h.out, w.out};
    out = Clip(result, type, pick.chance());
    residual = Clip(result, type, pick.chance());
    x.fill(pick);
    residual.fill(pick);
    weight = random_vector(pick, cout * cin * kernel[0] * kernel[1] * kernel[2]);
    // Of weights that bfloat16 holds.
    if (type == ScalarType::BFloat16) {
      for (float& value : weight) value = to_float(to_bfloat(value));
    }
    bias = random_vector(pick, (cout + 15) / 16 * 16);
  }

  Tensor weights() const {
    Tensor tensor =
        host::make({channels, x.size[1], kernel[0], kernel[1], kernel[2]}, ScalarType::Float);
    std::memcpy(tensor.mutable_data_ptr(), weight.data(), weight.size() * sizeof(float));
    return tensor;
  }

  double want(int64_t n, int64_t c, int64_t ot, int64_t oh, int64_t ow) const {
    double sum = bias[c];
    const float* value = weight.data() + c * x.size[1] * kernel[0] * kernel[1] * kernel[2];
    for (int64_t ci = 0; ci < x.size[1]; ++ci)
      for (int64_t a = 0; a < kernel[0]; ++a)
        for (int64_t b = 0; b < kernel[1]; ++b)
          for (int64_t d = 0; d < kernel[2]; ++d, ++value)
            sum += double(*value) * x.padded(n, ci, (ot + start) * stride[0] - t.front + a,
                                             oh * stride[1] - h.front + b,
                                             ow * stride[2] - w.front + d);
    if (added) sum += residual.at(n, c, ot, oh, ow);
    return relu ? std::max(sum, 0.0) : sum;
  }

  void check(const std::string& name, double limit) const {
    Error error;
    out.each([&](int64_t n, int64_t c, int64_t ot, int64_t oh, int64_t ow) {
      error.add(out.at(n, c, ot, oh, ow), want(n, c, ot, oh, ow));
    });
    std::string what = name + " of " + std::to_string(x.size[1]) + " to " +
                       std::to_string(channels) + " channels, kernel";
    for (const int64_t side : kernel) what += " " + std::to_string(side);
    expect(error.within(limit),
           what + ": off by " + std::to_string(error.off) + " of " + std::to_string(error.largest));
    expect(out.untouched(), what + ": wrote beyond its channels");
  }

  std::optional<Tensor> addend() const {
    return added ? std::optional<Tensor>(residual.tensor) : std::nullopt;
  }

  void direct(double limit) const {
    using torch::stable::detail::to;
    const auto packed = to<Tensor>(
        host::call("conv3d_pack", 1, weights(), x.type, std::vector<Tensor>(), false)[0]);
    host::call("conv3d_packed_", 0, x.tensor, packed, vector_of(bias), kernel, stride, Padding(),
               relu, out.tensor, start, addend(), std::optional<Tensor>());
    check("direct conv3d", limit);
  }

  // `outputs` per tile along t, h and w; one is the direct form of an axis.
  void winograd(const Triple& outputs, ScalarType packed_type, double limit) const {
    using torch::stable::detail::to;
    std::vector<Tensor> filters, inputs, sums;
    for (size_t axis = 0; axis < 3; ++axis) {
      const MinimalFilter filter(outputs[axis], kernel[axis], stride[axis]);
      filters.push_back(filter.filter_matrix());
      inputs.push_back(filter.input_matrix());
      sums.push_back(filter.output_matrix());
    }
    const auto packed =
        to<Tensor>(host::call("conv3d_pack", 1, weights(), packed_type, filters, false)[0]);
    host::call("conv3d_winograd_", 0, x.tensor, packed, vector_of(bias), inputs, sums, kernel,
               stride, Padding(), relu, out.tensor, start, addend(), std::optional<Tensor>());
    check("Winograd conv3d", limit);
  }
};

const Triple kOne{1, 1, 1}, kStem{2, 2, 2};

Triple small(Pick& pick, int64_t most = 7) {
  return {1 + pick.up_to(most), 1 + pick.up_to(most), 1 + pick.up_to(most)};
}

}  // namespace

void direct_convolutions(bool bfloat) {
  const ScalarType type = bfloat ? ScalarType::BFloat16 : ScalarType::Float;
  const double limit = bfloat ? kBfloat : kDirect;
  for (uint32_t seed = 0; seed < 36; ++seed) {
    Pick pick(seed);
    const int64_t cin = pick.of({1, 2, 3, 15, 16, 17, 18, 22, 33, 64, 130});
    const int64_t cout = pick.of({1, 3, 4, 9, 15, 16, 17, 31, 33, 48});
    const Triple kernels[] = {kOne, {3, 3, 3}, {1, 3, 3}, {3, 1, 1}, {2, 3, 1}, {1, 1, 2}};
    const Triple strides[] = {kOne, kOne, kStem, {1, 2, 2}, {2, 1, 3}};
    Problem(pick, type, cin, cout, kernels[seed % 6], strides[pick.up_to(5)], small(pick))
        .direct(limit);
  }
  Pick pick(1000);
  Problem(pick, type, 3, 20, {7, 7, 7}, kStem, {5, 9, 11}).direct(limit);
}

void winograd_convolutions(bool bfloat) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    Pick pick(seed);
    const Triple kernel = {3, 1 + 2 * pick.up_to(2), 1 + 2 * pick.up_to(2)};
    const int64_t cout = pick.of({1, 5, 16, 17, 30, 33});
    Triple size = small(pick, 6);
    size[0] += 3;
    if (bfloat) {
      const int64_t cin = pick.of({16, 18, 32, 46});
      Problem(pick, ScalarType::BFloat16, cin, cout, kernel, kOne, size)
          .winograd({2, 1, 1}, ScalarType::BFloat16, kBfloatWinograd);
    } else {
      const int64_t cin = pick.of({1, 3, 15, 16, 17, 21, 40});
      Problem(pick, ScalarType::Float, cin, cout, kernel, kOne, size)
          .winograd({pick.of({2, 4}), kernel[1] == 3 ? pick.of({1, 2}) : 1,
                     kernel[2] == 3 && cin >= 16 ? pick.of({1, 2}) : 1},
                    ScalarType::Float, kWinograd);
    }
  }
  // The stem: two phases, few channels, which bfloat16 clips too are transformed of in float32.
  Pick pick(1000);
  const ScalarType type = bfloat ? ScalarType::BFloat16 : ScalarType::Float;
  for (const int64_t channels : {2, 3}) {
    Problem(pick, type, channels, 20, {7, 7, 7}, kStem, {9, 7, 11})
        .winograd({3, 3, 1}, ScalarType::Float, bfloat ? kBfloat : kWinograd);
  }
}

void weight_gradients() {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    Pick pick(seed);
    const bool direct = seed % 3 == 0;
    const Triple kernel = {direct ? 1 : 3, 1 + 2 * pick.up_to(2), 1 + 2 * pick.up_to(2)};
    const int64_t cin = pick.of({3, 7, 16, 17, 24, 41}), cout = pick.of({1, 12, 16, 21, 32, 50});
    const Triple size = small(pick, 6);
    Clip x({1 + pick.up_to(2), cin, size[0], size[1], size[2]}, ScalarType::Float, pick.chance());
    Clip grad({x.size[0], cout, size[0], size[1], size[2]}, ScalarType::Float, pick.chance());
    x.fill(pick);
    grad.fill(pick);
    const MinimalFilter filter(direct ? 1 : 4, kernel[0], 1);
    using torch::stable::detail::to;
    const auto weight =
        to<Tensor>(host::call("conv3d_grad_weight", 1, grad.tensor, x.tensor, filter.input_matrix(),
                              filter.output_matrix(), filter.filter_matrix(), kernel, kOne)[0]);
    const float* got = static_cast<const float*>(weight.const_data_ptr());
    Error error;
    for (int64_t co = 0; co < cout; ++co)
      for (int64_t ci = 0; ci < cin; ++ci)
        for (int64_t a = 0; a < kernel[0]; ++a)
          for (int64_t b = 0; b < kernel[1]; ++b)
            for (int64_t d = 0; d < kernel[2]; ++d, ++got) {
              double sum = 0.0;
              for (int64_t n = 0; n < x.size[0]; ++n)
                for (int64_t t = 0; t < size[0]; ++t)
                  for (int64_t h = 0; h < size[1]; ++h)
                    for (int64_t w = 0; w < size[2]; ++w)
                      sum += double(grad.at(n, co, t, h, w)) *
                             x.padded(n, ci, t + a - kernel[0] / 2, h + b - kernel[1] / 2,
                                      w + d - kernel[2] / 2);
              error.add(*got, sum);
            }
    expect(error.within(kWinograd), "gradient of the weights of " + std::to_string(cin) + " to " +
                                        std::to_string(cout) + " channels");
  }
}

void depthwise_convolutions(bool bfloat) {
  const ScalarType type = bfloat ? ScalarType::BFloat16 : ScalarType::Float;
  for (uint32_t seed = 0; seed < 25; ++seed) {
    Pick pick(seed);
    const int64_t channels = pick.of({1, 3, 4, 5, 16, 27});
    const Triple kernels[] = {{3, 3, 3}, {1, 3, 3}, {5, 1, 1}, {1, 5, 5}, {2, 1, 2}};
    const Triple strides[] = {kOne, {1, 2, 2}, kStem, {1, 1, 3}};
    const Triple kernel = kernels[seed % 5], stride = strides[pick.up_to(4)];
    const Triple size{1 + pick.up_to(4), 1 + pick.up_to(9), 1 + pick.up_to(24)};
    Problem problem(pick, type, channels, channels, kernel, stride, size);
    const int64_t taps = kernel[0] * kernel[1] * kernel[2];
    const std::vector<float> weight = random_vector(pick, taps * channels);  // [tap][channel]
    Tensor packed = host::make({taps, channels}, ScalarType::Float);
    std::memcpy(packed.mutable_data_ptr(), weight.data(), weight.size() * sizeof(float));
    problem.bias.resize(static_cast<size_t>(channels));
    host::call("depthwise_conv3d_", 0, problem.x.tensor, packed, vector_of(problem.bias), kernel,
               stride, Padding(), problem.relu, problem.out.tensor, problem.start);
    Error error;
    problem.out.each([&](int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) {
      double sum = problem.bias[c];
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t a = tap / (kernel[1] * kernel[2]), b = tap / kernel[2] % kernel[1];
        sum += double(weight[tap * channels + c]) *
               problem.x.padded(n, c, (t + problem.start) * stride[0] - problem.t.front + a,
                                h * stride[1] - problem.h.front + b,
                                w * stride[2] - problem.w.front + tap % kernel[2]);
      }
      error.add(problem.out.at(n, c, t, h, w), problem.relu ? std::max(sum, 0.0) : sum);
    });
    const std::string what = "depthwise conv3d of " + std::to_string(channels) + " channels";
    expect(error.within(bfloat ? kBfloat : kDirect), what);
    expect(problem.out.untouched(), what + ": wrote beyond its channels");
  }
}
