// The matrices of Winograd's minimal filters, as fasti3d/ops/conv3d_bn_relu/winograd.py has them.
#pragma once

#include <cmath>
#include <vector>

#include "host.h"

struct MinimalFilter {
  int64_t outputs, stride, taps, components;  // taps: of the first phase
  std::vector<double> input, filter,
      output;  // [components][stride][frames, or taps], [outputs][components]

  MinimalFilter(int64_t outputs, int64_t kernel, int64_t stride)
      : outputs(outputs),
        stride(stride),
        taps((kernel + stride - 1) / stride),
        components(outputs + taps - 1) {
    if (outputs == 1) {  // the direct form: one component, every tap a phase of its own
      this->stride = kernel;
      taps = components = 1;
      input.assign(kernel, 1.0);
      filter.assign(kernel, 1.0);
      output.assign(1, 1.0);
      return;
    }
    const std::vector<double> points = components <= 4
                                           ? std::vector<double>{0, 1, -1}
                                           : std::vector<double>{0, .75, -.75, 1.5, -1.5, -.375};
    input.resize(components * stride * components);
    filter.resize(components * stride * taps);
    output.resize(outputs * components);
    for (int64_t phase = 0; phase < stride; ++phase) {
      const int64_t own = (kernel - phase + stride - 1) / stride;
      const std::vector<double> used(points.begin(), points.begin() + outputs + own - 2);
      for (size_t i = 0; i < used.size(); ++i) {
        std::vector<double> others = used;
        others.erase(others.begin() + static_cast<int64_t>(i));
        double scale = 1.0;
        for (const double other : others) scale *= used[i] - other;
        const std::vector<double> row = expand(others);
        std::copy(row.begin(), row.end(), input.begin() + (i * stride + phase) * components);
        for (int64_t k = 0; k < own; ++k)
          filter[(i * stride + phase) * taps + k] = std::pow(used[i], k) / scale;
      }
      const std::vector<double> row = expand(used);
      const int64_t last = (components - 1) * stride + phase;
      std::copy(row.begin(), row.end(), input.begin() + last * components);
      filter[last * taps + own - 1] = 1.0;
    }
    for (int64_t k = 0; k < outputs; ++k) {
      for (int64_t i = 0; i + 1 < components; ++i)
        output[k * components + i] = std::pow(points[static_cast<size_t>(i)], k);
    }
    output.back() = 1.0;
  }

  host::Tensor input_matrix() const {
    return matrix<float>(input, {components, stride, components}, host::ScalarType::Float);
  }
  host::Tensor output_matrix() const {
    return matrix<float>(output, {outputs, components}, host::ScalarType::Float);
  }
  host::Tensor filter_matrix() const {
    return matrix<double>(filter, {components, stride, taps}, host::ScalarType::Double);
  }

 private:
  // Coefficients, lowest first, of the polynomial with these roots.
  static std::vector<double> expand(const std::vector<double>& roots) {
    std::vector<double> result{1.0};
    for (const double root : roots) {
      result.insert(result.begin(), 0.0);
      for (size_t i = 0; i + 1 < result.size(); ++i) result[i] -= root * result[i + 1];
    }
    return result;
  }

  template <class T>
  static host::Tensor matrix(const std::vector<double>& values, const host::Sizes& sizes,
                             host::ScalarType type) {
    host::Tensor tensor = host::make(sizes, type);
    std::copy(values.begin(), values.end(), static_cast<T*>(tensor.mutable_data_ptr()));
    return tensor;
  }
};
