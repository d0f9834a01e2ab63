// A Mamba block whose microbatch the context axis cuts into segments, against the same block on one
// rank.
#include "model/segment_states.h"

#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "base/status_macros.h"
#include "model/mamba_block.h"
#include "parallel/local_communicator.h"
#include "tests/support/document_segments.h"
#include "tests/support/layer_under_test.h"
#include "tests/support/random_tensor.h"
#include "tests/support/single_rank_mesh.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

// A microbatch and what goes into the block with it.
struct Input {
  Input(const std::vector<int32_t>& document_offsets, int64_t padding, int64_t model_dim)
      : tokens(document_offsets.back()),
        ids(Tensor::OnHost(DType::kI32, {tokens})),
        offsets(Tensor::FromValues<int32_t>({static_cast<int64_t>(document_offsets.size())},
                                            document_offsets)),
        residual(UniformTensor({tokens, model_dim}, 2)),
        delta(UniformTensor({tokens, model_dim}, 3)),
        gradient(UniformTensor({tokens, model_dim}, 4)) {
    for (int64_t t = tokens - padding; t < tokens; ++t) ids.data<int32_t>()[t] = -1;
  }

  int64_t tokens;
  Tensor ids, offsets;
  Tensor residual, delta, gradient;  // gradient: of the stream after the block
};

// Of one rank's tokens; sums over them for parameters.
struct Outcome {
  Tensor delta, gradient;
  std::vector<Tensor> parameter_gradients;
};

absl::StatusOr<Outcome> RunBlock(ModelShape shape, const DeviceMesh& mesh, const Input& input) {
  shape.activation_loss_coefficient = 1;
  shape.activation_loss_on_block_output = true;
  Execution execution({.num_threads = 1});
  MambaBlock block(shape, "model.layers.0", DType::kF64, mesh);
  GiveRandomValues(block.parameters(), 10);
  PLAIT_ASSIGN_OR_RETURN(
      const SequenceLayout layout,
      SequenceLayout::Create(input.ids, input.offsets, DType::kF64, TokenPart::Of(mesh)));
  const int64_t begin = layout.segment_begin, end = begin + layout.tokens;
  ResidualStream stream{CopyOfRows(input.residual, begin, end),
                        CopyOfRows(input.delta, begin, end)};
  std::unique_ptr<Block::Saved> saved;
  PLAIT_RETURN_IF_ERROR(block.Forward(execution, {.layout = &layout}, stream, &saved));
  Outcome outcome{.delta = stream.delta};
  PLAIT_ASSIGN_OR_RETURN(
      outcome.gradient,
      block.Backward(execution,
                     {.layout = &layout, .factors = {.block_output = 0.3, .residual = 0.4}},
                     CopyOfRows(input.gradient, begin, end), *saved));
  for (LayerParameter* parameter : block.parameters()) {
    outcome.parameter_gradients.push_back(parameter->parameter.gradient);
  }
  return outcome;
}

void ExpectContextsEqualOneRank(const ModelShape& shape, const std::vector<int32_t>& offsets,
                                int64_t padding, int contexts) {
  SCOPED_TRACE(testing::Message() << testing::PrintToString(offsets) << " over " << contexts);
  const Input input(offsets, padding, shape.model_dim);
  ASSERT_OK_AND_ASSIGN(const Outcome one, RunBlock(shape, SingleRankMesh(), input));
  std::vector<Outcome> parts(contexts);
  const auto run_rank = [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh,
                           DeviceMesh::Create({1, 1, 1, contexts, 1, 1}, world));
    PLAIT_ASSIGN_OR_RETURN(parts[world->rank()], RunBlock(shape, mesh, input));
    return absl::OkStatus();
  };
  ASSERT_OK(RunLocalRanks(contexts, run_rank));
  Outcome joined{one.delta.Clone(), one.gradient.Clone(), {}};
  for (const Tensor& gradient : one.parameter_gradients) {
    joined.parameter_gradients.push_back(Tensor::OnHost(DType::kF64, gradient.shape()));
  }
  for (int rank = 0; rank < contexts; ++rank) {
    SetRows(parts[rank].delta, joined.delta, rank * input.tokens / contexts);
    SetRows(parts[rank].gradient, joined.gradient, rank * input.tokens / contexts);
    for (size_t i = 0; i < joined.parameter_gradients.size(); ++i) {
      Tensor& sum = joined.parameter_gradients[i];
      for (int64_t e = 0; e < sum.num_elements(); ++e) {
        sum.data<double>()[e] += parts[rank].parameter_gradients[i].data<double>()[e];
      }
    }
  }
  // decisions.md 29: sums in another order.
  ExpectNormClose("delta", joined.delta, one.delta, 1e-11);
  ExpectNormClose("gradient", joined.gradient, one.gradient, 1e-11);
  for (size_t i = 0; i < joined.parameter_gradients.size(); ++i) {
    ExpectNormClose("parameter " + std::to_string(i), joined.parameter_gradients[i],
                    one.parameter_gradients[i], 1e-11);
  }
}

// Documents across one, two and all edges of segments and across none; padding at the end.
TEST(SegmentStatesTest, ContextsEqualOneRank) {
  for (const ModelShape& shape : {TinyJamba(), OddJamba()}) {
    for (const int contexts : {2, 3, 4}) {
      ExpectContextsEqualOneRank(shape, {0, 5, 78, 79, 84}, /*padding=*/3, contexts);
      ExpectContextsEqualOneRank(shape, {0, 84}, /*padding=*/0, contexts);
      ExpectContextsEqualOneRank(shape, {0, 30, 50, 84}, /*padding=*/40, contexts);
      ExpectContextsEqualOneRank(shape, {0, 21, 28, 42, 56, 63, 84}, /*padding=*/0, contexts);
    }
  }
}

// Segments of one, two and three tokens under a convolution of four.
TEST(SegmentStatesTest, SegmentsShorterThanTheConvolution) {
  for (const int contexts : {2, 3, 4}) {
    for (const int32_t tokens : {1, 2, 3}) {
      const int32_t end = tokens * contexts;
      ExpectContextsEqualOneRank(TinyJamba(), {0, end}, 0, contexts);
      ExpectContextsEqualOneRank(TinyJamba(), {0, 1, end}, 0, contexts);
      ExpectContextsEqualOneRank(TinyJamba(), {0, end - 1, end}, 0, contexts);
    }
  }
}

}  // namespace
}  // namespace plait
