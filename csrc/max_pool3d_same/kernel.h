// Max-pool of channels-last clips, one band of output rows at a time.
//
// The values are compared as integers: for IEEE formats, flipping the lower bits of negative
// numbers gives keys that order as the values do, so that one integer maximum serves float32,
// bfloat16 and float16, and a NaN mapped to the largest key wins as it does in torch.
//
// Included once per instruction set, inside a namespace of its own which defines Single, as which
// float32 values are compared: int32_t, or float where it defines the three functions on keys of
// floats.

template <class Int>
inline Int to_key(Int bits, Int infinity) {
  constexpr Int kMax = static_cast<Int>(~(Int(1) << (sizeof(Int) * 8 - 1)));
  const Int key = static_cast<Int>(bits ^ ((bits >> (sizeof(Int) * 8 - 1)) & kMax));
  return static_cast<Int>(bits & kMax) > infinity ? kMax : key;
}

template <class Int>
inline Int from_key(Int key) {
  constexpr Int kMax = static_cast<Int>(~(Int(1) << (sizeof(Int) * 8 - 1)));
  return static_cast<Int>(key ^ ((key >> (sizeof(Int) * 8 - 1)) & kMax));
}

template <class Int>
inline void first_keys(const Int* __restrict source, int64_t count, Int infinity,
                       Int* __restrict target) {
  for (int64_t i = 0; i < count; ++i) target[i] = to_key(source[i], infinity);
}

// The larger of the keys that are there and those of further values.
template <class Int>
inline void more_keys(const Int* __restrict source, int64_t count, Int infinity,
                      Int* __restrict target) {
  for (int64_t i = 0; i < count; ++i) {
    const Int key = to_key(source[i], infinity);
    target[i] = key > target[i] ? key : target[i];
  }
}

// The largest of `taps` neighbouring pixels' keys, as a value. kTaps is `taps` where the compiler
// may know it, else 0.
template <int kTaps, class Int>
inline void pool_pixels(const Int* keys, int64_t channels, int64_t taps, Int* __restrict out) {
  for (int64_t c = 0; c < channels; ++c) {
    Int best = keys[c];
    for (int64_t k = 1; k < (kTaps ? kTaps : taps); ++k) {
      const Int next = keys[c + k * channels];
      best = next > best ? next : best;
    }
    out[c] = from_key(best);
  }
}

// Rows [row_begin, row_end) of the output, counted over n, t and h. `scratch` holds one input row
// of keys: w_in * channels values.
template <class Int>
void pool_rows(const PoolArgs& args, int64_t row_begin, int64_t row_end, Int infinity,
               void* scratch_memory) {
  const Int* const x = static_cast<const Int*>(args.x);
  Int* const out = static_cast<Int*>(args.out);
  Int* __restrict const scratch = static_cast<Int*>(scratch_memory);
  const Axis t = args.window.t, h = args.window.h, w = args.window.w;
  const int64_t channels = args.in.c;
  // Channels of neighbouring pixels are adjacent unless x is a slice of a wider tensor.
  const bool dense = args.in.stride_w == channels;
  const int64_t runs = dense ? 1 : w.in;
  const int64_t run = dense ? w.in * channels : channels;

  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t oh = row % h.out, ot = row / h.out % t.out, n = row / (h.out * t.out);
    // First over time and height: whole rows, contiguous whatever the window.
    bool first = true;
    for (int64_t it = t.first(ot); it < t.last(ot); ++it) {
      for (int64_t ih = h.first(oh); ih < h.last(oh); ++ih) {
        for (int64_t r = 0; r < runs; ++r) {
          const Int* const source = x + args.in.pixel(n, it, ih, r);
          Int* const target = scratch + r * run;
          if (first) {
            first_keys(source, run, infinity, target);
          } else {
            more_keys(source, run, infinity, target);
          }
        }
        first = false;
      }
    }
    // Then over width.
    for (int64_t ow = 0; ow < w.out; ++ow) {
      const Int* const begin = scratch + w.first(ow) * channels;
      Int* const target = out + args.result.pixel(n, ot, oh, ow);
      switch (const int64_t taps = w.last(ow) - w.first(ow)) {
        case 1: pool_pixels<1>(begin, channels, 1, target); break;
        case 2: pool_pixels<2>(begin, channels, 2, target); break;
        case 3: pool_pixels<3>(begin, channels, 3, target); break;
        default: pool_pixels<0>(begin, channels, taps, target);
      }
    }
  }
}

void pool_rows_any(const PoolArgs& args, int64_t row_begin, int64_t row_end, void* scratch) {
  switch (args.type) {
    case ScalarType::Float: return pool_rows<Single>(args, row_begin, row_end, 0x7f800000, scratch);
    case ScalarType::BFloat16: return pool_rows<int16_t>(args, row_begin, row_end, 0x7f80, scratch);
    default: return pool_rows<int16_t>(args, row_begin, row_end, 0x7c00, scratch);
  }
}
