// torch's threads. What an exception in one of them says is kept, and that it was a lack of memory:
// torch's own parallel_for keeps that there was one. An exception_ptr would need libstdc++ of
// GCC 11.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#if defined(__SANITIZE_THREAD__)
#include <thread>
#include <vector>
#endif

#include "check.h"

namespace fasti3d {

#if defined(__SANITIZE_THREAD__)
// The thread sanitizer cannot see where OpenMP, which is not built with it, starts threads and
// waits for them, and takes all that they share for races. It does see std::thread. Shares are
// torch's.
template <class Work>
void fork_and_join(int64_t begin, int64_t end, int64_t grain, const Work& work) {
  const int64_t threads =
      std::min<int64_t>(torch::stable::get_num_threads(), (end - begin + grain - 1) / grain);
  if (threads <= 0) return;
  const int64_t share = (end - begin + threads - 1) / threads;
  std::vector<std::thread> others;
  for (int64_t first = begin + share; first < end; first += share) {
    others.emplace_back([&work, first, last = std::min(end, first + share)] { work(first, last); });
  }
  work(begin, std::min(end, begin + share));
  for (std::thread& other : others) other.join();
}
#else
template <class Work>
void fork_and_join(int64_t begin, int64_t end, int64_t grain, const Work& work) {
  torch::stable::parallel_for(begin, end, grain, work);
}
#endif

template <class Work>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Work& work) {
  std::string error;
  std::atomic<bool> failed{false}, lacks_memory{false};
  fork_and_join(begin, end, grain, [&](int64_t first, int64_t last) {
    try {
      work(first, last);
    } catch (const std::bad_alloc&) {
      lacks_memory = true;
    } catch (const std::exception& thrown) {
      if (!failed.exchange(true)) error = thrown.what();
    }
  });
  if (lacks_memory) throw std::bad_alloc();
  if (failed) fail(error);
}

}  // namespace fasti3d
