// Large buffers on large pages.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "check.h"

namespace fasti3d {

constexpr size_t kHugePage = size_t(1) << 21;
constexpr size_t kAlignment = 64;  // a cache line, and a register of AVX-512

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

// Uninitialized working memory. Large pieces come straight from the system and go straight back:
// freed in pieces of many sizes by many threads, malloc's own memory grows to several times what is
// ever in use.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : Scratch(bytes(count), bytes(count) >= kHugePage) {}
  T* get() const { return memory_.get(); }
  T& operator[](size_t i) const { return memory_.get()[i]; }

 private:
  struct Free {
    void* base = nullptr;
    size_t mapped = 0;  // bytes; none if it is malloc's
    void operator()(T*) const {
      if (mapped > 0) {
        munmap(base, mapped);
      } else {
        std::free(base);
      }
    }
  };

  static size_t bytes(int64_t count) {
    return static_cast<size_t>(product({count, static_cast<int64_t>(sizeof(T))}));
  }

  static T* aligned(void* base, size_t alignment) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(base);
    return reinterpret_cast<T*>((at + alignment - 1) & ~(alignment - 1));
  }

  Scratch(size_t bytes, bool large) {
    if (large) {
      const size_t mapped = bytes + kHugePage;  // with room to begin on a large page
      void* const base =
          mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (base == MAP_FAILED) throw std::bad_alloc();
      advise_huge_pages(base, mapped);
      memory_ = {aligned(base, kHugePage), Free{base, mapped}};
    } else {
      // Not aligned_alloc: before glibc 2.38 it does not find again what was freed, and grows.
      void* const base = std::malloc(bytes + kAlignment - 1);
      if (base == nullptr) throw std::bad_alloc();
      memory_ = {aligned(base, kAlignment), Free{base, 0}};
    }
  }

  std::unique_ptr<T, Free> memory_;
};

}  // namespace fasti3d
