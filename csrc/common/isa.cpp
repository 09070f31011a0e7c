#include "isa.h"

#include <atomic>

#include "check.h"

namespace fasti3d {
namespace {

#if defined(__x86_64__)
Isa detect() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
  return Isa::kBaseline;
}
bool detect_bf16() { return __builtin_cpu_supports("avx512bf16"); }
bool detect_amx() {
  // CPUID leaf 7, EDX bit 22; __builtin_cpu_supports knows AMX only in newer compilers.
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (d >> 22) & 1;
}
#else
Isa detect() { return Isa::kBaseline; }
bool detect_bf16() { return false; }
bool detect_amx() { return false; }
#endif

const Isa kDetected = detect();
const bool kBf16 = detect_bf16();
const bool kAmx = detect_amx();
std::atomic<Isa> limit{Isa::kAvx512};

}  // namespace

Isa isa() {
  const Isa limited = limit.load(std::memory_order_relaxed);
  return limited < kDetected ? limited : kDetected;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    default: return "baseline";
  }
}

bool has_bf16_dot() { return kBf16 && isa() == Isa::kAvx512; }
bool has_amx_bf16() { return kAmx; }

void limit_isa(const std::string& name) {
  for (const Isa candidate : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (name == isa_name(candidate)) {
      limit.store(candidate, std::memory_order_relaxed);
      return;
    }
  }
  fail("isa must be 'baseline', 'avx2' or 'avx512', got '", name, "'");
}

}  // namespace fasti3d
