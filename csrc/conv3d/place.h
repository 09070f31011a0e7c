// Places among the pixels of an output.
#pragma once

#include <cstdint>

#include "../common/clip.h"

namespace fasti3d {

// A pixel of an output, counted over n, t, h, w. Counting on is cheaper than four divisions a
// pixel.
struct Place {
  int64_t n, t, h, w;

  Place(int64_t index, const ClipView& clip)
      : n(index / (clip.w * clip.h * clip.t)),
        t(index / (clip.w * clip.h) % clip.t),
        h(index / clip.w % clip.h),
        w(index % clip.w) {}

  // n ends at clip.n.
  void next(const ClipView& clip) { skip(1, clip); }

  // `count` pixels of a row at once.
  void skip(int64_t count, const ClipView& clip) {
    if ((w += count) < clip.w) return;
    w = 0;
    if (++h < clip.h) return;
    h = 0;
    if (++t < clip.t) return;
    t = 0;
    if (n < clip.n) ++n;
  }
};

}  // namespace fasti3d
