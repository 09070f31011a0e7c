// Runs the schedule of csrc/conv3d_slab on the CPU, to prove its index arithmetic without a GPU.
//
// A warp or warpgroup is a fiber (sm90_emulator.h). Shared memory is bytes and, for every 16 of
// them, whether a copy has landed there that nobody has released since. Copies land late or at
// once, products read until they are waited for, and these are errors: to read what has not landed,
// to copy over what is being read, to read outside of the block's memory, to arrive too often, to
// wait forever.
//
//   conv3d_slab_emulator run IN OUT
//     IN: a line of settings, as run() reads them, then x, weights, bias and, if given, the
//     residual. OUT: the memory of the output.
//   conv3d_slab_emulator plan
//     For every line with a problem and a tile on the standard input a line with what plan.h makes
//     of them.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "../../csrc/conv3d_slab/roles.h"
#include "sm90_emulator.h"

namespace fasti3d::conv3d_slab {
namespace {

// What can be left out or changed, to see that it is noticed.
enum Fault {
  kNone,
  kLeading,
  kShift,
  kStageFull,
  kStageEmpty,
  kSlabFull,
  kSlabEmpty,
  kSlice,
  kFaults
};

struct Settings {
  Plan plan;
  bool bfloat, relu, given;
  int64_t x_size, out_size, weight_bytes;
  // Of n, t, h, w, in elements.
  std::array<int64_t, 4> x_strides, out_strides;
  int clusters, order;
  Fault fault;
};

struct Data {
  std::vector<uint16_t> x, out, residual;
  std::vector<char> weight;
  std::vector<float> bias;
  std::vector<float> value;  // of 16 bits
};

struct Copy {
  int block, to;
  std::vector<char> bytes;
  int barrier;
};

struct Cluster;

// A block, as its warps see it.
struct Block {
  Cluster* cluster;
  int rank;
  std::vector<char> memory;
  std::vector<State> state;  // of every 16 bytes
  std::vector<int> readers;
  std::vector<Barrier> barriers;
  std::vector<int> released;  // of every barrier, by warpgroups of this block
};

struct Cluster {
  const Settings& settings;
  Data& data;
  Fibers fibers;
  std::vector<Copy> under_way;
  std::array<Block, kCluster> blocks;
  int index;

  Cluster(const Settings& s, Data& d, int i) : settings(s), data(d), index(i) {
    const Plan& p = s.plan;
    for (int rank = 0; rank < kCluster; ++rank) {
      const int pieces = p.shared_bytes / 16;
      blocks[rank] = {this,
                      rank,
                      std::vector<char>(p.shared_bytes, -1),
                      std::vector<State>(pieces),
                      std::vector<int>(pieces),
                      std::vector<Barrier>(kBarriers),
                      std::vector<int>(kBarriers)};
      for (int i = 0; i < kBarriers; ++i) {
        Barrier& barrier = blocks[rank].barriers[i];
        barrier.count = barrier.pending = p.arrivals(i);
      }
      for (int i = 0; i < p.zeros(); ++i) {
        std::memset(blocks[rank].memory.data() + p.zero_at(i), 0, 16);
        blocks[rank].state.at(p.zero_at(i) / 16) = State::kThere;
      }
    }
  }

  void copy(Copy its) {
    Block& block = blocks[its.block];
    if (its.to % 16 != 0 || its.bytes.size() % 16 != 0) fail("a copy is not aligned");
    if (its.to + its.bytes.size() > static_cast<size_t>(settings.plan.passes_at)) {
      fail("a copy goes outside of slabs and stages");
    }
    for (size_t i = its.to / 16; i < (its.to + its.bytes.size()) / 16; ++i) {
      if (block.readers[i] > 0) fail("a copy goes over what a product reads");
      if (block.state[i] == State::kUnderWay) fail("two copies go to one place");
      if (block.state[i] == State::kThere) fail("a copy goes over what nobody has released");
      block.state[i] = State::kUnderWay;
    }
    under_way.push_back(std::move(its));
  }

