// Runs the CUDA solver's source (csrc/tvl1/cuda_solver.h) on the CPU, to test its logic without a
// GPU.
//
// A block is a thread of this process, and the threads of a block run one after the other, in an
// order that can be chosen: a result that depends on it means that threads read what others write
// between two barriers. Between blocks the thread sanitizer watches, where this is built with it.
// Memory is filled with NaNs before it is used, which load() knows.
//
//   tvl1_serial solve IN OUT
//     IN: a line of settings, as solve() reads them, then frame0, frame1 and, if given, the initial
//     flow. OUT: the flow, then the iterations.
//   tvl1_serial plan
//   tvl1_serial clusters
//     For every line of settings on the standard input, as plan() and clusters() read them, a line
//     with what cuda_plan.h makes of them.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/tvl1/cuda_plan.h"
#include "../../csrc/tvl1/cuda_resident.h"
#include "../../csrc/tvl1/cuda_solver.h"
#include "../../csrc/tvl1/cuda_sweep.h"

namespace fasti3d::tvl1 {
namespace {

// Orders nothing but what comes before a meeting and what comes after it. With a mutex, who wakes
// up late from one meeting would be ordered after who has already come to the next.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait() {
    const int round = round_.load(std::memory_order_relaxed);
    if (waiting_.fetch_add(1) + 1 == count_) {
      waiting_.store(0);
      round_.store(round + 1);
      return;
    }
    while (round_.load() == round) std::this_thread::yield();
  }

 private:
  const int count_;
  std::atomic<int> waiting_ = 0, round_ = 0;
};

struct Queue {
  std::atomic<int64_t> next = 0;
};

// Bytes that have come to a block, of all exchanges that it took part in.
struct Inbox {
  std::atomic<int64_t> bytes[kExchanges] = {};
};

struct Group {
  explicit Group(int count) : barrier(count), inboxes(count) {}
  Barrier barrier;
  int64_t pair = 0;
  std::vector<Inbox> inboxes;
};

template <int kBlockThreads>
class SerialBlock {
 public:
  template <class T>
  struct Registers {
    Registers() : all(kBlockThreads) {
      std::memset(static_cast<void*>(all.data()), 0xff, kBlockThreads * sizeof(T));
    }
    std::vector<T> all;
  };

  // order: 0 forward, 1 backward, else the seed of a shuffle. skipped: a meeting or exchange that
  // is left out, to see that it is missed.
  SerialBlock(Queue& queue, Group& state, int group, int index, int count, int order, int skipped)
      : queue_(queue),
        state_(state),
        group_(group),
        index_(index),
        count_(count),
        skipped_(skipped),
        order_(kBlockThreads) {
    std::iota(order_.begin(), order_.end(), 0);
    if (order == 1) std::reverse(order_.begin(), order_.end());
    if (order > 1) std::shuffle(order_.begin(), order_.end(), std::mt19937(order));
  }

  int group() const { return group_; }
  int index() const { return index_; }
  int count() const { return count_; }

  template <class F>
  void each(int n, F f) const {
    for (const int thread : order_) {
      for (int i = thread; i < n; i += kBlockThreads) f(i);
    }
  }
  template <class F>
  void share(int n, F f) const {
    for (const int thread : order_) {
      for (int i = index_ * kBlockThreads + thread; i < n; i += count_ * kBlockThreads) f(i);
    }
  }
  template <class T, class F>
  void threads(Registers<T>& registers, F f) const {
    for (const int thread : order_) f(thread, registers.all[thread]);
  }
  template <class T, class F>
  auto from_left(Registers<T>& registers, int thread, F get) const {
    return get(registers.all[thread % kWarpSize > 0 ? thread - 1 : thread]);
  }
  template <class T, class F>
  auto from_right(Registers<T>& registers, int thread, F get) const {
    return get(registers.all[thread % kWarpSize < kWarpSize - 1 ? thread + 1 : thread]);
  }
  Two load(const Two* from) const {
    uint32_t words[2];
    std::memcpy(words, from, sizeof(words));
    if (words[0] == ~0u || words[1] == ~0u) {
      std::cerr << "memory is read that was never written\n";
      std::abort();
    }
    return *from;
  }

  void meet() {
    if (meetings_++ != skipped_) state_.barrier.wait();
  }

  int64_t next_pair() {
    if (index_ == 0) state_.pair = queue_.next++;
    meet();
    return state_.pair;
  }

 protected:
  Queue& queue_;
  Group& state_;
  const int group_, index_, count_, skipped_;
  int meetings_ = 0;
  std::vector<int> order_;
};

using GroupBlock = SerialBlock<kThreads>;

