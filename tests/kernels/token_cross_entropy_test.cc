#include "kernels/token_cross_entropy.h"

#include <functional>
#include <limits>

#include "kernels/reference/token_cross_entropy.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/reachable_vector.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  Case(int64_t rows, int64_t vocabulary, DType dtype, DType gradient_dtype, double largest = 8)
      : logits(UniformTensor({rows, vocabulary}, 1, dtype, -largest, largest)),
        log_probability(Tensor::OnHost(StatisticsDType(dtype), {rows})),
        log_sum_exp(Tensor::OnHost(StatisticsDType(dtype), {rows})),
        coefficient(UniformTensor({rows}, 2, StatisticsDType(dtype))),
        dlogits(UniformTensor({rows, vocabulary}, 3, gradient_dtype)) {
    for (int64_t t = 0; t < rows; ++t)
      targets.push_back(static_cast<int32_t>((t * 7919 + 5) % vocabulary));
  }

  TokenCrossEntropyArgs args() {
    return {.logits = logits.matrix(),
            .targets = targets.data(),
            .log_probability = log_probability.vector(),
            .log_sum_exp = log_sum_exp.vector(),
            .coefficient = coefficient.vector(),
            .dlogits = dlogits.matrix()};
  }

  Tensor logits, log_probability, log_sum_exp, coefficient, dlogits;
  ReachableVector<int32_t> targets;
};

void ForEachImplementation(
    const std::function<void(Execution& execution,
                             const Implementation<TokenCrossEntropyArgs>& implementation)>& body) {
  ForEachSimdTarget([&] {
    Execution execution;
    for (const auto& implementation : TokenCrossEntropyImplementations()) {
      SCOPED_TRACE(implementation.name);
      body(execution, implementation);
    }
  });
}

TEST(TokenCrossEntropyTest, ReferenceGradientMatchesFiniteDifferences) {
  Execution execution;
  Case c(3, 6, DType::kF64, DType::kF64);
  ASSERT_OK(reference::TokenCrossEntropy(execution, c.args()));
  const Tensor dlogits = c.dlogits.Clone();
  ExpectGradientMatches("logits", c.logits, dlogits, [&] {
    EXPECT_OK(reference::TokenCrossEntropy(execution, c.args()));
    return WeightedSum(c.log_probability, c.coefficient);
  });
}

void ExpectImplementationsAgree(int64_t vocabulary, DType dtype, DType gradient_dtype,
                                double largest) {
  SCOPED_TRACE(vocabulary);
  SCOPED_TRACE(largest);
  Execution execution({.num_threads = 2});
  const int64_t rows = 4;
  Case expected(rows, vocabulary, dtype, gradient_dtype, largest);
  ASSERT_OK(reference::TokenCrossEntropy(execution, expected.args()));
  // f32 stands for f64 beside f64. A logit's distance from the largest is rounded once: 2 `largest`
  // units, which the exponential makes relative. A sum of positive terms adds a unit a term at
  // most.
  const double f32 = RoundingError(StatisticsDType(dtype));
  const double relative = f32 * (2 * largest + 24 + static_cast<double>(vocabulary));
  for (const auto& implementation : TokenCrossEntropyImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found(rows, vocabulary, dtype, gradient_dtype, largest);
    if (!implementation.accepts(found.args()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.args()));
    ExpectClose("log_probability", found.log_probability, expected.log_probability, 0,
                relative + 4 * f32 * largest);
    ExpectClose("log_sum_exp", found.log_sum_exp, expected.log_sum_exp, 0,
                relative + 4 * f32 * largest);
    ExpectClose("dlogits", found.dlogits, expected.dlogits, 2 * RoundingError(gradient_dtype),
                relative);
    if (dtype != gradient_dtype) continue;
    // In place, as the head calls it: the same arithmetic.
    TokenCrossEntropyArgs in_place = found.args();
    in_place.dlogits = found.logits.matrix();
    ASSERT_OK(RunOn(execution, implementation, in_place));
    ExpectSameBits("dlogits in place", found.logits, found.dlogits);
  }
}

