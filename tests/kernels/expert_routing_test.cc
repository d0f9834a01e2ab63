#include "kernels/expert_routing.h"

#include <vector>

#include "kernels/reference/expert_routing.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor Integers(int64_t size, int32_t value = 0) {
  return Tensor::FromValues<int32_t>({size},
                                     std::vector<int32_t>(static_cast<size_t>(size), value));
}
std::vector<int32_t> Values(const Tensor& integers) {
  return {integers.values<int32_t>().begin(), integers.values<int32_t>().end()};
}

struct Router {
  Router(int64_t tokens_in, int64_t experts_in, int64_t chosen_in, DType dtype)
      : tokens(tokens_in),
        experts(experts_in),
        chosen(chosen_in),
        logits(UniformTensor({tokens, experts}, 1, dtype, -6, 6)),
        probabilities(Tensor::OnHost(dtype, {tokens, experts})),
        weights(Tensor::OnHost(dtype, {tokens, chosen})),
        log_sum_exp(Tensor::OnHost(dtype, {tokens})),
        choices(Integers(tokens * chosen)),
        dweights(UniformTensor({tokens, chosen}, 2, dtype)),
        real(Tensor::OnHost(dtype, {tokens})),
        balance_gradient(UniformTensor({experts}, 3, dtype)),
        dlogits(UniformTensor({tokens, experts}, 4, dtype)) {
    Tensor ones = Tensor::OnHost(DType::kF64, {tokens});
    for (int64_t t = 0; t < tokens; ++t) ones.data<double>()[t] = t % 3 == 1 ? 0 : 1;
    real = ones.Converted(dtype);
  }

  RouterForwardArgs forward() {
    return {.logits = logits.matrix(),
            .experts_per_token = chosen,
            .probabilities = probabilities.matrix(),
            .weights = weights.matrix(),
            .choices = choices.data<int32_t>(),
            .log_sum_exp = log_sum_exp.vector()};
  }
  RouterBackwardArgs backward() {
    return {.probabilities = probabilities.matrix(),
            .choices = choices.data<int32_t>(),
            .dweights = dweights.matrix(),
            .real = real.vector(),
            .balance_gradient = balance_gradient.vector(),
            .z_coefficient = 0.3,
            .log_sum_exp = log_sum_exp.vector(),
            .dlogits = dlogits.matrix()};
  }

  int64_t tokens, experts, chosen;
  Tensor logits, probabilities, weights, log_sum_exp, choices;
  Tensor dweights, real, balance_gradient, dlogits;
};

TEST(ExpertRoutingTest, RouterBackwardMatchesFiniteDifferences) {
  Execution execution;
  Router r(4, 6, 2, DType::kF64);
  ASSERT_OK(reference::RouterForward(execution, r.forward()));
  ASSERT_OK(reference::RouterBackward(execution, r.backward()));
  // sum_tj weights dweights + sum_te real p balance_gradient + z_coefficient sum_t real lse^2
  const auto loss = [&] {
    EXPECT_OK(reference::RouterForward(execution, r.forward()));
    double sum = WeightedSum(r.weights, r.dweights);
    for (int64_t t = 0; t < r.tokens; ++t) {
      const double real = r.real.data<double>()[t], lse = r.log_sum_exp.data<double>()[t];
      sum += real * 0.3 * lse * lse;
      for (int64_t e = 0; e < r.experts; ++e) {
        sum += real * r.probabilities.data<double>()[t * r.experts + e] *
               r.balance_gradient.data<double>()[e];
      }
    }
    return sum;
  };
  ExpectGradientMatches("logits", r.logits, r.dlogits, loss);
}

