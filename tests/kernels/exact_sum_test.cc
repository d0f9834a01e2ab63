#include "kernels/exact_sum.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/reference/exact_sum.h"
#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor Words(int64_t terms) {
  return Tensor::OnHost(DType::kI64, {NumExactSums(terms) * kExactSumWords});
}

void ExpectTheReferences(const Tensor& x) {
  Execution execution({.num_threads = 3});
  Tensor expected = Words(x.num_elements());
  ASSERT_OK(reference::ExactSums(execution, {.x = x.vector(), .words = expected.vector()}));
  for (const auto& implementation : ExactSumsImplementations()) {
    SCOPED_TRACE(implementation.name);
    Tensor found = Words(x.num_elements());
    std::memset(found.raw(), 0x5a, found.bytes());
    ASSERT_OK(RunOn(execution, implementation, {.x = x.vector(), .words = found.vector()}));
    ExpectSameBits("words", found, expected);
  }
}

TEST(ExactSumsTest, ImplementationsAgreeWithTheReference) {
  const RandomKey key(5, RandomPurpose::kTest, "exact sums");
  for (const int64_t size :
       {int64_t{1}, int64_t{63}, int64_t{65}, kExactSumTerms, kExactSumTerms + 1, int64_t{50000}}) {
    Tensor x = Tensor::OnHost(DType::kF64, {size});
    // Of every exponent, subnormal ones too.
    for (int64_t i = 0; i < size; ++i) {
      const auto place = static_cast<uint64_t>(i);
      x.data<double>()[i] =
          std::ldexp(key.Normal(place), static_cast<int>(key.Words(place)[2] % 2090) - 1072);
    }
    ExpectTheReferences(x);
  }
}

TEST(ExactSumsTest, ValuesAtTheEdges) {
  const double least = std::numeric_limits<double>::denorm_min();
  const double smallest = std::numeric_limits<double>::min();
  const double largest = std::numeric_limits<double>::max();
  const std::vector<double> values = {0.0,
                                      -0.0,
                                      least,
                                      -least,
                                      smallest,
                                      -smallest,
                                      smallest - least,
                                      largest,
                                      -largest,
                                      1.0,
                                      -1.0,
                                      0x1p-1042,
                                      0x1p-1043,
                                      0x1.fffffffffffffp-3,
                                      kInfinity,
                                      -kInfinity,
                                      std::numeric_limits<double>::quiet_NaN()};
  for (const double value : values) {
    SCOPED_TRACE(value);
    ExpectTheReferences(Tensor::FromValues<double>({1}, {value}));
  }
  ExpectTheReferences(
      Tensor::FromValues<double>({static_cast<int64_t>(values.size())}, std::vector(values)));
}

// By hand: 3 is 3 * 2^1074 units of the lowest word, whose bit 1074 is bit 18 of word 33.
TEST(ExactSumsTest, WordsAreDigitsOf32Bits) {
  Execution execution({.num_threads = 1});
  for (const auto& implementation : ExactSumsImplementations()) {
    SCOPED_TRACE(implementation.name);
    const Tensor x = Tensor::FromValues<double>({3}, {3.0, -1.0, kInfinity});
    Tensor words = Words(3);
    ASSERT_OK(RunOn(execution, implementation, {.x = x.vector(), .words = words.vector()}));
    for (int64_t i = 0; i < kExactSumWords; ++i) {
      const int64_t expected = i == 33 ? int64_t{2} << 18 : i == kExactSumBadWord ? 1 : 0;
      EXPECT_EQ(words.data<int64_t>()[i], expected) << i;
    }
  }
}

TEST(ExactSumsTest, OfNothingThereIsNothing) {
  Execution execution;
  const Tensor x = Tensor::OnHost(DType::kF64, {0});
  Tensor words = Words(0);
  for (const auto& implementation : ExactSumsImplementations()) {
    EXPECT_OK(RunOn(execution, implementation, {.x = x.vector(), .words = words.vector()}));
  }
}

TEST(ExactSumsTest, RejectsBadArguments) {
  Execution execution;
  const Tensor x = Tensor::OnHost(DType::kF64, {kExactSumTerms + 1});
  const Tensor f32 = Tensor::OnHost(DType::kF32, {kExactSumTerms + 1});
  Tensor words = Words(x.num_elements()), too_few = Words(1);
  EXPECT_THAT(ExactSums(execution, {.x = f32.vector(), .words = words.vector()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x: expected f64, got f32")));
  EXPECT_THAT(
      ExactSums(execution, {.x = x.vector(), .words = too_few.vector()}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("words: expected width 138, got 69")));
}

}  // namespace
}  // namespace plait
