// The inner loops, for vectors of kLanes floats. Included once per instruction set, inside a
// namespace of its own which defines kLanes, kRows and kOddRows.

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

inline Vector load_lanes(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

inline Vector load_lanes(const float* p, int64_t count) {
  if (count >= kLanes) return load_lanes(p);
  float values[kLanes] = {};
  for (int64_t c = 0; c < count; ++c) values[c] = p[c];
  return load_lanes(values);
}

template <int kTaken, int kVectors>
void products(const ProductArgs& args) {
  Vector sum[kTaken][kVectors] = {};
  const float* grad[kVectors];
  for (int v = 0; v < kVectors; ++v) grad[v] = args.grad[v];
  const float* x_row = args.x;
  for (int64_t row = 0; row < args.rows; ++row, x_row += args.x_row) {
    const float* x = x_row;
    const int64_t end = row * args.grad_row + args.pixels * kBlock;
    for (int64_t at = row * args.grad_row; at < end; at += kBlock, x += args.x_pixel) {
      Vector g[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) g[v] = load_lanes(grad[v] + at);
#pragma GCC unroll 8
      for (int r = 0; r < kTaken; ++r) {
        const float value = x[r];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] += value * g[v];
      }
    }
  }
  for (int r = 0; r < kTaken; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      float* const target = args.sums + r * args.sums_stride + v * kLanes;
      const Vector total = args.first ? sum[r][v] : load_lanes(target) + sum[r][v];
      __builtin_memcpy(target, &total, sizeof(total));
    }
  }
}

inline void spread(const SpreadArgs& args) {
  const int64_t frames = args.phases * args.count;
  for (int64_t pixel = 0; pixel < args.pixels; ++pixel) {
    for (int64_t c = 0; c < args.channels; c += kLanes) {
      Vector x[kMaxFrames];
      for (int64_t f = 0; f < frames; ++f) {
        x[f] = args.frames[f] == nullptr
                   ? Vector{}
                   : load_lanes(args.frames[f] + pixel * args.pixel_stride + c, args.channels - c);
      }
      float* target = args.out + c / kBlock * args.out_block + pixel * kBlock + c % kBlock;
      const float* matrix = args.matrix;
      for (int64_t part = 0; part < args.parts; ++part, matrix += args.count) {
        const Vector* const phase = x + part % args.phases * args.count;
        Vector sum{};
        for (int64_t f = 0; f < args.count; ++f) sum += matrix[f] * phase[f];
        __builtin_memcpy(target + part * args.out_part, &sum, sizeof(sum));
      }
    }
  }
}

inline void gather(const GatherArgs& args) {
  const int64_t plane = args.kernel_h * args.kernel_w;
  for (int64_t place = 0; place < plane; ++place) {
    const float* const at =
        args.sums + place / args.kernel_w * args.row + place % args.kernel_w * args.value;
    for (int64_t t = 0; t < args.kernel_t; ++t) {
      const int64_t phase = t % args.phases;
      const float* factor = args.matrix + phase * args.taps + t / args.phases;
      const float* part = at + phase * args.part;
      Vector sum[kBlock / kLanes] = {};
      for (int64_t component = 0; component < args.components; ++component) {
        // What a phase has no use for was not summed.
        for (int v = 0; *factor != 0.0f && v < kBlock / kLanes; ++v) {
          sum[v] += *factor * load_lanes(part + v * kLanes);
        }
        factor += args.phases * args.taps;
        part += args.phases * args.part;
      }
      float values[kBlock];
      __builtin_memcpy(values, sum, sizeof(values));
      float* const target = args.out + t * plane + place;
      for (int64_t c = 0; c < args.channels; ++c) target[c * args.stride] = values[c];
    }
  }
}

extern const GradWeightKernels kKernels = {
    kLanes,
    kRows,
    kOddRows,
    {products<kRows, 1>, products<kRows, 2>, products<kRows, 3>},
    {products<kOddRows, 1>, products<kOddRows, 2>, products<kOddRows, 3>},
    spread,
    gather};