// Blocks tell each other no more than what they send: the thread sanitizer sees whether that orders
// all they do in between.
class ClusterBlock : public SerialBlock<kResidentThreads> {
 public:
  // bytes: of a block's shared memory; those of a cluster lie one after the other.
  ClusterBlock(Queue& queue, Group& state, int group, int index, int count, int order, int skipped,
               size_t bytes)
      : SerialBlock(queue, state, group, index, count, order, skipped), bytes_(bytes) {}

  template <class T, class F>
  void step(Registers<T>& registers, F f) const {
    threads(registers, f);
  }
  template <class T, class F, class Result>
  void sums(Registers<T>& registers, F f, Result result) const {
    std::vector<double> values(kResidentThreads);
    threads(registers, [&](int thread, T& own) { values[thread] = f(thread, own); });
    for (int warp = 0; warp < kResidentWarps; ++warp) {
      const double* const first = values.data() + warp * kWarpSize;
      result(warp, sum(kWarpSize, [&](int lane) { return first[lane]; }));
    }
  }
  template <class Term>
  double sum(int n, Term term) const {
    double values[kWarpSize] = {};
    for (int i = 0; i < n; ++i) values[i] = term(i);
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      for (int i = 0; i < distance; ++i) values[i] += values[i + distance];
    }
    return values[0];
  }

  template <class T>
  void send(int rank, T* to, T value) const {
    char* const place =
        reinterpret_cast<char*>(to) + (rank - index_) * static_cast<ptrdiff_t>(bytes_);
    *reinterpret_cast<T*>(place) = value;
    if (rank != index_) state_.inboxes[rank].bytes[turn()].fetch_add(sizeof(T));
  }
  void exchange(int bytes) {
    const std::atomic<int64_t>& received = state_.inboxes[index_].bytes[turn()];
    expected_[turn()] += bytes;
    if (meetings_++ != skipped_) {
      while (received.load() < expected_[turn()]) std::this_thread::yield();
      if (received.load() > expected_[turn()]) {
        std::cerr << "more has come than was expected\n";
        std::abort();
      }
    }
    ++exchanges_;
  }
  int turn() const { return static_cast<int>(exchanges_ % kExchanges); }

 private:
  const size_t bytes_;
  unsigned exchanges_ = 0;
  int64_t expected_[kExchanges] = {};
};

template <class Solver, class MakeBlock>
void run(const Task& task, const Plan& plan, MakeBlock make_block) {
  using Shared = typename Solver::Shared;
  const int count = static_cast<int>(plan.blocks_per_group);
  Queue queue;
  std::vector<std::unique_ptr<Group>> groups;
  std::vector<std::unique_ptr<Shared[]>> memory;
  std::vector<std::thread> blocks;
  for (int group = 0; group < plan.groups; ++group) {
    groups.push_back(std::make_unique<Group>(count));
    memory.push_back(std::make_unique<Shared[]>(count));
    std::memset(static_cast<void*>(memory.back().get()), 0xff, count * sizeof(Shared));
    for (int index = 0; index < count; ++index) {
      blocks.emplace_back(
          [&, &state = *groups.back(), &shared = memory.back()[index], group, index] {
            auto block = make_block(queue, state, group, index, count);
            Solver(block, shared, task).run();
          });
    }
  }
  for (std::thread& block : blocks) block.join();
}

template <class V, int kComponents>
void run(const Task& task, const Plan& plan, bool clusters, int order, int skipped) {
  using InGroups = Solver<Sweeper, GroupBlock, V, kComponents>;
  using InClusters = Solver<Resident, ClusterBlock, V, kComponents>;
  if (clusters) {
    run<InClusters>(task, plan, [&](auto& queue, auto& state, int group, int index, int count) {
      return ClusterBlock(queue, state, group, index, count, order, skipped,
                          sizeof(typename InClusters::Shared));
    });
  } else {
    run<InGroups>(task, plan, [&](auto& queue, auto& state, int group, int index, int count) {
      return GroupBlock(queue, state, group, index, count, order, skipped);
    });
  }
}

template <class T>
std::vector<T> read(std::istream& in, int64_t count) {
  std::vector<T> values(count);
  in.read(reinterpret_cast<char*>(values.data()), count * static_cast<int64_t>(sizeof(T)));
  if (!in) {
    std::cerr << "the input ends early\n";
    std::exit(1);
  }
  return values;
}

Params read_params(std::istream& in) {
  Params p;
  in >> p.cuda_form >> p.tau >> p.lambda >> p.theta >> p.nscales >> p.warps >> p.epsilon >>
      p.inner_iterations >> p.outer_iterations >> p.scale_step >> p.gamma >> p.median;
  return p;
}

