// The max-pool's kernels with taps compiled for NEON.
#include <algorithm>
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "taps.h"

#if defined(__aarch64__)
namespace fasti3d::neon {
#include "../common/lanes_neon.h"
#include "kernel.h"
}  // namespace fasti3d::neon
#endif
