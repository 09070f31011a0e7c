#include "sweep.h"

#include <algorithm>

namespace fasti3d::tvl1 {

Sweeper::Sweeper(const Params& params, const Rows& rows, int64_t width, int64_t depth)
    : params_(params),
      rows_(rows),
      components_(params.components()),
      in_flight_(depth + kTurn),
      memory_(static_cast<size_t>((in_flight_ * 3 * components_ + 3 * components_) *
                                  row_stride(width))) {
  float* next = memory_.data() + kGuard;
  const auto take = [&](int64_t count) {
    float* const taken = next;
    next += count * row_stride(width);
    return taken;
  };
  rows_in_flight_ = take(in_flight_ * 3 * components_);
  zeros_ = take(2 * components_);
  smooth_ = take(components_);
}

// Iteration i of a row needs the row as it is after iteration i - 1, which has finished with it
// once it has passed the next row. The last iteration has the band's rows to do, the one before
// one more on each side, and so on.
void Sweeper::run(const Sweep& sweep) {
  const int64_t depth = sweep.depth, height = sweep.size.height;
  for (int64_t turn = sweep.begin - (depth - 1); turn < sweep.end + depth; turn += kTurn) {
    for (int64_t i = 0; i < depth; ++i) {
      const int64_t halo = depth - 1 - i;
      const int64_t first = std::max<int64_t>(sweep.begin - halo, 0);
      // The step of a row completes the row above it, too.
      const int64_t last = std::min(sweep.end + halo, height);
      for (int64_t j = 0; j < kTurn; ++j) {
        const int64_t y = turn - i + j;
        if (y < first || y > last) continue;
        const IteratePart part = y == height ? kLast : y == first ? kFirst : kInner;
        iterate(sweep, i, y, part, turn + kTurn + j);
      }
    }
  }
}

void Sweeper::iterate(const Sweep& sweep, int64_t iteration, int64_t y, IteratePart part,
                      int64_t next) {
  const int64_t stride = sweep.from.stride, duals = components_ * stride;
  const auto is_own = [&](int64_t row) { return row >= sweep.begin && row < sweep.end; };
  const auto before = [&](int64_t row) {
    return iteration == 0 ? sweep.from.row(row) : in_flight(sweep, row);
  };
  const auto duals_before = [&](int64_t row) {
    return row < 0 || (iteration == 0 && sweep.at_rest) ? zeros_ : before(row) + duals;
  };
  const auto after = [&](int64_t row) {
    return iteration + 1 == sweep.depth && is_own(row) ? sweep.to.row(row) : in_flight(sweep, row);
  };
  IterateRow a{};
  a.stride = stride;
  a.width = sweep.size.width;
  a.limit = params_.limit();
  a.theta = static_cast<float>(params_.theta);
  a.taut = params_.taut();
  a.gamma = static_cast<float>(params_.gamma);
  a.p_up = duals_before(y - 1);
  if (part != kFirst) {
    a.v = after(y - 1);
    a.q = after(y - 1) + duals;
  }
  if (part != kLast) {
    if (iteration == 0 && y >= sweep.warp_begin && y < sweep.warp_end) sweep.warp->run(rows_, y);
    a.u = before(y);
    if (iteration == 0 && sweep.median) {
      take_median(sweep, y);
      a.u = smooth_;
    }
    a.p = duals_before(y);
    a.out = after(y);
    a.data = sweep.data.row(y);
  }
  fetch(sweep, iteration, next, a);
  const double sum = rows_.iterate[components_ == 3][part](a);
  if (part == kLast || !is_own(y)) return;
  const int64_t groups = (sweep.size.height + kGroup - 1) / kGroup;
  double& total = sweep.sums[iteration * groups + y / kGroup];
  total = (y % kGroup == 0 ? 0.0 : total) + sum;
  if (iteration + 1 == sweep.depth) {
    for (int64_t c = 0; c < components_; ++c) extend(a.out + c * stride, a.width);
  }
}

// Has an iteration fetch its share of row y, which the first one needs next, or of the row that the
// last one writes then: by themselves these two would wait for memory.
void Sweeper::fetch(const Sweep& sweep, int64_t iteration, int64_t y, IterateRow& a) const {
  if (sweep.depth < 3) return;
  const auto share = [&](const Planes& planes, int64_t row, int64_t first, int64_t last) {
    if (iteration < first || iteration >= last) return;
    if (row < 0 || row >= sweep.size.height) return;
    const int64_t floats = planes.count * planes.stride, count = last - first;
    a.fetch = planes.row(row) - kGuard + (iteration - first) * floats / count;
    a.fetch_lines = floats / count / a.width + 1;
  };
  const int64_t state = sweep.depth * 3 / 8, data = sweep.depth - state;
  share(sweep.from, y, 0, state);
  share(sweep.data, y, state, data);
  share(sweep.to, y - (sweep.depth - 1), data, sweep.depth);
}

// Of row y of u, into smooth_.
void Sweeper::take_median(const Sweep& sweep, int64_t y) {
  const int64_t side = params_.median, stride = sweep.from.stride;
  for (int64_t c = 0; c < 2; ++c) {
    MedianRow a{};
    for (int64_t i = 0; i < side; ++i) {
      const int64_t row = std::clamp<int64_t>(y + i - side / 2, 0, sweep.size.height - 1);
      a.rows[i] = sweep.from.row(row, c);
    }
    a.out = smooth_ + c * stride;
    a.width = sweep.size.width;
    (side == 3 ? rows_.median3 : rows_.median5)(a);
  }
  if (components_ == 3) {  // the illumination is not smoothed
    std::copy_n(sweep.from.row(y, 2), sweep.size.width, smooth_ + 2 * stride);
  }
}

float* Sweeper::in_flight(const Sweep& sweep, int64_t y) const {
  // Of 32 bits, since a division of 64 takes several times as long.
  const uint32_t place = static_cast<uint32_t>(y) % static_cast<uint32_t>(sweep.depth + kTurn);
  return rows_in_flight_ + place * 3 * components_ * sweep.from.stride;
}

}  // namespace fasti3d::tvl1
