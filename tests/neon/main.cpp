// Runs every operator of csrc, without Python and torch, beside plain loops: with each instruction
// set of the CPU. With an argument it prints the best of them instead.
#include <cstdio>

#include "../../csrc/common/isa.h"
#include "cases.h"
#include "clips.h"

namespace {
int failures = 0, checks = 0;
}

void expect(bool ok, const std::string& what) {
  ++checks;
  if (ok) return;
  ++failures;
  std::printf("  %s: %s\n", fasti3d::isa_name(fasti3d::isa()), what.c_str());
}

int main(int count, char**) {
  const std::string best = fasti3d::isa_name(fasti3d::isa());
  if (count > 1) {
    std::printf("%s\n", best.c_str());
    return 0;
  }
  for (const std::string& set : fasti3d::instruction_sets()) {
    fasti3d::limit_isa(set);
    const int before = checks;
    for (const bool bfloat : {false, true}) {
      pools_with_taps(bfloat);
      batch_norms(bfloat);
      depthwise_convolutions(bfloat);
      if (!bfloat || fasti3d::has_bf16_dot()) {
        direct_convolutions(bfloat);
        winograd_convolutions(bfloat);
      }
    }
    pools();
    weight_gradients();
    flow();
    std::printf("%s: %d checks\n", set.c_str(), checks - before);
    if (set == best) break;
  }
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
