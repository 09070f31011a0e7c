// The weights' gradient: NEON, 8 input x 12 output channels in 24 of 32 registers.
#include "../common/target.h"
#include "grad_weight.h"

#if defined(__aarch64__)
FASTI3D_NO_SCHEDULING
namespace fasti3d::neon::grad_weight {
constexpr int kLanes = 4, kRows = 8, kOddRows = 7;
#include "kernel.h"
}  // namespace fasti3d::neon::grad_weight
#endif
