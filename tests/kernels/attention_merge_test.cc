#include "kernels/attention_merge.h"

#include <cmath>
#include <limits>

#include "kernels/reference/attention_merge.h"
#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  Case(int64_t tokens, int64_t heads, int64_t head_dim, DType dtype, double largest = 4)
      : out(UniformTensor({tokens, heads * head_dim}, 1, dtype)),
        log_sum_exp(UniformTensor({heads, tokens}, 2, dtype, -largest, largest)),
        added_out(UniformTensor({tokens, heads * head_dim}, 3, dtype)),
        added_log_sum_exp(UniformTensor({heads, tokens}, 4, dtype, -largest, largest)) {}

  AttentionMergeArgs args() {
    return {.out = out.matrix(),
            .log_sum_exp = log_sum_exp.matrix(),
            .added_out = added_out.matrix(),
            .added_log_sum_exp = added_log_sum_exp.matrix()};
  }

  Tensor out, log_sum_exp, added_out, added_log_sum_exp;
};

TEST(AttentionMergeTest, ReferenceIsTheMeanWeightedByBothSums) {
  Execution execution;
  Case c(1, 1, 2, DType::kF64);
  c.out = Tensor::FromValues<double>({1, 2}, {1, 5});
  c.log_sum_exp = Tensor::FromValues<double>({1, 1}, {std::log(3.0)});
  c.added_out = Tensor::FromValues<double>({1, 2}, {9, 1});
  c.added_log_sum_exp = Tensor::FromValues<double>({1, 1}, {0});
  ASSERT_OK(reference::AttentionMerge(execution, c.args()));
  EXPECT_NEAR(c.out.data<double>()[0], 3, 1e-15);
  EXPECT_NEAR(c.out.data<double>()[1], 4, 1e-15);
  EXPECT_NEAR(c.log_sum_exp.data<double>()[0], std::log(4.0), 1e-15);
}

// Head widths with whole vectors and parts of them, narrower and wider than a warp; more tokens
// than a block of the device takes.
void ExpectImplementationsAgree(DType dtype) {
  Execution execution({.num_threads = 2});
  for (const int64_t head_dim : {1, 8, 20, 64, 130, 200}) {
    for (const double largest : {4.0, 1e3}) {
      Case expected(21, 3, head_dim, dtype, largest);
      ASSERT_OK(reference::AttentionMerge(execution, expected.args()));
      // The distance of two log_sum_exps is rounded once, and the weights are exponentials of it
      // or 0; a few roundings in weights, products and sum.
      const double bound = RoundingError(dtype) * (2 * largest + 8);
      for (const auto& implementation : AttentionMergeImplementations()) {
        SCOPED_TRACE(implementation.name);
        Case found(21, 3, head_dim, dtype, largest);
        if (dtype == DType::kF32) {
          ASSERT_EQ(implementation.accepts(found.args()), "");
        }
        if (!implementation.accepts(found.args()).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, found.args()));
        ExpectClose("out", found.out, expected.out, 0, bound);
        ExpectClose("log_sum_exp", found.log_sum_exp, expected.log_sum_exp, 0, bound);
      }
    }
  }
}

TEST(AttentionMergeTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] {
    ExpectImplementationsAgree(DType::kF32);
    ExpectImplementationsAgree(DType::kF64);
  });
}

// Columns of wider matrices, aligned and not; nothing beside them is touched.
TEST(AttentionMergeTest, TakesColumnsOfWiderMatrices) {
  Execution execution;
  for (const int64_t begin : {8, 9}) {
    for (const auto& implementation : AttentionMergeImplementations()) {
      SCOPED_TRACE(testing::Message() << implementation.name << " from " << begin);
      Case alone(11, 2, 16, DType::kF32), c(11, 2, 16, DType::kF32);
      ASSERT_OK(RunOn(execution, implementation, alone.args()));
      Tensor wide = UniformTensor({11, 48}, 5, DType::kF32);
      Tensor expected = wide.Clone();
      for (int64_t t = 0; t < 11; ++t) {
        std::copy_n(c.out.data<float>() + t * 32, 32, wide.data<float>() + t * 48 + begin);
        std::copy_n(alone.out.data<float>() + t * 32, 32, expected.data<float>() + t * 48 + begin);
      }
      AttentionMergeArgs args = c.args();
      args.out = wide.columns(begin, 32);
      ASSERT_OK(RunOn(execution, implementation, args));
      ExpectSameBits("wide", wide, expected);
    }
  }
}

TEST(AttentionMergeTest, NothingAddedLeavesTheBits) {
  Execution execution;
  for (const auto& implementation : AttentionMergeImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case c(2, 1, 20, DType::kF32), before(2, 1, 20, DType::kF32);
    c.added_log_sum_exp = Tensor::FromValues<float>({1, 2}, {-kInfinity, -kInfinity});
    c.log_sum_exp.data<float>()[1] = before.log_sum_exp.data<float>()[1] = -kInfinity;
    ASSERT_OK(RunOn(execution, implementation, c.args()));
    ExpectSameBits("out", c.out, before.out);
    ExpectSameBits("log_sum_exp", c.log_sum_exp, before.log_sum_exp);
    // And something added to nothing is itself.
    c.log_sum_exp = Tensor::FromValues<float>({1, 2}, {-kInfinity, -kInfinity});
    c.added_log_sum_exp = Tensor::FromValues<float>({1, 2}, {3, 700});
    ASSERT_OK(RunOn(execution, implementation, c.args()));
    ExpectClose("out", c.out, c.added_out, 0);
    ExpectSameBits("log_sum_exp", c.log_sum_exp, c.added_log_sum_exp);
  }
}

TEST(AttentionMergeTest, NotANumberIsNotHidden) {
  Execution execution;
  for (const auto& implementation : AttentionMergeImplementations()) {
    SCOPED_TRACE(implementation.name);
    for (const bool in_added : {false, true}) {
      for (const float bad : {kNan, kInfinity}) {
        Case c(1, 1, 20, DType::kF32);
        (in_added ? c.added_log_sum_exp : c.log_sum_exp).data<float>()[0] = bad;
        ASSERT_OK(RunOn(execution, implementation, c.args()));
        EXPECT_TRUE(std::isnan(c.out.data<float>()[7])) << in_added << " " << bad;
        EXPECT_TRUE(std::isnan(c.log_sum_exp.data<float>()[0])) << in_added << " " << bad;
      }
    }
  }
}

TEST(AttentionMergeTest, RejectsArgumentsThatDoNotFit) {
  Execution execution;
  Case c(4, 2, 8, DType::kF32);
  AttentionMergeArgs args = c.args();
  args.added_out.rows = 3;
  EXPECT_THAT(AttentionMerge(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("added_out: expected [4, 16], got [3, 16]")));
  args = c.args();
  args.log_sum_exp.rows = 3;
  EXPECT_THAT(AttentionMerge(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("out: expected columns that 3 heads divide, got 16")));
  args = c.args();
  args.out.dtype = DType::kBf16;
  EXPECT_THAT(AttentionMerge(execution, args), StatusIs(absl::StatusCode::kInvalidArgument,
                                                        HasSubstr("out: expected f32, got bf16")));
}

}  // namespace
}  // namespace plait