void ExpectRoutersAgree() {
  Execution execution({.num_threads = 2});
  for (const int64_t experts : {1, 2, 4, 8, 13, 16, 17, 40, 100}) {
    for (int64_t chosen = 1; chosen <= std::min<int64_t>(4, experts); ++chosen) {
      const DType dtype = chosen == 3 ? DType::kF64 : DType::kF32;
      Router expected(37, experts, chosen, dtype);
      ASSERT_OK(reference::RouterForward(execution, expected.forward()));
      ASSERT_OK(reference::RouterBackward(execution, expected.backward()));
      // The exponential errs by 3e-7, sums of `experts` terms by a rounding each; gradients have
      // terms up to 1 + 1 + 2 x 0.3 x log_sum_exp < 8, and two more such sums.
      const double bound = (dtype == DType::kF32 ? 4e-7 : 1e-15) +
                           static_cast<double>(experts + 4) * RoundingError(dtype);
      for (const auto& implementation : RouterForwardImplementations()) {
        SCOPED_TRACE(implementation.name);
        Router found(37, experts, chosen, dtype);
        if (dtype == DType::kF64 && !implementation.accepts(found.forward()).empty()) continue;
        ASSERT_EQ(implementation.accepts(found.forward()), "");
        ASSERT_OK(RunOn(execution, implementation, found.forward()));
        ExpectSameBits("choices", found.choices, expected.choices);
        ExpectClose("probabilities", found.probabilities, expected.probabilities, 0, 2 * bound);
        ExpectClose("weights", found.weights, expected.weights, 0, 2 * bound);
        ExpectClose("log_sum_exp", found.log_sum_exp, expected.log_sum_exp, bound, bound);
      }
      for (const auto& implementation : RouterBackwardImplementations()) {
        SCOPED_TRACE(implementation.name);
        Router found(37, experts, chosen, dtype);
        ASSERT_OK(reference::RouterForward(execution, found.forward()));
        for (const bool balanced : {true, false}) {
          RouterBackwardArgs args = expected.backward();
          if (!balanced) args.balance_gradient = {};
          ASSERT_OK(reference::RouterBackward(execution, args));
          args = found.backward();
          if (!balanced) args.balance_gradient = {};
          if (dtype == DType::kF64 && !implementation.accepts(args).empty()) continue;
          ASSERT_EQ(implementation.accepts(args), "");
          ASSERT_OK(RunOn(execution, implementation, args));
          ExpectClose("dlogits", found.dlogits, expected.dlogits, 0, 8 * 3 * bound);
        }
      }
    }
  }
}

TEST(ExpertRoutingTest, RoutersAgreeWithTheReference) { ForEachSimdTarget(ExpectRoutersAgree); }

TEST(ExpertRoutingTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Router a(50, 13, 2, DType::kF32), b(50, 13, 2, DType::kF32);
  ASSERT_OK(RouterForward(one, a.forward()));
  ASSERT_OK(RouterForward(three, b.forward()));
  ASSERT_OK(RouterBackward(one, a.backward()));
  ASSERT_OK(RouterBackward(three, b.backward()));
  ExpectSameBits("choices", a.choices, b.choices);
  ExpectSameBits("probabilities", a.probabilities, b.probabilities);
  ExpectSameBits("weights", a.weights, b.weights);
  ExpectSameBits("log_sum_exp", a.log_sum_exp, b.log_sum_exp);
  ExpectSameBits("dlogits", a.dlogits, b.dlogits);
}

TEST(ExpertRoutingTest, EqualLogitsGoToTheLowerExpert) {
  Execution execution;
  for (const auto& implementation : RouterForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Router r(3, 5, 3, DType::kF32);
    r.logits = Tensor::FromValues<float>({3, 5}, {1, 1, 1, 1, 1,  //
                                                  0, 2, 1, 2, 1,  //
                                                  -200, 0, -150, -200, -150});
    ASSERT_OK(RunOn(execution, implementation, r.forward()));
    EXPECT_THAT(Values(r.choices), ElementsAre(0, 1, 2, 1, 3, 2, 1, 2, 4));
  }
}

