// Errors that reach Python as RuntimeError, naming the argument and the value it had.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fasti3d {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) fail(parts...);
}

// Of sizes, none below 0. What int64 cannot hold is an error, as in torch.
inline int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(result, size, &result)) {
      std::ostringstream text;
      for (const int64_t each : sizes) text << (text.tellp() > 0 ? " x " : "") << each;
      fail("sizes must fit into 64 bits, got ", text.str());
    }
  }
  return result;
}

}  // namespace fasti3d
