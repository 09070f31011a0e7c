// Max-pool with taps, and its gradient, over channels-last rows. Included once per instruction set,
// inside a namespace of its own.
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

template <int kChannels, class T>
inline void pool_channels(const Place<T>* places, int64_t count, int64_t c, T* out, uint8_t* taps) {
  float best[kChannels];
  int32_t winner[kChannels];
  for (int i = 0; i < kChannels; ++i) {
    best[i] = widen(places[0].value[c + i]);
    winner[i] = places[0].tap;
  }
  for (int64_t p = 1; p < count; ++p) {
    const T* __restrict const value = places[p].value + c;
    const int32_t tap = places[p].tap;
    for (int i = 0; i < kChannels; ++i) {
      const float next = widen(value[i]);
      const bool better = !(next <= best[i]) && !(best[i] != best[i] && next == next);
      best[i] = better ? next : best[i];
      winner[i] = better ? tap : winner[i];
    }
  }
  for (int i = 0; i < kChannels; ++i) {
    narrow(best[i], out[c + i]);
    taps[c + i] = static_cast<uint8_t>(winner[i]);
  }
}

template <int kChannels, class T>
inline void gather_channels(const Place<T>* places, int64_t count, int64_t c, T* out) {
  float sum[kChannels] = {};
  for (int64_t p = 0; p < count; ++p) {
    const T* __restrict const value = places[p].value + c;
    const uint8_t* __restrict const taps = places[p].taps + c;
    const int32_t tap = places[p].tap;
    for (int i = 0; i < kChannels; ++i) {
      sum[i] += static_cast<int32_t>(taps[i]) == tap ? widen(value[i]) : 0.f;
    }
  }
  for (int i = 0; i < kChannels; ++i) narrow(sum[i], out[c + i]);
}

// All channels, in blocks of as many as registers hold.
template <class Of>
inline void each_block(int64_t channels, const Of& of) {
  int64_t c = 0;
  for (; c + 32 <= channels; c += 32) of.template operator()<32>(c);
  for (; c + 8 <= channels; c += 8) of.template operator()<8>(c);
  for (; c < channels; ++c) of.template operator()<1>(c);
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
      each_block(args.in.c, [&]<int kChannels>(int64_t c) {
        pool_channels<kChannels>(places, count, c, out, taps);
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
      each_block(args.in.c, [&]<int kChannels>(int64_t c) {
        gather_channels<kChannels>(places, count, c, out);
      });
    }
  }
}

TapsKernels taps_kernels(ScalarType type) {
  if (type == ScalarType::Float) return {pool_rows<float>, backward_rows<float>};
  return {pool_rows<Bfloat>, backward_rows<Bfloat>};
}
