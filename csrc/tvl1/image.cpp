#include "image.h"

#include <algorithm>

namespace fasti3d::tvl1 {
namespace {

int64_t gray_stride(Size size) { return round_up(size.width, kGuard); }

}  // namespace

Columns::Columns(int64_t in, int64_t out, double scale, bool cuda_form) {
  for (int64_t x = 0; x < out; ++x) {
    const Between at = between(x, scale, in, cuda_form);
    first.push_back(static_cast<int32_t>(at.first));
    second.push_back(static_cast<int32_t>(at.second));
    weights.push_back(at.weight);
  }
}

int64_t Image::bytes(const std::vector<Size>& sizes) {
  int64_t floats = 0;
  for (const Size size : sizes) floats += size.height * gray_stride(size);
  return floats * static_cast<int64_t>(sizeof(float));
}

Image::Image(const std::vector<Size>& sizes, const Params& params)
    : params_(params), memory_(static_cast<size_t>(bytes(sizes)) / sizeof(float)) {
  float* next = memory_.get();
  for (const Size size : sizes) {
    levels_.push_back({size, next, gray_stride(size)});
    next += size.height * gray_stride(size);
  }
  for (size_t i = 0; i + 1 < sizes.size(); ++i) {
    columns_.emplace_back(sizes[i].width, sizes[i + 1].width, 1.0 / params.scale_step,
                          params.cuda_form);
  }
}

void Image::build(Team& team, const Rows& rows, const void* pixels, bool bytes) {
  team.run(team.muster(), [&](const Member& member) {
    const Level& finest = levels_[0];
    const Size size = finest.size;
    const int64_t row_bytes = size.width * (bytes ? 1 : sizeof(float));
    Band band(size.height, member);
    for (int64_t y = band.begin; y < band.end; ++y) {
      rows.convert(static_cast<const char*>(pixels) + y * row_bytes, bytes,
                   finest.gray + y * finest.stride, size.width);
    }
    for (size_t i = 0; i + 1 < levels_.size(); ++i) {
      member.barrier();  // resizing reads rows that others have written
      const Level &level = levels_[i], &next = levels_[i + 1];
      const Columns& columns = columns_[i];
      band = Band(next.size.height, member);
      for (int64_t y = band.begin; y < band.end; ++y) {
        const Between at =
            between(y, 1.0 / params_.scale_step, level.size.height, params_.cuda_form);
        rows.resize({level.row(at.first), level.row(at.second), at.weight, columns.first.data(),
                     columns.second.data(), columns.weights.data(), 1.0f,
                     next.gray + y * next.stride, next.size.width});
      }
    }
  });
}

// Samples of pixels that move otherwise than their neighbors in a vector are taken and not used:
// there is room for a vector more before the border and after it.
int64_t Sampled::floats(Size size) {
  return (size.height + 2 * kBorder) * kSampled * row_stride(size.width) + 2 * kGuard;
}

Sampled::Sampled(float* memory, Size size) : planes{nullptr, kSampled, row_stride(size.width)} {
  planes.data = memory + 2 * kGuard + kBorder * kSampled * planes.stride;
}

void Sampled::build(const Rows& rows, const Params& params, const Level& level,
                    const Band& band) const {
  const int64_t last = level.size.height - 1, floats = kSampled * planes.stride;
  const auto border = [&](int64_t y, int64_t edge) {
    if (params.cuda_form) {
      std::copy_n(planes.row(edge) - kGuard, floats, planes.row(y) - kGuard);
    } else {
      std::fill_n(planes.row(y) - kGuard, floats, 0.0f);
    }
  };
  for (int64_t y = band.begin; y < band.end; ++y) {
    rows.gradient({level.row(std::max<int64_t>(y - 1, 0)), level.row(y),
                   level.row(std::min(y + 1, last)), planes.row(y), planes.stride, level.size.width,
                   params.cuda_form});
    for (int64_t i = 1; i <= kBorder; ++i) {
      if (y == 0) border(-i, 0);
      if (y == last) border(last + i, last);
    }
  }
}

}  // namespace fasti3d::tvl1
