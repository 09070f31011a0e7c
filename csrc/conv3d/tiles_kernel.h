// The inner loops on matrix tiles. Included inside a namespace that defines zero_tile, load_tile,
// multiply_tiles and store_tile, for registers that are numbered by template arguments: 0 to 3 are
// sums, 4 and 5 pixels, 6 and 7 weights.

template <int kPixels, int kPanels>
void multiply(const TileBlock& block) {
  zero_tile<0>();
  if (kPanels == 2) zero_tile<1>();
  if (kPixels == 2) zero_tile<2>();
  if (kPixels == 2 && kPanels == 2) zero_tile<3>();
  const int64_t stride = block.pixel_stride * sizeof(c10::BFloat16);
  constexpr int64_t kWeightStride = 2 * kPanel * sizeof(c10::BFloat16);
  const int64_t values = 2 * block.pairs, weights_per_step = values * kPanel;
  for (int64_t i = 0; i < block.count; ++i) {
    const TileTap tap = block.taps[i];
    const c10::BFloat16* weights = block.weights + tap.weight;
    for (int64_t step = 0; step < block.steps; ++step, weights += weights_per_step) {
      const int64_t at = tap.pixel + step * values;
      load_tile<6>(weights, kWeightStride);
      load_tile<4>(block.pixels[0] + at, stride);
      multiply_tiles<0, 4, 6>();
      if (kPanels == 2) {
        load_tile<7>(weights + block.panel_stride, kWeightStride);
        multiply_tiles<1, 4, 7>();
      }
      if (kPixels == 2) {
        load_tile<5>(block.pixels[1] + at, stride);
        multiply_tiles<2, 5, 6>();
        if (kPanels == 2) multiply_tiles<3, 5, 7>();
      }
    }
  }
  constexpr int64_t kSumStride = kBlockChannels * sizeof(float);
  float* const second = block.sums + kTileRows * kBlockChannels;
  store_tile<0>(block.sums, kSumStride);
  if (kPanels == 2) store_tile<1>(block.sums + kPanel, kSumStride);
  if (kPixels == 2) store_tile<2>(second, kSumStride);
  if (kPixels == 2 && kPanels == 2) store_tile<3>(second + kPanel, kSumStride);
}

// Channel by channel, so that the loops over pixels become vectors.
inline void interleave(const c10::BFloat16* source, const ClipView& in, int64_t count,
                       c10::BFloat16* target) {
  const auto add = [&](int64_t c, auto distance) {
    const c10::BFloat16* const values = source + c * in.stride_c;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits;
      uint64_t pixel = 0;
      __builtin_memcpy(&bits, values + i * distance, sizeof(bits));
      if (c > 0) __builtin_memcpy(&pixel, target + 4 * i, sizeof(pixel));
      pixel |= static_cast<uint64_t>(bits) << (16 * c);  // x86 and ARM are little-endian
      __builtin_memcpy(target + 4 * i, &pixel, sizeof(pixel));
    }
  };
  for (int64_t c = 0; c < in.c; ++c) {
    if (in.stride_w == 1) {
      add(c, std::integral_constant<int64_t, 1>());
    } else {
      add(c, in.stride_w);
    }
  }
}
