// The weights' gradient: AVX2, 4 input x 24 output channels in 12 of 16 registers.
#include "../common/target.h"
#include "grad_weight.h"

#if defined(__x86_64__)
FASTI3D_TARGET_BEGIN("avx2,fma")
namespace fasti3d::avx2::grad_weight {
constexpr int kLanes = 8, kRows = 4, kOddRows = 3;
#include "kernel.h"
}  // namespace fasti3d::avx2::grad_weight
FASTI3D_TARGET_END
#endif
