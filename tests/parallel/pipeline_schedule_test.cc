#include "parallel/pipeline_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>

namespace plait {
namespace {

using ::testing::ElementsAre;
using Kind = PipelineActionKind;

bool IsForwards(Kind kind) {
  return kind == Kind::kForward || kind == Kind::kReceiveActivations ||
         kind == Kind::kSendActivations;
}
bool IsPass(Kind kind) { return kind == Kind::kForward || kind == Kind::kBackward; }
bool IsReceive(Kind kind) {
  return kind == Kind::kReceiveActivations || kind == Kind::kReceiveGradients;
}

struct Case {
  int64_t stages, chunks, microbatches;
  bool has_backward = true;
  std::vector<PipelineActions> lists;

  int64_t parts() const { return stages * chunks; }
  int64_t PartOf(size_t stage, const PipelineAction& action) const {
    return action.chunk * stages + static_cast<int64_t>(stage);
  }
  std::string ToString() const {
    return std::to_string(stages) + " stages, " + std::to_string(chunks) + " chunks, " +
           std::to_string(microbatches) + " microbatches" + (has_backward ? "" : ", forward only");
  }
};

template <class Body>
void ForEveryOneForwardOneBackward(const Body& body) {
  for (int64_t stages = 1; stages <= 8; ++stages) {
    for (int64_t microbatches = 1; microbatches <= 16; ++microbatches) {
      const Case c{stages, 1, microbatches, true, OneForwardOneBackward(stages, microbatches)};
      SCOPED_TRACE("1F1B: " + c.ToString());
      ASSERT_NO_FATAL_FAILURE(body(c));
    }
  }
}

template <class Body>
void ForEveryInterleaved(const Body& body) {
  for (int64_t stages = 1; stages <= 8; ++stages) {
    for (int64_t microbatches = 1; microbatches <= 16; ++microbatches) {
      for (int64_t chunks = 1; chunks <= 4; ++chunks) {
        const Case c{stages, chunks, microbatches, true,
                     InterleavedOneForwardOneBackward(stages, chunks, microbatches)};
        SCOPED_TRACE("interleaved: " + c.ToString());
        ASSERT_NO_FATAL_FAILURE(body(c));
      }
    }
  }
}

template <class Body>
void ForEveryForwardOnly(const Body& body) {
  for (int64_t stages = 1; stages <= 8; ++stages) {
    for (int64_t microbatches = 1; microbatches <= 16; ++microbatches) {
      for (int64_t chunks = 1; chunks <= 4; ++chunks) {
        const Case c{stages, chunks, microbatches, false,
                     ForwardOnly(stages, chunks, microbatches)};
        SCOPED_TRACE(c.ToString());
        ASSERT_NO_FATAL_FAILURE(body(c));
      }
    }
  }
}

template <class Body>
void ForEverySchedule(const Body& body) {
  ForEveryOneForwardOneBackward(body);
  ForEveryInterleaved(body);
  ForEveryForwardOnly(body);
}

// Runs the lists, every pass taking 1 and messages nothing; a send and its receive wait for one
// another. Returns when the last action ends; -1 where stages wait for one another for ever. Inputs
// that are not there when a pass starts are failures.
int64_t MakespanOf(const Case& c) {
  std::vector<size_t> next(c.lists.size(), 0);
  std::vector<int64_t> now(c.lists.size(), 0);
  std::set<std::tuple<bool, int64_t, int64_t>> passed, received;
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t stage = 0; stage < c.lists.size(); ++stage) {
      if (next[stage] == c.lists[stage].size()) continue;
      const PipelineAction& action = c.lists[stage][next[stage]];
      const bool forwards = IsForwards(action.kind);
      const int64_t part = c.PartOf(stage, action), m = action.microbatch;
      if (IsPass(action.kind)) {
        const int64_t source = forwards ? part - 1 : part + 1;
        if (source >= 0 && source < c.parts()) {
          const auto& inputs = c.stages > 1 ? received : passed;
          EXPECT_TRUE(inputs.contains({forwards, c.stages > 1 ? part : source, m}));
        }
        EXPECT_TRUE(forwards || passed.contains({true, part, m}));
        passed.insert({forwards, part, m});
        ++now[stage];
        ++next[stage];
        moved = true;
        continue;
      }
      // Both ends of a message move on together, when the later one has come to it.
      if (IsReceive(action.kind)) continue;
      EXPECT_TRUE(passed.contains({forwards, part, m}));
      const int64_t to = forwards ? part + 1 : part - 1;
      const auto peer = static_cast<size_t>(to % c.stages);
      const PipelineAction expected{forwards ? Kind::kReceiveActivations : Kind::kReceiveGradients,
                                    to / c.stages, m};
      if (next[peer] == c.lists[peer].size() || !(c.lists[peer][next[peer]] == expected)) continue;
      received.insert({forwards, to, m});
      now[stage] = now[peer] = std::max(now[stage], now[peer]);
      ++next[stage];
      ++next[peer];
      moved = true;
    }
  }
  for (size_t stage = 0; stage < c.lists.size(); ++stage) {
    if (next[stage] != c.lists[stage].size()) return -1;
  }
  return *std::max_element(now.begin(), now.end());
}

