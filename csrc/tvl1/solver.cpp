#include "solver.h"

#include <algorithm>

#include "../common/caches.h"
#include "depth.h"

namespace fasti3d::tvl1 {
namespace {

// Large pieces lie this much more than a multiple of a page apart, or the same pixel of all of them
// would compete for the same few places in the cache.
constexpr int64_t kStagger = 80;
constexpr int64_t kPage = 1024;  // floats

// Fewer groups than these take a member less time than waiting for the others does.
constexpr int64_t kMinGroups = 2;

constexpr int64_t kData = 4;  // planes: ix, iy, inverse, rho

int64_t groups(int64_t height) { return (height + kGroup - 1) / kGroup; }

int64_t state_planes(const Params& params) { return 3 * params.components(); }

// Of so many planes, with what comes between them and the next piece.
int64_t floats(int64_t planes, Size size) {
  return round_up(planes * size.height * row_stride(size.width) + kGuard, kPage) + kStagger;
}

}  // namespace

// The rows of one member in a level: whole groups.
struct Solver::Share {
  Share(Size size, const Member& member)
      : begin(edge(size, member.index, member.count)),
        end(edge(size, member.index + 1, member.count)) {}

  static int64_t edge(Size size, int64_t index, int64_t count) {
    return std::min(index * groups(size.height) / count * kGroup, size.height);
  }

