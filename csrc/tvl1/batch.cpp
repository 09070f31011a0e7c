#include "batch.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "../common/check.h"
#include "../common/parallel.h"
#include "image.h"
#include "solver.h"
#include "team.h"

namespace fasti3d::tvl1 {
namespace {

// The frames at work: each is built once, by the first thread that needs it, and its memory goes on
// to another frame when its last pair has been solved. Pairs start in order, so no more frames are
// alive than the threads' own.
class Frames {
 public:
  Frames(const Batch& batch, const std::vector<Size>& sizes, const Params& params, const Rows& rows)
      : batch_(batch), sizes_(sizes), params_(params), rows_(rows), frames_(count()) {
    for (Frame& frame : frames_) frame.uses = 1;
    if (batch.frames1 == nullptr) {
      for (int64_t i = 1; i < batch.pairs; ++i) frames_[i].uses = 2;
    }
  }

  // The numbers of a pair's two frames.
  int64_t first(int64_t pair) const { return pair; }
  int64_t second(int64_t pair) const {
    return batch_.frames1 == nullptr ? pair + 1 : batch_.pairs + pair;
  }

  const Image& acquire(int64_t number, Team& team) {
    Frame& frame = frames_[number];
    int expected = kAbsent;
    if (frame.state.compare_exchange_strong(expected, kBuilding)) {
      try {
        frame.image = spare();
      } catch (...) {
        finish(frame, kFailed);
        throw;
      }
      frame.image->build(team, rows_, pixels(number), batch_.bytes);
      finish(frame, kBuilt);
    } else if (expected == kBuilding) {
      expected = await_change<int>(frame.state, kBuilding);
    }
    if (expected == kFailed) throw std::bad_alloc();
    return *frame.image;
  }

  void release(int64_t number) {
    Frame& frame = frames_[number];
    if (frame.uses.fetch_sub(1) > 1) return;
    const std::lock_guard lock(mutex_);
    spares_.push_back(std::move(frame.image));
  }

 private:
  enum State : int { kAbsent, kBuilding, kBuilt, kFailed };
  struct Frame {
    std::atomic<int> state{kAbsent};
    std::atomic<int> uses;  // pairs that have not been solved
    std::unique_ptr<Image> image;
  };

  static void finish(Frame& frame, State state) {
    frame.state.store(state, std::memory_order_release);
    frame.state.notify_all();
  }

  size_t count() const {
    return static_cast<size_t>(batch_.frames1 == nullptr ? batch_.pairs + 1 : 2 * batch_.pairs);
  }

  std::unique_ptr<Image> spare() {
    {
      const std::lock_guard lock(mutex_);
      if (!spares_.empty()) {
        std::unique_ptr<Image> image = std::move(spares_.back());
        spares_.pop_back();
        return image;
      }
    }
    return std::make_unique<Image>(sizes_, params_);
  }

  const void* pixels(int64_t number) const {
    const bool second = batch_.frames1 != nullptr && number >= batch_.pairs;
    const int64_t at = second ? number - batch_.pairs : number;
    const int64_t bytes = batch_.size.pixels() * (batch_.bytes ? 1 : sizeof(float));
    return static_cast<const char*>(second ? batch_.frames1 : batch_.frames0) + at * bytes;
  }

  const Batch& batch_;
  const std::vector<Size>& sizes_;
  const Params& params_;
  const Rows& rows_;
  std::vector<Frame> frames_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Image>> spares_;
};

}  // namespace

void solve_batch(const Batch& batch, const Params& params, const Rows& rows) {
  const std::vector<Size> sizes = pyramid(batch.size, params);
  Frames frames(batch, sizes, params, rows);
  const int64_t threads = torch::stable::get_num_threads();
  std::vector<Team> teams(static_cast<size_t>(threads));
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};

  const auto lead = [&](Team& team) {
    std::unique_ptr<Solver> solver;
    for (int64_t pair; (pair = next.fetch_add(1)) < batch.pairs;) {
      if (solver == nullptr) solver = std::make_unique<Solver>(sizes, params, rows);
      const Image& image0 = frames.acquire(frames.first(pair), team);
      const Image& image1 = frames.acquire(frames.second(pair), team);
      const int64_t floats = 2 * batch.size.pixels();
      solver->solve(
          team, image0, image1, batch.initial == nullptr ? nullptr : batch.initial + pair * floats,
          batch.flow + pair * floats, batch.iterations + pair * params.nscales * params.warps);
      frames.release(frames.first(pair));
      frames.release(frames.second(pair));
    }
  };
  const auto work = [&](Team& own) {
    own.open();
    try {
      lead(own);
    } catch (const std::bad_alloc&) {  // nothing else is thrown, and only between a team's jobs
      next = batch.pairs;
      out_of_memory = true;
    }
    own.close();
    // No pair is left to begin: help the other teams, that with the fewest helpers first.
    for (;;) {
      Team* chosen = nullptr;
      for (Team& team : teams) {
        if (team.is_open() && (chosen == nullptr || team.muster() < chosen->muster()))
          chosen = &team;
      }
      if (chosen == nullptr) return;
      chosen->help();
    }
  };
  parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work(teams[i]);
  });
  if (out_of_memory) {
    const int64_t bytes = Solver::bytes(sizes, params) + 2 * Image::bytes(sizes);
    fail(
        "tvl1: out of memory: a pair of ", batch.size.height, " x ", batch.size.width,
        " frames takes about ", bytes >> 20, " MB to solve, and up to ", threads,
        " are solved at a time: free memory, set fewer threads with torch.set_num_threads, or use ",
        "smaller frames");
  }
}

}  // namespace fasti3d::tvl1
