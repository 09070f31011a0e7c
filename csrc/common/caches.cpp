#include "caches.h"

#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <unistd.h>
#endif

#include <fstream>
#include <string>

namespace fasti3d {
namespace {

#if defined(__APPLE__)
int64_t ask(int level) {
  int64_t bytes = 0;
  size_t size = sizeof(bytes);
  const char* const name = level == 1 ? "hw.l1dcachesize" : "hw.l2cachesize";
  return sysctlbyname(name, &bytes, &size, nullptr, 0) == 0 ? bytes : 0;
}
#else
// The C library knows x86; on other machines the kernel does.
int64_t ask(int level) {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  const int64_t known = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
  if (known > 0) return known;
#endif
  for (int index = 0; index < 8; ++index) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    std::string type;
    int64_t its_level = 0, kilobytes = 0;  // the size is written as 48K
    if (!(std::ifstream(folder + "type") >> type) ||
        !(std::ifstream(folder + "level") >> its_level)) {
      break;
    }
    if (type != "Instruction" && its_level == level &&
        std::ifstream(folder + "size") >> kilobytes) {
      return kilobytes << 10;
    }
  }
  return 0;
}
#endif

int64_t size(int level, int64_t otherwise) {
  const int64_t bytes = ask(level);
  return bytes > 0 ? bytes : otherwise;
}

}  // namespace

const Caches& caches() {
  static const Caches found{size(1, 32 << 10), size(2, 512 << 10)};
  return found;
}

}  // namespace fasti3d
