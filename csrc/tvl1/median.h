// Medians of a row by networks of minima and maxima, one pixel per lane. Included by kernel.h.
//
// The columns of the window are sorted once each, not once for every window they belong to. The
// compiler removes comparators whose results are unused.

inline void order(Vector& low, Vector& high) {
  const Vector lower = smaller(low, high);
  high = larger(low, high);
  low = lower;
}

inline void sort3(Vector* v) {
  order(v[0], v[1]);
  order(v[1], v[2]);
  order(v[0], v[1]);
}

inline void sort5(Vector* v) {
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

// The columns of a window of kSide rows around every pixel, sorted, kSide / 2 pixels more to the
// left and at least as many to the right.
template <int kSide, class Sort>
inline void sort_columns(const MedianRow& a, Sort sort) {
  for (int64_t x = -kLanes; x < a.width + kLanes; x += kLanes) {
    Vector v[kSide];
#pragma GCC unroll 5
    for (int i = 0; i < kSide; ++i) v[i] = load(a.rows[i] + x);
    sort(v);
#pragma GCC unroll 5
    for (int i = 0; i < kSide; ++i) store(a.sorted[i] + x, v[i]);
  }
}

void median3_row(const MedianRow& a) {
  sort_columns<3>(a, sort3);
  for (int64_t x = 0; x < a.width; x += kLanes) {
    // Of the minima, medians and maxima of three columns, one value each can be the median.
    Vector diagonal[3];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      Vector w[3];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) w[j] = load(a.sorted[i] + x + j - 1);
      sort3(w);
      diagonal[i] = w[2 - i];
    }
    sort3(diagonal);
    store(a.out + x, diagonal[1]);
  }
}

void median5_row(const MedianRow& a) {
  sort_columns<5>(a, sort5);
  for (int64_t x = 0; x < a.width; x += kLanes) {
    Vector wire[25];
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) {
#pragma GCC unroll 5
      for (int j = 0; j < 5; ++j) wire[5 * i + j] = load(a.sorted[i] + x + j - 2);
    }
#pragma GCC unroll 64
    for (const auto& [low, high] : kNetwork) order(wire[low], wire[high]);
    store(a.out + x, wire[kMedian]);
  }
}