TEST(ExpertRoutingTest, ChoicesAmongNonFiniteLogitsAreDistinctExperts) {
  Execution execution;
  const float nan = std::nanf(""), infinity = HUGE_VALF;
  for (const auto& implementation : RouterForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Router r(3, 4, 3, DType::kF32);
    r.logits = Tensor::FromValues<float>({3, 4}, {nan, nan, nan, nan,  //
                                                  nan, 1, 2, nan,      //
                                                  -infinity, -infinity, infinity, -infinity});
    ASSERT_OK(RunOn(execution, implementation, r.forward()));
    for (int64_t t = 0; t < 3; ++t) {
      std::vector<int32_t> chosen = Values(r.choices.Slice(t * 3, t * 3 + 3));
      std::ranges::sort(chosen);
      EXPECT_TRUE(chosen[0] >= 0 && chosen[0] < chosen[1] && chosen[1] < chosen[2] && chosen[2] < 4)
          << "token " << t;
    }
    // Not finite in, not finite out: never hidden.
    EXPECT_TRUE(std::isnan(r.probabilities.data<float>()[0]));
    EXPECT_TRUE(std::isnan(r.log_sum_exp.data<float>()[1]));
  }
}

struct Permutation {
  explicit Permutation(int64_t tokens_in, int64_t experts_in, int64_t chosen_in)
      : tokens(tokens_in),
        experts(experts_in),
        chosen(chosen_in),
        choices(Integers(tokens * chosen)),
        offsets(Integers(experts + 1, -1)),
        row_token(Integers(tokens * chosen, -1)),
        token_row(Integers(tokens * chosen, -1)) {
    const RandomKey key(7, RandomPurpose::kTest);
    for (int64_t t = 0; t < tokens; ++t) {
      const auto first = static_cast<int64_t>(key.Uniform(static_cast<uint64_t>(t)) *
                                              static_cast<double>(experts));
      for (int64_t j = 0; j < chosen; ++j) {
        choices.data<int32_t>()[t * chosen + j] = static_cast<int32_t>((first + j) % experts);
      }
    }
  }
  ExpertPermutationArgs args() {
    return {.choices = choices.data<int32_t>(),
            .tokens = tokens,
            .experts_per_token = chosen,
            .experts = experts,
            .offsets = offsets.data<int32_t>(),
            .row_token = row_token.data<int32_t>(),
            .token_row = token_row.data<int32_t>()};
  }
  int64_t tokens, experts, chosen;
  Tensor choices, offsets, row_token, token_row;
};

TEST(ExpertRoutingTest, PermutationSortsByExpertThenToken) {
  Execution execution({.num_threads = 2});
  for (const auto& implementation : ExpertPermutationImplementations()) {
    SCOPED_TRACE(implementation.name);
    Permutation p(4, 3, 2);
    p.choices = Tensor::FromValues<int32_t>({8}, {2, 0, 2, 1, 0, 2, 1, 2});
    ASSERT_OK(RunOn(execution, implementation, p.args()));
    EXPECT_THAT(Values(p.offsets), ElementsAre(0, 2, 4, 8));
    EXPECT_THAT(Values(p.row_token), ElementsAre(0, 2, 1, 3, 0, 1, 2, 3));
    EXPECT_THAT(Values(p.token_row), ElementsAre(4, 0, 5, 2, 1, 6, 3, 7));

    ExpertPermutationArgs part = p.args();
    part.first_token = 10;
    part.first_row = 100;
    ASSERT_OK(RunOn(execution, implementation, part));
    EXPECT_THAT(Values(p.offsets), ElementsAre(0, 2, 4, 8));
    EXPECT_THAT(Values(p.row_token), ElementsAre(10, 12, 11, 13, 10, 11, 12, 13));
    EXPECT_THAT(Values(p.token_row), ElementsAre(104, 100, 105, 102, 101, 106, 103, 107));
  }
}

