// Runs a check in the orders that the emulated device has.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/emulation/scheduler.h"

namespace plait {

// body() in forward, reversed and `num_shuffled` shuffled orders.
template <class Body>
void ForEachOrder(int num_shuffled, const Body& body) {
  using emulation::Order;
  for (const Order order : {Order::kForward, Order::kReversed, Order::kShuffled}) {
    for (int seed = 0; seed < (order == Order::kShuffled ? num_shuffled : 1); ++seed) {
      SCOPED_TRACE(absl::StrCat("order ", static_cast<int>(order), ", seed ", seed));
      const emulation::FixedOrder fixed(order, static_cast<uint64_t>(seed));
      body();
    }
  }
}

// 1, 2, ..., count.
inline std::vector<float> Counted(int count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

}  // namespace plait
