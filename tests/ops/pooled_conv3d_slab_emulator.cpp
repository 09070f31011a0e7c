// Runs the schedule of csrc/pooled_conv3d_slab on the CPU, to prove its index arithmetic without a
// GPU.
//
// A warp or warpgroup is a fiber (sm90_emulator.h). Shared memory is bytes and, for every 16 of
// them, what is there. Copies land late or at once, products read until they are waited for, and
// these are errors: to pool what has not landed or lies outside of the stage's slab, to copy over
// what nobody has released, to write where products read or outside of the pooled matrix, to
// multiply what was not handed over, to arrive too often, to wait forever.
//
//   pooled_conv3d_slab_emulator run IN OUT
//     IN: a line of settings, as run() reads them, then x, weights and bias. OUT: the memory of the
//     output.
//   pooled_conv3d_slab_emulator plan
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

#include "../../csrc/pooled_conv3d_slab/roles.h"
#include "sm90_emulator.h"

namespace fasti3d::pooled_conv3d_slab {
namespace {

// What can be left out or changed, to see that it is noticed.
enum Fault { kNone, kLeading, kShift, kFull, kEmpty, kHandOver, kMeet, kSlice, kFaults };

struct Settings {
  Plan plan;
  bool bfloat, relu;
  int64_t x_size, out_size, weight_bytes;
  // Of n, t, h, w, in elements.
  std::array<int64_t, 4> x_strides, out_strides;
  int blocks, order;
  Fault fault;
};

struct Data {
  std::vector<uint16_t> x, out;
  std::vector<char> weight;
  std::vector<float> bias;
  std::vector<float> value;  // of 16 bits
};

// kWritten: by threads, and not handed over to products.
enum class Piece : uint8_t { kNothing, kUnderWay, kThere, kWritten };

struct Copy {
  int to;
  std::vector<char> bytes;
  int barrier;
};

struct Block {
  const Settings& settings;
  const Plan& p;
  Data& data;
  int index;
  Fibers fibers;
  std::vector<Copy> under_way;
  std::vector<char> memory;
  std::vector<Piece> state;  // of every 16 bytes
  std::vector<int> readers;
  std::vector<Barrier> barriers;
  std::vector<int> released;  // of every stage, by warpgroups

  Block(const Settings& s, Data& d, int i)
      : settings(s),
        p(s.plan),
        data(d),
        index(i),
        memory(p.shared_bytes, -1),  // NaN
        state(p.shared_bytes / 16),
        readers(p.shared_bytes / 16),
        barriers(kBarriers),
        released(kMaxStages) {
    for (int barrier = 0; barrier < kBarriers; ++barrier) {
      barriers[barrier].count = barriers[barrier].pending = p.arrivals(barrier);
    }
    // Columns of the pooled matrix that are no outputs have anything, and give nothing.
    const int outputs = p.tile.box.t * p.tile.box.h * p.tile.box.w;
    for (int consumer = 0; consumer < p.tile.along; ++consumer) {
      for (int group = 0; group < kGroups; ++group) {
        const int from = p.operand_at(consumer) + group * p.operand_group;
        for (int column = outputs; column < p.tile.columns; ++column) {
          state.at(from / 16 + column) = Piece::kThere;
        }
      }
    }
  }

  void copy(Copy its) {
    if (its.to % 16 != 0 || its.bytes.size() % 16 != 0) fail("a copy is not aligned");
    if (its.to + its.bytes.size() > static_cast<size_t>(p.operands_at)) {
      fail("a copy goes outside of the stages");
    }
    for (size_t i = its.to / 16; i < (its.to + its.bytes.size()) / 16; ++i) {
      if (readers[i] > 0) fail("a copy goes over what a product reads");
      if (state[i] != Piece::kNothing) fail("a copy goes over what nobody has released");
      state[i] = Piece::kUnderWay;
    }
    under_way.push_back(std::move(its));
  }

  bool land() {
    if (under_way.empty()) return false;
    const Copy its = std::move(under_way.back());
    under_way.pop_back();
    std::memcpy(memory.data() + its.to, its.bytes.data(), its.bytes.size());
    for (size_t i = its.to / 16; i < (its.to + its.bytes.size()) / 16; ++i) {
      state[i] = Piece::kThere;
    }
    barriers[its.barrier].bytes -= static_cast<int64_t>(its.bytes.size());
    barriers[its.barrier].settle();
    return true;
  }

