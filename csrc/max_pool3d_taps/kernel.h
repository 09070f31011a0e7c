// Max-pool with taps, and its gradient, over channels-last rows. Included once per instruction set,
// inside a namespace of its own which defines kWidth, the channels of a vector.
//
// For every pixel that is written the places that it reads are listed once; then its channels are
// computed in registers, a block at a time.

#include "../common/bfloat.h"

// A place that is read, and the tap that it is.
template <class T>
struct Place {
  const T* value;
  const uint8_t* taps;
  int32_t tap;
};

// Vectors of adjacent channels.
template <int kLanes>
struct Lanes {
  typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
  typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
  typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

  static Floats load(const float* p) {
    Floats v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }

  static Floats load(const Bfloat* p) {
    Halves halves;
    __builtin_memcpy(&halves, p, sizeof(halves));
    return (Floats)(__builtin_convertvector(halves, Bits) << 16);
  }

  static Ints load(const uint8_t* p) {
    Bytes bytes;
    __builtin_memcpy(&bytes, p, sizeof(bytes));
    return __builtin_convertvector(bytes, Ints);
  }

  static void store(float* p, Floats v) { __builtin_memcpy(p, &v, sizeof(v)); }

  // Rounded to nearest, ties to even.
  static void store(Bfloat* p, Floats v) {
    const Bits bits = (Bits)v;
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Halves halves = __builtin_convertvector(v != v ? (bits >> 16) | 0x40 : rounded, Halves);
    __builtin_memcpy(p, &halves, sizeof(halves));
  }

  static void store(uint8_t* p, Ints v) {
    const Bytes bytes = __builtin_convertvector(v, Bytes);
    __builtin_memcpy(p, &bytes, sizeof(bytes));
  }
};

template <int kLanes, int kVectors, class T>
inline void pool_channels(const Place<T>* places, int64_t count, int64_t c, T* out, uint8_t* taps) {
  using L = Lanes<kLanes>;
  typename L::Floats best[kVectors];
  typename L::Ints winner[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    best[i] = L::load(places[0].value + c + i * kLanes);
    winner[i] = typename L::Ints{} + places[0].tap;
  }
  for (int64_t p = 1; p < count; ++p) {
    const T* const value = places[p].value + c;
    const typename L::Ints tap = typename L::Ints{} + places[p].tap;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const typename L::Floats next = L::load(value + i * kLanes);
      const typename L::Ints better = (next > best[i]) | (next != next);
      best[i] = better ? next : best[i];
      winner[i] = better ? tap : winner[i];
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    L::store(out + c + i * kLanes, best[i]);
    L::store(taps + c + i * kLanes, winner[i]);
  }
}

template <int kLanes, int kVectors, class T>
inline void gather_channels(const Place<T>* places, int64_t count, int64_t c, T* out) {
  using L = Lanes<kLanes>;
  typename L::Floats sum[kVectors] = {};
  for (int64_t p = 0; p < count; ++p) {
    const T* const value = places[p].value + c;
    const uint8_t* const taps = places[p].taps + c;
    const typename L::Ints tap = typename L::Ints{} + places[p].tap;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const typename L::Ints won = L::load(taps + i * kLanes) == tap;
      sum[i] += won ? L::load(value + i * kLanes) : typename L::Floats{};
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) L::store(out + c + i * kLanes, sum[i]);
}

// All channels, in blocks of as many as registers hold.
template <class Of>
inline void each_block(int64_t channels, const Of& of) {
  int64_t c = 0;
  for (; c + 4 * kWidth <= channels; c += 4 * kWidth) of.template operator()<kWidth, 4>(c);
  for (; c + kWidth <= channels; c += kWidth) of.template operator()<kWidth, 1>(c);
  for (; c < channels; ++c) of.template operator()<1, 1>(c);
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
      each_block(args.in.c, [&]<int kLanes, int kVectors>(int64_t c) {
        pool_channels<kLanes, kVectors>(places, count, c, out, taps);
      });
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
      each_block(args.in.c, [&]<int kLanes, int kVectors>(int64_t c) {
        gather_channels<kLanes, kVectors>(places, count, c, out);
      });
    }
  }
}

TapsKernels taps_kernels(ScalarType type) {
  if (type == ScalarType::Float) return {pool_rows<float>, backward_rows<float>};
  return {pool_rows<Bfloat>, backward_rows<Bfloat>};
}
