// Medians of 3 x 3 and 5 x 5 values whose columns are sorted, by minima and maxima.
#pragma once

#include <math.h>

#include <cstddef>
#include <utility>

#include "../common/host_device.h"
#include "median_network.h"

namespace fasti3d::tvl1 {

FASTI3D_HOST_DEVICE inline void order(float& low, float& high) {
  const float lower = fminf(low, high);
  high = fmaxf(low, high);
  low = lower;
}

FASTI3D_HOST_DEVICE inline void sort(float (&v)[3]) {
  order(v[0], v[1]);
  order(v[1], v[2]);
  order(v[0], v[1]);
}

FASTI3D_HOST_DEVICE inline void sort(float (&v)[5]) {
  order(v[0], v[1]);
  order(v[3], v[4]);
  order(v[2], v[4]);
  order(v[2], v[3]);
  order(v[1], v[4]);
  order(v[0], v[3]);
  order(v[0], v[2]);
  order(v[1], v[3]);
  order(v[1], v[2]);
}

// Of the minima, medians and maxima of three columns, one value each can be the median.
FASTI3D_HOST_DEVICE inline float median_of_sorted_columns(float (&w)[3][3]) {
  float diagonal[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    sort(w[i]);
    diagonal[i] = w[i][2 - i];
  }
  sort(diagonal);
  return diagonal[1];
}

// The indices are template arguments, so that on a GPU the values stay in registers.
template <int kLow, int kHigh>
FASTI3D_HOST_DEVICE inline void order(float (&w)[5][5]) {
  order(w[kLow / 5][kLow % 5], w[kHigh / 5][kHigh % 5]);
}
template <size_t... kPair>
FASTI3D_HOST_DEVICE inline void run_network(float (&w)[5][5], std::index_sequence<kPair...>) {
  (order<kNetwork[kPair][0], kNetwork[kPair][1]>(w), ...);
}

FASTI3D_HOST_DEVICE inline float median_of_sorted_columns(float (&w)[5][5]) {
  run_network(w, std::make_index_sequence<kComparators>());
  return w[kMedian / 5][kMedian % 5];
}

}  // namespace fasti3d::tvl1
