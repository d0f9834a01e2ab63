// Ranks with a device each learn what one rank learns on the CPU, over NCCL: layouts that have
// every axis and every way of exchange between them (all layouts: device_layouts_slow_test.cc).
#include <gtest/gtest.h>

#include <string>

#include "base/status_macros.h"
#include "tests/support/device_ranks.h"
#include "tests/support/status_matchers.h"
#include "trainer/packing_check.h"

namespace plait {
namespace {

const CheckedLayout& LayoutOf(const std::string& name) {
  for (const CheckedLayout& layout : CheckedLayouts()) {
    if (layout.name() == name) return layout;
  }
  PLAIT_CHECK(false);
}

struct Case {
  std::string layout;
  CheckedModel model = CheckedModel::kJamba;
  NcclOptions options = {};
};

TEST(DeviceLayoutsTest, LearnWhatOneRankOfTheCpuLearns) {
  for (const Case& tested : {
           Case{"replicate 2 x shard 2, canonical"},
           Case{"shard 4, messages", CheckedModel::kLlama, {.sums = NcclOptions::Sums::kLibrary}},
           Case{"shard 2 x tensor 2, expert 2, many waves, recomputed"},
           Case{"context 3", CheckedModel::kLlama},
           Case{"context 4, ring", CheckedModel::kLlama},
           Case{"context 2"},
           Case{"pipeline 2 x shard 2, interleaved", CheckedModel::kLlama},
       }) {
    SCOPED_TRACE(tested.layout);
    ASSERT_OK_AND_ASSIGN(
        const std::vector<LayoutDifference> differences,
        CompareDevicesWithCpu(LayoutOf(tested.layout), tested.model, tested.options));
    EXPECT_GT(differences.size(), 80u);
    for (const LayoutDifference& difference : differences) {
      EXPECT_LE(difference.error, difference.bound) << difference.tensor;
    }
  }
}

TEST(DeviceLayoutFaultTest, IsFoundAndNamed) {
  ASSERT_OK_AND_ASSIGN(const auto differences,
                       CompareDevicesWithCpu(LayoutOf("shard 2"), CheckedModel::kLlama, {},
                                             {.tensor = "model.norm.weight"}));
  EXPECT_GT(WorstOf(differences).error, WorstOf(differences).bound);
  EXPECT_EQ(WorstOf(differences).tensor, "model.norm.weight");
}

TEST(DevicePackingTest, DocumentsDoNotSeeOneAnother) {
  const CheckedLayout layout = {.sizes = {.context = 2}};
  for (const PackingFault fault : {PackingFault::kNone, PackingFault::kOneDocument}) {
    PackingVerdict verdict;
    ASSERT_OK(OnDevices(layout.ranks(), {},
                        [&](const std::shared_ptr<Communicator>& world,
                            const ExecutionOptions& execution) -> absl::Status {
                          PLAIT_ASSIGN_OR_RETURN(
                              const PackingVerdict own,
                              CheckPacking(world, CheckedModel::kJamba, DType::kBf16, layout, fault,
                                           execution));
                          if (world->rank() == 0) verdict = own;
                          return absl::OkStatus();
                        }));
    EXPECT_EQ(verdict.ok(), fault == PackingFault::kNone);
  }
}

}  // namespace
}  // namespace plait
