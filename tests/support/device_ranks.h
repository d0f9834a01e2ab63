// Ranks as threads with an emulated device each, whose memory the stand-in for NCCL moves.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "parallel/local_communicator.h"
#include "parallel/nccl_communicator.h"
#include "tests/support/fake_nccl.h"
#include "trainer/layout_check.h"

namespace plait {

// Runs `body(world, execution options)` on every rank, and sees that NCCL was left in order.
template <class Body>
absl::Status OnDevices(int ranks, const NcclOptions& options, const Body& body) {
  cuda::AllowEmulation();
  PLAIT_ASSIGN_OR_RETURN(const auto runtime, cuda::Runtime(0));
  const auto fake = std::make_shared<FakeNccl>(runtime);
  const absl::Status status =
      RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& host) -> absl::Status {
        PLAIT_ASSIGN_OR_RETURN(const std::shared_ptr<Communicator> world,
                               MakeNcclCommunicator(*host, runtime, fake, options));
        world->ledger().set_check(true);
        return body(world, *cuda::OptionsOn(0, 1));
      });
  EXPECT_EQ(fake->num_misuses(), 0);
  EXPECT_TRUE(!status.ok() || fake->num_open() == 0) << fake->num_open() << " are open";
  return status;
}

// At f64 on the CPU, made once for the whole program.
inline const CheckedStep& StepOfOneCpuRank(CheckedModel model, int leaves) {
  static std::map<std::pair<CheckedModel, int>, CheckedStep> steps;
  const auto [found, is_new] = steps.try_emplace({model, leaves});
  if (is_new) {
    absl::StatusOr<CheckedStep> step = StepOnOneRank(model, DType::kF64, leaves);
    PLAIT_CHECK(step.ok());
    found->second = *std::move(step);
  }
  return found->second;
}

// A step of the layout on devices, beside one rank's of the CPU.
inline absl::StatusOr<std::vector<LayoutDifference>> CompareDevicesWithCpu(
    const CheckedLayout& layout, CheckedModel model, const NcclOptions& options = {},
    const LayoutFault& fault = {}) {
  const CheckedStep& one_rank = StepOfOneCpuRank(model, NumCheckedLeaves(layout));
  std::vector<LayoutDifference> differences;
  PLAIT_RETURN_IF_ERROR(OnDevices(
      layout.ranks(), options,
      [&](const std::shared_ptr<Communicator>& world,
          const ExecutionOptions& execution) -> absl::Status {
        PLAIT_ASSIGN_OR_RETURN(auto own, CompareWithOneRank(world, model, DType::kF64, layout,
                                                            one_rank, fault, execution));
        if (world->rank() == 0) differences = std::move(own);
        return absl::OkStatus();
      }));
  return differences;
}

}  // namespace plait
