#include "isa.h"

#include <atomic>
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "check.h"

namespace fasti3d {
namespace {

#if defined(__x86_64__)
// Tiles, in bfloat16, that the operating system lets this process use.
bool detect_amx() {
#if defined(__linux__)
  // CPUID leaf 7, EDX bits 22 and 24; __builtin_cpu_supports knows AMX only in newer compilers.
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  if (!((d >> 22) & 1) || !((d >> 24) & 1)) return false;
  // Linux keeps the tiles' state of processes that asked for it; it holds for all their threads.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
Isa detect() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
    return detect_amx() ? Isa::kAmx : Isa::kAvx512Bf16;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
  return Isa::kBaseline;
}
#else
Isa detect() { return Isa::kBaseline; }
#endif

const Isa kDetected = detect();
std::atomic<Isa> limit{Isa::kAmx};

}  // namespace

Isa isa() {
  const Isa limited = limit.load(std::memory_order_relaxed);
  return limited < kDetected ? limited : kDetected;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAmx: return "amx";
    case Isa::kAvx512Bf16: return "avx512_bf16";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    default: return "baseline";
  }
}

bool has_bf16_dot() { return isa() >= Isa::kAvx512Bf16; }
bool has_amx_bf16() { return isa() >= Isa::kAmx; }

void limit_isa(const std::string& name) {
  for (const Isa candidate :
       {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (name == isa_name(candidate)) {
      limit.store(candidate, std::memory_order_relaxed);
      return;
    }
  }
  fail("isa must be 'baseline', 'avx2', 'avx512', 'avx512_bf16' or 'amx', got '", name, "'");
}

}  // namespace fasti3d
