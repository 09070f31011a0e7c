// Medians of a row by networks of minima and maxima, a pixel a lane. Included by kernel.h.
//
// The columns of the window are sorted once each, not once for every window they belong to. Of
// values sorted down the columns and then along the rows most can no longer be the median: value
// (i, j) of n x n has (i + 1)(j + 1) - 1 no larger and (n - i)(n - j) - 1 no smaller ones. What the
// networks compute and nobody uses, the compiler leaves out.

inline void order(Vector& low, Vector& high) {
  const Vector least = smaller(low, high);
  high = larger(low, high);
  low = least;
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

template <int kSide>
inline void load_window(const MedianRow& a, int64_t x, Vector (*window)[kSide]) {
#pragma GCC unroll 5
  for (int i = 0; i < kSide; ++i) {
#pragma GCC unroll 5
    for (int j = 0; j < kSide; ++j) window[i][j] = load(a.sorted[i] + x + j - kSide / 2);
  }
}

void median3_row(const MedianRow& a) {
  sort_columns<3>(a, sort3);
  for (int64_t x = 0; x < a.width; x += kLanes) {
    Vector w[3][3];
    load_window<3>(a, x, w);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) sort3(w[i]);
    Vector diagonal[3] = {w[0][2], w[1][1], w[2][0]};
    sort3(diagonal);
    store(a.out + x, diagonal[1]);
  }
}

// Moves the least of the first `kCount` values to the front and the largest to the back.
template <int kCount>
inline void extremes(Vector* v) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount / 2; ++i) order(v[i], v[kCount - 1 - i]);
#pragma GCC unroll 8
  for (int i = 1; i < (kCount + 1) / 2; ++i) order(v[0], v[i]);
#pragma GCC unroll 8
  for (int i = kCount / 2; i < kCount - 1; ++i) order(v[i], v[kCount - 1]);
}

void median5_row(const MedianRow& a) {
  sort_columns<5>(a, sort5);
  for (int64_t x = 0; x < a.width; x += kLanes) {
    Vector w[5][5];
    load_window<5>(a, x, w);
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) sort5(w[i]);
    // The 13 that are left; the median is the seventh of them. Of any eight of 13 the least and the
    // largest are not it, so they make room for one more until three are left.
    Vector v[8] = {w[0][3], w[1][2], w[2][1], w[3][0], w[1][4], w[2][3], w[3][2], w[4][1]};
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
    store(a.out + x, v[1]);
  }
}
