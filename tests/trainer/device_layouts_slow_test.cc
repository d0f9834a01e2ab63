// Every layout on ranks with a device each learns what one rank learns on the CPU.
#include <gtest/gtest.h>

#include <cctype>
#include <string>

#include "tests/support/device_ranks.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

class DeviceLayoutsSlowTest : public ::testing::TestWithParam<size_t> {};

TEST_P(DeviceLayoutsSlowTest, LearnsWhatOneRankOfTheCpuLearns) {
  const CheckedLayout& layout = CheckedLayouts()[GetParam()];
  for (const CheckedModel model : layout.models) {
    SCOPED_TRACE(Name(model));
    ASSERT_OK_AND_ASSIGN(const auto differences, CompareDevicesWithCpu(layout, model));
    const LayoutDifference& worst = WorstOf(differences);
    EXPECT_LE(worst.error, worst.bound) << worst.tensor;
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, DeviceLayoutsSlowTest,
                         ::testing::Range(size_t{0}, CheckedLayouts().size()),
                         [](const ::testing::TestParamInfo<size_t>& tested) {
                           std::string name;
                           for (const char c : CheckedLayouts()[tested.param].name()) {
                             const bool word = std::isalnum(static_cast<unsigned char>(c)) != 0;
                             name += word ? c : '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace plait
