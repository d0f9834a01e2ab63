#include "trainer/machine.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

TEST(MachineTest, AGpuIsKnownByWhatItCallsItself) {
  EXPECT_EQ(MachineNameOf("NVIDIA H100 80GB HBM3"), "H100");
  EXPECT_EQ(MachineNameOf("NVIDIA H200"), "H200");
  ASSERT_OK_AND_ASSIGN(const Machine machine,
                       MachineOf(MachineNameOf("NVIDIA H100 80GB HBM3"), DType::kBf16, 0));
  EXPECT_EQ(machine.peak_flops, 989e12);
}

TEST(MachineTest, GpusOfAnotherPeakAreNotKnown) {
  for (const char* name :
       {"NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA GH200 480GB",
        "NVIDIA H20", "NVIDIA A100-SXM4-80GB", "emulated device", ""}) {
    EXPECT_EQ(MachineNameOf(name), "") << name;
  }
}

}  // namespace
}  // namespace plait