  bool land() {
    if (under_way.empty()) return false;
    const Copy its = std::move(under_way.back());
    under_way.pop_back();
    Block& block = blocks[its.block];
    std::memcpy(block.memory.data() + its.to, its.bytes.data(), its.bytes.size());
    for (size_t i = its.to / 16; i < (its.to + its.bytes.size()) / 16; ++i) {
      block.state[i] = State::kThere;
    }
    Barrier& barrier = block.barriers[its.barrier];
    barrier.bytes -= static_cast<int64_t>(its.bytes.size());
    barrier.settle();
    return true;
  }

  void run() {
    const Plan& p = settings.plan;
    for (Block& block : blocks) {
      fibers.add([this, &block, &p] {
        Machine machine(block);
        load_slabs(machine, p);
      });
      fibers.add([this, &block, &p] {
        Machine machine(block);
        load_weights(machine, p);
      });
      for (int consumer = 0; consumer < p.consumers(); ++consumer) {
        fibers.add([this, &block, &p, consumer] {
          Machine machine(block);
          multiply_and_write(machine, p, consumer);
          if (!machine.groups.empty()) fail("products were not waited for");
        });
      }
    }
    fibers.run(settings.order, [this] { return land(); });
    if (!under_way.empty()) fail("copies were not waited for");
  }

  // A warp's or warpgroup's view, as roles.h asks for it.
  struct Machine {
    // The 16 bytes that products read, one list per group of them.
    using Pieces = std::vector<int>;

    Block& block;
    const Settings& settings;
    const Plan& p;
    std::vector<float> sums;  // [64][positions]
    std::vector<Pieces> groups;
    Pieces open;
    bool begun = false;

    explicit Machine(Block& its)
        : block(its),
          settings(its.cluster->settings),
          p(settings.plan),
          sums(kRows * settings.plan.tile.positions) {}

    int cluster() const { return block.cluster->index; }
    int clusters() const { return settings.clusters; }
    int rank() const { return block.rank; }
    // As if the block's memory began behind what is reserved.
    static constexpr uint32_t kBase = 1024;
    uint32_t address(int offset) const { return kBase + offset; }

    int index(int barrier) const { return (barrier - p.barriers_at) / 8; }

    void wait(int at, unsigned parity) {
      const int i = index(at);
      const int stages = 2 * kMaxBuffers;
      const Fault left_out = i < kMaxBuffers           ? kSlabFull
                             : i < stages              ? kSlabEmpty
                             : i < stages + kMaxStages ? kStageFull
                                                       : kStageEmpty;
      if (settings.fault == left_out) return;
      block.cluster->fibers.wait(
          [this, i, parity] { return (block.barriers[i].phase & 1) != parity; });
    }
    void arrive_there(Block& there, int i) {
      Barrier& barrier = there.barriers[i];
      if (--barrier.pending < 0) fail("too many arrive at a barrier");
      barrier.settle();
    }
    void warps_arrive_there(Block& there, int i) {
      for (int warp = 0; warp < 4; ++warp) arrive_there(there, i);
    }
    void expect(int at, int bytes) {
      block.barriers[index(at)].bytes += bytes;
      arrive_there(block, index(at));
    }

    void load_box(int full, int to, int bytes, int c, int w, int h, int t, int n) {
      if (to % kAlignment != 0) fail("a box goes to memory that is not aligned");
      const Problem& of = p.problem;
      Copy copy{block.rank, to,
                box_of(block.cluster->data.x,
                       {{of.channels, of.in.w, of.in.h, of.in.t, of.batch}, settings.x_strides},
                       {c, w, h, t, n}, {kGroup, p.pitch, p.rows, p.frames, 1}),
                index(full)};
      if (static_cast<int>(copy.bytes.size()) != bytes) {
        fail("a box has ", copy.bytes.size(), " bytes, not ", bytes);
      }
      block.cluster->copy(std::move(copy));
    }

