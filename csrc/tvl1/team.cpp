#include "team.h"

namespace fasti3d::tvl1 {

void Team::run(int count, Job job, const void* context) {
  if (count == 1) {
    job(context, Member(*this, 0, 1));
    return;
  }
  job_ = job;
  context_ = context;
  const uint64_t number = (state_.load(std::memory_order_relaxed) >> 32) + 1;
  state_.store(number << 32 | static_cast<uint64_t>(count), std::memory_order_release);
  state_.notify_all();
  job(context, Member(*this, 0, count));
  barrier(count);
}

void Team::close() {
  state_.store(kClosed, std::memory_order_release);
  state_.notify_all();
}

void Team::help() {
  // In this order: a job that starts from here on may count on this helper.
  uint64_t seen = state_.load(std::memory_order_acquire);
  const int index = helpers_.fetch_add(1, std::memory_order_acq_rel) + 1;
  while (seen != kClosed) {
    seen = await_change(state_, seen);
    const int count = static_cast<int>(seen & 0xffffffff);
    if (seen == kClosed || index >= count) continue;
    job_(context_, Member(*this, index, count));
    barrier(count);
  }
}

void Team::barrier(int count) {
  if (count == 1) return;
  const uint32_t round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    round_.notify_all();
  } else {
    await_change(round_, round);
  }
}

}  // namespace fasti3d::tvl1