// A device sorts 2048 pairs a block: one pair more and less, several blocks, a last one in part;
// experts that leave bits of their ids unused, and more counts than one block scans at once.
TEST(ExpertRoutingTest, PermutationsAgreeForEveryThreadCount) {
  for (const auto& [tokens, experts] : {std::pair<int64_t, int64_t>{0, 16},
                                        {1, 16},
                                        {5, 16},
                                        {1000, 16},
                                        {683, 5},
                                        {2047, 7},
                                        {2048, 1},
                                        {2049, 33},
                                        {3100, 300}}) {
    for (int64_t chosen = 1; chosen <= std::min<int64_t>(4, experts); ++chosen) {
      Execution one({.num_threads = 1});
      Permutation expected(tokens, experts, chosen);
      ASSERT_OK(reference::ExpertPermutation(one, expected.args()));
      for (const auto& implementation : ExpertPermutationImplementations()) {
        SCOPED_TRACE(implementation.name);
        for (const int threads : {1, 2, 3}) {
          Execution execution({.num_threads = threads});
          Permutation found(tokens, experts, chosen);
          ASSERT_OK(RunOn(execution, implementation, found.args()));
          ExpectSameBits("offsets", found.offsets, expected.offsets);
          ExpectSameBits("row_token", found.row_token, expected.row_token);
          ExpectSameBits("token_row", found.token_row, expected.token_row);
        }
      }
    }
  }
}

TEST(ExpertRoutingTest, PermutationTakesAllTokensToOneExpert) {
  Execution execution({.num_threads = 2});
  Permutation p(9, 4, 1);
  p.choices = Integers(9, 2);
  ASSERT_OK(ExpertPermutation(execution, p.args()));
  EXPECT_THAT(Values(p.offsets), ElementsAre(0, 0, 0, 9, 9));
  EXPECT_THAT(Values(p.row_token), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
}

void ExpectCombinesAgree() {
  Execution execution({.num_threads = 2});
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const int64_t dim : {1, 7, 64, 129, 2056}) {
      for (const int64_t chosen : {1, 2, 3, 4}) {
        Permutation p(11, 5, chosen);
        ASSERT_OK(reference::ExpertPermutation(execution, p.args()));
        const Tensor rows = UniformTensor({11 * chosen, dim}, 1, dtype);
        Tensor expected = Tensor::OnHost(dtype, {11, dim});
        CombineRowsArgs args = {.rows = rows.matrix(),
                                .token_row = p.token_row.data<int32_t>(),
                                .experts_per_token = chosen,
                                .out = expected.matrix()};
        ASSERT_OK(reference::CombineRows(execution, args));
        for (const auto& implementation : CombineRowsImplementations()) {
          SCOPED_TRACE(implementation.name);
          Tensor found = Tensor::OnHost(dtype, {11, dim});
          args.out = found.matrix();
          if (dtype == DType::kF64 && !implementation.accepts(args).empty()) continue;
          ASSERT_EQ(implementation.accepts(args), "");
          ASSERT_OK(RunOn(execution, implementation, args));
          // Up to three additions in f32 (f64), one rounding to either side of a tie.
          ExpectClose("out", found, expected,
                      2 * RoundingError(dtype) + 3 * RoundingError(StatisticsDType(dtype)));
        }
      }
    }
  }
}

// Gradients of a token from bf16 rows are kept in f32.
TEST(ExpertRoutingTest, CombinesIntoF32AreNotRoundedToBf16) {
  Execution execution;
  for (const int64_t dim : {3, 64}) {
    const Tensor rows = UniformTensor({4, dim}, 1, DType::kBf16);
    for (const auto& implementation : CombineRowsImplementations()) {
      SCOPED_TRACE(implementation.name);
      Tensor index = Tensor::OnHost(DType::kI32, {4});
      for (int32_t i = 0; i < 4; ++i) index.data<int32_t>()[i] = 3 - i;
      Tensor out = Tensor::OnHost(DType::kF32, {2, dim});
      const CombineRowsArgs args{.rows = rows.matrix(),
                                 .token_row = index.data<int32_t>(),
                                 .experts_per_token = 2,
                                 .out = out.matrix()};
      if (implementation.device == DeviceKind::kCpu && !implementation.accepts(args).empty()) {
        continue;
      }
      ASSERT_EQ(implementation.accepts(args), "");
      ASSERT_OK(RunOn(execution, implementation, args));
      for (int64_t d = 0; d < dim; ++d) {
        const auto at = [&](int64_t row) {
          return static_cast<float>(rows.data<BFloat16>()[row * dim + d]);
        };
        EXPECT_EQ(out.data<float>()[d], at(3) + at(2));
        EXPECT_EQ(out.data<float>()[dim + d], at(1) + at(0));
      }
    }
  }
}

