#include "isa.h"

#include <atomic>
#include <iterator>
#include <sstream>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "check.h"
#include "target.h"

namespace fasti3d {
namespace {

struct Named {
  Isa isa;
  const char* name;
};

#if defined(__x86_64__)
constexpr Named kSets[] = {{Isa::kBaseline, "baseline"},
                           {Isa::kAvx2, "avx2"},
                           {Isa::kAvx512, "avx512"},
                           {Isa::kAvx512Bf16, "avx512_bf16"},
                           {Isa::kAmx, "amx"}};

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
#elif defined(__aarch64__)
constexpr Named kSets[] = {
    {Isa::kBaseline, "baseline"}, {Isa::kNeon, "neon"}, {Isa::kNeonBf16, "neon_bf16"}};

// Every aarch64 CPU has NEON.
Isa detect() {
#if defined(FASTI3D_NEON_BF16) && defined(__linux__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16, which older headers do not name
  if (getauxval(AT_HWCAP2) & kBf16) return Isa::kNeonBf16;
#elif defined(FASTI3D_NEON_BF16) && defined(__APPLE__)
  int has = 0;
  size_t size = sizeof(has);
  if (sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has != 0) {
    return Isa::kNeonBf16;
  }
#endif
  return Isa::kNeon;
}
#else
constexpr Named kSets[] = {{Isa::kBaseline, "baseline"}};

Isa detect() { return Isa::kBaseline; }
#endif

const Isa kDetected = detect();
std::atomic<Isa> limit{std::end(kSets)[-1].isa};

}  // namespace

Isa isa() {
  const Isa limited = limit.load(std::memory_order_relaxed);
  return limited < kDetected ? limited : kDetected;
}

const char* isa_name(Isa isa) {
  for (const Named& set : kSets) {
    if (set.isa == isa) return set.name;
  }
  return "baseline";
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Named& set : kSets) names.push_back(set.name);
  return names;
}

#if defined(__aarch64__)
bool has_bf16_dot() { return isa() >= Isa::kNeonBf16; }
bool has_amx_bf16() { return false; }
#else
bool has_bf16_dot() { return isa() >= Isa::kAvx512Bf16; }
bool has_amx_bf16() { return isa() >= Isa::kAmx; }
#endif

void limit_isa(const std::string& name) {
  std::ostringstream known;
  for (const Named& set : kSets) {
    if (name == set.name) {
      limit.store(set.isa, std::memory_order_relaxed);
      return;
    }
    const bool last = &set + 1 == std::end(kSets);
    known << (&set == kSets ? "" : last ? " or " : ", ") << "'" << set.name << "'";
  }
  fail("isa must be ", known.str(), ", got '", name, "'");
}

}  // namespace fasti3d
