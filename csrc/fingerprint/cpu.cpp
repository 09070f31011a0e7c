// fasti3d::fingerprint: one number for the bytes of a list of tensors, so that state derived from
// them can be told stale however they were changed (version counters miss edits through .data).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "../common/check.h"

namespace fasti3d {
namespace {

using torch::stable::Tensor;

constexpr int64_t kChunk = 1 << 16;  // bytes hashed by one thread at a time
constexpr int kLanes = 16;

uint64_t mix(uint64_t h) {  // the finaliser of MurmurHash3, a bijection that spreads every bit
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return h ^ (h >> 33);
}

// Sixteen independent multiplicative hashes of 32 bits, which the compiler turns into vectors.
uint64_t hash_chunk(const char* bytes, int64_t size) {
  uint32_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = 0x9e3779b9u * (i + 1);
  const int64_t step = kLanes * sizeof(uint32_t);
  int64_t at = 0;
  for (; at + step <= size; at += step) {
    uint32_t words[kLanes];
    std::memcpy(words, bytes + at, sizeof(words));
    for (int i = 0; i < kLanes; ++i) lanes[i] = (lanes[i] ^ words[i]) * 0x01000193u;
  }
  uint64_t h = static_cast<uint64_t>(size);
  for (; at < size; ++at) h = mix(h ^ static_cast<unsigned char>(bytes[at]));
  for (int i = 0; i < kLanes; ++i) h = mix(h ^ lanes[i]);
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
  torch::stable::parallel_for(0, chunks.size(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) hashes[i] = hash_chunk(chunks[i].bytes, chunks[i].size);
  });
  uint64_t h = tensors.size();
  for (const uint64_t chunk : hashes) h = mix(h ^ chunk) + 0x9e3779b97f4a7c15ULL;
  return static_cast<int64_t>(h);
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("fingerprint", TORCH_BOX(&fasti3d::fingerprint));
}
