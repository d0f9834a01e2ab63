// A block whose experts are dealt over ranks against the same block on one rank that has all tokens
// and all experts: outputs, input gradients, and gradients of every parameter.
#include "model/dealt_experts.h"

#include <cmath>
#include <map>
#include <mutex>
#include <set>

#include "base/status_macros.h"
#include "kernels/grouped_matmul.h"
#include "model/mixture_of_experts_block.h"
#include "parallel/local_communicator.h"
#include "tests/support/finite_differences.h"
#include "tests/support/single_rank_mesh.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

enum class Load { kAsItComes, kOneExpert, kOneRank };

struct Case {
  ModelShape shape = OddJamba();
  DType dtype = DType::kF64;
  int64_t tokens = 12;  // of every rank
  Load load = Load::kAsItComes;
  Recomputation recomputation = Recomputation::kNone;
  // The axis that the ranks make; they are all in the expert axis but those of the tensor axis.
  MeshAxis axis = MeshAxis::kShard;
};

// Ids of the tokens of all ranks: some are padding.
Tensor Ids(int64_t tokens) {
  Tensor ids = Tensor::OnHost(DType::kI32, {tokens});
  for (int64_t t = 0; t < tokens; ++t) ids.data<int32_t>()[t] = t % 7 == 5 ? -1 : 1;
  return ids;
}

SequenceLayout LayoutOf(const Tensor& ids, DType dtype) {
  const auto tokens = static_cast<int32_t>(ids.num_elements());
  auto layout = SequenceLayout::Create(ids, Tensor::FromValues<int32_t>({2}, {0, tokens}),
                                       StatisticsDType(dtype));
  PLAIT_CHECK(layout.ok());
  return *std::move(layout);
}

Tensor Input(const Case& c, int64_t tokens, uint64_t seed) {
  Tensor input = UniformTensor({tokens, c.shape.model_dim}, seed);
  if (c.load != Load::kAsItComes) {
    for (int64_t t = 0; t < tokens; ++t) input.data<double>()[t * c.shape.model_dim] = 2;
  }
  return input.Converted(c.dtype);
}

// Values by name, of the logical tensor and then of the box; gradients of zero.
void GiveValues(Block& block, const Case& c) {
  uint64_t seed = 10;
  for (LayerParameter* layer_parameter : block.parameters()) {
    Parameter& parameter = layer_parameter->parameter;
    const Shape logical = parameter.box ? parameter.box->logical_shape : parameter.shape;
    Tensor whole = UniformTensor(logical, seed++, DType::kF64, -0.7, 0.7);
    if (parameter.name.ends_with("layernorm.weight")) {
      for (double& value : whole.values<double>()) value = 1 + 0.3 * value;
    }
    // The first element of every input is large and positive, so these choose for every token: the
    // first experts, a little more likely the lower they are.
    if (parameter.name.ends_with("router.weight") && c.load != Load::kAsItComes) {
      for (int64_t e = 0; e < logical[0]; ++e) {
        double& first = whole.data<double>()[e * logical[1]];
        first = c.load == Load::kOneExpert && e > 0 ? -3 : 3.0 - 1.5 * static_cast<double>(e);
      }
    }
    if (parameter.box) {
      const ShardSpec::Range experts = parameter.box->dim0_ranges[0];
      whole = whole.Slice(experts.begin, experts.end).Clone();
    }
    parameter.value = whole.Converted(parameter.dtype);
    parameter.gradient = Tensor::OnHost(StatisticsDType(c.dtype), parameter.shape);
  }
}

struct Outcome {
  Tensor output;          // [tokens, model_dim]
  Tensor input_gradient;  // [tokens, model_dim]
  Tensor square_sums;     // [tokens, experts_per_token], of the experts' outputs
  std::map<std::string, Tensor> gradients;
  int64_t waves = 1, recomputed = 0;
};

BlockLossFactors Factors(const Case& c) {
  return {.block_output = 0.03,
          .expert_output = 0.02,
          .residual = 0.04,
          .z = 0.1,
          .balance_gradient = UniformTensor({c.shape.experts}, 9, StatisticsDType(c.dtype))};
}