// 8192 and 5003 are more than a device's narrow block walks over; an odd number of bf16 or f32
// leaves each row at another place of a vector.
TEST(TokenCrossEntropyTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] {
    for (const auto& [dtype, gradient_dtype] : {std::pair{DType::kF32, DType::kF32},
                                                {DType::kF32, DType::kBf16},
                                                {DType::kBf16, DType::kF32},
                                                {DType::kBf16, DType::kBf16},
                                                {DType::kF64, DType::kF64}}) {
      for (const int64_t vocabulary : {1, 2, 7, 100, 5003, 8192}) {
        for (const double largest : {8.0, 1e4})
          ExpectImplementationsAgree(vocabulary, dtype, gradient_dtype, largest);
      }
    }
  });
}

// The formula is invariant under a shift of a row; the largest logit is far from zero both ways.
TEST(TokenCrossEntropyTest, ExtremeLogitsStayExact) {
  ForEachImplementation([](Execution& execution, const auto& implementation) {
    for (const float shift : {-1e4f, 0.0f, 1e4f}) {
      Case c(1, 3, DType::kF32, DType::kF32);
      c.logits = Tensor::FromValues<float>({1, 3}, {shift, shift - 1.0f, shift - 2.0f});
      c.coefficient = Tensor::FromValues<float>({1}, {1.0f});
      c.targets = {1};
      ASSERT_OK(RunOn(execution, implementation, c.args()));
      const double sum = 1 + std::exp(-1.0) + std::exp(-2.0);
      const double bound = 16 * RoundingError(DType::kF32);
      EXPECT_NEAR(c.log_probability.data<float>()[0], -1 - std::log(sum), bound);
      EXPECT_NEAR(c.dlogits.data<float>()[0], -1 / sum, bound);
      EXPECT_NEAR(c.dlogits.data<float>()[1], 1 - std::exp(-1.0) / sum, bound);
      EXPECT_NEAR(c.dlogits.data<float>()[2], -std::exp(-2.0) / sum, bound);
    }
  });
}

// The largest logit comes last, tiles after the first: the sum so far must be scaled down to it.
TEST(TokenCrossEntropyTest, ALaterMaximumRescalesTheSum) {
  ForEachImplementation([](Execution& execution, const auto& implementation) {
    const int64_t vocabulary = 5000;
    Case c(1, vocabulary, DType::kF32, DType::kF32);
    c.logits.FillZero();
    c.logits.data<float>()[vocabulary - 1] = 3.0f;
    c.coefficient = Tensor::FromValues<float>({1}, {1.0f});
    c.targets = {static_cast<int32_t>(vocabulary - 1)};
    ASSERT_OK(RunOn(execution, implementation, c.args()));
    const double sum = 1 + static_cast<double>(vocabulary - 1) * std::exp(-3.0);
    const double bound = RoundingError(DType::kF32) * static_cast<double>(vocabulary);
    EXPECT_NEAR(c.log_probability.data<float>()[0], -std::log(sum), bound);
    EXPECT_NEAR(c.log_sum_exp.data<float>()[0], 3 + std::log(sum), bound);
    EXPECT_NEAR(c.dlogits.data<float>()[0], -std::exp(-3.0) / sum, bound / sum);
  });
}

