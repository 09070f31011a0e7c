// What emulators of kernels for compute capability 9.0 share: threads that take turns, barriers,
// and how copies and products address memory.
#pragma once

#include <ucontext.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/sm90/layout.h"

namespace fasti3d::sm90 {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  (std::cerr << ... << parts) << '\n';
  std::exit(1);
}

// Threads of execution that take turns where they say so.
class Fibers {
 public:
  void add(std::function<void()> body) {
    auto fiber = std::make_unique<Fiber>();
    fiber->body = std::move(body);
    fiber->stack.resize(64 << 10);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = fiber->stack.size();
    fiber->context.uc_link = &home_;
    makecontext(&fiber->context, &Fibers::enter, 0);
    all_.push_back(std::move(fiber));
  }

  // Until `ready` holds.
  void wait(const std::function<bool()>& ready) {
    Fiber* const self = current_;
    self->ready = ready;
    swapcontext(&self->context, &home_);
  }

  // Runs all to their ends. `order`: 0 lets copies land only when nothing else can happen, 1 at
  // once, else it is the seed of a random choice. `land` lets a copy land and returns false if none
  // is under way.
  void run(int order, const std::function<bool()>& land) {
    std::mt19937 random(order);
    for (size_t done = 0; done < all_.size();) {
      if (order == 1) {
        while (land()) {
        }
      } else if (order > 1 && random() % 3 == 0) {
        land();
      }
      std::vector<Fiber*> able;
      for (const auto& fiber : all_) {
        if (!fiber->done && fiber->ready()) able.push_back(fiber.get());
      }
      if (able.empty()) {
        if (!land()) fail("all wait forever");
        continue;
      }
      current_ = able[order > 1 ? random() % able.size() : 0];
      running_ = this;
      swapcontext(&home_, &current_->context);
      done += current_->done;
    }
  }

 private:
  struct Fiber {
    std::function<void()> body;
    std::function<bool()> ready = [] { return true; };
    std::vector<char> stack;
    ucontext_t context;
    bool done = false;
  };

  static void enter() {
    running_->current_->body();
    running_->current_->done = true;
  }

  static inline Fibers* running_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> all_;
  Fiber* current_ = nullptr;
  ucontext_t home_;
};

inline float half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float sign = bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25)
                          : std::ldexp(1.0f * fraction, -24));
}

inline uint16_t rounded(float value, bool bfloat) {
  if (bfloat) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if (value != value) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}

struct Barrier {
  int count = 0, pending = 0;
  int64_t bytes = 0;
  unsigned phase = 0;

  void settle() {
    if (pending > 0 || bytes != 0) return;
    pending = count;
    ++phase;
  }
};

enum class State : uint8_t { kNothing, kUnderWay, kThere };

// Of all values of 16 bits.
inline std::vector<float> values_of_16_bits(bool bfloat) {
  std::vector<float> values(1 << 16);
  for (int bits = 0; bits < 1 << 16; ++bits) {
    values[bits] = bfloat ? std::bit_cast<float>(uint32_t(bits) << 16)
                          : half_value(static_cast<uint16_t>(bits));
  }
  return values;
}

// A clip as a tensor map of (channels, columns, rows, frames, clips) has it; strides of n, t, h, w.
struct Map {
  std::array<int, 5> lengths;
  std::array<int64_t, 4> strides;
};

// What the copy engine makes of a box of it: zeros where that is beside the clip.
inline std::vector<char> box_of(const std::vector<uint16_t>& x, const Map& map,
                                const std::array<int, 5>& from, const std::array<int, 5>& box) {
  const auto& s = map.strides;
  const int64_t stride[5] = {1, s[3], s[2], s[1], s[0]};
  int64_t count = 1;
  for (int axis = 0; axis < 5; ++axis) {
    if (box[axis] < 1 || box[axis] > kMaxBox) fail("a box of ", box[axis], " is not possible");
    if (axis > 0 && stride[axis] * 2 % 16 != 0) fail("a stride is not a multiple of 16 bytes");
    count *= box[axis];
  }
  if (box[0] * 2 % 16 != 0) fail("the channels of a box are not a multiple of 16 bytes");
  std::vector<char> bytes(count * 2);
  uint16_t* value = reinterpret_cast<uint16_t*>(bytes.data());
  for (int64_t i = 0; i < count; ++i, ++value) {
    bool inside = true;
    int64_t at = 0, rest = i;
    for (int axis = 0; axis < 5; ++axis) {
      const int64_t place = from[axis] + rest % box[axis];
      rest /= box[axis];
      inside = inside && place >= 0 && place < map.lengths[axis];
      at += place * stride[axis];
    }
    *value = inside ? x.at(at) : 0;
  }
  return bytes;
}

// The address of 16 bytes of a matrix without swizzle: those of row `row` (of its other axis) and
// half `half` of K, by the fields of its descriptor, of which `wrong` bytes are added to one.
inline int place_in_matrix(uint64_t descriptor, int row, int half, int wrong = 0) {
  if (descriptor >> 46 != 0 || (descriptor >> 14 & 3) != 0 || (descriptor >> 30 & 3) != 0) {
    fail("a descriptor has bits beyond its fields");
  }
  const int start = static_cast<int>(descriptor & 0x3fff) << 4;
  const int leading = (static_cast<int>(descriptor >> 16 & 0x3fff) << 4) + wrong;
  const int stride = static_cast<int>(descriptor >> 32 & 0x3fff) << 4;
  return start + row / 8 * stride + row % 8 * 16 + half * leading;
}

// A thread's accumulators in the product. PTX ISA: groups of 4 lanes have a row, of 16 per warp;
// every other pair of registers is 8 rows below.
inline Cell register_cell(int thread, int i) {
  const int lane = thread % 32;
  return {thread / 32 * 16 + lane / 4 + (i / 2 % 2) * 8, i / 4 * 8 + lane % 4 * 2 + i % 2};
}

template <class T>
std::vector<T> read(std::istream& in, int64_t count) {
  std::vector<T> values(count);
  in.read(reinterpret_cast<char*>(values.data()), count * static_cast<int64_t>(sizeof(T)));
  if (!in) fail("the input ends early");
  return values;
}

}  // namespace fasti3d::sm90
