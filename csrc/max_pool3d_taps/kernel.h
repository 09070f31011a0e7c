// Max-pool with taps, and its gradient, over channels-last rows. Included once per instruction set,
// inside a namespace of its own which includes common/lanes.h.
//
// For every pixel that is written the places that it reads are listed once; then its channels are
// computed in registers, a block at a time.

// A place that is read, and the tap that it is.
template <class T>
struct Place {
  const T* value;
  const uint8_t* taps;
  int32_t tap;
};

template <int kVectors, class T>
inline void pool_channels(const Place<T>* places, int64_t count, int64_t c, T* out, uint8_t* taps) {
  Vector best[kVectors];
  Ints winner[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    best[i] = load(places[0].value + c + i * kLanes);
    winner[i] = Ints{} + places[0].tap;
  }
  for (int64_t p = 1; p < count; ++p) {
    const T* const value = places[p].value + c;
    const Ints tap = Ints{} + places[p].tap;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const Vector next = load(value + i * kLanes);
      const Ints better = (next > best[i]) | (next != next);  // the last NaN, as in torch
      best[i] = better ? next : best[i];
      winner[i] = better ? tap : winner[i];
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    store(out + c + i * kLanes, best[i]);
    store(taps + c + i * kLanes, winner[i]);
  }
}

// All channels of a pixel.
template <class T>
inline void pool_pixel(const Place<T>* places, int64_t count, int64_t channels, T* out,
                       uint8_t* taps) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
    pool_channels<4>(places, count, c, out, taps);
  }
  for (; c + kLanes <= channels; c += kLanes) pool_channels<1>(places, count, c, out, taps);
  for (; c < channels; ++c) {
    float best = widen(places[0].value[c]);
    int32_t winner = places[0].tap;
    for (int64_t p = 1; p < count; ++p) {
      const float next = widen(places[p].value[c]);
      if (next > best || next != next) best = next, winner = places[p].tap;
    }
    narrow(best, out[c]);
    taps[c] = static_cast<uint8_t>(winner);
  }
}

template <int kVectors, class T>
inline void gather_channels(const Place<T>* places, int64_t count, int64_t c, T* out) {
  Vector sum[kVectors] = {};
  for (int64_t p = 0; p < count; ++p) {
    const T* const value = places[p].value + c;
    const uint8_t* const taps = places[p].taps + c;
    const Ints tap = Ints{} + places[p].tap;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const Ints won = load(taps + i * kLanes) == tap;
      sum[i] += won ? load(value + i * kLanes) : Vector{};
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) store(out + c + i * kLanes, sum[i]);
}

template <class T>
inline void gather_pixel(const Place<T>* places, int64_t count, int64_t channels, T* out) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) gather_channels<4>(places, count, c, out);
  for (; c + kLanes <= channels; c += kLanes) gather_channels<1>(places, count, c, out);
  for (; c < channels; ++c) {
    float sum = 0;
    for (int64_t p = 0; p < count; ++p) {
      sum += places[p].taps[c] == places[p].tap ? widen(places[p].value[c]) : 0.f;
    }
    narrow(sum, out[c]);
  }
}

template <class T>
void pool_rows(const TapsArgs& args, int64_t begin, int64_t end) {
  const Axis t = args.window.t, h = args.window.h, w = args.window.w;
  Place<T> places[kMaxTaps];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t oh = row % h.out, ot = row / h.out % t.out, n = row / (h.out * t.out);
    for (int64_t ow = 0; ow < w.out; ++ow) {
      int64_t count = 0;
      for (int64_t it = t.first(ot); it < t.last(ot); ++it) {
        for (int64_t ih = h.first(oh); ih < h.last(oh); ++ih) {
          const int64_t before = ((it - t.start(ot)) * h.kernel + ih - h.start(oh)) * w.kernel;
          for (int64_t iw = w.first(ow); iw < w.last(ow); ++iw) {
            const T* const value =
                static_cast<const T*>(args.values) + args.in.pixel(n, it, ih, iw);
            places[count++] = {value, nullptr, static_cast<int32_t>(before + iw - w.start(ow))};
          }
        }
      }
      T* const out = static_cast<T*>(args.out) + args.out_view.pixel(n, ot, oh, ow);
      uint8_t* const taps = args.taps + args.taps_view.pixel(n, ot, oh, ow);
      pool_pixel(places, count, args.in.c, out, taps);
    }
  }
}

// The windows along an axis that hold input i.
struct Holding {
  int64_t first, last;
};

inline Holding holding(const Axis& axis, int64_t i) {
  const int64_t reach = i + axis.front - axis.kernel;  // the last input before a window that begins
  const int64_t first = reach < 0 ? 0 : reach / axis.stride + 1;
  const int64_t last = (i + axis.front) / axis.stride + 1;
  return {first, last < axis.out ? last : axis.out};
}

template <class T>
void backward_rows(const TapsArgs& args, int64_t begin, int64_t end) {
  const Axis t = args.window.t, h = args.window.h, w = args.window.w;
  Place<T> places[kMaxTaps];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t ih = row % h.in, it = row / h.in % t.in, n = row / (h.in * t.in);
    const Holding in_t = holding(t, it), in_h = holding(h, ih);
    for (int64_t iw = 0; iw < w.in; ++iw) {
      const Holding in_w = holding(w, iw);
      int64_t count = 0;
      for (int64_t ot = in_t.first; ot < in_t.last; ++ot) {
        for (int64_t oh = in_h.first; oh < in_h.last; ++oh) {
          const int64_t before = ((it - t.start(ot)) * h.kernel + ih - h.start(oh)) * w.kernel;
          for (int64_t ow = in_w.first; ow < in_w.last; ++ow) {
            const T* const value =
                static_cast<const T*>(args.values) + args.in.pixel(n, ot, oh, ow);
            const uint8_t* const taps = args.taps + args.taps_view.pixel(n, ot, oh, ow);
            places[count++] = {value, taps, static_cast<int32_t>(before + iw - w.start(ow))};
          }
        }
      }
      T* const out = static_cast<T*>(args.out) + args.out_view.pixel(n, it, ih, iw);
      gather_pixel(places, count, args.in.c, out);
    }
  }
}

TapsKernels taps_kernels(ScalarType type) {
  if (type == ScalarType::Float) return {pool_rows<float>, backward_rows<float>};
  return {pool_rows<Bfloat>, backward_rows<Bfloat>};
}
