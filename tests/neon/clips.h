// Random problems, plain loops to compare kernels with, and the comparison.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "host.h"

// Fails the run, naming the case, if `got` is not as near to `want` as told.
void expect(bool ok, const std::string& what);

// The numbers of one case: the same on every machine and standard library.
struct Pick {
  std::mt19937 engine;
  explicit Pick(uint32_t seed) : engine(seed) {}
  int64_t up_to(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }
  int64_t of(std::initializer_list<int64_t> values) {
    return values.begin()[up_to(static_cast<int64_t>(values.size()))];
  }
  bool chance() { return engine() % 2 == 0; }
  float value() { return static_cast<float>(engine() % 20001) / 10000.0f - 1.0f; }
};

inline float to_float(uint16_t bfloat) {
  const uint32_t bits = static_cast<uint32_t>(bfloat) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
// To nearest, ties to even; a NaN stays one.
inline uint16_t to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// A channels-last clip in memory of its own, perhaps a slice of a wider one, whose other values
// must stay as they are.
struct Clip {
  host::Sizes size;  // n, c, t, h, w
  host::ScalarType type;
  int64_t wide, first;  // channels of the memory, and the first of them that is the clip's
  host::Tensor memory, tensor;

  Clip(const host::Sizes& size, host::ScalarType type, bool slice = false)
      : size(size),
        type(type),
        wide(size[1] + (slice ? 5 : 0)),
        first(slice ? 3 : 0),
        memory(host::make({size[0], size[2], size[3], size[4], wide}, type)),
        tensor(host::view(
            memory, size,
            {size[2] * size[3] * size[4] * wide, 1, size[3] * size[4] * wide, size[4] * wide, wide},
            first)) {
    std::memset(memory.mutable_data_ptr(), 0xff, memory.numel() * memory.element_size());  // NaN
  }
  int64_t index(int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) const {
    return (((n * size[2] + t) * size[3] + h) * size[4] + w) * wide + first + c;
  }
  float at(int64_t i) const {
    return type == host::ScalarType::Float
               ? static_cast<const float*>(memory.const_data_ptr())[i]
               : to_float(static_cast<const uint16_t*>(memory.const_data_ptr())[i]);
  }
  float at(int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) const {
    return at(index(n, c, t, h, w));
  }
  // Zero outside.
  float padded(int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) const {
    return t < 0 || t >= size[2] || h < 0 || h >= size[3] || w < 0 || w >= size[4]
               ? 0.0f
               : at(n, c, t, h, w);
  }
  void set(int64_t i, float value) {
    if (type == host::ScalarType::Float) {
      static_cast<float*>(memory.mutable_data_ptr())[i] = value;
    } else {
      static_cast<uint16_t*>(memory.mutable_data_ptr())[i] = to_bfloat(value);
    }
  }
  template <class Function>
  void each(const Function& function) const {
    for (int64_t n = 0; n < size[0]; ++n)
      for (int64_t t = 0; t < size[2]; ++t)
        for (int64_t h = 0; h < size[3]; ++h)
          for (int64_t w = 0; w < size[4]; ++w)
            for (int64_t c = 0; c < size[1]; ++c) function(n, c, t, h, w);
  }
  void fill(Pick& pick) {
    each([&](int64_t n, int64_t c, int64_t t, int64_t h, int64_t w) {
      set(index(n, c, t, h, w), pick.value());
    });
  }
  // Whether what is not the clip's is as it was.
  bool untouched() const {
    for (int64_t i = 0; i < memory.numel(); ++i) {
      const int64_t channel = i % wide;
      if ((channel < first || channel >= first + size[1]) && !std::isnan(at(i))) return false;
    }
    return true;
  }
};

// One axis of a window: SAME, or `padding` zeros on both sides.
struct Side {
  int64_t in, kernel, stride, out, front;
  Side(int64_t in, int64_t kernel, int64_t stride)
      : in(in), kernel(kernel), stride(stride), out((in + stride - 1) / stride) {
    front = std::max<int64_t>((out - 1) * stride + kernel - in, 0) / 2;
  }
};

inline host::Tensor vector_of(const std::vector<float>& values) {
  host::Tensor tensor = host::make({static_cast<int64_t>(values.size())}, host::ScalarType::Float);
  std::memcpy(tensor.mutable_data_ptr(), values.data(), values.size() * sizeof(float));
  return tensor;
}
inline std::vector<float> random_vector(Pick& pick, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = pick.value();
  return values;
}

// The error of a result, relative to the largest value it was to have, and whether it is within a
// limit. A NaN is not.
struct Error {
  double largest = 0.0, off = 0.0;
  void add(double got, double want) {
    largest = std::max(largest, std::abs(want));
    const double distance = std::abs(got - want);
    if (!(distance <= off)) off = distance;
  }
  bool within(double limit) const { return off <= limit * std::max(largest, 1e-3); }
};
