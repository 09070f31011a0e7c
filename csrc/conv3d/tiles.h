// The direct form in bfloat16 on matrix tiles (AMX): 32 pixels times 32 output channels are summed
// in registers over all taps and input channels.
//
// A tile of pixels is 16 rows at one distance from each other. Windows of several taps read a slab:
// the part of the clip that a unit of work needs, copied with its padding, so that the pixels of
// all its rows are at one distance, whatever the window, strides and layout. Pixels beyond a row's
// end are computed and not stored. Windows of one pixel read the clip itself where they can.
//
// Weights are [panel][tap][step][pairs][16][2] (fasti3d/ops/conv3d_bn_relu/tiles.py): a step is the
// 2 * pairs values of a pixel that one product of tiles takes, and what rounds a tap up to whole
// steps is zero.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "conv.h"

namespace fasti3d {

constexpr int64_t kTileRows = 16;   // pixels
constexpr int64_t kBlockTiles = 2;  // of pixels, and of output channels
constexpr int64_t kBlockPixels = kTileRows * kBlockTiles;
constexpr int64_t kBlockChannels = kPanel * kBlockTiles;
constexpr int64_t kMaxPairs = 16;

// What a pixel is multiplied by at one place of the window: offsets from its first value, and from
// a panel's weights.
struct TileTap {
  int64_t pixel, weight;
};

struct TileBlock {
  const c10::BFloat16* pixels[kBlockTiles];  // the first of each tile
  int64_t pixel_stride;
  const TileTap* taps;
  int64_t count;
  int64_t steps;  // per tap
  int64_t pairs;
  const c10::BFloat16* weights;  // of the first panel
  int64_t panel_stride;
  float* sums;  // [kBlockPixels][kBlockChannels]
};

// Sums of a tile's pixels to their outputs, with bias, residual and ReLU.
struct TileStore {
  const float* sums;  // [rows][kBlockChannels]
  int64_t rows;
  const float* bias;  // whole panels
  bool relu;
  c10::BFloat16* const* out;             // [rows] pixels; null: do not store
  const c10::BFloat16* const* residual;  // [rows] pixels; null: none
  int64_t channel;                       // the first to store, of a pixel
  int64_t channels;
};

// The layout of the eight tile registers, as the processor reads and writes it.
struct alignas(64) TileConfig {
  uint8_t palette = 0;  // 0: no tiles are in use
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

struct TileKernels {
  void (*configure)(const TileConfig&);
  void (*read_configuration)(TileConfig*);
  // By tiles of pixels - 1 and panels - 1.
  void (*multiply[kBlockTiles][kBlockTiles])(const TileBlock&);
  void (*store)(const TileStore&);
  // Pixels of a row of up to four channels, in any layout, to four with zeros for those that lack.
  void (*interleave)(const c10::BFloat16* source, const ClipView& in, int64_t count,
                     c10::BFloat16* target);
};

namespace amx {
extern const TileKernels kTiles;
}
// The same in plain C++, for tests on other processors.
namespace emulated {
extern const TileKernels kTiles;
}

// cpu_tiles.cpp. `packed` is (panels, taps, steps, pairs, 2 * kPanel); where there is a tap per row
// of the window, and not per pixel, a tap's values are those of the row's pixels one after another.
void convolve_tiles(const c10::BFloat16* x, const ClipView& in, c10::BFloat16* out,
                    const ClipView& result, const Window& window, const Tensor& packed,
                    const Epilogue& epilogue, const TileKernels& kernels);

}  // namespace fasti3d
