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
//   tvl1_serial tiles
//     For every line of settings on the standard input, as plan() and tiles() read them, a line
//     with what cuda_choice.h makes of them.
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

#include "../../csrc/tvl1/cuda_choice.h"
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
void run(const Task& task, MakeBlock make_block) {
  using Shared = typename Solver::Shared;
  const int count = static_cast<int>(task.part.blocks);
  Queue queue;
  std::vector<std::unique_ptr<Group>> groups;
  std::vector<std::unique_ptr<Shared[]>> memory;
  std::vector<std::thread> blocks;
  for (int group = 0; group < task.part.groups; ++group) {
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
void run(const Task& task, int order, int skipped) {
  using InGroups = Solver<Sweeper, GroupBlock, V, kComponents>;
  using InClusters = Solver<Resident, ClusterBlock, V, kComponents>;
  if (task.part.clusters) {
    run<InClusters>(task, [&](auto& queue, auto& state, int group, int index, int count) {
      return ClusterBlock(queue, state, group, index, count, order, skipped,
                          sizeof(typename InClusters::Shared));
    });
  } else {
    run<InGroups>(task, [&](auto& queue, auto& state, int group, int index, int count) {
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

// A launch, and what it is to do otherwise than planned, if not 0.
struct Launch {
  Part part;
  int halo, step_y, sweep;
};

// Coarsest levels first; 0 levels are all that are left.
std::vector<Launch> read_launches(std::istream& in, int32_t levels) {
  int count;
  in >> count;
  std::vector<Launch> launches(count);
  int32_t end = levels;
  for (Launch& launch : launches) {
    Part& part = launch.part;
    int32_t its_levels;
    in >> part.clusters >> its_levels >> part.groups >> part.blocks >> launch.halo >>
        launch.step_y >> launch.sweep;
    part.end = end;
    end = part.first = its_levels > 0 ? end - its_levels : 0;
  }
  if (end != 0) {
    std::cerr << "the launches do not cover the levels\n";
    std::exit(1);
  }
  return launches;
}

int solve(const char* in_path, const char* out_path) {
  std::ifstream in(in_path, std::ios::binary);
  int64_t pairs;
  Size size;
  bool bytes, given, exact;
  int order, skipped;
  in >> pairs >> size.height >> size.width >> bytes >> given >> exact >> order >> skipped;
  const Params p = read_params(in);
  std::vector<Level> levels = make_levels(pyramid(size, p), p);
  const int32_t level_count = static_cast<int32_t>(levels.size());
  const std::vector<Launch> launches = read_launches(in, level_count);
  in.ignore(1);

  const int64_t pixels = pairs * size.pixels(), frame_bytes = pixels * (bytes ? 1 : 4);
  const std::vector<char> frames0 = read<char>(in, frame_bytes),
                          frames1 = read<char>(in, frame_bytes);
  const std::vector<float> initial = read<float>(in, given ? 2 * pixels : 0);

  const int components = components_of(p);
  const auto unwritten = [](int64_t floats) {
    std::vector<float> memory(floats);
    std::memset(memory.data(), 0xff, floats * sizeof(float));
    return memory;
  };
  std::vector<float> flow = unwritten(2 * pixels);
  std::vector<int32_t> iterations(pairs * p.nscales * p.warps, 0);
  Task task = make_task(p);
  task.pairs = pairs;
  task.bytes = bytes;
  task.frames0 = frames0.data();
  task.frames1 = frames1.data();
  task.initial = given ? initial.data() : nullptr;
  task.flow = flow.data();
  task.illumination_pixels = illumination_pixels(levels, launches.back().part, components);
  std::vector<float> illumination = unwritten(pairs * task.illumination_pixels);
  task.illumination = illumination.data();
  task.iterations = iterations.data();
  task.levels = levels.data();
  task.level_count = level_count;
  for (const Launch& launch : launches) {
    const int its_skipped = &launch == &launches.back() ? skipped : -1;
    task.part = launch.part;
    if (!launch.part.clusters) cut_into_tiles(levels, launch.part);
    for (int32_t i = launch.part.first; i < launch.part.end; ++i) {
      Tiling& tiling = levels[i].tiling;
      if (launch.halo > 0) tiling = make_tiling(levels[i].size(), launch.halo, launch.step_y);
      if (launch.sweep > 0) tiling.sweep = launch.sweep;
    }
    task.layout = make_layout(levels, launch.part, components, given);
    std::vector<float> workspace = unwritten(launch.part.groups * task.layout.floats);
    task.workspace = workspace.data();
    const auto solve_part = exact ? (components == 3 ? run<Exact, 3> : run<Exact, 2>)
                                  : (components == 3 ? run<Fast, 3> : run<Fast, 2>);
    solve_part(task, order, its_skipped);
  }
  std::ofstream out(out_path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(flow.data()), flow.size() * sizeof(float));
  out.write(reinterpret_cast<const char*>(iterations.data()), iterations.size() * sizeof(int32_t));
  return out ? 0 : 1;
}

int tiles() {
  int64_t blocks;
  Size size;
  while (std::cin >> blocks >> size.height >> size.width) {
    const Params params = read_params(std::cin);
    std::vector<Level> levels = make_levels(pyramid(size, params), params);
    const int32_t count = static_cast<int32_t>(levels.size());
    cut_into_tiles(levels, {false, 0, count, 1, blocks});
    for (const Level& level : levels) {
      const Tiling& t = level.tiling;
      std::cout << level.height << ' ' << level.width << ' ' << t.halo << ' ' << t.sweep << ' '
                << t.tiles();
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
      std::cout << ' ' << *least << ' ' << *most << ' ' << rows << ' ';
    }
    std::cout << '\n';
  }
  return 0;
}

int plan() {
  std::string design;
  int64_t pairs;
  Size size;
  Device device;
  // Of what the driver takes: blocks in a cooperative launch, and those of a cluster.
  int64_t max_blocks, max_cluster;
  while (std::cin >> design >> device.blocks >> device.cooperative >> device.l2_bytes) {
    for (int64_t& clusters : device.clusters) std::cin >> clusters;
    std::cin >> max_blocks >> max_cluster >> pairs >> size.height >> size.width;
    const Params params = read_params(std::cin);
    const Batch batch{pyramid(size, params), pairs, components_of(params)};
    const std::vector<Level> levels = make_levels(batch.sizes, params);
    Part taken;
    const auto take = [&](const Part& part) {
      taken = part;
      if (part.clusters) return part.blocks <= max_cluster;
      return part.blocks == 1 || part.groups * part.blocks <= max_blocks;
    };
    const auto asked = parse_design(design);
    if (!asked) {
      std::cout << "unknown\n";
      continue;
    }
    Planner planner(batch, device);
    for (const Part& planned : planner.choose(asked->design, asked->launches)) {
      if (!planner.launch(planned, asked->design, take)) {
        std::cout << "refused ";
        continue;
      }
      std::cout << taken.clusters << ' ' << taken.first << ' ' << taken.end << ' ' << taken.groups
                << ' ' << taken.blocks << ' '
                << make_layout(levels, taken, batch.components, false).floats << ' '
                << static_cast<int64_t>(planner.time(taken)) << ' ';
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
  if (what == "tiles" && count == 2) return fasti3d::tvl1::tiles();
  std::cerr << "usage: tvl1_serial solve IN OUT | plan | tiles\n";
  return 2;
}