TEST(PipelineScheduleTest, RendezvousMessagesDoNotDeadlock) {
  ForEverySchedule([](const Case& c) { ASSERT_GE(MakespanOf(c), 0); });
}

TEST(PipelineScheduleTest, EveryMicrobatchPassesEachChunkOnceEachWay) {
  ForEverySchedule([](const Case& c) {
    ASSERT_EQ(static_cast<int64_t>(c.lists.size()), c.stages);
    for (const PipelineActions& list : c.lists) {
      std::map<std::tuple<Kind, int64_t, int64_t>, int> count;
      for (const PipelineAction& action : list) {
        ++count[{action.kind, action.chunk, action.microbatch}];
      }
      int64_t passes = 0;
      for (const auto& [key, times] : count) {
        EXPECT_EQ(times, 1);
        passes += IsPass(std::get<0>(key));
      }
      EXPECT_EQ(passes, (c.has_backward ? 2 : 1) * c.chunks * c.microbatches);
    }
  });
}

// Also what makes a unit's gradients the sum of the microbatches in their order.
TEST(PipelineScheduleTest, AChunkPassesMicrobatchesInTheirOrder) {
  ForEverySchedule([](const Case& c) {
    for (const PipelineActions& list : c.lists) {
      std::map<std::tuple<Kind, int64_t>, int64_t> last;
      for (const PipelineAction& action : list) {
        const auto [place, is_new] = last.try_emplace({action.kind, action.chunk}, -1);
        EXPECT_EQ(action.microbatch, place->second + 1);
        place->second = action.microbatch;
      }
    }
  });
}

TEST(PipelineScheduleTest, MessagesAreThoseBetweenNeighbouringParts) {
  ForEverySchedule([](const Case& c) {
    for (size_t stage = 0; stage < c.lists.size(); ++stage) {
      std::map<std::tuple<Kind, int64_t>, int64_t> count;
      for (const PipelineAction& action : c.lists[stage]) ++count[{action.kind, action.chunk}];
      for (int64_t chunk = 0; chunk < c.chunks; ++chunk) {
        const int64_t part = chunk * c.stages + static_cast<int64_t>(stage);
        const int64_t before = c.stages > 1 && part > 0 ? c.microbatches : 0;
        const int64_t after = c.stages > 1 && part + 1 < c.parts() ? c.microbatches : 0;
        EXPECT_EQ((count[{Kind::kReceiveActivations, chunk}]), before);
        EXPECT_EQ((count[{Kind::kSendActivations, chunk}]), after);
        EXPECT_EQ((count[{Kind::kReceiveGradients, chunk}]), c.has_backward ? after : 0);
        EXPECT_EQ((count[{Kind::kSendGradients, chunk}]), c.has_backward ? before : 0);
      }
    }
  });
}

TEST(PipelineScheduleTest, OneForwardOneBackwardKeepsFewMicrobatches) {
  ForEveryOneForwardOneBackward([](const Case& c) {
    for (size_t stage = 0; stage < c.lists.size(); ++stage) {
      int64_t kept = 0, peak = 0;
      for (const PipelineAction& action : c.lists[stage]) {
        kept += (action.kind == Kind::kForward) - (action.kind == Kind::kBackward);
        peak = std::max(peak, kept);
      }
      EXPECT_EQ(peak, std::min(c.microbatches, c.stages - static_cast<int64_t>(stage)));
      EXPECT_EQ(kept, 0);
    }
  });
}

// Each stage is idle for the passes of 2 (stages - 1) parts, a part being 1 / chunks of its work.
TEST(PipelineScheduleTest, TheBubbleIsThatOfTheFormulaWithEqualCosts) {
  const auto expect = [](const Case& c) {
    const auto [fewer, more] = std::minmax(c.stages, c.microbatches);
    EXPECT_EQ(MakespanOf(c), 2 * (more * c.chunks + fewer - 1));
    if (c.microbatches >= c.stages) {
      EXPECT_EQ(MakespanOf(c) - 2 * c.microbatches * c.chunks, 2 * (c.stages - 1));
    }
  };
  ForEveryOneForwardOneBackward(expect);
  ForEveryInterleaved(expect);
}

TEST(PipelineScheduleTest, OneStageRunsEachMicrobatchForwardAndBack) {
  EXPECT_THAT(OneForwardOneBackward(1, 2),
              ElementsAre(ElementsAre(
                  PipelineAction{Kind::kForward, 0, 0}, PipelineAction{Kind::kBackward, 0, 0},
                  PipelineAction{Kind::kForward, 0, 1}, PipelineAction{Kind::kBackward, 0, 1})));
}

}  // namespace
}  // namespace plait