TEST(TokenCrossEntropyTest, MinusInfinityHasProbabilityZero) {
  ForEachImplementation([](Execution& execution, const auto& implementation) {
    // Long enough that whole tiles hold nothing but -infinity before the first finite logit.
    const int64_t vocabulary = 5000;
    Case c(1, vocabulary, DType::kF32, DType::kF32);
    std::fill_n(c.logits.data<float>(), vocabulary, -kInfinity);
    c.logits.data<float>()[4000] = 2.0f;
    c.logits.data<float>()[4900] = 2.0f;
    c.coefficient = Tensor::FromValues<float>({1}, {1.0f});
    c.targets = {4900};
    ASSERT_OK(RunOn(execution, implementation, c.args()));
    EXPECT_NEAR(c.log_probability.data<float>()[0], -std::log(2.0), 1e-6);
    EXPECT_EQ(c.dlogits.data<float>()[0], 0.0f);
    EXPECT_EQ(c.dlogits.data<float>()[4000], -0.5f);
    EXPECT_EQ(c.dlogits.data<float>()[4900], 0.5f);
    c.targets = {0};
    ASSERT_OK(RunOn(execution, implementation, c.args()));
    EXPECT_EQ(c.log_probability.data<float>()[0], -kInfinity);
  });
}

TEST(TokenCrossEntropyTest, RowsWithoutWeightGetZerosWhateverTheyHold) {
  ForEachImplementation([](Execution& execution, const auto& implementation) {
    Case c(3, 100, DType::kBf16, DType::kBf16);
    c.coefficient.data<float>()[1] = 0.0f;
    c.targets[1] = -1;
    c.logits.data<BFloat16>()[100] = BFloat16(kNan);
    c.logits.data<BFloat16>()[150] = BFloat16(kInfinity);
    ASSERT_OK(RunOn(execution, implementation, c.args()));
    const Tensor dlogits = c.dlogits.Slice(1, 2).Converted(DType::kF32);
    EXPECT_THAT(dlogits.values<float>(), Each(0.0f));
    EXPECT_EQ(c.log_probability.data<float>()[1], 0.0f);
    EXPECT_NE(c.log_probability.data<float>()[0], 0.0f);
  });
}

TEST(TokenCrossEntropyTest, NotANumberIsNotHidden) {
  ForEachImplementation([](Execution& execution, const auto& implementation) {
    for (const int64_t position : {0, 57, 99}) {
      for (const float bad : {kNan, kInfinity}) {
        Case c(1, 100, DType::kF32, DType::kF32);
        c.logits.data<float>()[position] = bad;
        ASSERT_OK(RunOn(execution, implementation, c.args()));
        EXPECT_TRUE(std::isnan(c.log_probability.data<float>()[0])) << position << " " << bad;
        EXPECT_TRUE(std::isnan(c.dlogits.data<float>()[1])) << position << " " << bad;
      }
    }
    Case c(1, 100, DType::kF32, DType::kF32);
    std::fill_n(c.logits.data<float>(), 100, -kInfinity);
    ASSERT_OK(RunOn(execution, implementation, c.args()));
    EXPECT_TRUE(std::isnan(c.log_probability.data<float>()[0]));
    EXPECT_TRUE(std::isnan(c.dlogits.data<float>()[1]));
  });
}

// What the ranks of a vocabulary cut into parts do: their own columns of `whole`, statistics first,
// combined in double, then the gradient.
struct Parts {
  Parts(Case& whole, int num_parts)
      : log_probability(Tensor::OnHost(DType::kF64, {whole.logits.shape()[0]})),
        dlogits(Tensor::OnHost(whole.dlogits.dtype(), whole.dlogits.shape())),
        statistics(whole.log_sum_exp.dtype()) {
    const int64_t rows = whole.logits.shape()[0], vocabulary = whole.logits.shape()[1];
    for (int64_t i = 0; i < num_parts; ++i) {
      const int64_t begin = i * vocabulary / num_parts, end = (i + 1) * vocabulary / num_parts;
      Part part;
      part.args.logits = whole.logits.columns(begin, end - begin);
      for (int64_t t = 0; t < rows; ++t)
        part.targets.push_back(whole.targets[t] - static_cast<int32_t>(begin));
      part.log_sum_exp = Tensor::OnHost(statistics, {rows});
      part.target_logit = Tensor::OnHost(statistics, {rows});
      part.dlogits = dlogits.columns(begin, end - begin);
      parts.push_back(std::move(part));
    }
  }

