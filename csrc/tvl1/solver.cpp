#include "solver.h"

#include <algorithm>
#include <limits>

namespace fasti3d::tvl1 {
namespace {

// Errors are summed over groups of rows, and bands are made of whole groups, so that the sums, and
// with them the stop, do not depend on the number of bands.
constexpr int64_t kGroup = 8;
// Planes lie this much more than a multiple of a page apart, or the same pixel of all of them would
// compete for the same few places in the cache.
constexpr int64_t kStagger = 80;
constexpr int64_t kPage = 1024;  // floats

// Fewer groups than these take a member less time than waiting for the others does.
constexpr int64_t kMinGroups = 2;

int64_t row_stride(int64_t width) { return round_up(width, kGuard) + 3 * kGuard; }
int64_t plane_floats(Size finest) {
  return round_up(finest.height * row_stride(finest.width), kPage) + kStagger;
}
int components(const Params& params) { return params.gamma != 0.0 ? 3 : 2; }
int planes(const Params& params) { return 4 * components(params) + 4; }

}  // namespace

struct MemberRows {
  MemberRows(int64_t stride, int components) : stride(stride), memory(kCount * stride, 0.0f) {
    for (int parity = 0; parity < 2; ++parity) {
      for (int c = 0; c < components; ++c) {
        Edge& e = edge[parity][c];
        e = {next(), next(), next(), next()};
      }
    }
    for (int c = 0; c < components; ++c) ghost[c] = next();
    for (float*& row : sorted) row = next();
  }

  float* next() { return memory.data() + stride * used++ + kGuard; }

  struct Edge {
    float *u, *px, *py;  // of the first row
    float* last_py;      // of the last row
  };

  static constexpr int64_t kCount = 2 * 3 * 4 + 3 + 5;
  int64_t stride;
  std::vector<float> memory;
  int64_t used = 0;
  Edge edge[2][3];
  float* ghost[3];  // the next band's first row after the iteration
  float* sorted[5];
};

// The rows of one member in a level.
struct Solver::Share {
  Share(Size size, const Member& member)
      : groups((size.height + kGroup - 1) / kGroup),
        active(std::min<int64_t>(member.count, groups)),
        index(member.index),
        first_group(std::min<int64_t>(index, active) * groups / active),
        last_group(std::min<int64_t>(index + 1, active) * groups / active),
        begin(first_group * kGroup),
        end(std::min(last_group * kGroup, size.height)) {}

  bool is_empty() const { return begin >= end; }
  bool has_above() const { return index > 0; }
  bool has_below() const { return index + 1 < active; }

