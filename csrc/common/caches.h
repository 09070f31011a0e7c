// Sizes of the data caches of one core.
#pragma once

#include <cstdint>

namespace fasti3d {

struct Caches {
  int64_t l1, l2;  // bytes
};

// Of this machine, as its system says; where it says nothing, those of a small core of today.
const Caches& caches();

}  // namespace fasti3d
