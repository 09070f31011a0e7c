// Winograd's transforms. Included inside a namespace which defines Vector, kLanes, load_lanes and
// store_lanes for T and for float.

// One axis of a transform, of `outer` by `inner` others. Zeros of the matrix are multiplied too: a
// value that is not finite reaches all of its tile, where it can be found.
template <int kFrames>
void transform_axis(const Vector* in, Vector* out, int64_t outer, int64_t inner,
                    const TransformAxis& axis) {
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t p = 0; p < axis.phases; ++p) {
      const Vector* const from = in + (o * axis.phases + p) * kFrames * inner;
      Vector* const to = out + (o * axis.outputs() + p) * inner;
      const float* const matrix = axis.matrix + p * kFrames;
      for (int64_t i = 0; i < inner; ++i) {
        Vector x[kFrames];
#pragma GCC unroll 8
        for (int f = 0; f < kFrames; ++f) x[f] = from[f * inner + i];
        for (int64_t row = 0; row < axis.rows; ++row) {
          const float* const factors = matrix + row * axis.inputs();
          Vector sum = factors[0] * x[0];
#pragma GCC unroll 8
          for (int f = 1; f < kFrames; ++f) sum += factors[f] * x[f];
          to[row * axis.phases * inner + i] = sum;
        }
      }
    }
  }
}

// The three axes in turn, from `a` and with `b` for the values between; where the result lies.
inline const Vector* transform_axes(Vector* a, Vector* b, const TransformAxis (&axes)[3]) {
  int64_t outer = 1, inner = axes[0].inputs() * axes[1].inputs() * axes[2].inputs();
  for (const TransformAxis& axis : axes) {
    inner /= axis.inputs();
    if (axis.outputs() > 1 || axis.inputs() > 1) {
      switch (axis.frames) {
#define FASTI3D_FRAMES(n)                             \
  case n:                                             \
    transform_axis<n>(a, b, outer, inner, axis);      \
    break;
        FASTI3D_FRAMES(1)
        FASTI3D_FRAMES(2)
        FASTI3D_FRAMES(3)
        FASTI3D_FRAMES(4)
        FASTI3D_FRAMES(5)
        FASTI3D_FRAMES(6)
        FASTI3D_FRAMES(7)
        FASTI3D_FRAMES(8)
#undef FASTI3D_FRAMES
      }
      std::swap(a, b);
    }
    outer *= axis.outputs();
  }
  return a;
}

template <class T>
void winograd_transform(const TransformArgs& args) {
  Vector a[kMaxTile], b[kMaxTile];
  int64_t inputs = 1, outputs = 1;
  for (const TransformAxis& axis : args.axes) {
    inputs *= axis.inputs();
    outputs *= axis.outputs();
  }
  for (int64_t at = 0; at < args.count; at += kLanes) {
    const int64_t count = args.count - at;
    for (int64_t i = 0; i < inputs; ++i) {
      a[i] = load_lanes(static_cast<const T*>(args.inputs[i]) + at, count);
    }
    const Vector* const found = transform_axes(a, b, args.axes);
    for (int64_t i = 0; i < outputs; ++i) {
      if (args.places[i] >= 0) {
        store_lanes(static_cast<T*>(args.out) + args.places[i] + at, found[i], count);
      }
    }
  }
}

template <class T>
void winograd_inverse(const InverseArgs& args) {
  Vector a[kMaxTile], b[kMaxTile];
  int64_t components = 1, outputs = 1;
  for (const TransformAxis& axis : args.axes) {
    components *= axis.inputs();
    outputs *= axis.outputs();
  }
  for (int64_t c = 0; c < args.channels; c += kLanes) {
    const int64_t count = args.channels - c;
    for (int64_t i = 0; i < components; ++i) {
      a[i] = load_lanes(args.sums + i * args.component_stride + c);
    }
    const Vector* const found = transform_axes(a, b, args.axes);
    const Vector bias = load_lanes(args.bias + c);
    for (int64_t j = 0; j < outputs; ++j) {
      if (args.out[j] == nullptr) continue;
      Vector y = found[j] + bias;
      if (args.residual != nullptr) {
        y += load_lanes(static_cast<const T*>(args.residual[j]) + c, count);
      }
      // Written so that a NaN stays one, as in torch.
      if (args.relu) y = y < 0.0f ? Vector{} : y;
      store_lanes(static_cast<T*>(args.out[j]) + c, y, count);
    }
  }
}
