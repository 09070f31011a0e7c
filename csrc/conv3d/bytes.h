// Clips of bytes, as decoders give them, as clips of values.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "../common/clip.h"
#include "../common/memory.h"
#include "../common/parallel.h"

namespace fasti3d {

// What a convolution reads: x itself, or, where x holds bytes, a channels-last copy of what each
// stands for. Zeros of the padding come after that, so that they are zeros among the values.
template <class T>
class Source {
 public:
  // `in` is x's view, and becomes that of the copy. `table` is [channels][256].
  Source(const Tensor& x, ClipView& in, const std::optional<Tensor>& table)
      : copy_(table ? product({in.n, in.c, in.t, in.h, in.w}) : 0),
        values_(static_cast<const T*>(table ? copy_.get() : x.const_data_ptr())) {
    if (!table) return;
    const uint8_t* const bytes = static_cast<const uint8_t*>(x.const_data_ptr());
    const float* const values = static_cast<const float*>(table->const_data_ptr());
    const int64_t row = in.w * in.c;
    parallel_for(0, in.n * in.t * in.h, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const uint8_t* const from =
            bytes + in.pixel(i / (in.t * in.h), i / in.h % in.t, i % in.h, 0);
        T* const to = copy_.get() + i * row;
        for (int64_t c = 0; c < in.c; ++c) {
          for (int64_t w = 0; w < in.w; ++w) {
            to[w * in.c + c] = T(values[c * 256 + from[c * in.stride_c + w * in.stride_w]]);
          }
        }
      }
    });
    in = {in.n, in.c, in.t, in.h, in.w, in.t * in.h * row, 1, in.h * row, row, in.c};
  }

  const T* values() const { return values_; }

 private:
  Scratch<T> copy_;
  const T* values_;
};

}  // namespace fasti3d
