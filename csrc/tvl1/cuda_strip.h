// An iteration of TV-L1 on the pixels that one thread keeps.
#pragma once

#include <cstdint>

#include "cuda_plan.h"
#include "cuda_state.h"
#include "cuda_value.h"

namespace fasti3d::tvl1 {

// V: Exact or Fast. kComponents: 2, or 3 with the illumination that gamma weighs.
template <class V, int kComponents>
struct Strip {
  V u[kComponents][kRows][kColumns];
  V px[kComponents][kRows][kColumns], py[kComponents][kRows][kColumns];
};

// Where a strip lies in the image.
struct Corner {
  int32_t x, top;
  int32_t width, height;  // of the image
};

template <class V>
FASTI3D_BLOCK void receive(const float* line, int32_t lane, V (&to)[kColumns]) {
  const Two pair = reinterpret_cast<const Two*>(line)[lane];
  to[0] = V{pair.first};
  to[1] = V{pair.second};
}

// u of a strip; the sum of its squared changes. `above` holds the py of the row above, and holds
// the strip's last row after; data(j, i) are the constants of a pixel; left(c, j) is the px on the
// left of a row. Without kEdge the whole strip lies inside the image.
template <bool kEdge, class V, int kComponents, class DataAt, class Left>
FASTI3D_BLOCK float update_u(const Task& task, const Corner& corner, Strip<V, kComponents>& strip,
                             V (&above)[kComponents][kColumns], DataAt data_at, Left left_of) {
  const V limit{task.limit}, theta{task.theta}, gamma{task.gamma};
  V sum{};
#pragma unroll
  for (int j = 0; j < kRows; ++j) {
    V left[kComponents];
#pragma unroll
    for (int c = 0; c < kComponents; ++c) left[c] = left_of(c, j);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const Data<V> data = data_at(j, i);
      V rho = data.rho + (data.ix * strip.u[0][j][i] + data.iy * strip.u[1][j][i]);
      if constexpr (kComponents == 3) rho = rho + gamma * strip.u[2][j][i];
      const V step = threshold(rho, data.inverse, limit);
      const V slope[3] = {data.ix, data.iy, gamma};
      V change[kComponents];
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        const V py = strip.py[c][j][i];
        const V div =
            divergence(strip.px[c][j][i], i == 0 ? left[c] : strip.px[c][j][0], py, above[c][i]);
        above[c][i] = py;
        const V after = primal(strip.u[c][j][i], step, slope[c], theta, div);
        change[c] = after - strip.u[c][j][i];
        strip.u[c][j][i] = after;
      }
      auto squares = change[0] * change[0] + change[1] * change[1];
      V more = sum + squares;
      if constexpr (kComponents == 3) more = sum + (squares + change[2] * change[2]);
      if (!kEdge || (corner.x + i < corner.width && corner.top + j < corner.height)) sum = more;
    }
  }
  return sum.value;
}

// px and py of a strip. `below` is the u of the row below; right(c, j) the u on the right of a row.
template <bool kEdge, class V, int kComponents, class Right>
FASTI3D_BLOCK void update_p(const Task& task, const Corner& corner, Strip<V, kComponents>& strip,
                            const V (&below)[kComponents][kColumns], Right right_of) {
  const V taut{task.taut};
#pragma unroll
  for (int j = 0; j < kRows; ++j) {
    V right[kComponents];
#pragma unroll
    for (int c = 0; c < kComponents; ++c) right[c] = right_of(c, j);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      V ux[kComponents], uy[kComponents], norm[kComponents], scale[kComponents];
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        const V u = strip.u[c][j][i];
        ux[c] = (i == 0 ? strip.u[c][j][1] : right[c]) - u;
        uy[c] = (j + 1 < kRows ? strip.u[c][(j + 1) % kRows][i] : below[c][i]) - u;
        if (kEdge && corner.x + i == corner.width - 1) ux[c] = V{0.0f};
        if (kEdge && corner.top + j == corner.height - 1) uy[c] = V{0.0f};
        norm[c] = dual_norm(ux[c], uy[c], taut);
      }
      if constexpr (kComponents == 3) {
        const V all = reciprocal(V(V(norm[0] * norm[1]) * norm[2]));
        scale[0] = all * V(norm[1] * norm[2]);
        scale[1] = all * V(norm[0] * norm[2]);
        scale[2] = all * V(norm[0] * norm[1]);
      } else {
        const Scales<V> scales = dual_scales(norm[0], norm[1]);
        scale[0] = scales.first;
        scale[1] = scales.second;
      }
#pragma unroll
      for (int c = 0; c < kComponents; ++c) {
        strip.px[c][j][i] = dual(strip.px[c][j][i], taut, ux[c], scale[c]);
        strip.py[c][j][i] = dual(strip.py[c][j][i], taut, uy[c], scale[c]);
      }
    }
  }
}

}  // namespace fasti3d::tvl1
