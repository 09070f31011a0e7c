// The weights' gradient: AVX-512, 8 input x 48 output channels in 24 of 32 registers.
#include "../common/target.h"
#include "grad_weight.h"

#if defined(__x86_64__)
FASTI3D_TARGET_512_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace fasti3d::avx512::grad_weight {
constexpr int kLanes = 16, kRows = 8, kOddRows = 7;
#include "kernel.h"
}  // namespace fasti3d::avx512::grad_weight
FASTI3D_TARGET_END
#endif