absl::StatusOr<Outcome> Run(const Case& c, const DeviceMesh& mesh, int64_t first_token,
                            int64_t tokens, int64_t all_tokens) {
  Execution execution({.num_threads = 1});
  MixtureOfExpertsBlock block(c.shape, "model.layers.0", c.dtype, mesh);
  GiveValues(block, c);
  const auto own = [&](const Tensor& all) { return all.Slice(first_token, first_token + tokens); };
  const SequenceLayout layout = LayoutOf(own(Ids(all_tokens)).Clone(), c.dtype);
  ResidualStream stream{own(Input(c, all_tokens, 2)), {}};
  const Tensor residual = stream.residual;
  std::unique_ptr<Block::Saved> saved;
  PLAIT_RETURN_IF_ERROR(block.Forward(execution, {.layout = &layout}, stream, &saved));
  Outcome outcome;
  outcome.output = stream.delta;
  if (c.recomputation == Recomputation::kBlocks) {
    const Routing routing = *block.routing(*saved);
    saved.reset();
    ResidualStream again{residual, {}};
    PLAIT_RETURN_IF_ERROR(
        block.Forward(execution, {.layout = &layout, .routing = &routing}, again, &saved));
    ExpectSameBits("output, computed again", again.delta, outcome.output);
  }
  const Routing& routing = *block.routing(*saved);
  if (routing.schedule != nullptr) {
    outcome.waves = static_cast<int64_t>(routing.schedule->waves().size());
    outcome.recomputed = routing.schedule->num_recomputed();
  }
  outcome.square_sums = Tensor::OnHost(DType::kF64, routing.choices.shape());
  const Tensor square_sums = routing.output_statistics.square_sum.Converted(DType::kF64);
  for (int64_t i = 0; i < square_sums.num_elements(); ++i) {
    outcome.square_sums.data<double>()[i] =
        square_sums.data<double>()[routing.token_row.data<int32_t>()[i]];
  }
  const Tensor weights = own(UniformTensor({all_tokens, c.shape.model_dim}, 4, c.dtype));
  PLAIT_ASSIGN_OR_RETURN(
      outcome.input_gradient,
      block.Backward(execution, {.layout = &layout, .factors = Factors(c)}, weights, *saved));
  for (LayerParameter* parameter : block.parameters()) {
    outcome.gradients[parameter->parameter.name] = parameter->parameter.gradient;
  }
  return outcome;
}

// ||found - expected|| <= bound x ||expected||.
void ExpectNear(const std::string& name, const Tensor& found, const Tensor& expected,
                double bound) {
  ASSERT_EQ(found.num_elements(), expected.num_elements()) << name;
  const Tensor a = found.Converted(DType::kF64), b = expected.Converted(DType::kF64);
  double difference = 0, size = 0;
  for (int64_t i = 0; i < a.num_elements(); ++i) {
    difference += std::pow(a.data<double>()[i] - b.data<double>()[i], 2);
    size += std::pow(b.data<double>()[i], 2);
  }
  EXPECT_LE(std::sqrt(difference), bound * std::sqrt(size)) << name;
}

bool IsZero(const Tensor& tensor) {
  const Tensor wide = tensor.Converted(DType::kF64);
  return std::ranges::all_of(wide.values<double>(), [](double value) { return value == 0; });
}

// Expects the ranks to agree with one; returns rank 0's outcome.
Outcome ExpectRanksAgreeWithOne(const Case& c, int ranks, double bound) {
  const int64_t all_tokens = ranks * c.tokens;
  auto expected = Run(c, SingleRankMesh(), 0, all_tokens, all_tokens);
  EXPECT_OK(expected);
  Outcome first;
  std::mutex mutex;
  EXPECT_OK(RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    const int64_t rank = world->rank();
    std::array<int64_t, kNumMeshAxes> sizes = {1, 1, 1, 1, 1, 1};
    sizes[static_cast<int>(c.axis)] = ranks;
    if (c.axis != MeshAxis::kTensor) sizes[static_cast<int>(MeshAxis::kExpert)] = ranks;
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create(sizes, world));
    PLAIT_ASSIGN_OR_RETURN(Outcome found, Run(c, mesh, rank * c.tokens, c.tokens, all_tokens));
    // What every rank holds whole sums over the tokens of all.
    Stream stream;
    for (auto& [name, gradient] : found.gradients) {
      if (gradient.shape() != expected->gradients[name].shape()) continue;
      PLAIT_ASSIGN_OR_RETURN(const Event summed,
                             world->AllReduce(stream, gradient.vector(), ReduceOperation::kSum));
      PLAIT_RETURN_IF_ERROR(summed.Synchronize());
    }
    const std::lock_guard lock(mutex);
    const auto own = [&](const Tensor& all, int64_t size) {
      return all.Slice(rank * size, (rank + 1) * size);
    };
    ExpectNear("output", found.output, own(expected->output, c.tokens), bound);
    ExpectNear("input", found.input_gradient, own(expected->input_gradient, c.tokens), bound);
    ExpectNear("square sums", found.square_sums, own(expected->square_sums, c.tokens), bound);
    for (const auto& [name, gradient] : found.gradients) {
      const Tensor& whole = expected->gradients[name];
      const bool dealt = gradient.shape() != whole.shape();
      const Tensor box = dealt ? own(whole, whole.shape()[0] / ranks) : whole;
      if (IsZero(box)) {  // no token chose this rank's experts
        EXPECT_TRUE(IsZero(gradient)) << name;
      } else {
        ExpectNear(name, gradient, box, bound);
      }
    }
    if (rank == 0) first = std::move(found);
    return absl::OkStatus();
  }));
  return first;
}