  void run() {
    fibers.add([this] {
      Machine machine(*this);
      load(machine, p);
    });
    for (int consumer = 0; consumer < p.tile.along; ++consumer) {
      fibers.add([this, consumer] {
        Machine machine(*this);
        machine.consumer = consumer;
        pool_and_multiply(machine, p, consumer);
      });
    }
    fibers.run(settings.order, [this] { return land(); });
    if (!under_way.empty()) fail("copies were not waited for");
  }

  // A warp's or warpgroup's view, as roles.h asks for it.
  struct Machine {
    using Values = std::array<uint16_t, kGroup>;

    Block& its;
    const Settings& settings;
    const Plan& p;
    int consumer = -1;
    std::vector<float> sums;  // [64 * row blocks][columns]
    std::vector<int> reads;   // the 16 bytes that products under way read
    bool begun = false, met = false;
    int stage = -1;  // of the slab that is pooled

    explicit Machine(Block& block)
        : its(block),
          settings(block.settings),
          p(block.p),
          sums(kRows * p.row_blocks * p.tile.columns) {}

    int block() const { return its.index; }
    int blocks() const { return settings.blocks; }
    int row_blocks() const { return p.row_blocks; }
    // As if the block's memory began behind what is reserved.
    static constexpr uint32_t kBase = 1024;
    uint32_t address(int offset) const { return kBase + offset; }
    int index(int barrier) const { return (barrier - p.barriers_at) / 8; }

    void wait(int at, unsigned parity) {
      const int i = index(at);
      if (i < kMaxStages) stage = i;
      if (settings.fault == (i < kMaxStages ? kFull : kEmpty)) return;
      its.fibers.wait([this, i, parity] { return (its.barriers[i].phase & 1) != parity; });
    }
    void arrive_there(int i) {
      if (--its.barriers[i].pending < 0) fail("too many arrive at a barrier");
      its.barriers[i].settle();
    }
    void expect(int at, int bytes) {
      its.barriers[index(at)].bytes += bytes;
      arrive_there(index(at));
    }

    void load_box(int full, int to, int bytes, int c, int w, int h, int t, int n) {
      if (to % kAlignment != 0) fail("a box goes to memory that is not aligned");
      const Problem& of = p.problem;
      Copy copy{
          to,
          box_of(its.data.x,
                 {{of.channels, of.size.w, of.size.h, of.size.t, of.batch}, settings.x_strides},
                 {c, w, h, t, n}, {kChannels, p.pitch, p.rows, p.frames, 1}),
          index(full)};
      if (static_cast<int>(copy.bytes.size()) != bytes) {
        fail("a box has ", copy.bytes.size(), " bytes, not ", bytes);
      }
      its.copy(std::move(copy));
    }
    void load_weights(int full, int to, int64_t from, int bytes) {
      const std::vector<char>& weight = its.data.weight;
      if (from < 0 || from % 16 != 0 || from + bytes > static_cast<int64_t>(weight.size())) {
        fail("weights are read at ", from, " of ", weight.size());
      }
      its.copy({to, {weight.begin() + from, weight.begin() + from + bytes}, index(full)});
    }

    template <class F>
    void each_thread(const F& work) {
      for (int thread = 0; thread < kWarpgroup; ++thread) work(thread);
    }
    Values read(int at) const {
      const int from = p.stage_at(stage);
      if (at < from || at + 16 > from + p.slab_bytes || at % 16 != 0) {
        fail("a thread pools outside of the slab, at ", at);
      }
      if (its.state[at / 16] != Piece::kThere) fail("a thread pools what is not there, at ", at);
      Values values;
      std::memcpy(values.data(), its.memory.data() + at, 16);
      return values;
    }
    void write(int at, const Values& values) {
      const int from = p.operand_at(consumer);
      if (at < from || at + 16 > from + p.operand_bytes || at % 16 != 0) {
        fail("a thread writes outside of the pooled matrix, at ", at);
      }
      if (its.readers[at / 16] > 0) fail("a thread writes over what a product reads, at ", at);
      if (!met) fail("a thread writes what another warp's product may read");
      if (its.state[at / 16] == Piece::kWritten) fail("two threads write at ", at);
      its.state[at / 16] = Piece::kWritten;
      std::memcpy(its.memory.data() + at, values.data(), 16);
    }
    Values max(const Values& a, const Values& b) const {
      const auto& value = its.data.value;
      Values larger;
      for (int k = 0; k < kGroup; ++k) {
        larger[k] = std::isnan(value[a[k]]) || value[a[k]] >= value[b[k]] ? a[k] : b[k];
      }
      return larger;
    }

