// How many iterations the CPU solver takes in one sweep over the rows of a level.
//
// The stop is known only after the sweep, which may have gone past it; then a shorter one starts
// again from the state before. So the depth of a sweep decides over its time, never over its
// result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fasti3d::tvl1 {

// More save hardly more sweeps, most of which end where the stop is expected.
constexpr int64_t kMaxDepth = 8;

// The most iterations of a sweep whose rows in flight, which are `more` than its iterations, stay
// in the cache. `rows` are those of the smallest band, or 0 for a band without neighbors: one with
// them repeats half as many of their rows as it has iterations on each side, in every iteration.
inline int64_t max_depth(int64_t cache_bytes, int64_t row_bytes, int64_t more, int64_t rows) {
  int64_t depth = std::min(kMaxDepth, cache_bytes / row_bytes - more);
  if (rows > 0) depth = std::min(depth, rows / 8);
  return std::max<int64_t>(depth, 1);
}

// When the iterations of a warp may end, by the errors so far as multiples of the tolerance.
class Forecast {
 public:
  // `previous`: the iterations of the warp before.
  explicit Forecast(int64_t previous) : start_(std::min<int64_t>(previous, 4)) {}

  void add(double error) {
    before_[1] = before_[0];
    before_[0] = last_;
    last_ = error;
    ++count_;
  }
  // After a median, which changes u as a new start does.
  void restart() {
    start_ = 2;
    count_ = 0;
  }

  // Iterations that will probably be needed, the one that stops included. Errors fall more and more
  // slowly, so that as many more at the present rate are rarely too many. They go up and down from
  // one to the next: the rate is that of two.
  int64_t remaining() const {
    if (count_ < 2) return std::max<int64_t>(start_ - count_, 1);
    if (std::isinf(last_)) return kMaxDepth;  // the tolerance is 0
    const double rate = count_ > 2 ? std::sqrt(last_ / before_[1]) : last_ / before_[0];
    if (!(last_ > 1.0 && rate > 0.0)) return 1;
    // In long double, whose logarithm every glibc has under the same version.
    const long double fall = -std::log(std::min<long double>(rate, 0.98L));
    const long double steps = std::log(static_cast<long double>(last_)) / fall;
    return steps < kMaxDepth ? static_cast<int64_t>(std::ceil(steps)) : kMaxDepth;
  }

 private:
  int64_t start_;
  int64_t count_ = 0;
  double last_ = 0.0, before_[2] = {};
};

}  // namespace fasti3d::tvl1
