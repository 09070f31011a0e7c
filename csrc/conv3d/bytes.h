// Clips of bytes, as decoders give them, as clips of values.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "../common/clip.h"
#include "../common/parallel.h"

namespace fasti3d {

// What a convolution reads: x itself, or, where x holds bytes, a channels-last copy of what each
// stands for, of the frames that are read. Zeros of the padding come after that, so that they are
// zeros among the values.
template <class T>
class Source {
 public:
  // `in` is x's view, and becomes that of the copy. `table` is [channels][256]. Frames from `begin`
  // up to `end` are read.
  Source(const Tensor& x, ClipView& in, const std::optional<Tensor>& table, int64_t begin,
         int64_t end)
      : values_(static_cast<const T*>(x.const_data_ptr())) {
    if (!table) return;
    const int64_t first = std::clamp<int64_t>(begin, 0, in.t - 1);
    const int64_t frames = std::clamp<int64_t>(end, first + 1, in.t) - first;
    // malloc's, which is there already when the next piece of a clip comes.
    copy_.reset(new T[product({in.n, frames, in.h, in.w, in.c})]);
    const uint8_t* const bytes = static_cast<const uint8_t*>(x.const_data_ptr());
    const float* const values = static_cast<const float*>(table->const_data_ptr());
    const int64_t row = in.w * in.c;
    parallel_for(0, in.n * frames * in.h, 16, [&](int64_t from_row, int64_t to_row) {
      for (int64_t i = from_row; i < to_row; ++i) {
        const int64_t t = first + i / in.h % frames;
        const uint8_t* const from = bytes + in.pixel(i / (frames * in.h), t, i % in.h, 0);
        T* const to = copy_.get() + i * row;
        for (int64_t c = 0; c < in.c; ++c) {
          for (int64_t w = 0; w < in.w; ++w) {
            to[w * in.c + c] = T(values[c * 256 + from[c * in.stride_c + w * in.stride_w]]);
          }
        }
      }
    });
    in = {in.n, in.c, in.t, in.h, in.w, frames * in.h * row, 1, in.h * row, row, in.c};
    values_ = copy_.get() - first * in.stride_t;
  }

  const T* values() const { return values_; }

 private:
  std::unique_ptr<T[]> copy_;
  const T* values_;
};

}  // namespace fasti3d
