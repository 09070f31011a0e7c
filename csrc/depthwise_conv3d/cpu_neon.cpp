// The depthwise convolution for NEON: 16 sums, their taps and a value in 32 registers.
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../common/target.h"
#include "depthwise.h"

#if defined(__aarch64__)
FASTI3D_NO_SCHEDULING
namespace fasti3d::neon {
constexpr int kMaxPixels = 8;
#include "../common/lanes_neon.h"
#include "kernel.h"
}  // namespace fasti3d::neon
#endif
