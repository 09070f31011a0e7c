// Runs the CUDA solver's source (csrc/tvl1/cuda_solver.h) on the CPU, to test its logic without a
// GPU.
//
// A block is a thread of this process, and the threads of a block run one after the other, in an
// order that can be chosen: a result that depends on it means that threads read what others write
// between two barriers. Between blocks the thread sanitizer watches, where this is built with it.
// Memory is filled with NaNs before it is used.
//
//   tvl1_serial solve IN OUT
//     IN: a line of settings, as solve() reads them, then frame0, frame1 and, if given, the initial
//     flow. OUT: the flow, then the iterations.
//   tvl1_serial plan
//     For every line of settings on the standard input, as plan() reads them, a line with what
//     cuda_plan.h makes of them.
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
#include "../../csrc/tvl1/cuda_solver.h"

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

struct Group {
  explicit Group(int count) : barrier(count) {}
  Barrier barrier;
  int64_t pair = 0;
};

class SerialBlock {
 public:
  template <class T>
  struct Registers {
    Registers() : all(kThreads) { std::memset(all.data(), 0xff, kThreads * sizeof(T)); }
    std::vector<T> all;
  };

  // order: 0 forward, 1 backward, else the seed of a shuffle. skipped: a meeting that is left out,
  // to see that it is missed.
  SerialBlock(Queue& queue, Group& state, int group, int index, int count, int order, int skipped)
      : queue_(queue),
        state_(state),
        group_(group),
        index_(index),
        count_(count),
        skipped_(skipped),
        order_(kThreads) {
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
      for (int i = thread; i < n; i += kThreads) f(i);
    }
  }
  template <class F>
  void share(int n, F f) const {
    for (const int thread : order_) {
      for (int i = index_ * kThreads + thread; i < n; i += count_ * kThreads) f(i);
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
  Two load(const Two* from) const { return *from; }

  void meet() {
    if (meetings_++ != skipped_) state_.barrier.wait();
  }

  int64_t next_pair() {
    if (index_ == 0) state_.pair = queue_.next++;
    meet();
    return state_.pair;
  }

 private:
  Queue& queue_;
  Group& state_;
  const int group_, index_, count_, skipped_;
  int meetings_ = 0;
  std::vector<int> order_;
};

template <class V, int kComponents>
void run(const Task& task, const Plan& plan, int order, int skipped) {
  Queue queue;
  std::vector<std::unique_ptr<Group>> groups;
  std::vector<std::thread> blocks;
  for (int group = 0; group < plan.groups; ++group) {
    groups.push_back(std::make_unique<Group>(static_cast<int>(plan.blocks_per_group)));
    for (int index = 0; index < plan.blocks_per_group; ++index) {
      blocks.emplace_back([&, &state = *groups.back(), group, index] {
        const int count = static_cast<int>(plan.blocks_per_group);
        SerialBlock block(queue, state, group, index, count, order, skipped);
        const auto shared = std::make_unique<Shared<kComponents>>();
        std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(*shared));
        Solver<SerialBlock, V, kComponents>(block, *shared, task).run();
      });
    }
  }
  for (std::thread& block : blocks) block.join();
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
  bool bytes, given, exact;
  int order, skipped;
  // Of the plan; zeros leave it as it is.
  int64_t groups, blocks;
  int halo, step_y, sweep;
  in >> pairs >> size.height >> size.width >> bytes >> given >> exact >> order >> skipped >>
      groups >> blocks >> halo >> step_y >> sweep;
  const Params p = read_params(in);
  in.ignore(1);

  const int64_t pixels = pairs * size.pixels(), frame_bytes = pixels * (bytes ? 1 : 4);
  const std::vector<char> frames0 = read<char>(in, frame_bytes),
                          frames1 = read<char>(in, frame_bytes);
  const std::vector<float> initial = read<float>(in, given ? 2 * pixels : 0);

  const int components = p.gamma != 0.0 ? 3 : 2;
  Plan plan = make_plan(size, pairs, p, {std::max<int64_t>(groups * blocks, 1), 50 << 20});
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
    components == 3 ? run<Exact, 3>(task, plan, order, skipped)
                    : run<Exact, 2>(task, plan, order, skipped);
  } else {
    components == 3 ? run<Fast, 3>(task, plan, order, skipped)
                    : run<Fast, 2>(task, plan, order, skipped);
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

}  // namespace
}  // namespace fasti3d::tvl1

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  if (what == "solve" && count == 4) return fasti3d::tvl1::solve(arguments[2], arguments[3]);
  if (what == "plan" && count == 2) return fasti3d::tvl1::plan();
  std::cerr << "usage: tvl1_serial solve IN OUT | plan\n";
  return 2;
}
