// Depthwise convolution of channels-last rows, for vectors of kLanes channels. Included once per
// instruction set, inside a namespace of its own which defines kMaxPixels and
// includes common/lanes.h.
//
// Two rows of up to kMaxPixels outputs of one vector of channels are summed in registers: a value
// that is loaded serves every output whose window holds it. Each output adds up its taps in the
// same order, whichever block it is in.

// Where a block of outputs lies: frame (of the whole result), row, column and first channel.
struct Block {
  int64_t n, t, h, w, c;
};

// One row of the input into the sums of up to two rows of outputs, whose taps `first` and `second`
// are. kTaps and kStride are those along a row, 0 if they are only known at run time; kInside: no
// window leaves the row.
template <class T, int kTaps, int kStride, int kPixels, bool kInside, bool kFirst, bool kSecond>
inline void add_row(const DepthwiseArgs& args, const T* x, const float* first, const float* second,
                    int64_t begin, Vector (&sum)[2][kPixels]) {
  const Axis w = args.window.w;
  const int64_t channels = args.in.c, step = args.in.stride_w;
  if constexpr (kTaps > 0) {
    Vector weight[2][kTaps];
#pragma GCC unroll 3
    for (int k = 0; k < kTaps; ++k) {
      if (kFirst) weight[0][k] = load(first + k * channels);
      if (kSecond) weight[1][k] = load(second + k * channels);
    }
#pragma GCC unroll 17
    for (int i = 0; i < (kPixels - 1) * kStride + kTaps; ++i) {
      if (!kInside && (begin + i < 0 || begin + i >= w.in)) continue;
      const Vector value = load(x + i * step);
#pragma GCC unroll 3
      for (int k = 0; k < kTaps; ++k) {
        const int p = (i - k) / kStride;
        if (i < k || (i - k) % kStride != 0 || p >= kPixels) continue;
        if (kFirst) sum[0][p] += weight[0][k] * value;
        if (kSecond) sum[1][p] += weight[1][k] * value;
      }
    }
  } else {
    for (int64_t k = 0; k < w.kernel; ++k) {
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        const int64_t i = p * w.stride + k;
        if (!kInside && (begin + i < 0 || begin + i >= w.in)) continue;
        const Vector value = load(x + i * step);
        if (kFirst) sum[0][p] += load(first + k * channels) * value;
        if (kSecond) sum[1][p] += load(second + k * channels) * value;
      }
    }
  }
}

// kRows rows of kPixels outputs of one vector of channels.
template <class T, int kTaps, int kStride, int kPixels, bool kInside, int kRows>
inline void run_block(const DepthwiseArgs& args, const Block& at) {
  const Axis t = args.window.t, h = args.window.h, w = args.window.w;
  const int64_t channels = args.in.c, begin = w.start(at.w);
  const int64_t top = h.start(at.h), next = h.start(at.h + 1);
  const int64_t line = w.kernel * channels;
  Vector sum[2][kPixels];
  const Vector bias = load(args.bias + at.c);
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) sum[0][p] = sum[1][p] = bias;
  for (int64_t it = t.first(at.t); it < t.last(at.t); ++it) {
    const float* const frame = args.weights + (it - t.start(at.t)) * h.kernel * line + at.c;
    for (int64_t ih = h.first(at.h); ih < h.last(at.h + kRows - 1); ++ih) {
      const T* const x = static_cast<const T*>(args.x) + args.in.pixel(at.n, it, ih, begin) + at.c;
      const float* const first = frame + (ih - top) * line;
      const bool in_first = ih < top + h.kernel, in_second = kRows == 2 && ih >= next;
      if (kRows == 2 && in_first && in_second) {
        add_row<T, kTaps, kStride, kPixels, kInside, true, kRows == 2>(
            args, x, first, first - h.stride * line, begin, sum);
      } else if (in_first) {
        add_row<T, kTaps, kStride, kPixels, kInside, true, false>(args, x, first, nullptr, begin,
                                                                  sum);
      } else if (in_second) {
        add_row<T, kTaps, kStride, kPixels, kInside, false, kRows == 2>(
            args, x, nullptr, first - h.stride * line, begin, sum);
      }
    }
  }
  T* const out =
      static_cast<T*>(args.out) + args.result.pixel(at.n, at.t - args.start, at.h, at.w) + at.c;
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
      // Written so that a NaN stays one, as in torch.
      if (args.relu) sum[r][p] = sum[r][p] < 0.0f ? Vector{} : sum[r][p];
      store(out + r * args.result.stride_h + p * args.result.stride_w, sum[r][p]);
    }
  }
}