// Rows that are part of more: the second half of the sorted rows of four tokens.
TEST(ExpertRoutingTest, CombinesOfRowsThatAreCountedFromAnother) {
  Execution execution;
  const Tensor rows = UniformTensor({4, 3}, 1, DType::kF32);
  const Tensor token_row = Tensor::FromValues<int32_t>({4}, {7, 4, 5, 6});
  for (const auto& implementation : CombineRowsImplementations()) {
    SCOPED_TRACE(implementation.name);
    Tensor out = Tensor::OnHost(DType::kF32, {2, 3});
    ASSERT_OK(RunOn(execution, implementation,
                    {.rows = rows.matrix(),
                     .token_row = token_row.data<int32_t>(),
                     .first_row = 4,
                     .experts_per_token = 2,
                     .out = out.matrix()}));
    for (int64_t d = 0; d < 3; ++d) {
      const auto at = [&](int64_t row) { return rows.data<float>()[row * 3 + d]; };
      EXPECT_EQ(out.data<float>()[d], at(3) + at(0));
      EXPECT_EQ(out.data<float>()[3 + d], at(1) + at(2));
    }
  }
}

TEST(ExpertRoutingTest, CombinesAgreeWithTheReference) { ForEachSimdTarget(ExpectCombinesAgree); }

// Rows that begin between the multiples of a vector, and neighbours that must stay as they are.
TEST(ExpertRoutingTest, CombinesOfColumnRangesAgreeWithTheReference) {
  Execution execution;
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const int64_t begin : {0, 1, 8}) {
      Permutation p(11, 5, 2);
      ASSERT_OK(reference::ExpertPermutation(execution, p.args()));
      const Tensor rows = UniformTensor({22, 40}, 1, dtype);
      Tensor expected = UniformTensor({11, 48}, 2, dtype);
      CombineRowsArgs args = {.rows = rows.columns(begin, 32),
                              .token_row = p.token_row.data<int32_t>(),
                              .experts_per_token = 2,
                              .out = expected.columns(begin, 32)};
      ASSERT_OK(reference::CombineRows(execution, args));
      for (const auto& implementation : CombineRowsImplementations()) {
        SCOPED_TRACE(implementation.name);
        Tensor found = UniformTensor({11, 48}, 2, dtype);
        args.out = found.columns(begin, 32);
        if (!implementation.accepts(args).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, args));
        ExpectClose("out", found, expected,
                    2 * RoundingError(dtype) + 3 * RoundingError(StatisticsDType(dtype)));
      }
    }
  }
}

TEST(ExpertRoutingTest, RejectsMoreChoicesThanExperts) {
  Execution execution;
  Router r(2, 3, 4, DType::kF32);
  EXPECT_THAT(RouterForward(execution, r.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("experts_per_token: expected 1 to 3 experts, got 4")));
}

TEST(ExpertRoutingTest, RejectsAChoiceThatIsNoExpert) {
  Execution execution;
  Permutation p(3, 4, 1);
  p.choices = Tensor::FromValues<int32_t>({3}, {0, 4, 1});
  EXPECT_THAT(ExpertPermutation(execution, p.args()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("choices[1]: expected 0 to 3, got 4")));
}

TEST(ExpertRoutingTest, RejectsRowsOfAnotherNumber) {
  Execution execution;
  const Tensor rows = UniformTensor({5, 4}, 1, DType::kF32);
  Tensor out = Tensor::OnHost(DType::kF32, {3, 4});
  const std::vector<int32_t> token_row = {0, 1, 2, 3, 4, 0};
  EXPECT_THAT(
      CombineRows(execution, {.rows = rows.matrix(),
                              .token_row = token_row.data(),
                              .experts_per_token = 2,
                              .out = out.matrix()}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rows: expected [6, 4], got [5, 4]")));
}

}  // namespace
}  // namespace plait
