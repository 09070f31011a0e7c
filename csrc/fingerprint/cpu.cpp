// fasti3d::fingerprint: one number for the bytes of a list of tensors, so that state derived from
// them can be told stale however they were changed (version counters miss edits through .data).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../common/check.h"
#include "../common/parallel.h"

namespace fasti3d {
namespace {

using torch::stable::Tensor;

constexpr int64_t kChunk = 1 << 16;  // bytes hashed by one thread at a time
constexpr int kLanes = 4;
constexpr uint64_t kPrime1 = 0x9e3779b185ebca87ULL, kPrime2 = 0xc2b2ae3d27d4eb4fULL;

uint64_t mix(uint64_t h) {  // a bijection that spreads every bit: the finaliser of MurmurHash3
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return h ^ (h >> 33);
}

// One 64-bit word into a lane, as xxHash64 does. The rotation between the products brings the
// highest bits back down: without it flipped signs of two words would cancel.
uint64_t step(uint64_t lane, uint64_t word) {
  lane += word * kPrime2;
  return ((lane << 31) | (lane >> 33)) * kPrime1;
}

uint64_t hash_chunk(const char* bytes, int64_t size) {
  uint64_t lanes[kLanes];  // independent, so that their products overlap
  for (int i = 0; i < kLanes; ++i) lanes[i] = kPrime1 * (i + 1);
  uint64_t words[kLanes];
  int64_t at = 0;
  for (; at + static_cast<int64_t>(sizeof(words)) <= size; at += sizeof(words)) {
    std::memcpy(words, bytes + at, sizeof(words));
    for (int i = 0; i < kLanes; ++i) lanes[i] = step(lanes[i], words[i]);
  }
  uint64_t h = static_cast<uint64_t>(size);
  for (; at < size; ++at) h = step(h, static_cast<unsigned char>(bytes[at]));
  for (const uint64_t lane : lanes) h = mix(h ^ lane);
  return h;
}

int64_t fingerprint(std::vector<Tensor> tensors) {
  struct Chunk {
    const char* bytes;
    int64_t size;
  };
  std::vector<Chunk> chunks;
  for (const Tensor& tensor : tensors) {
    check(tensor.is_contiguous(), "tensors must be contiguous");
    const char* const bytes = static_cast<const char*>(tensor.const_data_ptr());
    const int64_t size = tensor.numel() * static_cast<int64_t>(tensor.element_size());
    for (int64_t at = 0; at < size; at += kChunk) {
      chunks.push_back({bytes + at, std::min(kChunk, size - at)});
    }
  }
  std::vector<uint64_t> hashes(chunks.size());
  parallel_for(0, static_cast<int64_t>(chunks.size()), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) hashes[i] = hash_chunk(chunks[i].bytes, chunks[i].size);
  });
  uint64_t h = tensors.size();
  for (const uint64_t chunk : hashes) h = mix(h ^ chunk) + 0x9e3779b97f4a7c15ULL;
  return static_cast<int64_t>(h >> 1);  // as a symbol of torch, which is never negative
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("fingerprint", TORCH_BOX(&fasti3d::fingerprint));
}