// kRows rows of outputs, columns from at.w on: in blocks of kPixels, then in smaller ones.
template <class T, int kTaps, int kStride, int kPixels, int kRows>
void run_rows(const DepthwiseArgs& args, Block at) {
  const Axis w = args.window.w;
  const int64_t channels = args.in.c;
  for (; w.out - at.w >= kPixels; at.w += kPixels) {
    const int64_t last = w.start(at.w) + (kPixels - 1) * w.stride + w.kernel;
    const bool inside = w.start(at.w) >= 0 && last <= w.in;
    for (int64_t c = 0; c < channels; c += kLanes) {
      // The last vector of channels overlaps the one before, with the same results.
      at.c = c + kLanes <= channels ? c : channels - kLanes;
      if (inside) {
        run_block<T, kTaps, kStride, kPixels, true, kRows>(args, at);
      } else {
        run_block<T, kTaps, kStride, kPixels, false, kRows>(args, at);
      }
    }
  }
  if constexpr (kPixels > 1) run_rows<T, kTaps, kStride, kPixels / 2, kRows>(args, at);
}

// Rows from at.h up to `bottom`, two at a time.
template <class T, int kTaps, int kStride>
void run_pairs(const DepthwiseArgs& args, Block at, int64_t bottom) {
  for (; at.h + 1 < bottom; at.h += 2) run_rows<T, kTaps, kStride, kMaxPixels, 2>(args, at);
  if (at.h < bottom) run_rows<T, kTaps, kStride, kMaxPixels, 1>(args, at);
}

// Clips of fewer channels than a vector has: one row of outputs.
template <class T>
void run_few_channels(const DepthwiseArgs& args, const Block& at) {
  const Axis t = args.window.t, h = args.window.h, w = args.window.w;
  const auto lane = [](const T* p) {
    T padded[kLanes] = {*p};
    return load(padded)[0];
  };
  for (int64_t ow = 0; ow < w.out; ++ow) {
    T* const out = static_cast<T*>(args.out) + args.result.pixel(at.n, at.t - args.start, at.h, ow);
    for (int64_t c = 0; c < args.in.c; ++c) {
      float sum = args.bias[c];
      for (int64_t it = t.first(at.t); it < t.last(at.t); ++it) {
        for (int64_t ih = h.first(at.h); ih < h.last(at.h); ++ih) {
          const int64_t row = (it - t.start(at.t)) * h.kernel + ih - h.start(at.h);
          for (int64_t iw = w.first(ow); iw < w.last(ow); ++iw) {
            const int64_t tap = row * w.kernel + iw - w.start(ow);
            const T* const x = static_cast<const T*>(args.x) + args.in.pixel(at.n, it, ih, iw);
            sum += args.weights[tap * args.in.c + c] * lane(x + c);
          }
        }
      }
      if (args.relu && sum < 0.0f) sum = 0.0f;
      T rounded[kLanes];
      store(rounded, Vector{} + sum);
      out[c] = rounded[0];
    }
  }
}

template <class T>
void depthwise_rows(const DepthwiseArgs& args, int64_t begin, int64_t end) {
  const Axis h = args.window.h, w = args.window.w;
  const int64_t frames = args.result.t, channels = args.in.c;
  const auto run = w.kernel == 3 && w.stride == 1   ? run_pairs<T, 3, 1>
                   : w.kernel == 3 && w.stride == 2 ? run_pairs<T, 3, 2>
                   : w.kernel == 1 && w.stride == 1 ? run_pairs<T, 1, 1>
                                                    : run_pairs<T, 0, 0>;
  for (int64_t row = begin; row < end;) {
    const int64_t n = row / (frames * h.out), of_clip = row % (frames * h.out);
    const int64_t top = of_clip / (args.band * frames) * args.band;
    const int64_t height = args.band < h.out - top ? args.band : h.out - top;
    const int64_t of_band = of_clip - top * frames, of_frame = of_band % height;
    // The rows of this frame and band.
    const int64_t count = height - of_frame < end - row ? height - of_frame : end - row;
    Block at{n, args.start + of_band / height, top + of_frame, 0, 0};
    const int64_t bottom = at.h + count;
    if (channels < kLanes) {
      for (; at.h < bottom; ++at.h) run_few_channels<T>(args, at);
    } else {
      run(args, at, bottom);
    }
    row += count;
  }
}

void depthwise_rows_any(const DepthwiseArgs& args, int64_t begin, int64_t end) {
  if (args.type == ScalarType::Float) return depthwise_rows<float>(args, begin, end);
  depthwise_rows<Bfloat>(args, begin, end);
}