    void load_for_both(int full, int to, int64_t from, int bytes) {
      const std::vector<char>& weight = block.cluster->data.weight;
      if (from < 0 || from % 16 != 0 || from + bytes > static_cast<int64_t>(weight.size())) {
        fail("weights are read at ", from, " of ", weight.size());
      }
      for (int rank = 0; rank < kCluster; ++rank) {
        block.cluster->copy(
            {rank, to, {weight.begin() + from, weight.begin() + from + bytes}, index(full)});
      }
    }

    // The 16 bytes of row `row` (of the matrix's other axis) and half `half` of K.
    int piece(uint64_t descriptor, int row, int half) const {
      const int wrong = settings.fault == kLeading ? 16 : 0;
      const int at = place_in_matrix(descriptor, row, half, wrong) - static_cast<int>(kBase);
      if (at < 0 || at >= p.passes_at) fail("a product reads outside of slabs and stages, at ", at);
      if (block.state[at / 16] != State::kThere) fail("a product reads what is not there, at ", at);
      return at / 16;
    }

    void begin() { begun = true; }
    void multiply(uint64_t a, uint64_t b, bool accumulate) {
      if (!begun) fail("a product begins without a fence");
      const int columns = p.tile.positions;
      if (settings.fault == kShift) b += 1;
      const auto& values = block.cluster->data.value;
      std::vector<float> left(16 * kRows), right(16 * columns);
      const auto fetch = [&](uint64_t descriptor, int rows, float* to) {
        for (int row = 0; row < rows; ++row) {
          for (int half = 0; half < 2; ++half) {
            const int its = piece(descriptor, row, half);
            ++block.readers[its];
            open.push_back(its);
            const uint16_t* from =
                reinterpret_cast<const uint16_t*>(block.memory.data() + its * 16);
            for (int k = 0; k < 8; ++k) to[(half * 8 + k) * rows + row] = values[from[k]];
          }
        }
      };
      fetch(a, kRows, left.data());
      fetch(b, columns, right.data());
      for (int row = 0; row < kRows; ++row) {
        float* const sum = sums.data() + row * columns;
        if (!accumulate) std::memset(sum, 0, columns * sizeof(float));
        for (int k = 0; k < 16; ++k) {
          const float factor = left[k * kRows + row];
          const float* const from = right.data() + k * columns;
          for (int column = 0; column < columns; ++column) sum[column] += factor * from[column];
        }
      }
    }
    void commit() {
      groups.push_back(std::move(open));
      open.clear();
      begun = false;
    }
    void wait_for_products(size_t left) {
      while (groups.size() > left) {
        for (const int piece : groups.front()) --block.readers[piece];
        groups.erase(groups.begin());
      }
    }

    // Before the barrier says so to a copy: what all warpgroups of the block have read is gone.
    void release(int i) {
      if (++block.released[i] % p.consumers() != 0) return;
      const bool slab = i < 2 * kMaxBuffers;
      const int slot = i - (slab ? kMaxBuffers : 2 * kMaxBuffers + kMaxStages);
      const int from = slab ? p.slab_at(slot) : p.stage_at(slot);
      const int bytes = slab ? p.slab_bytes : p.stage_bytes;
      for (int at = from; at < from + bytes; at += 16) {
        const bool zero = slab && at % p.group_bytes() >= p.slab_positions * kPosition;
        if (!zero && block.state[at / 16] == State::kThere) block.state[at / 16] = State::kNothing;
      }
    }
    void arrive(int at) {
      release(index(at));
      warps_arrive_there(block, index(at));
    }
    void arrive_at_both(int at) {
      release(index(at));
      for (Block& there : block.cluster->blocks) warps_arrive_there(there, index(at));
    }