  void Run(Execution& execution, const Implementation<TokenCrossEntropyArgs>& implementation,
           Case& whole) {
    const int64_t rows = whole.logits.shape()[0];
    Tensor log_sum_exp = Tensor::OnHost(DType::kF64, {rows});
    for (int64_t t = 0; t < rows; ++t) log_sum_exp.data<double>()[t] = -kInfinity;
    for (Part& part : parts) {
      TokenCrossEntropyArgs args = part.args;
      args.targets = part.targets.data();
      args.log_sum_exp = part.log_sum_exp.vector();
      args.target_logit = part.target_logit.vector();
      ASSERT_EQ(implementation.accepts(args), "");
      ASSERT_OK(RunOn(execution, implementation, args));
      for (int64_t t = 0; t < rows; ++t) {
        double& sum = log_sum_exp.data<double>()[t];
        const double own = reference::Get(part.log_sum_exp.vector(), t);
        const double largest = std::max(sum, own);
        if (sum != own)
          sum = largest + std::log(std::exp(sum - largest) + std::exp(own - largest));
        else
          sum += std::log(2.0);
        log_probability.data<double>()[t] += reference::Get(part.target_logit.vector(), t);
      }
    }
    given = log_sum_exp.Converted(statistics);
    for (int64_t t = 0; t < rows; ++t)
      log_probability.data<double>()[t] -= log_sum_exp.data<double>()[t];
    for (Part& part : parts) {
      TokenCrossEntropyArgs args = part.args;
      args.targets = part.targets.data();
      args.given_log_sum_exp = given.vector();
      args.log_probability = part.target_logit.vector();
      args.coefficient = whole.coefficient.vector();
      args.dlogits = part.dlogits;
      ASSERT_EQ(implementation.accepts(args), "");
      ASSERT_OK(RunOn(execution, implementation, args));
    }
  }

  struct Part {
    TokenCrossEntropyArgs args;
    ReachableVector<int32_t> targets;
    Tensor log_sum_exp, target_logit;  // target_logit: at last the part's log_probability
    MatrixView dlogits;
  };
  std::vector<Part> parts;
  Tensor log_probability, dlogits, given;
  DType statistics;
};

void ExpectPartsEqualTheWhole(DType dtype, DType gradient_dtype) {
  constexpr double kLargest = 8;
  Execution execution({.num_threads = 2});
  for (const int64_t vocabulary : {3, 7, 100, 5001}) {
    Case whole(6, vocabulary, dtype, gradient_dtype, kLargest);
    whole.coefficient.Slice(2, 3).FillZero();
    ASSERT_OK(reference::TokenCrossEntropy(execution, whole.args()));
    // The given log_sum_exp, at most kLargest + log(vocabulary), and a logit's distance from it are
    // rounded once each; a sum of positive terms adds a unit a term at most.
    const double unit = RoundingError(StatisticsDType(dtype));
    const double magnitude = kLargest + std::log(static_cast<double>(vocabulary));
    const double bound = dtype == DType::kF64
                             ? 1e-13
                             : unit * (8 * magnitude + 24 + static_cast<double>(vocabulary));
    for (const auto& implementation : TokenCrossEntropyImplementations()) {
      for (const int num_parts : {1, 2, 3}) {
        SCOPED_TRACE(testing::Message() << implementation.name << " vocabulary " << vocabulary
                                        << " in " << num_parts << " parts");
        Parts found(whole, num_parts);
        if (!implementation.accepts(whole.args()).empty()) continue;
        found.Run(execution, implementation, whole);
        ExpectClose("log_sum_exp", found.given, whole.log_sum_exp, 0, bound);
        ExpectClose("log_probability", found.log_probability, whole.log_probability, 0, bound);
        ExpectClose("dlogits", found.dlogits, whole.dlogits, 2 * RoundingError(gradient_dtype),
                    bound);
        // The second call's log_probability: of the target's own part, 0 in the others.
        for (int64_t t = 0; t < 6; ++t) {
          for (const Parts::Part& part : found.parts) {
            const bool is_here = part.targets[t] >= 0 && part.targets[t] < part.args.logits.columns;
            const double expected = is_here ? found.log_probability.data<double>()[t] : 0;
            EXPECT_NEAR(reference::Get(part.target_logit.vector(), t), expected, bound);
          }
        }
      }
    }
  }
}

