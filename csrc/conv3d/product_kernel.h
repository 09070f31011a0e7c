// The products of one Winograd component. Included inside a namespace which defines Vector, kLanes,
// kRows, kVectorsPerPanel, load_lanes and store_lanes. The direct form's tile without an epilogue:
// of as few products as an input channel has here, that would take a fifth of the time.

template <int kPanels, bool kFetches>
inline __attribute__((always_inline)) void multiply_tile(const MultiplyArgs& args) {
  constexpr int kVectors = kPanels * kVectorsPerPanel;
  // A sum's rounding error grows with its length: about kSummed products are summed by themselves.
  const int64_t together = std::max<int64_t>(kSummed / args.run, 1);
  const int64_t pieces = (args.run + kSummed - 1) / kSummed;
  const int64_t length = (args.run + pieces - 1) / pieces;
  const char* ahead = args.ahead;
  for (int64_t first = 0; first < args.count * pieces; first += together) {
    Vector sum[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Vector{};
    }
    const int64_t begin = first / pieces, end = std::min(begin + together, args.count);
    const int64_t from = first % pieces * length, to = std::min(from + length, args.run);
    for (int64_t tap = begin; tap < end; ++tap) {
      const void* const* const inputs = args.taps + tap * kRows;
      const float* at = static_cast<const float*>(args.weights) + (tap * args.run + from) * kPanel;
      for (int64_t k = args.offset + from; k < args.offset + to; ++k, at += kPanel) {
        if constexpr (kFetches) {
          __builtin_prefetch(ahead, 0, 2);
          ahead += kAlignment;
        }
        Vector w[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          w[v] = load_lanes(at + v / kVectorsPerPanel * args.panel_stride +
                            v % kVectorsPerPanel * kLanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const float a = static_cast<const float*>(inputs[r])[k];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sum[r][v] += a * w[v];
        }
      }
    }
    const auto store = [&](bool add) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          float* const out = args.out + r * args.out_stride + v * kLanes;
          store_lanes(out, add ? load_lanes(out) + sum[r][v] : sum[r][v], kLanes);
        }
      }
    };
    if (first == 0) {
      store(false);
    } else {
      store(true);
    }
  }
}

template <int kPanels>
void multiply(const MultiplyArgs& args) {
  args.ahead == nullptr ? multiply_tile<kPanels, false>(args) : multiply_tile<kPanels, true>(args);
}
