// Runs the CPU solver's sweeps (csrc/tvl1/sweep.h) and the functions that choose their depth.
//
//   tvl1_sweep sweeps              compares sweeps of every depth and split into bands with single
//                                  iterations of the whole, and prints those that differ
//   tvl1_sweep depth CACHE ROW MORE ROWS
//   tvl1_sweep forecast PREVIOUS ERROR...    "median" among the errors stands for one
#include "../../csrc/tvl1/sweep.cpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "../../csrc/tvl1/cpu_baseline.cpp"
#include "../../csrc/tvl1/depth.h"

using namespace fasti3d::tvl1;

namespace {

constexpr int64_t kMaxWidth = 37;

struct Case {
  Size size;
  int64_t components, depth, bands, median;
  bool at_rest, upwards;
};

struct Memory {
  std::vector<float> floats;
  Planes planes;
  Memory(Size size, int64_t count, float value)
      : floats(static_cast<size_t>(count * size.height * row_stride(size.width) + kGuard), value),
        planes{floats.data() + kGuard, count, row_stride(size.width)} {}

  bool equals(const Memory& other, Size size) const {
    for (int64_t y = 0; y < size.height; ++y) {
      for (int64_t plane = 0; plane < planes.count; ++plane) {
        const size_t bytes = size.width * sizeof(float);
        if (std::memcmp(planes.row(y, plane), other.planes.row(y, plane), bytes) != 0) return false;
      }
    }
    return true;
  }
};

int64_t group_count(Size size) { return (size.height + kGroup - 1) / kGroup; }

class Trial {
 public:
  explicit Trial(const Case& c)
      : case_(c),
        params_{false,   0.25, 0.15, 0.3, 1, 1, 0, 30, 10, 0.8, c.components == 3 ? 0.4 : 0.0,
                c.median},
        data_(c.size, 4, 0.0f),
        start_(c.size, 3 * c.components, kNaN) {
    std::mt19937 random(static_cast<unsigned>(c.size.height * 100 + c.size.width));
    std::uniform_real_distribution<float> value(-1.0f, 1.0f);
    for (int64_t y = 0; y < c.size.height; ++y) {
      for (int64_t x = 0; x < c.size.width; ++x) {
        for (int64_t plane = 0; plane < 3 * c.components; ++plane) {
          // Duals point nowhere beyond the last pixel, and nothing is known of what is at rest.
          const bool outside = x + 1 == c.size.width || y + 1 == c.size.height;
          float v = value(random);
          if (plane >= c.components) v = c.at_rest ? kNaN : outside ? 0.0f : 0.3f * v;
          start_.planes.row(y, plane)[x] = v;
        }
        const float ix = 20 * value(random), iy = 20 * value(random);
        const float values[4] = {ix, iy, 1 / (ix * ix + iy * iy), 20 * value(random)};
        for (int64_t i = 0; i < 4; ++i) data_.planes.row(y, i)[x] = values[i];
      }
      for (int64_t plane = 0; plane < 3 * c.components; ++plane) {
        float* const row = start_.planes.row(y, plane);
        if (plane < c.components) extend(row, c.size.width);
        if (plane >= c.components) row[-1] = 0.0f;
      }
    }
  }

  bool passes() {
    Memory expected = start_;
    std::vector<double> expected_sums(static_cast<size_t>(case_.depth * group_count(case_.size)));
    Sweeper single(params_, baseline::rows, kMaxWidth, 1);
    for (int64_t i = 0; i < case_.depth; ++i) {
      Memory next = poisoned();
      single.run({case_.size, data_.planes, expected.planes, next.planes, case_.at_rest && i == 0,
                  case_.median > 1 && i == 0, 1, 0, case_.size.height,
                  expected_sums.data() + i * group_count(case_.size)});
      std::swap(expected.floats, next.floats);
      std::swap(expected.planes, next.planes);
    }
    Memory actual = poisoned();
    std::vector<double> sums(expected_sums.size(), kNaN);
    for (int64_t i = 0; i < case_.bands; ++i) {
      const int64_t band = case_.upwards ? case_.bands - 1 - i : i;
      const auto edge = [&](int64_t index) {
        return std::min(index * group_count(case_.size) / case_.bands * kGroup, case_.size.height);
      };
      Sweeper sweeper(params_, baseline::rows, kMaxWidth, kMaxDepth);
      sweeper.run({case_.size, data_.planes, start_.planes, actual.planes, case_.at_rest,
                   case_.median > 1, case_.depth, edge(band), edge(band + 1), sums.data()});
    }
    return actual.equals(expected, case_.size) && sums == expected_sums;
  }

 private:
  static constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

  Memory poisoned() const { return {case_.size, 3 * case_.components, kNaN}; }

  const Case case_;
  const Params params_;
  Memory data_, start_;
};

int sweeps() {
  int cases = 0;
  for (const Size size : {Size{3, 5}, Size{8, 16}, Size{17, 33}, Size{41, kMaxWidth}}) {
    for (int64_t depth = 1; depth <= kMaxDepth; ++depth) {
      for (int64_t bands = 1; bands <= std::min<int64_t>(3, group_count(size)); ++bands) {
        for (int variant = 0; variant < 8; ++variant, ++cases) {
          const Case c{size,          variant % 2 ? 3 : 2, depth,
                       bands,         variant & 2 ? 5 : 1, (variant & 4) != 0,
                       depth % 2 == 0};
          if (Trial(c).passes()) continue;
          std::printf("%ld x %ld, depth %ld, %ld bands, variant %d\n",
                      static_cast<long>(size.height), static_cast<long>(size.width),
                      static_cast<long>(depth), static_cast<long>(bands), variant);
        }
      }
    }
  }
  std::printf("%d cases\n", cases);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = arguments[1];
  const auto number = [&](int i) { return std::atoll(arguments[i]); };
  if (what == "sweeps") return sweeps();
  long long result = 0;
  if (what == "depth") result = max_depth(number(2), number(3), number(4), number(5));
  if (what == "forecast") {
    Forecast forecast(number(2));
    for (int i = 3; i < count; ++i) {
      if (std::string(arguments[i]) == "median") {
        forecast.restart();
      } else {
        forecast.add(std::atof(arguments[i]));
      }
    }
    result = forecast.remaining();
  }
  std::printf("%lld\n", result);
}