TEST(TokenCrossEntropyTest, PartsOfAVocabularyEqualTheWhole) {
  ForEachSimdTarget([] {
    ExpectPartsEqualTheWhole(DType::kF64, DType::kF64);
    ExpectPartsEqualTheWhole(DType::kF32, DType::kF32);
    ExpectPartsEqualTheWhole(DType::kF32, DType::kBf16);
  });
}

TEST(TokenCrossEntropyTest, PartsAgreeOnInfinityAndNotANumber) {
  ForEachSimdTarget([] {
    Execution execution({.num_threads = 2});
    for (const auto& implementation : TokenCrossEntropyImplementations()) {
      SCOPED_TRACE(implementation.name);
      // Rows: -infinity all over the first part; all over; NaN; +infinity.
      Case whole(4, 100, DType::kF32, DType::kF32);
      float* logits = whole.logits.data<float>();
      std::fill_n(logits, 50, -kInfinity);
      std::fill_n(logits + 100, 100, -kInfinity);
      logits[230] = kNan;
      logits[380] = kInfinity;
      whole.targets = {60, 60, 60, 60};
      Parts found(whole, 2);
      found.Run(execution, implementation, whole);
      const Tensor& first_part = found.parts[0].log_sum_exp;
      EXPECT_EQ(first_part.data<float>()[0], -kInfinity);
      EXPECT_EQ(first_part.data<float>()[1], -kInfinity);
      EXPECT_TRUE(std::isnan(first_part.data<float>()[2]));
      EXPECT_TRUE(std::isnan(found.parts[1].log_sum_exp.data<float>()[3]));
      EXPECT_EQ(found.given.data<float>()[1], -kInfinity);
      const auto dlogits = [&](int64_t t, int64_t v) {
        return found.dlogits.data<float>()[t * 100 + v];
      };
      EXPECT_EQ(dlogits(0, 0), 0.0f);
      EXPECT_TRUE(std::isfinite(found.log_probability.data<double>()[0]));
      for (const int64_t t : {1, 2, 3}) {
        EXPECT_TRUE(std::isnan(found.log_probability.data<double>()[t])) << t;
        EXPECT_TRUE(std::isnan(found.parts[1].target_logit.data<float>()[t])) << t;
        for (const int64_t v : {0, 60, 99}) EXPECT_TRUE(std::isnan(dlogits(t, v))) << t << " " << v;
      }
    }
  });
}

TEST(TokenCrossEntropyTest, RowsWithoutWeightGetZerosWhateverIsGiven) {
  Execution execution;
  for (const auto& implementation : TokenCrossEntropyImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case c(2, 40, DType::kF32, DType::kF32);
    c.coefficient.FillZero();
    c.log_sum_exp.data<float>()[0] = kNan;
    TokenCrossEntropyArgs args = c.args();
    args.log_sum_exp = {};
    args.given_log_sum_exp = c.log_sum_exp.vector();
    ASSERT_OK(RunOn(execution, implementation, args));
    EXPECT_THAT(c.dlogits.values<float>(), Each(0.0f));
  }
}

// As the head of a vocabulary in parts calls it: nothing orders the statistics before the gradient
// but the kernel. A device's threads take turns in several orders.
TEST(TokenCrossEntropyTest, GradientMayTakeThePlaceOfLogitsWhereLogSumExpIsGiven) {
  ForEachImplementation([](Execution& execution, const auto& implementation) {
    for (int turn = 0; turn < 3; ++turn) {
      Case apart(5, 300, DType::kF32, DType::kF32), in_place(5, 300, DType::kF32, DType::kF32);
      const Tensor given = UniformTensor({5}, 7, DType::kF32, 12, 14);
      for (Case* c : {&apart, &in_place}) {
        TokenCrossEntropyArgs args = c->args();
        args.log_sum_exp = {};
        args.given_log_sum_exp = given.vector();
        if (c == &in_place) args.dlogits = c->logits.matrix();
        ASSERT_OK(RunOn(execution, implementation, args));
      }
      ExpectSameBits("dlogits", in_place.logits, apart.dlogits);
      ExpectSameBits("log_probability", in_place.log_probability, apart.log_probability);
    }
  });
}

