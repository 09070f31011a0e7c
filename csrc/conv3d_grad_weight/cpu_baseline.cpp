// The weights' gradient in the instructions that every CPU of its kind has.
#include "grad_weight.h"

namespace fasti3d::baseline::grad_weight {
constexpr int kLanes = 4, kRows = 4, kOddRows = 3;
#include "kernel.h"
}  // namespace fasti3d::baseline::grad_weight
