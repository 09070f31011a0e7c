// Medians by networks of minima and maxima, of windows whose columns are sorted already.
//
// Of n x n values sorted down the columns and then along the rows most can no longer be the median:
// value (i, j) has (i + 1)(j + 1) - 1 no larger and (n - i)(n - j) - 1 no smaller ones.
#pragma once

#include <math.h>

#include "../common/host_device.h"

namespace fasti3d::tvl1 {

FASTI3D_HOST_DEVICE inline void order(float& low, float& high) {
  const float least = fminf(low, high);
  high = fmaxf(low, high);
  low = least;
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

FASTI3D_HOST_DEVICE inline float median_of_sorted_columns(float (&w)[3][3]) {
#pragma unroll
  for (int i = 0; i < 3; ++i) sort(w[i]);
  float diagonal[3] = {w[0][2], w[1][1], w[2][0]};
  sort(diagonal);
  return diagonal[1];
}

// Moves the least of the first kCount values to the front and the largest to the back.
template <int kCount>
FASTI3D_HOST_DEVICE inline void extremes(float* v) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) order(v[i], v[kCount - 1 - i]);
#pragma unroll
  for (int i = 1; i < (kCount + 1) / 2; ++i) order(v[0], v[i]);
#pragma unroll
  for (int i = kCount / 2; i < kCount - 1; ++i) order(v[i], v[kCount - 1]);
}

FASTI3D_HOST_DEVICE inline float median_of_sorted_columns(float (&w)[5][5]) {
#pragma unroll
  for (int i = 0; i < 5; ++i) sort(w[i]);
  // The 13 that are left; the median is the seventh of them. Of any eight of 13 the least and the
  // largest are not it, so they make room for one more until three are left.
  float v[8] = {w[0][3], w[1][2], w[2][1], w[3][0], w[1][4], w[2][3], w[3][2], w[4][1]};
  extremes<8>(v);
  v[0] = w[0][4];
  extremes<7>(v);
  v[0] = w[1][3];
  extremes<6>(v);
  v[0] = w[2][2];
  extremes<5>(v);
  v[0] = w[3][1];
  extremes<4>(v);
  v[0] = w[4][0];
  extremes<3>(v);
  return v[1];
}

}  // namespace fasti3d::tvl1
