// The inner loops of conv3d, for vectors of kLanes floats. Included once per instruction set,
// inside a namespace of its own which defines kLanes, kRows and kMaxPanels.

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
constexpr int kVectorsPerPanel = kPanel / kLanes;

inline float load(const float* p) { return *p; }
inline float load(const c10::BFloat16* p) {
  const uint32_t bits = uint32_t(p->x) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float load(const c10::Half* p) { return c10::detail::fp16_ieee_to_fp32_value(p->x); }

inline void store(float* p, float value) { *p = value; }
inline void store(c10::BFloat16* p, float value) {
  p->x = c10::detail::round_to_nearest_even(value);
}
inline void store(c10::Half* p, float value) {
  p->x = c10::detail::fp16_ieee_from_fp32_value(value);
}

inline Vector load_lanes(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T, int kVectors>
inline void store_row(const Vector (&row)[kVectors], T* out, int64_t channels) {
  if (sizeof(T) == sizeof(float) && channels == kVectors * kLanes) {
    __builtin_memcpy(out, row, sizeof(row));
    return;
  }
  float values[kVectors * kLanes];
  __builtin_memcpy(values, row, sizeof(values));
  for (int64_t c = 0; c < channels; ++c) store(out + c, values[c]);
}

template <class T, int kPanels>
void run_tile(const TileArgs& args) {
  constexpr int kVectors = kPanels * kVectorsPerPanel;
  Vector sum[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const Vector bias = load_lanes(args.bias + v * kLanes);
    for (int r = 0; r < kRows; ++r) sum[r][v] = bias;
  }
  const float* weights = static_cast<const float*>(args.weights);
  const void* const* taps = args.taps;
  for (int64_t tap = 0; tap < args.count; ++tap, taps += kRows) {
    for (int64_t k = 0; k < args.run; ++k, weights += kPanel) {
      Vector w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        w[v] = load_lanes(weights + v / kVectorsPerPanel * args.panel_stride +
                          v % kVectorsPerPanel * kLanes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const float a = load(static_cast<const T*>(taps[r]) + args.offset + k);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[r][v] += a * w[v];
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (args.out[r] == nullptr) continue;
    if (args.relu) {
      // Written so that a NaN stays one, as in torch.
      for (int v = 0; v < kVectors; ++v) sum[r][v] = sum[r][v] < 0.0f ? Vector{} : sum[r][v];
    }
    store_row(sum[r], static_cast<T*>(args.out[r]), args.channels);
  }
}

template <class T>
constexpr ConvKernels make_kernels() {
  return {kRows, kMaxPanels, {run_tile<T, 1>, kMaxPanels == 2 ? run_tile<T, kMaxPanels> : nullptr}};
}

extern const ConvKernels kFloat = make_kernels<float>();
extern const ConvKernels kBfloat = make_kernels<c10::BFloat16>();
extern const ConvKernels kHalf = make_kernels<c10::Half>();

inline void store_lanes(float* out, Vector v, int64_t count) {
  if (count >= kLanes) {
    __builtin_memcpy(out, &v, sizeof(v));
  } else {
    for (int64_t c = 0; c < count; ++c) out[c] = v[c];
  }
}

#include "winograd_kernel.h"

extern const WinogradKernels kWinograd = {
    kRows,
    kMaxPanels,
    {run_tile<float, 1>, kMaxPanels == 2 ? run_tile<float, kMaxPanels> : nullptr},
    winograd_transform<float>,
    winograd_inverse<float>};