int solve(const char* in_path, const char* out_path) {
  std::ifstream in(in_path, std::ios::binary);
  int64_t pairs;
  Size size;
  bool bytes, given, exact, clusters;
  int order, skipped;
  // Of the plan; zeros leave it as it is.
  int64_t groups, blocks;
  int halo, step_y, sweep;
  in >> pairs >> size.height >> size.width >> bytes >> given >> exact >> clusters >> order >>
      skipped >> groups >> blocks >> halo >> step_y >> sweep;
  const Params p = read_params(in);
  in.ignore(1);

  const int64_t pixels = pairs * size.pixels(), frame_bytes = pixels * (bytes ? 1 : 4);
  const std::vector<char> frames0 = read<char>(in, frame_bytes),
                          frames1 = read<char>(in, frame_bytes);
  const std::vector<float> initial = read<float>(in, given ? 2 * pixels : 0);

  const int components = components_of(p);
  Plan plan = clusters
                  ? make_cluster_plan(size, p, groups, blocks)
                  : make_plan(size, pairs, p, {std::max<int64_t>(groups * blocks, 1), 50 << 20});
  if (groups > 0) plan.groups = groups;
  if (blocks > 0) plan.blocks_per_group = blocks;
  for (Level& level : plan.levels) {
    if (halo > 0) level.tiling = make_tiling({level.height, level.width}, halo, step_y);
    if (sweep > 0) level.tiling.sweep = sweep;
  }
  plan.layout = make_layout(plan, components);

  std::vector<float> flow(2 * pixels);
  std::vector<int32_t> iterations(pairs * p.nscales * p.warps, 0);
  std::vector<float> workspace(plan.groups * plan.layout.floats);
  std::memset(workspace.data(), 0xff, workspace.size() * sizeof(float));
  Task task = make_task(p);
  task.pairs = pairs;
  task.bytes = bytes;
  task.frames0 = frames0.data();
  task.frames1 = frames1.data();
  task.initial = given ? initial.data() : nullptr;
  task.flow = flow.data();
  task.iterations = iterations.data();
  task.levels = plan.levels.data();
  task.level_count = static_cast<int32_t>(plan.levels.size());
  task.layout = plan.layout;
  task.workspace = workspace.data();
  if (exact) {
    components == 3 ? run<Exact, 3>(task, plan, clusters, order, skipped)
                    : run<Exact, 2>(task, plan, clusters, order, skipped);
  } else {
    components == 3 ? run<Fast, 3>(task, plan, clusters, order, skipped)
                    : run<Fast, 2>(task, plan, clusters, order, skipped);
  }
  std::ofstream out(out_path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(flow.data()), flow.size() * sizeof(float));
  out.write(reinterpret_cast<const char*>(iterations.data()), iterations.size() * sizeof(int32_t));
  return out ? 0 : 1;
}

int plan() {
  Device device;
  Size size;
  int64_t pairs;
  while (std::cin >> device.blocks >> device.l2_bytes >> pairs >> size.height >> size.width) {
    const Plan plan = make_plan(size, pairs, read_params(std::cin), device);
    std::cout << plan.groups << ' ' << plan.blocks_per_group << ' ' << plan.layout.floats;
    for (const Level& level : plan.levels) {
      const Tiling& t = level.tiling;
      std::cout << ' ' << level.height << ' ' << level.width << ' ' << t.halo << ' ' << t.sweep
                << ' ' << t.tiles();
      // How often each pixel belongs to a core, and the farthest that a window reaches.
      std::vector<int> cores(level.height * level.width);
      int rows = 0;
      for (int tile = 0; tile < t.tiles(); ++tile) {
        const Window w = window(level, tile);
        rows = std::max(rows, w.warps * kRows);
        for (int y = w.core_top; y < w.core_bottom; ++y) {
          for (int x = w.core_left; x < w.core_right; ++x) ++cores.at(y * level.width + x);
        }
      }
      const auto [least, most] = std::minmax_element(cores.begin(), cores.end());
      std::cout << ' ' << *least << ' ' << *most << ' ' << rows;
    }
    std::cout << '\n';
  }
  return 0;
}

int clusters() {
  int64_t max_blocks, sms, pairs;
  int components;
  Size size;
  while (std::cin >> max_blocks >> sms >> pairs >> size.height >> size.width >>
         components) {
    std::cout << choose_cluster(size, pairs, components, max_blocks, sms) << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace fasti3d::tvl1

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  if (what == "solve" && count == 4) return fasti3d::tvl1::solve(arguments[2], arguments[3]);
  if (what == "plan" && count == 2) return fasti3d::tvl1::plan();
  if (what == "clusters" && count == 2) return fasti3d::tvl1::clusters();
  std::cerr << "usage: tvl1_serial solve IN OUT | plan | clusters\n";
  return 2;
}
