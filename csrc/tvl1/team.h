// Threads that work on one pair of frames together.
//
// A thread that has a pair to solve leads a team; threads that find no pair left join the teams of
// those that still work. No thread waits for one that has not joined: the leader counts the helpers
// before it starts a job, so a pair is solved by any number of threads, one included.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace fasti3d::tvl1 {

// Waits until `value` is no longer `old`: awake for the microseconds that most waits take, then
// letting other threads run in between, which may be those waited for if there are more threads
// than cores, then asleep.
template <class T>
T await_change(const std::atomic<T>& value, T old) {
  constexpr int kAwake = 200, kYielding = 300;
  for (int i = 0; i < kAwake + kYielding; ++i) {
    const T now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    if (i >= kAwake) {
      std::this_thread::yield();
    } else {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

class Team;

// One thread's part in a job: the `index`th of `count`.
class Member {
 public:
  Member(Team& team, int index, int count) : index(index), count(count), team_(team) {}
  // Returns when every member of the job has called it.
  void barrier() const;

  const int index, count;

 private:
  Team& team_;
};

class Team {
 public:
  // A job: called once by every member, with the context that the leader gave.
  using Job = void (*)(const void* context, const Member& member);

  // The leader's: lets helpers in, and sends them away.
  void open() { state_.store(kOpen, std::memory_order_release); }
  void close();
  bool is_open() const {
    const uint64_t state = state_.load(std::memory_order_acquire);
    return state != kIdle && state != kClosed;
  }

  // The leader's: how many there are now, itself included.
  int muster() const { return 1 + helpers_.load(std::memory_order_acquire); }
  // The leader's: runs work(member) in `count` threads, no more than mustered, and returns when all
  // have done.
  template <class Work>
  void run(int count, const Work& work) {
    const auto job = [](const void* context, const Member& member) {
      (*static_cast<const Work*>(context))(member);
    };
    run(count, job, &work);
  }

  // A helper's: takes part in the leader's jobs until the team closes.
  void help();

 private:
  friend class Member;
  void run(int count, Job job, const void* context);
  void barrier(int count);

  // The number of the job that runs and, in the lower half, of its members.
  static constexpr uint64_t kIdle = 0, kOpen = 1, kClosed = ~uint64_t(0);
  std::atomic<uint64_t> state_{kIdle};
  std::atomic<int> helpers_{0};
  Job job_ = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

inline void Member::barrier() const { team_.barrier(count); }

}  // namespace fasti3d::tvl1
