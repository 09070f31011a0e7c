// Sizes of the machine's caches.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace fasti3d {

// Of one core; that of most machines where the system does not say.
constexpr int64_t kUsualL2 = int64_t(1) << 20;

// As Linux writes sizes of caches: "2048K", "4M"; 0 for what is none.
inline int64_t parse_cache_size(const std::string& text) {
  int64_t value = 0;
  size_t at = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9' && at < 9; ++at) {
    value = 10 * value + (text[at] - '0');
  }
  const char unit = at < text.size() ? text[at] : ' ';
  return unit == 'K' ? value << 10 : unit == 'M' ? value << 20 : value;
}

inline int64_t read_l2_bytes() {
  int64_t bytes = 0;
#if defined(__APPLE__)
  size_t length = sizeof(bytes);
  if (sysctlbyname("hw.l2cachesize", &bytes, &length, nullptr, 0) != 0) bytes = 0;
#else
  std::string text;
  std::ifstream("/sys/devices/system/cpu/cpu0/cache/index2/size") >> text;
  bytes = parse_cache_size(text);
#endif
  return bytes > 0 ? bytes : kUsualL2;
}

// The L2 cache of a core.
inline int64_t l2_bytes() {
  static const int64_t bytes = read_l2_bytes();
  return bytes;
}

}  // namespace fasti3d
