// Winograd's transform of weights. Included inside a namespace which defines kLanes,
// kVectorsPerPanel and load_lanes.

inline void mix_taps(const MixArgs& args) {
  typedef double Wide __attribute__((vector_size(kLanes * sizeof(double))));
  int64_t taps = 1, rows = 1;
  for (const FilterAxis& axis : args.axes) taps *= axis.kernel, rows *= axis.rows();
  for (int v = 0; v < kVectorsPerPanel; ++v) {
    double *from = args.scratch, *to = args.scratch + args.scratch_count();
    const auto load = [](const double* p) {
      Wide v;
      __builtin_memcpy(&v, p, sizeof(v));
      return v;
    };
    for (int64_t i = 0; i < taps; ++i) {
      const Vector tap = load_lanes(args.window + i * kPanel + v * kLanes);
      const Wide wide = __builtin_convertvector(tap, Wide);
      __builtin_memcpy(from + i * kLanes, &wide, sizeof(wide));
    }
    int64_t outer = 1, inner = taps;
    for (const FilterAxis& axis : args.axes) {
      inner /= axis.kernel;
      for (int64_t o = 0; o < outer; ++o) {
        for (int64_t row = 0; row < axis.rows(); ++row) {
          const double* const factors = axis.matrix + row * axis.taps;
          for (int64_t i = 0; i < inner; ++i) {
            Wide sum{};
            for (int64_t j = 0, tap = row % axis.phases; tap < axis.kernel;
                 ++j, tap += axis.phases) {
              sum += factors[j] * load(from + ((o * axis.kernel + tap) * inner + i) * kLanes);
            }
            double* const target = to + ((o * axis.rows() + row) * inner + i) * kLanes;
            __builtin_memcpy(target, &sum, sizeof(sum));
          }
        }
      }
      outer *= axis.rows();
      std::swap(from, to);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const Vector rounded = __builtin_convertvector(load(from + i * kLanes), Vector);
      __builtin_memcpy(args.out + i * kPanel + v * kLanes, &rounded, sizeof(rounded));
    }
  }
}
