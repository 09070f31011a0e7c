// What the harness has instead of torch: tensors in its own memory, and the operators that csrc
// registers, by name. host.cpp implements as much of torch's stable C interface as they call.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace host {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

// Contiguous, uninitialized.
Tensor make(const Sizes& sizes, ScalarType type);
// A view of `tensor`'s memory from element `offset` on.
Tensor view(const Tensor& tensor, const Sizes& sizes, const Sizes& strides, int64_t offset);

using Operator = void (*)(StableIValue* stack, uint64_t inputs, uint64_t outputs);
Operator find(const std::string& name);

// Arguments have the types of the operator's signature; what it returns is left in the result.
template <class... Args>
std::vector<StableIValue> call(const std::string& name, uint64_t outputs, const Args&... args) {
  std::vector<StableIValue> stack{torch::stable::detail::from(args)...};
  stack.resize(std::max<size_t>(sizeof...(args), outputs));
  find(name)(stack.data(), sizeof...(args), outputs);
  return stack;
}

}  // namespace host
