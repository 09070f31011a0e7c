// Matrix tiles in plain C++: what the instructions do, as far as results show it.
#include <cstring>
#include <type_traits>

#include "tiles.h"

namespace fasti3d::emulated {

struct Tile {
  uint8_t bytes[kTileRows][64];
};
thread_local Tile tiles[8];
thread_local TileConfig current;

template <int kTile>
inline void zero_tile() {
  tiles[kTile] = {};
}

template <int kTile>
inline void load_tile(const void* source, int64_t stride) {
  tiles[kTile] = {};
  for (int64_t row = 0; row < current.rows[kTile]; ++row) {
    std::memcpy(tiles[kTile].bytes[row], static_cast<const uint8_t*>(source) + row * stride,
                current.row_bytes[kTile]);
  }
}

template <int kSums, int kPixels, int kWeights>
inline void multiply_tiles() {
  for (int64_t row = 0; row < current.rows[kSums]; ++row) {
    float sums[kPanel];
    std::memcpy(sums, tiles[kSums].bytes[row], sizeof(sums));
    c10::BFloat16 pixel[2 * kMaxPairs], weights[2 * kPanel];
    std::memcpy(pixel, tiles[kPixels].bytes[row], sizeof(pixel));
    for (int64_t k = 0; k < current.row_bytes[kPixels] / 4; ++k) {
      std::memcpy(weights, tiles[kWeights].bytes[k], sizeof(weights));
      for (int64_t lane = 0; lane < kPanel; ++lane) {
        for (int64_t i = 0; i < 2; ++i) {
          sums[lane] +=
              static_cast<float>(pixel[2 * k + i]) * static_cast<float>(weights[2 * lane + i]);
        }
      }
    }
    std::memcpy(tiles[kSums].bytes[row], sums, sizeof(sums));
  }
}

template <int kTile>
inline void store_tile(float* target, int64_t stride) {
  for (int64_t row = 0; row < current.rows[kTile]; ++row) {
    std::memcpy(reinterpret_cast<uint8_t*>(target) + row * stride, tiles[kTile].bytes[row],
                current.row_bytes[kTile]);
  }
}

#include "tiles_kernel.h"

void configure(const TileConfig& config) { current = config; }
void read_configuration(TileConfig* config) { *config = current; }

void store(const TileStore& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    if (args.out[row] == nullptr) continue;
    for (int64_t c = 0; c < args.channels; ++c) {
      float y = args.sums[row * kBlockChannels + c] + args.bias[c];
      if (args.residual != nullptr) {
        y += static_cast<float>(args.residual[row][args.channel + c]);
      }
      // Written so that a NaN stays one, as in torch.
      args.out[row][args.channel + c] = args.relu && y < 0.0f ? 0.0f : y;
    }
  }
}

extern const TileKernels kTiles = {
    configure,
    read_configuration,
    {{multiply<1, 1>, multiply<1, 2>}, {multiply<2, 1>, multiply<2, 2>}},
    store,
    interleave};

}  // namespace fasti3d::emulated