// Decision 29: 1e-11 in f64, 2e-5 in f32. In bf16 the same roundings happen on one rank and on
// several; the one difference is the order of the f32 sums of weight gradients and, from there on,
// nothing: 48 rows of like size add up to at most 48 roundings of 2^-24, below 2e-5 too.
double Bound(DType dtype) { return dtype == DType::kF64 ? 1e-11 : 2e-5; }

TEST(DealtExpertsTest, RanksAgreeWithOneForEveryLengthOfWave) {
  std::set<int64_t> waves;
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBf16}) {
    for (const int ranks : {2, 3, 6}) {
      for (const int64_t wave_tokens : {0, 1, 3, 5, 12}) {
        Case c{.dtype = dtype};
        c.shape.expert_wave_tokens = wave_tokens;
        waves.insert(ExpectRanksAgreeWithOne(c, ranks, Bound(dtype)).waves);
      }
    }
  }
  EXPECT_TRUE(waves.contains(1));
  EXPECT_TRUE(waves.contains(12));
  EXPECT_GE(waves.size(), 4u);
}

TEST(DealtExpertsTest, FourRanksOfFourExpertsAgreeWithOne) {
  Case c{.shape = TinyJamba(), .tokens = 13};
  c.shape.activation_loss_coefficient = 1;
  c.shape.activation_loss_on_expert_output = c.shape.activation_loss_on_block_output = true;
  c.shape.expert_wave_tokens = 4;
  ExpectRanksAgreeWithOne(c, 4, Bound(c.dtype));
}

TEST(DealtExpertsTest, RanksOfEveryAxisAgreeWithOne) {
  for (const MeshAxis axis : {MeshAxis::kShard, MeshAxis::kContext, MeshAxis::kTensor}) {
    Case c{.axis = axis};
    c.shape.expert_wave_tokens = 3;
    ExpectRanksAgreeWithOne(c, 3, Bound(c.dtype));
  }
}

TEST(DealtExpertsTest, OverloadRecomputesAndAgreesWithOne) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBf16}) {
    for (const Load load : {Load::kOneExpert, Load::kOneRank}) {
      for (const Recomputation recomputation : {Recomputation::kNone, Recomputation::kBlocks}) {
        Case c{.dtype = dtype, .tokens = 24, .load = load, .recomputation = recomputation};
        c.shape.experts = 8;
        c.shape.experts_per_token = load == Load::kOneExpert ? 1 : 2;
        c.shape.expert_wave_tokens = 8;
        const Outcome outcome = ExpectRanksAgreeWithOne(c, 4, Bound(dtype));
        EXPECT_GT(outcome.recomputed, 0);
        EXPECT_LT(outcome.recomputed, outcome.waves);
      }
    }
  }
}

TEST(DealtExpertsTest, RecomputedBlocksAgreeWithOne) {
  Case c{.recomputation = Recomputation::kBlocks};
  c.shape.expert_wave_tokens = 5;
  ExpectRanksAgreeWithOne(c, 3, Bound(c.dtype));
}

