// Which vector instructions to use, chosen at run time so that one build serves every x86-64.
#pragma once

#include <string>

namespace fasti3d {

// In ascending order: each includes those before it.
enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// The best set this CPU and operating system offer, or the limit set below if that is lower.
Isa isa();
const char* isa_name(Isa isa);
// Whether bfloat16 dot products run in hardware (AVX512_BF16) at the current limit.
bool has_bf16_dot();
// Whether there are matrix tiles for bfloat16 (AMX) at the current limit.
bool has_amx_bf16();
// Lowers the choice, for tests and for diagnosis: "baseline", "avx2", "avx512", "avx512_bf16" or
// "amx".
void limit_isa(const std::string& name);

}  // namespace fasti3d
