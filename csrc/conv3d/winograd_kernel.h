// Winograd's transforms. Included inside a namespace which defines Vector, kLanes, load_lanes and
// store_lanes for T and for float.

template <class T>
void winograd_transform(const TransformArgs& args) {
  const auto apply = [&](int64_t at, int64_t count, auto&& load_frame) {
    Vector x[kMaxFrames];
    const int64_t frames = args.phases * args.frame_count;
    for (int64_t f = 0; f < frames; ++f)
      x[f] = load_frame(static_cast<const T*>(args.frames[f]) + at);
    const float* matrix = args.matrix;
    for (int64_t row = 0; row < args.rows; ++row, matrix += args.frame_count) {
      const Vector* const phase = x + row % args.phases * args.frame_count;
      Vector sum{};
      for (int64_t f = 0; f < args.frame_count; ++f) sum += matrix[f] * phase[f];
      store_lanes(static_cast<T*>(args.out) + row * args.stride + at, sum, count);
    }
  };
  int64_t at = 0;
  for (; at + kLanes <= args.count; at += kLanes) {
    apply(at, kLanes, [](const T* p) { return load_lanes(p); });
  }
  if (const int64_t rest = args.count - at; rest > 0) {
    apply(at, rest, [rest](const T* p) {
      T values[kLanes] = {};
      __builtin_memcpy(values, p, rest * sizeof(T));
      return load_lanes(values);
    });
  }
}

template <class T>
void winograd_inverse(const InverseArgs& args) {
  for (int64_t c = 0; c < args.channels; c += kLanes) {
    Vector sums[kMaxComponents];
    for (int64_t i = 0; i < args.components; ++i) {
      sums[i] = load_lanes(args.sums + i * args.component_stride + c);
    }
    const Vector bias = load_lanes(args.bias + c);
    for (int64_t j = 0; j < args.frames; ++j) {
      Vector y = bias;
      for (int64_t i = 0; i < args.components; ++i)
        y += args.matrix[j * args.components + i] * sums[i];
      if (args.residual != nullptr) {
        y += load_lanes(static_cast<const T*>(args.residual) + j * args.residual_stride_t + c,
                        args.channels - c);
      }
      // Written so that a NaN stays one, as in torch.
      if (args.relu) y = y < 0.0f ? Vector{} : y;
      store_lanes(static_cast<T*>(args.out) + j * args.stride_t + c, y, args.channels - c);
    }
  }
}
