// Winograd's transforms. Included inside a namespace which defines Vector, kLanes, load_lanes and
// store_lanes for T and for float.

// One axis of a transform, of `outer` by `inner` others, from `load(i)` to `store(i, value)`.
// kOutputs is axis.rows where the compiler may know it, else 0. Zeros of the matrix are multiplied
// too: a value that is not finite reaches all of its tile, where it can be found.
template <int kFrames, int kOutputs, class Load, class Store>
inline __attribute__((always_inline)) void transform_frames(int64_t outer, int64_t inner,
                                                            const TransformAxis& given,
                                                            const Load& load, const Store& store) {
  const TransformAxis axis = given;  // which no store changes
  const int64_t rows = kOutputs > 0 ? kOutputs : axis.rows;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t p = 0; p < axis.phases; ++p) {
      const int64_t from = (o * axis.phases + p) * kFrames * inner;
      const int64_t to = (o * rows * axis.phases + p) * inner;
      const float* const matrix = axis.matrix + p * kFrames;
      const int64_t next = axis.phases * kFrames;
      for (int64_t i = 0; i < inner; ++i) {
        Vector x[kFrames];
#pragma GCC unroll 8
        for (int f = 0; f < kFrames; ++f) x[f] = load(from + f * inner + i);
        // Loaded where they are used: as many would not stay in registers.
        const float* its = matrix;
        __asm__("" : "+r"(its));
        const auto put = [&](int64_t row) __attribute__((always_inline)) {
          const float* const factors = its + row * next;
          Vector sum = factors[0] * x[0];
#pragma GCC unroll 8
          for (int f = 1; f < kFrames; ++f) sum += factors[f] * x[f];
          store(to + row * axis.phases * inner + i, sum);
        };
        if constexpr (kOutputs > 0) {
#pragma GCC unroll 8
          for (int row = 0; row < kOutputs; ++row) put(row);
        } else {
          for (int64_t row = 0; row < rows; ++row) put(row);
        }
      }
    }
  }
}

// Those of 2 and 4 outputs of 3 taps, and of 3 outputs of 7 at stride 2, are unrolled.
template <class Load, class Store>
inline __attribute__((always_inline)) void transform_axis(int64_t outer, int64_t inner,
                                                          const TransformAxis& axis,
                                                          const Load& load, const Store& store) {
  const auto is = [&](int64_t frames, int64_t rows) {
    return axis.frames == frames && axis.rows == rows;
  };
  if (is(6, 6)) return transform_frames<6, 6>(outer, inner, axis, load, store);
  if (is(6, 4)) return transform_frames<6, 4>(outer, inner, axis, load, store);
  if (is(6, 3)) return transform_frames<6, 3>(outer, inner, axis, load, store);
  if (is(4, 4)) return transform_frames<4, 4>(outer, inner, axis, load, store);
  if (is(4, 2)) return transform_frames<4, 2>(outer, inner, axis, load, store);
  switch (axis.frames) {
    case 1: return transform_frames<1, 0>(outer, inner, axis, load, store);
    case 2: return transform_frames<2, 0>(outer, inner, axis, load, store);
    case 3: return transform_frames<3, 0>(outer, inner, axis, load, store);
    case 4: return transform_frames<4, 0>(outer, inner, axis, load, store);
    case 5: return transform_frames<5, 0>(outer, inner, axis, load, store);
    case 6: return transform_frames<6, 0>(outer, inner, axis, load, store);
    case 7: return transform_frames<7, 0>(outer, inner, axis, load, store);
    default: return transform_frames<8, 0>(outer, inner, axis, load, store);
  }
}

// All three axes, one after another; a direct one, of one value, changes nothing.
template <class Load, class Store>
void transform_tile(const TransformAxis (&axes)[3], const Load& load, const Store& store) {
  const auto& [t, h, w] = axes;
  Vector after_t[kMaxTile], after_h[kMaxTile];
  const auto load_from = [](const Vector* p) { return [p](int64_t i) { return p[i]; }; };
  const auto store_to = [](Vector* p) { return [p](int64_t i, Vector v) { p[i] = v; }; };
  transform_axis(1, h.inputs() * w.inputs(), t, load, store_to(after_t));
  if (h.inputs() == 1 && w.inputs() == 1) {
    return transform_axis(1, t.outputs(), w, load_from(after_t), store);
  }
  if (w.inputs() == 1) {
    return transform_axis(t.outputs(), 1, h, load_from(after_t), store);
  }
  transform_axis(t.outputs(), w.inputs(), h, load_from(after_t), store_to(after_h));
  transform_axis(t.outputs() * h.outputs(), 1, w, load_from(after_h), store);
}

template <class T>
void winograd_transform(const TransformArgs& args) {
  int64_t at = 0;
  const auto target = [&](int64_t i) { return static_cast<T*>(args.out) + args.places[i] + at; };
  for (; at + kLanes <= args.count; at += kLanes) {
    transform_tile(
        args.axes,
        [&](int64_t i) { return load_lanes(static_cast<const T*>(args.inputs[i]) + at); },
        [&](int64_t i, Vector v) {
          if (args.places[i] >= 0) store_lanes(target(i), v, kLanes);
        });
  }
  if (at < args.count) {
    transform_tile(
        args.axes,
        [&](int64_t i) {
          return load_lanes(static_cast<const T*>(args.inputs[i]) + at, args.count - at);
        },
        [&](int64_t i, Vector v) {
          if (args.places[i] >= 0) store_lanes(target(i), v, args.count - at);
        });
  }
}

// Sums of the channels after those that are read, which the next tile needs, come from the L2
// cache.
constexpr int64_t kAhead = 32;

template <class T>
void winograd_inverse(const InverseArgs& args) {
  for (int64_t c = 0; c < args.channels; c += kLanes) {
    const int64_t count = args.channels - c;
    const Vector bias = load_lanes(args.bias + c);
    transform_tile(
        args.axes,
        [&](int64_t i) {
          const float* const from = args.sums + i * args.component_stride + c;
          __builtin_prefetch(from + kAhead);
          return load_lanes(from);
        },
        [&](int64_t i, Vector y) {
          if (args.out[i] == nullptr) return;
          y += bias;
          if (args.residual != nullptr) {
            y += load_lanes(static_cast<const T*>(args.residual[i]) + c, count);
          }
          // Written so that a NaN stays one, as in torch.
          if (args.relu) y = y < 0.0f ? Vector{} : y;
          store_lanes(static_cast<T*>(args.out[i]) + c, y, count);
        });
  }
}
