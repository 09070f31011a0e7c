// Passes of batch norm with ReLU over a run of pixels, vectorized over channels. Included once per
// instruction set, inside a namespace of its own.

#include "../common/bfloat.h"

template <class T>
void norm_stats(const Run& run, float* __restrict sum, float* __restrict squares) {
  const int64_t channels = run.channels;
  const T* const x = static_cast<const T*>(run.x.first);
  std::fill_n(sum, channels, 0.f);
  for (int64_t p = 0; p < run.pixels; ++p) {
    const T* __restrict const value = x + p * run.x.step;
    for (int64_t c = 0; c < channels; ++c) sum[c] += widen(value[c]);
  }
  const float share = 1.f / static_cast<float>(run.pixels);
  std::fill_n(squares, channels, 0.f);
  for (int64_t p = 0; p < run.pixels; ++p) {
    const T* __restrict const value = x + p * run.x.step;
    for (int64_t c = 0; c < channels; ++c) {
      const float distance = widen(value[c]) - sum[c] * share;
      squares[c] += distance * distance;
    }
  }
}

template <class T>
void norm_relu(const Run& run, const Vectors& of) {
  const float* __restrict const scale = of.scale;
  const float* __restrict const shift = of.shift;
  for (int64_t p = 0; p < run.pixels; ++p) {
    const T* __restrict const value = static_cast<const T*>(run.x.first) + p * run.x.step;
    T* __restrict const out = static_cast<T*>(run.out.first) + p * run.out.step;
    for (int64_t c = 0; c < run.channels; ++c) {
      const float z = widen(value[c]) * scale[c] + shift[c];
      narrow(z <= 0.f ? 0.f : z, out[c]);  // a NaN stays one
    }
  }
}

template <class T>
void norm_sums(const Run& run, const Vectors& of, float* __restrict total, float* __restrict dot) {
  const float* __restrict const mean = of.mean;
  const float* __restrict const scale = of.scale;
  const float* __restrict const shift = of.shift;
  std::fill_n(total, run.channels, 0.f);
  std::fill_n(dot, run.channels, 0.f);
  for (int64_t p = 0; p < run.pixels; ++p) {
    const T* __restrict const value = static_cast<const T*>(run.x.first) + p * run.x.step;
    const T* __restrict const grad = static_cast<const T*>(run.grad.first) + p * run.grad.step;
    for (int64_t c = 0; c < run.channels; ++c) {
      const float x = widen(value[c]), g = widen(grad[c]);
      const float passed = x * scale[c] + shift[c] <= 0.f ? 0.f : g;
      total[c] += passed;
      dot[c] += passed * (x - mean[c]);
    }
  }
}

template <class T>
void norm_backward(const Run& run, const Vectors& of) {
  const float* __restrict const mean = of.mean;
  const float* __restrict const scale = of.scale;
  const float* __restrict const shift = of.shift;
  const float* __restrict const slope = of.slope;
  const float* __restrict const offset = of.offset;
  for (int64_t p = 0; p < run.pixels; ++p) {
    const T* __restrict const value = static_cast<const T*>(run.x.first) + p * run.x.step;
    const T* __restrict const grad = static_cast<const T*>(run.grad.first) + p * run.grad.step;
    T* __restrict const out = static_cast<T*>(run.out.first) + p * run.out.step;
    for (int64_t c = 0; c < run.channels; ++c) {
      const float x = widen(value[c]), g = widen(grad[c]);
      const float passed = x * scale[c] + shift[c] <= 0.f ? 0.f : g;
      narrow(passed * scale[c] + ((x - mean[c]) * slope[c] + offset[c]), out[c]);
    }
  }
}

NormKernels norm_kernels(ScalarType type) {
  if (type == ScalarType::Float) {
    return {norm_stats<float>, norm_relu<float>, norm_sums<float>, norm_backward<float>};
  }
  return {norm_stats<Bfloat>, norm_relu<Bfloat>, norm_sums<Bfloat>, norm_backward<Bfloat>};
}