    void meet(int) { met = settings.fault != kMeet; }
    void hand_over(int) {
      if (settings.fault == kHandOver) return;
      const int from = p.operand_at(consumer) / 16;
      for (int i = from; i < from + p.operand_bytes / 16; ++i) {
        if (its.state[i] == Piece::kWritten) its.state[i] = Piece::kThere;
      }
    }

    void begin() { begun = true; }
    void multiply(int row_block, uint64_t a, uint64_t b, bool accumulate) {
      if (!begun) fail("a product begins without a fence");
      const int columns = p.tile.columns;
      if (settings.fault == kShift) b += 1;
      const auto& values = its.data.value;
      std::vector<float> left(16 * kRows), right(16 * columns);
      const auto fetch = [&](uint64_t descriptor, int rows, int from, int end, int wrong,
                             float* to) {
        for (int row = 0; row < rows; ++row) {
          for (int half = 0; half < 2; ++half) {
            const int at = place_in_matrix(descriptor, row, half, wrong) - static_cast<int>(kBase);
            if (at < from || at + 16 > end) fail("a product reads outside of its matrix, at ", at);
            if (its.state[at / 16] != Piece::kThere) {
              fail("a product reads what is not there for it, at ", at);
            }
            ++its.readers[at / 16];
            reads.push_back(at / 16);
            const uint16_t* value = reinterpret_cast<const uint16_t*>(its.memory.data() + at);
            for (int k = 0; k < 8; ++k) to[(half * 8 + k) * rows + row] = values[value[k]];
          }
        }
      };
      fetch(a, kRows, p.stage_weights(stage), p.stage_at(stage) + p.stage_bytes, 0, left.data());
      fetch(b, columns, p.operand_at(consumer), p.operand_at(consumer) + p.operand_bytes,
            settings.fault == kLeading ? 16 : 0, right.data());
      for (int row = 0; row < kRows; ++row) {
        float* const sum = sums.data() + (row_block * kRows + row) * columns;
        if (!accumulate) std::memset(sum, 0, columns * sizeof(float));
        for (int k = 0; k < 16; ++k) {
          const float factor = left[k * kRows + row];
          const float* const from = right.data() + k * columns;
          for (int column = 0; column < columns; ++column) sum[column] += factor * from[column];
        }
      }
    }
    void commit() { begun = false; }
    void wait_for_products() {
      for (const int i : reads) --its.readers[i];
      reads.clear();
      met = false;
      // What the next chunk does not write is not this one's.
      const int outputs = p.tile.box.t * p.tile.box.h * p.tile.box.w;
      for (int group = 0; group < kGroups; ++group) {
        const int from = (p.operand_at(consumer) + group * p.operand_group) / 16;
        for (int column = 0; column < outputs; ++column) {
          its.state[from + column] = Piece::kNothing;
        }
      }
    }

    void arrive(int at) {
      const int slot = index(at) - kMaxStages;
      if (++its.released[slot] % p.tile.along == 0) {
        for (int i = p.stage_at(slot) / 16; i < (p.stage_at(slot) + p.stage_bytes) / 16; ++i) {
          if (its.state[i] == Piece::kThere) its.state[i] = Piece::kNothing;
        }
      }
      for (int warp = 0; warp < kWarps; ++warp) arrive_there(index(at));
    }

