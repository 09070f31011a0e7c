// Whether tensors share memory: an operator that writes where it reads, or twice to one place,
// gives wrong results in silence.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "check.h"

namespace fasti3d {

// The bytes of a tensor's elements: first + the sum of index[i] * step[i], 0 <= index[i] <
// count[i].
struct Bytes {
  struct Axis {
    int64_t step, count;
  };
  uintptr_t first;
  int64_t span = 1;  // from the first byte to one past the last
  std::vector<Axis> axes;

  explicit Bytes(const torch::stable::Tensor& x)
      : first(reinterpret_cast<uintptr_t>(x.const_data_ptr())) {
    const int64_t element = static_cast<int64_t>(x.element_size());
    add(1, element);
    // What an axis of one place steps by, or one without any, may be any number.
    for (int64_t i = 0; i < x.dim(); ++i) add(x.size(i) > 1 ? x.stride(i) * element : 0, x.size(i));
  }

 private:
  void add(int64_t step, int64_t count) {
    if (count < 2) return;
    axes.push_back({step, count});
    span += step * (count - 1);
  }
};

// Whether 0 <= index[i] < count[i] exist with `distance` the sum of index[i] * step[i], the axes of
// the largest steps first. `budget` bounds the search, which then answers that they might.
inline bool reaches(const Bytes::Axis* axis, const Bytes::Axis* end, int64_t distance, int64_t rest,
                    int64_t& budget) {
  if (distance < 0 || distance > rest) return false;
  if (axis == end || --budget < 0) return true;
  rest -= axis->step * (axis->count - 1);
  const int64_t last = std::min(distance / axis->step, axis->count - 1);
  for (int64_t index = last; index >= 0; --index) {
    const int64_t left = distance - index * axis->step;
    if (left > rest) break;
    if (reaches(axis + 1, end, left, rest, budget)) return true;
  }
  return false;
}

inline bool share_memory(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const Bytes x(a), y(b);
  if (x.first + x.span <= y.first || y.first + y.span <= x.first) return false;
  // x.first + x's steps = y.first + y's steps: from the last byte of y backwards all are forwards.
  std::map<int64_t, int64_t, std::greater<>> places;  // by step: the tensors are often alike
  int64_t rest = 0, budget = 10000;
  for (const Bytes* const bytes : {&x, &y}) {
    for (const Bytes::Axis axis : bytes->axes) {
      if (axis.step > 0) places[axis.step] += axis.count - 1;
      rest += axis.step * (axis.count - 1);
    }
  }
  std::vector<Bytes::Axis> axes;
  for (const auto& [step, more] : places) axes.push_back({step, more + 1});
  const int64_t distance = static_cast<int64_t>(y.first - x.first) + y.span - 1;
  return reaches(axes.data(), axes.data() + axes.size(), distance, rest, budget);
}

// Whether every element has a place of its own, as it has in what slicing and permuting make of a
// dense tensor: each axis steps over all that the axes of smaller steps reach.
inline bool is_written_once(const torch::stable::Tensor& x) {
  if (x.numel() == 0) return true;
  std::vector<Bytes::Axis> axes = Bytes(x).axes;
  std::sort(axes.begin(), axes.end(), [](auto p, auto q) { return p.step < q.step; });
  int64_t reach = 0;
  for (const auto axis : axes) {
    if (axis.step <= reach) return false;
    reach += axis.step * (axis.count - 1);
  }
  return true;
}

// Whether tensors of one shape and dtype have each element at the same address.
inline bool is_same_place(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  if (a.const_data_ptr() != b.const_data_ptr()) return false;
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

struct Input {
  const char* name;
  const torch::stable::Tensor& tensor;
};

// What an operator writes to.
inline void check_written(const torch::stable::Tensor& out, std::initializer_list<Input> inputs) {
  check(is_written_once(out),
        "unsupported operation: more than one element of out refers to a single memory location: "
        "pass memory of its own for each, for example out.clone()");
  for (const Input& input : inputs) {
    check(!share_memory(out, input.tensor), "unsupported operation: some elements of ", input.name,
          " and out refer to a single memory location: clone one of them");
  }
}

}  // namespace fasti3d
