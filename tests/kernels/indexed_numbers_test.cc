#include "kernels/indexed_numbers.h"

#include <vector>

#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/reachable_vector.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;

TEST(IndexedNumbersTest, ByHand) {
  Execution execution;
  const Tensor values = Tensor::FromValues<float>({3}, {1, 2, 3});
  Tensor out = Tensor::OnHost(DType::kF32, {3});
  const ReachableVector<int32_t> index = {2, 0, 1};
  for (const auto& implementation : GatherNumbersImplementations()) {
    ASSERT_OK(RunOn(execution, implementation,
                    {.values = values.vector(), .index = index.data(), .out = out.vector()}));
    EXPECT_THAT(out.values<float>(), ElementsAre(3, 1, 2));
  }
  for (const auto& implementation : ScatterNumbersImplementations()) {
    ASSERT_OK(RunOn(execution, implementation,
                    {.values = values.vector(), .index = index.data(), .out = out.vector()}));
    EXPECT_THAT(out.values<float>(), ElementsAre(2, 3, 1));
  }
}

// A gather undoes a scatter; counts that are no multiple of a block (nor of 3), and none.
TEST(IndexedNumbersTest, ThereAndBack) {
  Execution execution;
  for (const int32_t count : {0, 1, 257, 1000}) {
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      const Tensor values = UniformTensor({count}, 1, dtype);
      ReachableVector<int32_t> index;
      for (int32_t i = 0; i < count; ++i) index.push_back((i * 3) % count);
      for (size_t i = 0; i < ScatterNumbersImplementations().size(); ++i) {
        Tensor scattered = Tensor::OnHost(dtype, {count}), back = Tensor::OnHost(dtype, {count});
        ASSERT_OK(
            RunOn(execution, ScatterNumbersImplementations()[i],
                  {.values = values.vector(), .index = index.data(), .out = scattered.vector()}));
        ASSERT_OK(
            RunOn(execution, GatherNumbersImplementations()[i],
                  {.values = scattered.vector(), .index = index.data(), .out = back.vector()}));
        ExpectSameBits("values", back, values);
      }
    }
  }
}

}  // namespace
}  // namespace plait
