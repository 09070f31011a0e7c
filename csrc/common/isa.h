// Which vector instructions to use, chosen at run time so that one build serves every CPU of an
// architecture.
#pragma once

#include <string>
#include <vector>

namespace fasti3d {

// In ascending order: each includes those before it. On aarch64 what is compiled as kBaseline has
// NEON's instructions too, and so has what has no form of its own for kNeon.
#if defined(__aarch64__)
enum class Isa { kBaseline, kNeon, kNeonBf16 };
#else
enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx };
#endif

// The best set this CPU and operating system offer, or the limit set below if that is lower.
Isa isa();
const char* isa_name(Isa isa);
// The names of all sets of this architecture, in ascending order.
std::vector<std::string> instruction_sets();
// Whether bfloat16 dot products run in hardware (AVX512_BF16, or FEAT_BF16 on aarch64) at the
// current limit.
bool has_bf16_dot();
// Whether there are matrix tiles for bfloat16 (AMX) at the current limit.
bool has_amx_bf16();
// Lowers the choice, for tests and for diagnosis, to one of `instruction_sets`.
void limit_isa(const std::string& name);

}  // namespace fasti3d
