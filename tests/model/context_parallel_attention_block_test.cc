// The attention block on context x tensor ranks equals the block on one rank: output rows, gradient
// of the stream and, summed over the ranks, of every parameter.
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "base/number_at.h"
#include "base/status_macros.h"
#include "model/attention_block.h"
#include "parallel/device_mesh.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

constexpr int64_t kTokens = 48, kModelDim = 8;

struct Outcome {
  Tensor delta, dstream;                // [kTokens, kModelDim]
  std::map<std::string, Tensor> grads;  // by name, of the logical tensors
};

// Gives each parameter its box of a whole tensor that depends on its place in the list alone.
void GiveBoxes(const std::vector<LayerParameter*>& parameters, DType dtype) {
  uint64_t seed = 20;
  for (LayerParameter* layer_parameter : parameters) {
    Parameter& parameter = layer_parameter->parameter;
    const Shape logical = parameter.box ? parameter.box->logical_shape : parameter.shape;
    const Tensor whole = UniformTensor(logical, seed++, dtype, -0.7, 0.7);
    parameter.value = Tensor::OnHost(dtype, parameter.shape);
    parameter.gradient = Tensor::OnHost(dtype, parameter.shape);
    for (int64_t i = 0; i < parameter.value.num_elements(); ++i)
      SetNumber(parameter.value, i,
                NumberAt(whole, parameter.box ? parameter.box->LogicalElement(i) : i));
  }
}

struct Layout {
  int context = 1, tensor = 1;
};

// ids: negative for padding.
Outcome Run(const ModelShape& shape, const std::vector<int32_t>& offsets,
            const std::vector<int32_t>& ids, DType dtype, const Layout& layout) {
  Outcome outcome{.delta = Tensor::OnHost(dtype, {kTokens, kModelDim}),
                  .dstream = Tensor::OnHost(dtype, {kTokens, kModelDim})};
  std::mutex mutex;
  const auto body = [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    world->ledger().set_check(true);
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh,
                           DeviceMesh::Create({1, 1, 1, layout.context, layout.tensor, 1}, world));
    PLAIT_ASSIGN_OR_RETURN(
        const SequenceLayout sequence,
        SequenceLayout::Create(
            Tensor::FromValues<int32_t>({kTokens}, ids),
            Tensor::FromValues<int32_t>({static_cast<int64_t>(offsets.size())}, offsets), dtype,
            TokenPart::Of(mesh)));
    Execution execution({.num_threads = 1});
    AttentionBlock block(shape, "model.layers.0", dtype, mesh);
    GiveBoxes(block.parameters(), dtype);
    const int64_t begin = sequence.segment_begin + sequence.rows_begin;
    const auto rows = [&](uint64_t seed) {
      return UniformTensor({kTokens, kModelDim}, seed, dtype).Slice(begin, begin + sequence.rows);
    };
    ResidualStream stream{rows(2), rows(3)};
    std::unique_ptr<Block::Saved> saved;
    PLAIT_RETURN_IF_ERROR(block.Forward(execution, {.layout = &sequence}, stream, &saved));
    PLAIT_ASSIGN_OR_RETURN(const Tensor dstream,
                           block.Backward(execution, {.layout = &sequence}, rows(4), *saved));
    const std::lock_guard lock(mutex);
    const auto put = [&](const Tensor& own, Tensor& whole) {
      std::memcpy(whole.Slice(begin, begin + sequence.rows).raw(), own.raw(), own.bytes());
    };
    put(stream.delta, outcome.delta);
    put(dstream, outcome.dstream);
    for (const LayerParameter* layer_parameter : block.parameters()) {
      const Parameter& parameter = layer_parameter->parameter;
      const Shape logical = parameter.box ? parameter.box->logical_shape : parameter.shape;
      Tensor& sum = outcome.grads[parameter.name];
      if (!sum) sum = Tensor::OnHost(DType::kF64, logical);
      for (int64_t i = 0; i < parameter.gradient.num_elements(); ++i) {
        const int64_t place = parameter.box ? parameter.box->LogicalElement(i) : i;
        sum.data<double>()[place] += NumberAt(parameter.gradient, i);
      }
    }
    return absl::OkStatus();
  };
  EXPECT_OK(RunLocalRanks(layout.context * layout.tensor, body));
  return outcome;
}

void ExpectEqualNormWise(const std::string& name, const Tensor& found, const Tensor& expected,
                         double bound) {
  ASSERT_EQ(found.num_elements(), expected.num_elements()) << name;
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    difference += std::pow(NumberAt(found, i) - NumberAt(expected, i), 2);
    norm += std::pow(NumberAt(expected, i), 2);
  }
  EXPECT_GT(norm, 0) << name;
  EXPECT_LE(std::sqrt(difference), bound * std::sqrt(norm)) << name;
}

// Grouped queries, with rotation and without, in both ways.
std::vector<ModelShape> Shapes() {
  std::vector<ModelShape> shapes;
  for (const double theta : {0.0, 100.0}) {
    for (const ContextExchange exchange : {ContextExchange::kGather, ContextExchange::kRing}) {
      ModelShape shape = TinyJamba();
      shape.rotary_theta = theta;
      shape.context_exchange = exchange;
      shapes.push_back(shape);
    }
  }
  return shapes;
}

void ExpectLayoutsEqualOneRank(DType dtype, double bound) {
  // One document; documents that cross one cut, several or none; padding that crosses a cut.
  const std::vector<std::vector<int32_t>> microbatches = {
      {0, 48}, {0, 5, 36, 48}, {0, 16, 24, 32, 48}, {0, 1, 2, 30, 48}};
  for (const std::vector<int32_t>& offsets : microbatches) {
    std::vector<int32_t> ids(kTokens, 1);
    if (offsets.size() == 5) std::fill(ids.begin() + offsets[3], ids.end(), -1);
    for (const ModelShape& shape : Shapes()) {
      const Outcome expected = Run(shape, offsets, ids, dtype, {});
      for (const Layout layout : {Layout{2, 1}, {3, 1}, {4, 1}, {1, 2}, {2, 2}, {3, 2}, {4, 2}}) {
        SCOPED_TRACE(testing::Message()
                     << offsets.size() - 1 << " documents, rotary theta " << shape.rotary_theta
                     << (shape.context_exchange == ContextExchange::kRing ? ", ring" : ", gather")
                     << ", context " << layout.context << " tensor " << layout.tensor);
        const Outcome found = Run(shape, offsets, ids, dtype, layout);
        ExpectEqualNormWise("delta", found.delta, expected.delta, bound);
        ExpectEqualNormWise("dstream", found.dstream, expected.dstream, bound);
        ASSERT_EQ(found.grads.size(), expected.grads.size());
        for (const auto& [name, gradient] : expected.grads)
          ExpectEqualNormWise(name, found.grads.at(name), gradient, bound);
      }
    }
  }
}

// Decision 29.
TEST(ContextParallelAttentionBlockTest, LayoutsEqualOneRankInF64) {
  ExpectLayoutsEqualOneRank(DType::kF64, 1e-11);
}
TEST(ContextParallelAttentionBlockTest, LayoutsEqualOneRankInF32) {
  ExpectLayoutsEqualOneRank(DType::kF32, 2e-5);
}

}  // namespace
}  // namespace plait