TEST(TokenCrossEntropyTest, RejectsALogSumExpBothGivenAndKept) {
  Execution execution;
  Case c(3, 8, DType::kF32, DType::kF32);
  TokenCrossEntropyArgs args = c.args();
  args.given_log_sum_exp = c.coefficient.vector();
  EXPECT_THAT(TokenCrossEntropy(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("log_sum_exp: expected none where it is given")));
  args.log_sum_exp = {};
  args.given_log_sum_exp.size = 2;
  EXPECT_THAT(TokenCrossEntropy(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("given_log_sum_exp: expected width 3, got 2")));
}

TEST(TokenCrossEntropyTest, LogProbabilitiesNeedNoCoefficients) {
  ForEachImplementation([](Execution& execution, const auto& implementation) {
    Case with(5, 100, DType::kBf16, DType::kBf16), without(5, 100, DType::kBf16, DType::kBf16);
    ASSERT_OK(RunOn(execution, implementation, with.args()));
    TokenCrossEntropyArgs args = without.args();
    args.coefficient = {};
    args.dlogits = {};
    without.targets[3] = -1;
    ASSERT_OK(RunOn(execution, implementation, args));
    EXPECT_EQ(without.log_probability.data<float>()[3], 0.0f);
    with.log_probability.data<float>()[3] = 0.0f;
    ExpectSameBits("log_probability", without.log_probability, with.log_probability);
    ExpectSameBits("log_sum_exp", without.log_sum_exp, with.log_sum_exp);
  });
}

TEST(TokenCrossEntropyTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Case a(33, 1001, DType::kBf16, DType::kBf16), b(33, 1001, DType::kBf16, DType::kBf16);
  ASSERT_OK(TokenCrossEntropy(one, a.args()));
  ASSERT_OK(TokenCrossEntropy(three, b.args()));
  ExpectSameBits("log_probability", a.log_probability, b.log_probability);
  ExpectSameBits("log_sum_exp", a.log_sum_exp, b.log_sum_exp);
  ExpectSameBits("dlogits", a.dlogits, b.dlogits);
}

TEST(TokenCrossEntropyTest, RejectsATargetOutsideTheVocabulary) {
  Execution execution;
  Case c(3, 8, DType::kF32, DType::kF32);
  for (const int32_t target : {8, -1}) {
    c.targets[2] = target;
    EXPECT_THAT(
        TokenCrossEntropy(execution, c.args()),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 HasSubstr("targets[2]: expected an id in [0, 8), got " + std::to_string(target))));
  }
}

TEST(TokenCrossEntropyTest, RejectsAGradientWithoutCoefficients) {
  Execution execution;
  Case c(3, 8, DType::kF32, DType::kF32);
  TokenCrossEntropyArgs args = c.args();
  args.coefficient = {};
  EXPECT_THAT(TokenCrossEntropy(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("coefficient: expected width 3, got 0")));
}

TEST(TokenCrossEntropyTest, RejectsAGradientInMemoryOfAnotherDType) {
  Execution execution;
  Case c(3, 8, DType::kF32, DType::kF32);
  TokenCrossEntropyArgs args = c.args();
  args.dlogits = c.logits.matrix();
  args.dlogits.dtype = DType::kBf16;
  EXPECT_THAT(TokenCrossEntropy(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("dlogits in the memory of logits: expected f32, got bf16")));
}

}  // namespace
}  // namespace plait
