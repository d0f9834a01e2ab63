#include "parallel/pipeline_schedule.h"

#include <algorithm>
#include <span>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace plait {
namespace {

using Kind = PipelineActionKind;

// An action with its place in the one order that all stages follow.
struct Placed {
  int64_t time = 0;      // when the pass that it belongs to starts, all passes taking 1
  bool is_pass = false;  // messages for passes that start now come before these
  bool is_gradient = false;
  int64_t part = 0;  // that sends
  PipelineAction action;

  auto place() const { return std::tuple(time, is_pass, is_gradient, part, action.microbatch); }
};

// Runs the passes of all stages as early as their order and inputs allow and puts each message
// where its receiver needs it. Every stage lists its part of one order in which whatever an action
// needs stands before it: no cycle of stages can wait for one another.
class MessagePlacement {
 public:
  MessagePlacement(std::vector<PipelineActions> passes, int64_t chunks, int64_t microbatches)
      : passes_(std::move(passes)),
        stages_(static_cast<int64_t>(passes_.size())),
        parts_(stages_ * chunks),
        microbatches_(microbatches),
        ends_(static_cast<size_t>(2 * parts_ * microbatches), kNotYet),
        placed_(passes_.size()) {}

  std::vector<PipelineActions> Place() && {
    std::vector<size_t> next(passes_.size(), 0);
    std::vector<int64_t> free(passes_.size(), 0);
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t stage = 0; stage < passes_.size(); ++stage) {
        while (next[stage] < passes_[stage].size() &&
               Start(static_cast<int64_t>(stage), passes_[stage][next[stage]], free[stage])) {
          ++next[stage];
          moved = true;
        }
      }
    }
    std::vector<PipelineActions> lists(passes_.size());
    for (size_t stage = 0; stage < passes_.size(); ++stage) {
      PLAIT_CHECK_EQ(next[stage], passes_[stage].size());  // else the order itself deadlocks
      std::sort(placed_[stage].begin(), placed_[stage].end(),
                [](const Placed& a, const Placed& b) { return a.place() < b.place(); });
      for (const Placed& placed : placed_[stage]) lists[stage].push_back(placed.action);
    }
    return lists;
  }

 private:
  static constexpr int64_t kNotYet = -1;

  int64_t& EndOf(bool is_gradient, int64_t part, int64_t microbatch) {
    return ends_[static_cast<size_t>((is_gradient * parts_ + part) * microbatches_ + microbatch)];
  }

  // False where the input is not there yet.
  bool Start(int64_t stage, const PipelineAction& pass, int64_t& free) {
    const bool is_gradient = pass.kind == Kind::kBackward;
    const int64_t part = pass.chunk * stages_ + stage;
    const int64_t source = is_gradient ? part + 1 : part - 1;  // one past either end: none
    int64_t start = free;
    if (source >= 0 && source < parts_) {
      const int64_t ready = EndOf(is_gradient, source, pass.microbatch);
      if (ready == kNotYet) return false;
      start = std::max(start, ready);
      if (stages_ > 1) PlaceMessage(start, is_gradient, source, part, pass.microbatch);
    } else if (is_gradient && EndOf(false, part, pass.microbatch) == kNotYet) {
      return false;
    }
    placed_[stage].push_back({start, /*is_pass=*/true, is_gradient, part, pass});
    free = start + 1;
    EndOf(is_gradient, part, pass.microbatch) = free;
    return true;
  }

  void PlaceMessage(int64_t time, bool is_gradient, int64_t source, int64_t part,
                    int64_t microbatch) {
    const auto place = [&](int64_t at, Kind kind) {
      placed_[at % stages_].push_back({time,
                                       /*is_pass=*/false,
                                       is_gradient,
                                       source,
                                       {kind, at / stages_, microbatch}});
    };
    place(source, is_gradient ? Kind::kSendGradients : Kind::kSendActivations);
    place(part, is_gradient ? Kind::kReceiveGradients : Kind::kReceiveActivations);
  }

  const std::vector<PipelineActions> passes_;
  const int64_t stages_;
  const int64_t parts_;
  const int64_t microbatches_;
  std::vector<int64_t> ends_;  // of every pass
  std::vector<std::vector<Placed>> placed_;
};

// `ahead` forward passes, then one of each in turn, then the backward passes left.
PipelineActions InTurn(const PipelineActions& forward, const PipelineActions& backward,
                       int64_t ahead) {
  const size_t count = forward.size();
  const auto first = static_cast<size_t>(std::min(ahead, static_cast<int64_t>(count)));
  PipelineActions passes(forward.begin(), forward.begin() + static_cast<int64_t>(first));
  for (size_t i = 0; i < count; ++i) {
    if (first + i < count) passes.push_back(forward[first + i]);
    passes.push_back(backward[i]);
  }
  return passes;
}

// Sizes of the groups that go through the chunks together: at least `stages` each, so that a
// group's first microbatch is through the last stage when the next chunk begins; as equal as can
// be.
std::vector<int64_t> GroupSizes(int64_t stages, int64_t microbatches) {
  const int64_t groups = std::max<int64_t>(1, microbatches / stages);
  std::vector<int64_t> sizes(static_cast<size_t>(groups), microbatches / groups);
  for (int64_t i = 0; i < microbatches % groups; ++i) ++sizes[i];
  return sizes;
}

PipelineActions GroupedPasses(Kind kind, std::span<const int64_t> groups, int64_t chunks) {
  PipelineActions passes;
  int64_t begin = 0;
  for (const int64_t size : groups) {
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t chunk = kind == Kind::kForward ? i : chunks - 1 - i;
      for (int64_t m = begin; m < begin + size; ++m) passes.push_back({kind, chunk, m});
    }
    begin += size;
  }
  return passes;
}

}  // namespace

std::vector<PipelineActions> OneForwardOneBackward(int64_t stages, int64_t microbatches) {
  const std::vector<int64_t> all = {microbatches};
  std::vector<PipelineActions> passes;
  for (int64_t stage = 0; stage < stages; ++stage) {
    passes.push_back(InTurn(GroupedPasses(Kind::kForward, all, 1),
                            GroupedPasses(Kind::kBackward, all, 1), stages - 1 - stage));
  }
  return MessagePlacement(std::move(passes), 1, microbatches).Place();
}

std::vector<PipelineActions> InterleavedOneForwardOneBackward(int64_t stages, int64_t chunks,
                                                              int64_t microbatches) {
  const std::vector<int64_t> groups = GroupSizes(stages, microbatches);
  std::vector<PipelineActions> passes;
  for (int64_t stage = 0; stage < stages; ++stage) {
    passes.push_back(InTurn(GroupedPasses(Kind::kForward, groups, chunks),
                            GroupedPasses(Kind::kBackward, groups, chunks),
                            2 * (stages - 1 - stage) + (chunks - 1) * groups[0]));
  }
  return MessagePlacement(std::move(passes), chunks, microbatches).Place();
}

std::vector<PipelineActions> ForwardOnly(int64_t stages, int64_t chunks, int64_t microbatches) {
  const std::vector<int64_t> groups = GroupSizes(stages, microbatches);
  const std::vector<PipelineActions> passes(static_cast<size_t>(stages),
                                            GroupedPasses(Kind::kForward, groups, chunks));
  return MessagePlacement(passes, chunks, microbatches).Place();
}

}  // namespace plait
