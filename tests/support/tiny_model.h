// Small models for tests: every kind of block, odd sizes, and a microbatch of several documents
// with padding.
#pragma once

#include <memory>
#include <vector>

#include "model/language_model.h"
#include "parallel/parameter_sharder.h"
#include "tests/support/random_tensor.h"
#include "tests/support/single_rank_mesh.h"
#include "tests/support/status_matchers.h"

namespace plait {

// Mamba with dense and with experts, attention with dense; three inner norms, convolution bias,
// GQA.
inline ModelShape TinyJamba() {
  ModelShape shape;
  shape.family = ModelFamily::kJamba;
  shape.vocabulary = 19;
  shape.model_dim = 8;
  shape.hidden_dim = 10;
  shape.layers = {{MixerKind::kMamba1, FeedForwardKind::kExperts},
                  {MixerKind::kAttention, FeedForwardKind::kDense},
                  {MixerKind::kMamba1, FeedForwardKind::kExperts}};
  shape.initializer_range = 0.3;  // larger than in training, so that every path matters
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 4;
  shape.state_dim = 3;
  shape.conv_width = 4;
  shape.channels = 12;
  shape.dt_rank = 2;
  shape.experts = 4;
  shape.experts_per_token = 2;
  return shape;
}

// Tied embeddings, projection biases, no convolution bias, three of six experts, every auxiliary
// loss.
inline ModelShape OddJamba() {
  ModelShape shape = TinyJamba();
  shape.tied_embeddings = true;
  shape.projection_bias = true;
  shape.conv_bias = false;
  shape.conv_width = 3;
  shape.experts = 6;
  shape.experts_per_token = 3;
  shape.balance_loss_coefficient = 0.7;
  shape.z_loss_coefficient = 0.3;
  shape.activation_loss_coefficient = 0.5;
  shape.activation_loss_on_block_output = true;
  shape.activation_loss_on_expert_output = true;
  shape.activation_loss_on_residual = true;
  return shape;
}

inline ModelShape TinyLlama() {
  ModelShape shape;
  shape.family = ModelFamily::kLlama;
  shape.vocabulary = 17;
  shape.model_dim = 8;
  shape.hidden_dim = 12;
  shape.layers.assign(2, {MixerKind::kAttention, FeedForwardKind::kDense});
  shape.initializer_range = 0.3;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 4;
  shape.rotary_theta = 100;
  return shape;
}

// A model with the memory of its parameters, on one rank.
struct ModelUnderTest {
  ModelUnderTest(const ModelShape& shape, DType dtype,
                 Recomputation recomputation = Recomputation::kNone, uint64_t seed = 1,
                 int num_threads = 2)
      : execution({.num_threads = num_threads}),
        model(LanguageModel::Create(shape, dtype, recomputation, SingleRankMesh())) {
    auto made = ParameterSharder::Create(execution, SingleRankMesh(), model->Units());
    PLAIT_CHECK(made.ok());
    sharder = std::move(*made);
    PLAIT_CHECK(model->Initialize(*sharder, seed).ok());
  }

  ShardedParameter& parameter(const std::string& name) {
    for (ShardedParameter& parameter : sharder->sharded()) {
      if (parameter.name == name) return parameter;
    }
    PLAIT_CHECK(false);
    return sharder->sharded()[0];
  }

  Execution execution;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<ParameterSharder> sharder;
};

// Random documents of these lengths one after another, with random targets and weights. padding:
// how many tokens at the end are padding, a document of their own.
inline Microbatch RandomMicrobatch(const std::vector<int32_t>& lengths, int64_t vocabulary,
                                   DType dtype, uint64_t seed, int32_t padding = 0) {
  std::vector<int32_t> offsets = {0};
  for (int32_t length : lengths) offsets.push_back(offsets.back() + length);
  const int32_t real = offsets.back();
  if (padding > 0) offsets.push_back(real + padding);
  const int64_t tokens = offsets.back();
  std::vector<int32_t> ids(tokens, -1), targets(tokens, -1);
  std::vector<float> weights(tokens, 0.0f);
  const RandomKey key(seed, RandomPurpose::kTest, "microbatch");
  for (int32_t t = 0; t < real; ++t) {
    const auto words = key.Words(static_cast<uint64_t>(t));
    ids[t] = static_cast<int32_t>(words[0] % vocabulary);
    targets[t] = static_cast<int32_t>(words[1] % vocabulary);
    weights[t] = words[2] % 4 == 0 ? 0.0f : static_cast<float>(words[2] % 8) / 4.0f;
  }
  auto microbatch = Microbatch::Create(
      Tensor::FromValues<int32_t>({tokens}, ids), Tensor::FromValues<int32_t>({tokens}, targets),
      Tensor::FromValues<float>({tokens}, weights),
      Tensor::FromValues<int32_t>({static_cast<int64_t>(offsets.size())}, offsets), dtype);
  PLAIT_CHECK(microbatch.ok());
  return *std::move(microbatch);
}

inline StepCounts CountsOf(const std::vector<Microbatch>& microbatches) {
  StepCounts counts;
  for (const Microbatch& microbatch : microbatches) {
    for (float weight : microbatch.token_weight.values<float>()) counts.weight_sum += weight;
    counts.real_tokens += static_cast<double>(microbatch.layout.real_tokens);
  }
  return counts;
}

}  // namespace plait