  int64_t groups, active;
  int index;
  int64_t first_group, last_group, begin, end;
};

Solver::Solver(const std::vector<Size>& sizes, const Params& params, const Rows& rows)
    : sizes_(sizes),
      params_(params),
      rows_(rows),
      components_(components(params)),
      plane_floats_(plane_floats(sizes[0])),
      memory_(static_cast<size_t>(plane_floats_ * planes(params))),
      zeros_(static_cast<size_t>(row_stride(sizes[0].width)), 0.0f) {
  for (auto& sums : sums_) sums.resize(sizes[0].height / kGroup + 1);
}

Solver::~Solver() = default;

int64_t Solver::bytes(const std::vector<Size>& sizes, const Params& params) {
  return plane_floats(sizes[0]) * planes(params) * static_cast<int64_t>(sizeof(float));
}

// Points the planes at rows of the level's width.
void Solver::lay_out(Size size) {
  size_ = size;
  stride_ = row_stride(size.width);
  float* next = memory_.get() + kGuard;
  const auto plane = [&] {
    const Plane result{next, stride_};
    next += plane_floats_;
    return result;
  };
  for (auto& set : u_) {
    for (int c = 0; c < components_; ++c) set[c] = plane();
  }
  for (int c = 0; c < components_; ++c) {
    for (Plane& p : p_[c]) p = plane();
  }
  for (Plane* p : {&ix_, &iy_, &inverse_, &rho_}) *p = plane();
}

void Solver::solve(Team& team, const Image& image0, const Image& image1, const float* initial,
                   float* flow, int32_t* iterations) {
  for (size_t level = sizes_.size(); level-- > 0;) {
    if (level + 1 == sizes_.size()) {
      lay_out(sizes_[level]);
      start(team, initial);
    } else {
      upsample(team, level + 1);
    }
    team.run(team.muster(), [&](const Member& member) {
      const Band band(size_.height, member);
      const int64_t count = (band.end - band.begin) * stride_;
      for (int c = 0; c < components_; ++c) {
        for (const Plane& p : p_[c]) std::fill_n(p.row(band.begin) - kGuard, count, 0.0f);
      }
    });
    for (int64_t i = 0; i < params_.warps; ++i) {
      iterations[static_cast<int64_t>(level) * params_.warps + i] =
          warp(team, image0.level(level), image1.level(level));
    }
  }
  team.run(team.muster(), [&](const Member& member) {
    const Band band(size_.height, member);
    for (int c = 0; c < 2; ++c) {
      for (int64_t y = band.begin; y < band.end; ++y) {
        std::copy_n(u_[set_][c].row(y), size_.width, flow + (c * size_.height + y) * size_.width);
      }
    }
  });
}

// The flow at the coarsest level: nothing, or the initial flow scaled down level by level.
void Solver::start(Team& team, const float* initial) {
  set_ = 0;
  for (int c = 0; c < components_; ++c) {
    for (int64_t y = 0; y < size_.height; ++y) std::fill_n(u_[0][c].row(y), size_.width, 0.0f);
  }
  if (initial == nullptr) return;
  const double scale = 1.0 / params_.scale_step;
  for (int c = 0; c < 2; ++c) {
    std::vector<float> from(initial + c * sizes_[0].pixels(),
                            initial + (c + 1) * sizes_[0].pixels());
    for (size_t level = 1; level < sizes_.size(); ++level) {
      const Size in = sizes_[level - 1], out = sizes_[level];
      const Columns columns(in.width, out.width, scale, params_.cuda_form);
      std::vector<float> to(static_cast<size_t>(out.pixels()));
      for (int64_t y = 0; y < out.height; ++y) {
        const Between at = between(y, scale, in.height, params_.cuda_form);
        rows_.resize({from.data() + at.first * in.width, from.data() + at.second * in.width,
                      at.weight, columns.first.data(), columns.second.data(),
                      columns.weights.data(), static_cast<float>(params_.scale_step),
                      to.data() + y * out.width, out.width});
      }
      from = std::move(to);
    }
    for (int64_t y = 0; y < size_.height; ++y) {
      std::copy_n(from.data() + y * size_.width, size_.width, u_[0][c].row(y));
    }
  }
}

// From level `from`, which is laid out, to the next finer one.
void Solver::upsample(Team& team, size_t from) {
  const Size in = sizes_[from], out = sizes_[from - 1];
  const Plane coarse[3] = {u_[set_][0], u_[set_][1], u_[set_][2]};
  const double scale_x = static_cast<double>(in.width) / static_cast<double>(out.width);
  const double scale_y = static_cast<double>(in.height) / static_cast<double>(out.height);
  const Columns columns(in.width, out.width, scale_x, params_.cuda_form);
  lay_out(out);
  set_ = 1 - set_;
  team.run(team.muster(), [&](const Member& member) {
    const Band band(out.height, member);
    for (int64_t y = band.begin; y < band.end; ++y) {
      const Between at = between(y, scale_y, in.height, params_.cuda_form);
      for (int c = 0; c < components_; ++c) {
        const float factor = c < 2 ? static_cast<float>(1.0 / params_.scale_step) : 1.0f;
        rows_.resize({coarse[c].row(at.first), coarse[c].row(at.second), at.weight,
                      columns.first.data(), columns.second.data(), columns.weights.data(), factor,
                      u_[set_][c].row(y), out.width});
      }
    }
  });
}

int32_t Solver::warp(Team& team, const Level& level0, const Level& level1) {
  const int64_t max_members = std::max<int64_t>(1, size_.height / (kMinGroups * kGroup));
  const int count = static_cast<int>(std::min<int64_t>(team.muster(), max_members));
  while (static_cast<int>(members_.size()) < count) {
    members_.push_back(std::make_unique<MemberRows>(row_stride(sizes_[0].width), components_));
  }
  int32_t iterations = 0;
  team.run(count, [&](const Member& member) {
    const Share share(size_, member);
    for (int64_t y = share.begin; y < share.end; ++y) {
      rows_.warp({level1.packed, level1.packed_stride, size_, params_.bicubic(), y,
                  level0.gray_row(y), u_[set_][0].row(y), u_[set_][1].row(y), ix_.row(y),
                  iy_.row(y), inverse_.row(y), rho_.row(y)});
    }
    const int32_t ran = iterate(member, share);
    if (member.index == 0) iterations = ran;
  });
  // Every median has changed sides.
  const bool medians = !params_.cuda_form && params_.median > 1;
  const int64_t inner = params_.inner_iterations;
  if (medians && (iterations + inner - 1) / inner % 2 == 1) set_ = 1 - set_;
  return iterations;
}

int32_t Solver::iterate(const Member& member, const Share& share) {
  const bool medians = !params_.cuda_form && params_.median > 1;
  StopRule rule{params_.cuda_form, params_.tolerance(size_.pixels())};
  int set = set_;
  int parity = 0;
  int32_t ran = 0;
  for (int64_t outer = 0; outer < params_.outer_iterations; ++outer) {
    if (medians) {
      take_median(member, share, set);
      set = 1 - set;
    }
    if (medians || outer == 0) {
      publish(share, set, parity);
      member.barrier();
    }
    for (int64_t inner = 0; inner < params_.inner_iterations; ++inner) {
      const int next = 1 - parity;
      iterate_band(share, set, parity, next);
      publish(share, set, next);
      member.barrier();
      parity = next;
      ++ran;
      double sum = 0.0;
      for (int64_t group = 0; group < share.groups; ++group) sum += sums_[parity][group];
      if (rule.stops(sum)) return ran;
    }
  }
  return ran;
}

void Solver::take_median(const Member& member, const Share& share, int from) {
  const int64_t side = params_.median, reach = side / 2;
  for (int c = 0; c < components_; ++c) {
    for (int64_t y = share.begin; y < share.end; ++y) {
      float* row = u_[from][c].row(y);
      std::fill_n(row - reach, reach, row[0]);
      std::fill_n(row + size_.width, reach, row[size_.width - 1]);
    }
  }
  member.barrier();
  for (int c = 0; c < components_; ++c) {
    for (int64_t y = share.begin; y < share.end; ++y) {
      const Plane &in = u_[from][c], &out = u_[1 - from][c];
      if (c == 2) {  // the illumination is not smoothed
        std::copy_n(in.row(y), size_.width, out.row(y));
        continue;
      }
      MedianRow a{};
      for (int64_t i = 0; i < side; ++i) {
        a.rows[i] = in.row(std::clamp<int64_t>(y + i - reach, 0, size_.height - 1));
      }
      std::copy_n(members_[member.index]->sorted, 5, a.sorted);
      a.out = out.row(y);
      a.width = size_.width;
      (side == 3 ? rows_.median3 : rows_.median5)(a);
    }
  }
}

// One iteration of the share's rows; `read` and `write` are the sides of the edges of the others'
// bands before it and of the sums.
void Solver::iterate_band(const Share& share, int set, int read, int write) {
  if (share.is_empty()) return;
  const Plane* u = u_[set];
  IterateRow a{};
  a.width = size_.width;
  a.limit = params_.limit();
  a.theta = static_cast<float>(params_.theta);
  a.taut = params_.taut();
  a.gamma = static_cast<float>(params_.gamma);
  const auto run = [&](int64_t y, IteratePart part) {
    a.ix = ix_.row(y);
    a.iy = iy_.row(y);
    a.inverse = inverse_.row(y);
    a.rho = rho_.row(y);
    return rows_.iterate[components_ == 3][part](a);
  };
  const auto dual_above = [&](int64_t y) {
    for (int c = 0; c < components_; ++c) {
      a.component[c].v = u[c].row(y - 1);
      a.component[c].qx = p_[c][0].row(y - 1);
      a.component[c].qy = p_[c][1].row(y - 1);
    }
  };

  for (int64_t group = share.first_group; group < share.last_group; ++group) {
    double sum = 0.0;
    const int64_t end = std::min((group + 1) * kGroup, share.end);
    for (int64_t y = group * kGroup; y < end; ++y) {
      for (int c = 0; c < components_; ++c) {
        a.component[c].u = a.component[c].out = u[c].row(y);
        a.component[c].px = p_[c][0].row(y);
        a.component[c].py = p_[c][1].row(y);
      }
      if (y == share.begin) {
        for (int c = 0; c < components_; ++c) {
          a.component[c].py_up = share.has_above()
                                     ? members_[share.index - 1]->edge[read][c].last_py
                                     : &zeros_[kGuard];
        }
        sum += run(y, kFirst);
      } else {
        dual_above(y);
        sum += run(y, kInner);
      }
    }
    sums_[write][group] = sum;
  }
  dual_above(share.end);
  if (share.has_below()) {
    // The next band's first row once more, for the sake of the duals above it.
    for (int c = 0; c < components_; ++c) {
      const MemberRows::Edge& below = members_[share.index + 1]->edge[read][c];
      a.component[c].u = below.u;
      a.component[c].out = members_[share.index]->ghost[c];
      a.component[c].px = below.px;
      a.component[c].py = below.py;
    }
    run(share.end, kInner);
  } else {
    run(share.end - 1, kLast);
  }
}

// Copies the edges of the share's band for its neighbors.
void Solver::publish(const Share& share, int set, int write) {
  if (share.is_empty() || share.active == 1) return;
  const int64_t count = round_up(size_.width, kGuard);
  for (int c = 0; c < components_; ++c) {
    const MemberRows::Edge& edge = members_[share.index]->edge[write][c];
    std::copy_n(u_[set][c].row(share.begin), count, edge.u);
    std::copy_n(p_[c][0].row(share.begin), count, edge.px);
    std::copy_n(p_[c][1].row(share.begin), count, edge.py);
    std::copy_n(p_[c][1].row(share.end - 1), count, edge.last_py);
  }
}

}  // namespace fasti3d::tvl1