// Rank by rank one element changes; all ranks run the forward.
TEST(DealtExpertsTest, BackwardMatchesFiniteDifferences) {
  EXPECT_OK(RunLocalRanks(2, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
    Case c{.tokens = 4};
    c.shape.expert_wave_tokens = 2;
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({1, 1, 2, 1, 1, 2}, world));
    Execution execution({.num_threads = 1});
    MixtureOfExpertsBlock block(c.shape, "model.layers.0", c.dtype, mesh);
    GiveValues(block, c);
    const auto seed = static_cast<uint64_t>(world->rank());
    const SequenceLayout layout = LayoutOf(Ids(c.tokens), c.dtype);
    Tensor residual = Input(c, c.tokens, 20 + seed);
    const Tensor weights = UniformTensor(residual.shape(), 30 + seed);
    absl::Status status;
    const auto loss = [&] {
      ResidualStream stream{residual, {}};
      std::unique_ptr<Block::Saved> saved;
      status.Update(block.Forward(execution, {.layout = &layout}, stream, &saved));
      Tensor sum = Tensor::FromValues<double>({1}, {WeightedSum(stream.delta, weights)});
      const Routing& routing = *block.routing(*saved);
      for (int64_t i = 0; i < routing.choices.num_elements(); ++i) {
        const double weight = routing.weights.data<double>()[i];
        sum.data<double>()[0] += 0.2 * layout.real.data<double>()[i / c.shape.experts_per_token] *
                                 routing.output_statistics.square_sum
                                     .data<double>()[routing.token_row.data<int32_t>()[i]] /
                                 (weight * weight);
      }
      status.Update(world->AllReduce(execution.communication(), sum.vector(), ReduceOperation::kSum)
                        .status());
      return sum.data<double>()[0];
    };
    ResidualStream stream{residual, {}};
    std::unique_ptr<Block::Saved> saved;
    PLAIT_RETURN_IF_ERROR(block.Forward(execution, {.layout = &layout}, stream, &saved));
    // The gradient of the stream holds the residual's own too, which the loss does not read.
    PLAIT_ASSIGN_OR_RETURN(
        const Tensor dstream,
        block.Backward(execution, {.layout = &layout, .factors = {.expert_output = 0.2}}, weights,
                       *saved));
    Tensor dresidual = dstream.Clone();
    for (int64_t i = 0; i < dresidual.num_elements(); ++i) {
      dresidual.data<double>()[i] -= weights.data<double>()[i];
    }
    std::vector<std::pair<Tensor*, Tensor>> checked = {{&residual, dresidual}};
    for (LayerParameter* parameter : block.parameters()) {
      if (parameter->parameter.box) {
        checked.emplace_back(&parameter->parameter.value, parameter->parameter.gradient.Clone());
      }
    }
    for (int owner = 0; owner < 2; ++owner) {
      for (auto& [value, gradient] : checked) {
        if (world->rank() == owner) {
          ExpectGradientMatches("checked", *value, gradient, loss);
        } else {
          for (int64_t i = 0; i < 2 * value->num_elements(); ++i) loss();
        }
      }
    }
    return status;
  }));
}

// The scratch of the products that a rank runs, beside which the bound stands.
int64_t ScratchBytes(int64_t rows, const ModelShape& shape, DType dtype) {
  Execution execution({.num_threads = 1});
  const Tensor x = UniformTensor({rows, 2 * shape.hidden_dim}, 1, dtype);
  const Tensor w = UniformTensor({2 * shape.hidden_dim, 2 * shape.hidden_dim}, 2, dtype);
  Tensor y = Tensor::OnHost(dtype, x.shape());
  Tensor dw = Tensor::OnHost(StatisticsDType(dtype), w.shape());
  const int32_t offsets[] = {0, static_cast<int32_t>(rows)};
  EXPECT_OK(GroupedMatmul(
      execution,
      {.a = x.matrix(), .offsets = offsets, .groups = 1, .b = w.matrix(), .c = y.matrix()}));
  EXPECT_OK(GroupedWeightGradient(
      execution,
      {.a = x.matrix(), .b = x.matrix(), .offsets = offsets, .groups = 1, .c = dw.matrix()}));
  return static_cast<int64_t>(execution.allocator().bytes_in_use_peak());
}

// What a rank's exchange allocated at most while it ran forward and backward, one choice a token
// of 8 experts on 8 ranks.
struct Peak {
  int64_t forward_bytes = 0, bytes = 0, recomputed = 0;
};

