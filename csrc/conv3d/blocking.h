// How a convolution is cut into units of work for threads and caches.
#pragma once

#include <algorithm>
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

// How the work is cut: units of `tiles` pixel tiles times `panels` panels.
struct Blocking {
  int64_t tiles, panels;
};

inline Blocking block(int64_t tiles, int64_t panels, int64_t max_panels, int64_t threads) {
  // Eight tiles reuse a panel from the L1 cache and their inputs from L2; fewer,
  // and then fewer panels, when that would leave threads without work.
  Blocking b{8, panels};
  const auto units = [&] {
    return ((tiles + b.tiles - 1) / b.tiles) * ((panels + b.panels - 1) / b.panels);
  };
  while (units() < 4 * threads && b.panels > max_panels) {
    b.panels = std::max((b.panels / 2 + max_panels - 1) / max_panels * max_panels, max_panels);
  }
  while (units() < 4 * threads && b.tiles > 1) b.tiles /= 2;
  return b;
}

}  // namespace fasti3d
