#include "parallel/canonical_sum.h"

#include <vector>

#include "base/execution.h"
#include "parallel/element_reduction.h"
#include "tests/support/random_tensor.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

constexpr int64_t kElements = 2500;  // more than one block of the loops

// The tree as it is defined: halves of the largest power of two below, first leaves first.
std::vector<float> TreeSum(const std::vector<Tensor>& leaves, size_t begin, size_t end) {
  if (end - begin == 1) {
    return {leaves[begin].values<float>().begin(), leaves[begin].values<float>().end()};
  }
  size_t half = 1;
  while (2 * half < end - begin) half *= 2;
  std::vector<float> first = TreeSum(leaves, begin, begin + half);
  const std::vector<float> second = TreeSum(leaves, begin + half, end);
  for (size_t i = 0; i < first.size(); ++i) first[i] += second[i];
  return first;
}

TEST(CanonicalSumTest, IsTheTreeForAnyNumberOfLeavesAndThreads) {
  for (const int leaves : {1, 2, 3, 5, 8, 12, 13}) {
    std::vector<Tensor> all;
    for (int i = 0; i < leaves; ++i) {
      all.push_back(UniformTensor({kElements}, static_cast<uint64_t>(i + 1), DType::kF32));
    }
    const std::vector<float> expected = TreeSum(all, 0, all.size());
    for (const int threads : {1, 3}) {
      Execution execution{{.num_threads = threads}};
      CanonicalSum sum;
      Tensor total = Tensor::OnHost(DType::kF32, {kElements});
      for (int round = 0; round < 2; ++round) {  // Take begins anew
        for (const Tensor& leaf : all) {
          ASSERT_OK(sum.Add(execution, leaf.raw(), DType::kF32, DType::kF32, kElements));
        }
        ASSERT_OK(sum.Take(execution, total.vector()));
        for (int64_t i = 0; i < kElements; ++i) {
          ASSERT_EQ(total.data<float>()[i], expected[static_cast<size_t>(i)]) << leaves;
        }
      }
      ASSERT_OK(sum.Take(execution, total.vector()));
      EXPECT_EQ(total.data<float>()[7], 0.0f);
    }
  }
}

TEST(ElementReductionTest, RoundsOnceWhateverTheOrder) {
  // 256 + 0.5 + 0.5 in bf16: one rounding of 257 gives 256; so does none in between.
  const Tensor a = Tensor::FromValues<float>({1}, {256.0f}).Converted(DType::kBf16);
  const Tensor b = Tensor::FromValues<float>({1}, {1.0f}).Converted(DType::kBf16);
  Tensor out = Tensor::OnHost(DType::kBf16, {1});
  const std::vector<const void*> sources = {a.raw(), b.raw(), b.raw()};
  ReduceElements(ReduceOperation::kSum, DType::kBf16, sources, 1, out.raw());
  EXPECT_EQ(static_cast<float>(out.data<BFloat16>()[0]), 258.0f);  // not 256 + 1 + 1, rounded twice
}

TEST(ElementReductionTest, AccumulateAddsTheSumOfTheSources) {
  for (const int threads : {1, 3}) {
    Execution execution({.num_threads = threads});
    const Tensor a = UniformTensor({kElements}, 1, DType::kF32);
    const Tensor b = UniformTensor({kElements}, 2, DType::kF32);
    Tensor total = UniformTensor({kElements}, 3, DType::kF32);
    Tensor rounded = total.Clone();
    const Tensor before = total.Clone();
    const std::vector<const void*> sources = {a.raw(), b.raw()};
    ASSERT_OK(AccumulateElements(execution, DType::kF32, sources, /*round_to_bf16=*/false,
                                 total.vector()));
    ASSERT_OK(AccumulateElements(execution, DType::kF32, sources, /*round_to_bf16=*/true,
                                 rounded.vector()));
    for (int64_t i = 0; i < kElements; ++i) {
      const float x = a.data<float>()[i], y = b.data<float>()[i], z = before.data<float>()[i];
      EXPECT_EQ(total.data<float>()[i], z + (x + y));
      EXPECT_EQ(rounded.data<float>()[i],
                z + (static_cast<float>(BFloat16(x)) + static_cast<float>(BFloat16(y))));
    }
  }
}

}  // namespace
}  // namespace plait