  int64_t begin, end;
};

Solver::Solver(const std::vector<Size>& sizes, const Params& params, const Rows& rows)
    : sizes_(sizes),
      params_(params),
      rows_(rows),
      components_(params.components()),
      memory_(bytes(sizes, params) / static_cast<int64_t>(sizeof(float))) {
  float* next = memory_.get();
  for (float*& state : states_) {
    state = next + kGuard;
    next += floats(state_planes(params), sizes[0]);
  }
  data_ = next + kGuard;
  sampled_ = next + floats(kData, sizes[0]);
  for (auto& sums : sums_) sums.resize(static_cast<size_t>(kMaxDepth * groups(sizes[0].height)));
}

int64_t Solver::bytes(const std::vector<Size>& sizes, const Params& params) {
  return (2 * floats(state_planes(params), sizes[0]) + floats(kData, sizes[0]) +
          Sampled::floats(sizes[0])) *
         static_cast<int64_t>(sizeof(float));
}

// One of the two states, of u and its duals, in a level's size: sweeps and upsampling go from one
// to the other.
Planes Solver::state(int set, Size size) const {
  return {states_[set], state_planes(params_), row_stride(size.width)};
}

Planes Solver::planes_of_data() const { return {data_, kData, row_stride(size_.width)}; }

void Solver::solve(Team& team, const Image& image0, const Image& image1, const float* initial,
                   float* flow, int32_t* iterations) {
  previous_ = 0;
  for (size_t level = sizes_.size(); level-- > 0;) {
    const bool coarsest = level + 1 == sizes_.size();
    size_ = sizes_[level];
    if (coarsest) start(initial);
    const Sampled sampled(sampled_, size_);
    team.run(team.muster(), [&](const Member& member) {
      if (!coarsest) upsample(member, level + 1);
      sampled.build(rows_, params_, image1.level(level), Band(size_.height, member));
    });
    if (!coarsest) set_ = 1 - set_;
    at_rest_ = true;
    for (int64_t i = 0; i < params_.warps; ++i) {
      iterations[static_cast<int64_t>(level) * params_.warps + i] =
          warp(team, image0.level(level), sampled);
    }
  }
  team.run(team.muster(), [&](const Member& member) {
    const Planes u = state(set_, size_);
    const Band band(size_.height, member);
    for (int c = 0; c < 2; ++c) {
      for (int64_t y = band.begin; y < band.end; ++y) {
        std::copy_n(u.row(y, c), size_.width, flow + (c * size_.height + y) * size_.width);
      }
    }
  });
}

// The flow at the coarsest level: nothing, or the initial flow scaled down level by level.
void Solver::start(const float* initial) {
  set_ = 0;
  const Planes to = state(set_, size_);
  for (int64_t y = 0; y < size_.height; ++y) {
    std::fill_n(to.row(y) - kGuard, components_ * to.stride, 0.0f);
  }
  if (initial == nullptr) return;
  const double scale = 1.0 / params_.scale_step;
  for (int c = 0; c < 2; ++c) {
    std::vector<float> from(initial + c * sizes_[0].pixels(),
                            initial + (c + 1) * sizes_[0].pixels());
    for (size_t level = 1; level < sizes_.size(); ++level) {
      const Size in = sizes_[level - 1], out = sizes_[level];
      const Columns columns(in.width, out.width, scale, params_.cuda_form);
      std::vector<float> scaled(static_cast<size_t>(out.pixels()));
      for (int64_t y = 0; y < out.height; ++y) {
        const Between at = between(y, scale, in.height, params_.cuda_form);
        rows_.resize({from.data() + at.first * in.width, from.data() + at.second * in.width,
                      at.weight, columns.first.data(), columns.second.data(),
                      columns.weights.data(), static_cast<float>(params_.scale_step),
                      scaled.data() + y * out.width, out.width});
      }
      from = std::move(scaled);
    }
    for (int64_t y = 0; y < size_.height; ++y) {
      std::copy_n(from.data() + y * size_.width, size_.width, to.row(y, c));
      extend(to.row(y, c), size_.width);
    }
  }
}

// A member's band of u, from level `from` to the level at hand, the next finer one.
void Solver::upsample(const Member& member, size_t from) const {
  const Size in = sizes_[from];
  const Planes coarse = state(set_, in), fine = state(1 - set_, size_);
  const double scale_x = static_cast<double>(in.width) / static_cast<double>(size_.width);
  const double scale_y = static_cast<double>(in.height) / static_cast<double>(size_.height);
  const Columns columns(in.width, size_.width, scale_x, params_.cuda_form);
  const Band band(size_.height, member);
  for (int64_t y = band.begin; y < band.end; ++y) {
    const Between at = between(y, scale_y, in.height, params_.cuda_form);
    for (int64_t c = 0; c < components_; ++c) {
      const float factor = c < 2 ? static_cast<float>(1.0 / params_.scale_step) : 1.0f;
      rows_.resize({coarse.row(at.first, c), coarse.row(at.second, c), at.weight,
                    columns.first.data(), columns.second.data(), columns.weights.data(), factor,
                    fine.row(y, c), size_.width});
      extend(fine.row(y, c), size_.width);
    }
  }
}

int32_t Solver::warp(Team& team, const Level& level0, const Sampled& sampled) {
  const int64_t max_members = std::max<int64_t>(1, size_.height / (kMinGroups * kGroup));
  const int count = static_cast<int>(std::min<int64_t>(team.muster(), max_members));
  while (static_cast<int>(sweepers_.size()) < count) {
    sweepers_.push_back(std::make_unique<Sweeper>(params_, rows_, sizes_[0].width, kMaxDepth));
  }
  Progress progress{};
  team.run(count, [&](const Member& member) {
    const Share share(size_, member);
    const Warp warp{size_,          params_.bicubic(),  level0.gray,     level0.stride,
                    sampled.planes, state(set_, size_), planes_of_data()};
    // What the neighbors' sweeps read is warped before they begin.
    const int64_t first = share.begin > 0 ? std::min(share.begin + kMaxDepth, share.end) : 0;
    const int64_t last =
        share.end < size_.height ? std::max(share.end - kMaxDepth, first) : share.end;
    for (int64_t y = share.begin; y < share.end; ++y) {
      if (y < first || y >= last) warp.run(rows_, y);
    }
    member.barrier();
    const Progress own = iterate(member, share, warp, first, last);
    if (member.index == 0) progress = own;
  });
  set_ = progress.set;
  at_rest_ = false;
  previous_ = progress.iterations;
  return progress.iterations;
}

// Rows warp_begin to warp_end of the share are yet to be warped.
Solver::Progress Solver::iterate(const Member& member, const Share& share, const Warp& warp,
                                 int64_t warp_begin, int64_t warp_end) {
  const bool medians = !params_.cuda_form && params_.median > 1;
  const int64_t total = params_.inner_iterations * params_.outer_iterations;
  const int64_t between_medians = medians ? params_.inner_iterations : total;
  const Planes planes = state(0, size_);
  const int64_t row_bytes =
      (planes.count + kData) * planes.stride * static_cast<int64_t>(sizeof(float));
  const int64_t rows = member.count == 1 ? 0 : groups(size_.height) / member.count * kGroup;
  const int64_t most = max_depth(caches().l2, row_bytes, kTurn, rows);
  const double tolerance = params_.tolerance(size_.pixels());
  StopRule rule{params_.cuda_form, tolerance};
  Forecast forecast(previous_);
  Progress at{set_, 0};
  bool at_rest = at_rest_;
  int parity = 0;
  const auto sweep = [&](int64_t depth, bool median) {
    parity = 1 - parity;  // others may still add up the sums before
    sweepers_[member.index]->run({size_, planes_of_data(), state(at.set, size_),
                                  state(1 - at.set, size_), at_rest, median, depth, share.begin,
                                  share.end, sums_[parity].data(), &warp, warp_begin, warp_end});
    warp_end = warp_begin;
    member.barrier();
  };
  for (bool stops = false; !stops && at.iterations < total;) {
    const int64_t done = at.iterations % between_medians;
    const bool median = medians && done == 0;
    if (median && at.iterations > 0) forecast.restart();
    const int64_t depth = std::min({forecast.remaining(), most, between_medians - done});
    sweep(depth, median);
    int64_t wanted = 0;
    while (wanted < depth && !stops) {
      const double* sums = sums_[parity].data() + wanted++ * groups(size_.height);
      double sum = 0.0;
      for (int64_t group = 0; group < groups(size_.height); ++group) sum += sums[group];
      forecast.add(sum / tolerance);
      stops = rule.stops(sum);
    }
    if (wanted < depth) sweep(wanted, median);
    at.iterations += static_cast<int32_t>(wanted);
    at.set = 1 - at.set;
    at_rest = false;
  }
  return at;
}

}  // namespace fasti3d::tvl1