    void write_results(const Plan&, const Place& place, int along) {
      if (!reads.empty()) fail("sums are read while products add to them");
      const int columns = p.tile.columns;
      std::vector<float> pass(kPassBytes / sizeof(float));
      if (p.pass_at(along) % 16 != 0 || p.pass_at(along) + kPassBytes > p.barriers_at) {
        fail("a pass lies outside of its memory");
      }
      for (int row_block = 0; row_block < p.row_blocks; ++row_block) {
        for (int first = 0; first < columns; first += kPass) {
          std::fill(pass.begin(), pass.end(), std::nanf(""));
          for (int thread = 0; thread < kWarpgroup; ++thread) {
            for (int i = first / 2; i < at_most(first + kPass, columns) / 2; ++i) {
              const Cell cell = register_cell(thread, i);
              pass.at(pass_place(accumulator_cell(thread, i))) =
                  sums[(row_block * kRows + cell.row) * columns + cell.column];
            }
          }
          for (int thread = 0; thread < kWarpgroup; ++thread)
            write(place, along, row_block, first, pass_share(thread), pass);
        }
      }
    }

    // 8 channels of a column of a pass.
    void write(const Place& place, int along, int row_block, int first, Cell cell,
               const std::vector<float>& pass) {
      Data& data = its.data;
      const int column = first + cell.column;
      const int channel = row_block * kRows + cell.row + (settings.fault == kSlice ? kGroup : 0);
      const Output out = p.output(place, along, column);
      if (column >= p.tile.columns || !out.exists || channel >= p.problem.out_channels) return;
      const auto& s = settings.out_strides;
      const int64_t at = out.n * s[0] + out.t * s[1] + out.h * s[2] + out.w * s[3] + channel;
      for (int k = 0; k < kGroup; ++k) {
        float value = pass.at(cell.column * kPassPitch + cell.row + k) + data.bias.at(channel + k);
        if (settings.relu && value < 0) value = 0;
        data.out.at(at + k) = rounded(value, settings.bfloat);
      }
    }
  };
};

std::optional<Plan> read_plan(std::istream& in) {
  Problem problem;
  Tile tile;
  in >> problem.batch >> problem.channels >> problem.out_channels >> problem.size.t >>
      problem.size.h >> problem.size.w;
  in >> tile.columns >> tile.along >> tile.by_frames >> tile.box.t >> tile.box.h >> tile.box.w;
  in >> tile.strip >> tile.stages;
  if (refusal(problem, tile) != nullptr) return std::nullopt;
  return make_plan(problem, tile);
}

int run(const char* in_path, const char* out_path) {
  std::ifstream in(in_path, std::ios::binary);
  Settings s;
  int fault;
  in >> s.bfloat >> s.relu >> s.x_size >> s.out_size >> s.weight_bytes;
  for (int64_t& stride : s.x_strides) in >> stride;
  for (int64_t& stride : s.out_strides) in >> stride;
  in >> s.blocks >> s.order >> fault;
  s.fault = static_cast<Fault>(fault);
  const std::optional<Plan> plan = read_plan(in);
  if (!plan) fail("the tile cannot run");
  s.plan = *plan;
  in.ignore(1);
  if (fault < 0 || fault >= kFaults) fail("no such fault");
  if (s.weight_bytes != s.plan.weight_bytes()) fail("the weights have another size");

  Data data;
  data.x = read<uint16_t>(in, s.x_size);
  data.weight = read<char>(in, s.weight_bytes);
  data.bias = read<float>(in, s.plan.problem.out_channels);
  data.out = read<uint16_t>(in, s.out_size);
  data.value = values_of_16_bits(s.bfloat);
  for (int i = 0; i < s.blocks; ++i) Block(s, data, i).run();
  std::ofstream out(out_path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(data.out.data()), s.out_size * 2);
  return out ? 0 : 1;
}

int plan() {
  while (std::cin >> std::ws && !std::cin.eof()) {
    const std::optional<Plan> p = read_plan(std::cin);
    if (p) {
      std::cout << p->shared_bytes << ' ' << p->slab_bytes << ' ' << p->shares << ' ' << p->chunks
                << ' ' << p->tiles;
    }
    std::cout << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace fasti3d::pooled_conv3d_slab

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  namespace its = fasti3d::pooled_conv3d_slab;
  if (what == "run" && count == 4) return its::run(arguments[2], arguments[3]);
  if (what == "plan" && count == 2) return its::plan();
  std::cerr << "usage: pooled_conv3d_slab_emulator run IN OUT | plan\n";
  return 2;
}