    void write(const Plan&, const Place& place, int consumer, int row, int along) {
      if (!groups.empty()) fail("sums are read while products add to them");
      Data& data = block.cluster->data;
      const int columns = p.tile.positions;
      std::vector<float> pass(kPassBytes / sizeof(float));
      if (p.pass_at(consumer) % 16 != 0 || p.pass_at(consumer) + kPassBytes > p.barriers_at) {
        fail("a pass lies outside of its memory");
      }
      for (int first = 0; first < columns; first += kPass) {
        std::fill(pass.begin(), pass.end(), std::nanf(""));
        for (int thread = 0; thread < kWarpgroup; ++thread) {
          for (int i = first / 2; i < at_most(first + kPass, columns) / 2; ++i) {
            const Cell its = register_cell(thread, i);
            pass.at(pass_place(accumulator_cell(thread, i))) = sums[its.row * columns + its.column];
          }
        }
        for (int thread = 0; thread < kWarpgroup; ++thread) {
          const Cell cell = pass_share(thread);
          const int column = first + cell.column;
          int channel = (place.row + row) * kRows + cell.row;
          if (settings.fault == kSlice) channel += 8;
          const Output out = p.output(place, along, column);
          if (column >= columns || !out.exists || channel >= p.problem.out_channels) continue;
          const auto& s = settings.out_strides;
          const int64_t at = out.n * s[0] + out.t * s[1] + out.h * s[2] + out.w * s[3] + channel;
          for (int k = 0; k < kGroup; ++k) {
            float value =
                pass.at(cell.column * kPassPitch + cell.row + k) + data.bias.at(channel + k);
            if (settings.given) value += data.value[data.residual.at(at + k)];
            if (settings.relu && value < 0) value = 0;
            data.out.at(at + k) = rounded(value, settings.bfloat);
          }
        }
      }
    }
  };
};

Triple read_triple(std::istream& in) {
  Triple its;
  in >> its.t >> its.h >> its.w;
  return its;
}

// Without a tile that can run nothing.
std::optional<Plan> read_plan(std::istream& in) {
  Problem problem;
  Tile tile;
  in >> problem.batch >> problem.channels >> problem.out_channels;
  for (Triple* its : {&problem.in, &problem.out, &problem.kernel, &problem.before})
    *its = read_triple(in);
  in >> tile.positions >> tile.across >> tile.along >> tile.by_frames;
  tile.box = read_triple(in);
  in >> tile.units >> tile.buffers >> tile.stages;
  if (refusal(problem, tile) != nullptr) return std::nullopt;
  return make_plan(problem, tile);
}

int run(const char* in_path, const char* out_path) {
  std::ifstream in(in_path, std::ios::binary);
  Settings s;
  int fault;
  in >> s.bfloat >> s.relu >> s.given >> s.x_size >> s.out_size >> s.weight_bytes;
  for (int64_t& stride : s.x_strides) in >> stride;
  for (int64_t& stride : s.out_strides) in >> stride;
  in >> s.clusters >> s.order >> fault;
  s.fault = static_cast<Fault>(fault);
  const std::optional<Plan> plan = read_plan(in);
  if (!plan) fail("the tile cannot run");
  s.plan = *plan;
  in.ignore(1);
  if (fault < 0 || fault >= kFaults) fail("no such fault");

  Data data;
  data.x = read<uint16_t>(in, s.x_size);
  data.weight = read<char>(in, s.weight_bytes);
  data.bias = read<float>(in, s.plan.problem.out_channels);
  data.out = read<uint16_t>(in, s.out_size);
  if (s.given) data.residual = data.out;
  data.value = values_of_16_bits(s.bfloat);
  for (int i = 0; i < s.clusters; ++i) Cluster(s, data, i).run();
  std::ofstream out(out_path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(data.out.data()), s.out_size * 2);
  return out ? 0 : 1;
}

int plan() {
  while (std::cin >> std::ws && !std::cin.eof()) {
    const std::optional<Plan> p = read_plan(std::cin);
    if (p) {
      std::cout << p->shared_bytes << ' ' << p->pitch << ' ' << p->rows << ' ' << p->slab_positions
                << ' ' << p->all_units << ' ' << p->unit_blocks << ' ' << p->pixel_tiles << ' '
                << p->row_tiles << ' ' << p->work;
    }
    std::cout << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace fasti3d::conv3d_slab

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  if (what == "run" && count == 4) return fasti3d::conv3d_slab::run(arguments[2], arguments[3]);
  if (what == "plan" && count == 2) return fasti3d::conv3d_slab::plan();
  std::cerr << "usage: conv3d_slab_emulator run IN OUT | plan\n";
  return 2;
}
