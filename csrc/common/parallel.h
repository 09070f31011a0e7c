// torch's threads, which exceptions leave as they were thrown: torch's own parallel_for keeps that
// there was one, but not what it says.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace fasti3d {

template <class Work>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Work& work) {
  std::exception_ptr error;
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) {
    try {
      work(first, last);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (failed) std::rethrow_exception(error);
}

}  // namespace fasti3d
