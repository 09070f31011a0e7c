// What every instruction set's max-pool kernel is given.
#pragma once

#include "../common/clip.h"

namespace fasti3d {

struct PoolArgs {
  const void* x;
  void* out;
  ScalarType type;
  ClipView in;
  ClipView result;
  Window window;
};

using PoolRows = void (*)(const PoolArgs&, int64_t row_begin, int64_t row_end, void* scratch);

namespace baseline {
void pool_rows_any(const PoolArgs&, int64_t, int64_t, void*);
}
#if defined(__x86_64__)
namespace avx2 {
void pool_rows_any(const PoolArgs&, int64_t, int64_t, void*);
}
namespace avx512 {
void pool_rows_any(const PoolArgs&, int64_t, int64_t, void*);
}
#endif

}  // namespace fasti3d
