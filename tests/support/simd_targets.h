// Runs a body once for every vector width the kernels are compiled for and this machine has, so
// that the code for smaller machines is tested too.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>

#include "hwy/highway.h"

namespace plait {

inline void ForEachSimdTarget(const std::function<void()>& body) {
  hwy::SetSupportedTargetsForTest(0);
  const int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;
  for (int64_t target = 1; target != 0 && target <= HWY_SCALAR; target <<= 1) {
    if ((supported & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(target));
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace plait
