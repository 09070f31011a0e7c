// The median of 5 x 5 values whose columns are sorted.
#pragma once

#include <cstdint>

namespace fasti3d::tvl1 {

// Value (i, j) comes in on wire 5 i + j. Of each pair of wires the smaller value goes to the first
// and the larger to the second; in the end the median is on wire kMedian.
constexpr uint8_t kNetwork[][2] = {
    {12, 14}, {6, 5},   {15, 17}, {8, 19},  {24, 22}, {0, 1},   {8, 7},   {3, 12},  {13, 14},
    {1, 2},   {7, 9},   {18, 9},  {15, 21}, {2, 4},   {22, 23}, {21, 22}, {10, 3},  {6, 13},
    {15, 18}, {15, 11}, {20, 14}, {16, 20}, {4, 21},  {16, 18}, {3, 11},  {20, 24}, {3, 7},
    {0, 1},   {17, 19}, {16, 17}, {15, 12}, {7, 4},   {1, 16},  {17, 21}, {4, 17},  {11, 9},
    {11, 4},  {13, 20}, {5, 8},   {17, 18}, {13, 11}, {20, 4},  {2, 16},  {11, 16}, {12, 13},
    {8, 13},  {17, 13}, {20, 17}, {16, 17}, {8, 7},   {20, 11}, {16, 11}, {16, 7},  {7, 11}};
constexpr int kMedian = 7;
constexpr int kComparators = sizeof(kNetwork) / sizeof(*kNetwork);

// A network of comparators is right for all values if it is right for zeros and ones, and those
// have only 6^5 ways to be five sorted columns. 64 of them are tried at once, a bit each.
constexpr bool network_finds_medians() {
  constexpr int kWays = 6 * 6 * 6 * 6 * 6;
  for (int first = 0; first < kWays; first += 64) {
    uint64_t wire[25] = {}, median = 0;
    for (int bit = 0; bit < 64; ++bit) {
      const uint64_t mask = uint64_t(1) << bit;
      int ones = 0;
      for (int j = 0, rest = (first + bit) % kWays; j < 5; ++j, rest /= 6) {
        for (int i = 5 - rest % 6; i < 5; ++i) wire[5 * i + j] |= mask;
        ones += rest % 6;
      }
      if (ones > 12) median |= mask;
    }
    for (const auto& [low, high] : kNetwork) {
      const uint64_t both = wire[low] & wire[high];
      wire[high] |= wire[low];
      wire[low] = both;
    }
    if (wire[kMedian] != median) return false;
  }
  return true;
}

}  // namespace fasti3d::tvl1
