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

// Pixels of a row whose columns are sorted before their medians are found: they stay in the L1
// cache.
constexpr int64_t kMedians = 256;
// Before the first of them there is room for a vector, and for one after the last.
using Sorted = float[kMedians + 2 * kLanes];

// The columns of the window around each of `count` pixels from `begin` on, and of a vector more on
// both sides.
template <int kSide, class Sort>
inline void sort_columns(const MedianRow& a, int64_t begin, int64_t count, Sorted (&sorted)[kSide],
                         Sort sort) {
  for (int64_t x = -kLanes; x < count + kLanes; x += kLanes) {
    Vector v[kSide];
#pragma GCC unroll 5
    for (int i = 0; i < kSide; ++i) v[i] = load(a.rows[i] + begin + x);
    sort(v);
#pragma GCC unroll 5
    for (int i = 0; i < kSide; ++i) store(sorted[i] + kLanes + x, v[i]);
  }
}

void median3_row(const MedianRow& a) {
  alignas(64) Sorted sorted[3];
  for (int64_t begin = 0; begin < a.width; begin += kMedians) {
    const int64_t count = a.width - begin < kMedians ? a.width - begin : kMedians;
    sort_columns<3>(a, begin, count, sorted, sort3);
    for (int64_t x = 0; x < count; x += kLanes) {
      // Of the minima, medians and maxima of three columns, one value each can be the median.
      Vector diagonal[3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        Vector w[3];
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) w[j] = load(sorted[i] + kLanes + x + j - 1);
        sort3(w);
        diagonal[i] = w[2 - i];
      }
      sort3(diagonal);
      store(a.out + begin + x, diagonal[1]);
    }
  }
}

void median5_row(const MedianRow& a) {
  alignas(64) Sorted sorted[5];
  for (int64_t begin = 0; begin < a.width; begin += kMedians) {
    const int64_t count = a.width - begin < kMedians ? a.width - begin : kMedians;
    sort_columns<5>(a, begin, count, sorted, sort5);
    for (int64_t x = 0; x < count; x += kLanes) {
      Vector wire[25];
#pragma GCC unroll 5
      for (int i = 0; i < 5; ++i) {
#pragma GCC unroll 5
        for (int j = 0; j < 5; ++j) wire[5 * i + j] = load(sorted[i] + kLanes + x + j - 2);
      }
#pragma GCC unroll 64
      for (const auto& [low, high] : kNetwork) order(wire[low], wire[high]);
      store(a.out + begin + x, wire[kMedian]);
    }
  }
}
