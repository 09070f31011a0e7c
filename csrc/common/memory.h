// Large buffers on large pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fasti3d {

constexpr size_t kHugePage = size_t(1) << 21;

// Asks for large pages under memory that is about to be written for the first time. A network's
// maps are new memory in every call; faulting them in by 4 KB costs a tenth of the network's time.
inline void advise_huge_pages(void* begin, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) & ~(kHugePage - 1);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)begin;
  (void)bytes;
#endif
}

// Uninitialised working memory.
template <class T>
class Scratch {
 public:
  explicit Scratch(size_t count) {
    const size_t unit = count * sizeof(T) >= kHugePage ? kHugePage : 64;
    const size_t bytes = (count * sizeof(T) + unit - 1) / unit * unit;
    memory_.reset(static_cast<T*>(std::aligned_alloc(unit, bytes)));
    if (memory_ == nullptr) throw std::bad_alloc();
    advise_huge_pages(memory_.get(), bytes);
  }
  T* get() const { return memory_.get(); }
  T& operator[](size_t i) const { return memory_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> memory_;
};

}  // namespace fasti3d