absl::StatusOr<Peak> RunMeasured(Communicator& world, const ExpertSizes& sizes,
                                 const ModelShape& shape, DType dtype, Load load) {
  Execution execution({.num_threads = 1});
  PLAIT_ASSIGN_OR_RETURN(const ExpertExchange exchange,
                         ExpertExchange::Create(world, sizes.experts));
  ExpertFeedForward experts("experts", shape, exchange.first_expert(), 1, dtype);
  std::vector<LayerParameter*> parameters;
  experts.AppendParameters(parameters);
  for (LayerParameter* parameter : parameters) {
    parameter->parameter.value = UniformTensor(parameter->parameter.shape, 3, dtype);
    parameter->parameter.gradient = Tensor::OnHost(DType::kF32, parameter->parameter.shape);
  }
  DealtExperts dealt(exchange, experts);
  const int64_t tokens = sizes.tokens;
  const Tensor y = UniformTensor({tokens, shape.model_dim}, 5, dtype);
  const Tensor row_weights = UniformTensor({tokens}, 6, DType::kF32);
  // Rows in the order of the tokens: what an expert computes does not matter here, but how many.
  Routing routing{.choices = Tensor::OnHost(DType::kI32, {tokens, 1}),
                  .row_token = Tensor::OnHost(DType::kI32, {tokens}),
                  .token_row = Tensor::OnHost(DType::kI32, {tokens, 1})};
  for (int32_t t = 0; t < tokens; ++t) {
    if (load == Load::kAsItComes) routing.choices.data<int32_t>()[t] = t % 8;
    routing.row_token.data<int32_t>()[t] = routing.token_row.data<int32_t>()[t] = t;
  }
  Tensor out = Tensor::OnHost(dtype, y.shape()), dy = Tensor::OnHost(DType::kF32, y.shape());
  Tensor drow_weights = Tensor::OnHost(DType::kF32, {tokens});
  std::vector<DealtExperts::SavedWave> saved;
  PLAIT_ASSIGN_OR_RETURN(routing.schedule, exchange.Schedule(routing.choices.data<int32_t>(),
                                                             tokens, 1, sizes.wave_tokens));
  execution.allocator().ResetPeak();
  Peak peak{.recomputed = routing.schedule->num_recomputed()};
  PLAIT_RETURN_IF_ERROR(dealt.Forward(
      execution, y, routing, row_weights, [](int64_t, const Tensor&) { return absl::OkStatus(); },
      out, &saved));
  peak.forward_bytes = static_cast<int64_t>(execution.allocator().bytes_in_use_peak());
  const auto give = [&](int64_t first, MatrixView rows) {
    for (int64_t i = 0; i < rows.rows; ++i) {
      const Tensor row = y.Slice(first + i, first + i + 1);
      std::memcpy(
          static_cast<char*>(rows.data) + static_cast<size_t>(i * rows.row_stride) * SizeOf(dtype),
          row.raw(), row.bytes());
    }
    return absl::OkStatus();
  };
  PLAIT_RETURN_IF_ERROR(
      dealt.Backward(execution, y, routing, row_weights, give, saved, dy, drow_weights));
  peak.bytes = static_cast<int64_t>(execution.allocator().bytes_in_use_peak());
  return peak;
}

// An even load and all tokens of all ranks to the expert of the first: every rank stays within the
// bound, which is a fraction of what the rows of the second would take at once, and within the
// estimate of the first.
TEST(DealtExpertsTest, MemoryStaysWithinTheBoundWhateverTheRouting) {
  constexpr int kRanks = 8;
  ModelShape shape;
  shape.model_dim = 64;
  shape.hidden_dim = 96;
  shape.experts = 8;
  shape.experts_per_token = 1;
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    for (const int64_t wave_tokens : {0, 32}) {
      const ExpertSizes sizes{.tokens = 512,
                              .ranks = kRanks,
                              .experts = 8,
                              .experts_per_token = 1,
                              .wave_tokens = wave_tokens};
      const int64_t scratch = ScratchBytes(ExpertSchedule::MostWaveRows(sizes), shape, dtype);
      const auto all = [](const ExpertMemory& memory) {
        return memory.kept_bytes + memory.working_bytes;
      };
      const int64_t most = all(MostExpertMemory(sizes, 64, 96, dtype));
      const int64_t even = all(BalancedExpertMemory(sizes, 64, 96, dtype));
      const int64_t unbounded =
          kRanks * sizes.tokens * (64 + 2 * 96) * static_cast<int64_t>(SizeOf(dtype));
      EXPECT_LT(even, most);
      EXPECT_LT(most, unbounded);
      for (const Load load : {Load::kAsItComes, Load::kOneExpert}) {
        EXPECT_OK(
            RunLocalRanks(kRanks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
              PLAIT_ASSIGN_OR_RETURN(const Peak peak,
                                     RunMeasured(*world, sizes, shape, dtype, load));
              const int64_t bound = load == Load::kAsItComes ? even : most;
              EXPECT_LE(peak.forward_bytes, bound + scratch);
              EXPECT_LE(peak.bytes, bound + scratch);
              if (load == Load::kOneExpert && world->rank() > 0) return absl::OkStatus();
              // What is allocated comes near it.
              EXPECT_GT(peak.bytes, bound * 6 / 10);
              EXPECT_EQ(peak.recomputed > 0, load == Load::kOneExpert);
              return absl::OkStatus();
            }));
      }
    }
  }
}

}  // namespace
}  // namespace plait
