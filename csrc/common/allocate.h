// New tensors. What torch's allocator says does not come through the stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <sstream>
#include <vector>

#include "check.h"

namespace fasti3d {

// Uninitialized and contiguous, in the given order of axes, on `like`'s device.
inline torch::stable::Tensor allocate(
    const char* name, const std::vector<int64_t>& size, torch::headeronly::ScalarType type,
    const torch::stable::Tensor& like,
    std::optional<torch::headeronly::MemoryFormat> order = std::nullopt) {
  try {
    return torch::stable::empty(size, type, std::nullopt, like.device(), std::nullopt, order);
  } catch (const std::exception&) {
    std::ostringstream sides;
    for (const int64_t side : size) sides << (sides.tellp() > 0 ? " x " : "") << side;
    fail(name, ": out of memory: cannot allocate ", sides.str(),
         " values: free memory, or pass fewer at a time");
  }
}

}  // namespace fasti3d
