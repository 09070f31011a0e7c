// TV-L1, whose results are the same to the bit on every instruction set.
#include <optional>

#include "../../csrc/common/isa.h"
#include "cases.h"
#include "clips.h"

using host::ScalarType;
using host::Tensor;

namespace {

struct Result {
  Tensor flow, iterations;
  bool operator==(const Result& other) const {
    return std::memcmp(flow.const_data_ptr(), other.flow.const_data_ptr(),
                       flow.numel() * sizeof(float)) == 0 &&
           std::memcmp(iterations.const_data_ptr(), other.iterations.const_data_ptr(),
                       iterations.numel() * sizeof(int32_t)) == 0;
  }
};

Result solve(const Tensor& frames, const std::string& mode, double gamma, int64_t median) {
  using torch::stable::detail::to;
  const std::optional<Tensor> none;
  auto result = host::call("tvl1", 2, frames, none, none, mode, 0.25, 0.15, 0.3, int64_t(3),
                           int64_t(2), 0.01, int64_t(6), int64_t(2), 0.8, gamma, median);
  return {to<Tensor>(result[0]), to<Tensor>(result[1])};
}

}  // namespace

void flow() {
  const std::string set = fasti3d::isa_name(fasti3d::isa());
  for (const int64_t width : {37, 64, 50}) {
    // A pattern that moves by a pixel or so per frame.
    const int64_t height = 33;
    const Tensor frames = host::make({3, height, width}, ScalarType::Byte);
    uint8_t* pixel = static_cast<uint8_t*>(frames.mutable_data_ptr());
    for (int64_t n = 0; n < 3; ++n)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
          *pixel++ = static_cast<uint8_t>(128 + 60 * std::sin(0.37 * (x + 1.3 * n)) +
                                          60 * std::sin(0.29 * (y - 0.7 * n) + 0.1 * x));
    for (const std::string mode : {"opencv-cpu", "opencv-cuda"}) {
      for (const double gamma : {0.0, 0.2}) {
        for (const int64_t median : {1, 3, 5}) {
          if (mode == "opencv-cuda" && median > 1) continue;
          fasti3d::limit_isa("baseline");
          const Result want = solve(frames, mode, gamma, median);
          fasti3d::limit_isa(set);
          expect(solve(frames, mode, gamma, median) == want, "flow of " + std::to_string(width) +
                                                                 " columns, " + mode + ", median " +
                                                                 std::to_string(median));
          const float* values = static_cast<const float*>(want.flow.const_data_ptr());
          double moved = 0.0;
          for (int64_t i = 0; i < want.flow.numel(); ++i) moved += std::abs(values[i]);
          expect(moved > 0.1 * static_cast<double>(want.flow.numel()), "a flow of zeros");
        }
      }
    }
  }
}
