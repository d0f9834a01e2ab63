#include "model/auxiliary_losses.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/number_at.h"

namespace plait {
namespace {

struct RealSum {
  double square_sum = 0;
  double absolute_max = 0;
};

RealSum SumOverRealTokens(const RowStatisticsPair& statistics, const SequenceLayout& layout) {
  RealSum sum;
  for (int64_t t = 0; t < layout.rows; ++t) {
    if (NumberAt(layout.real, t) == 0) continue;
    sum.square_sum += NumberAt(statistics.square_sum, t);
    sum.absolute_max = std::max(sum.absolute_max, NumberAt(statistics.absolute_max, t));
  }
  return sum;
}

// Per expert: real tokens, and sizes of its outputs.
ExpertActivations ObserveExperts(const ModelShape& shape, const SequenceLayout& layout,
                                 const BlockObservation& block, const std::string& name) {
  const Routing& routing = *block.routing;
  ExpertActivations experts{.name = name,
                            .tokens = std::vector<int64_t>(shape.experts),
                            .square_sum = std::vector<double>(shape.experts),
                            .absolute_max = std::vector<double>(shape.experts)};
  if (routing.schedule != nullptr) {
    experts.largest_rank_load = routing.schedule->largest_over_mean();
    experts.waves = static_cast<int64_t>(routing.schedule->waves().size());
    experts.recomputed_waves = routing.schedule->num_recomputed();
  }
  const int32_t* choices = routing.choices.data<int32_t>();
  const int32_t* token_row = routing.token_row.data<int32_t>();
  for (int64_t i = 0; i < layout.rows * shape.experts_per_token; ++i) {
    if (NumberAt(layout.real, i / shape.experts_per_token) == 0) continue;
    const int32_t expert = choices[i], row = token_row[i];
    ++experts.tokens[expert];
    experts.square_sum[expert] += NumberAt(routing.output_statistics.square_sum, row);
    experts.absolute_max[expert] = std::max(experts.absolute_max[expert],
                                            NumberAt(routing.output_statistics.absolute_max, row));
  }
  return experts;
}

}  // namespace

double ExpertActivations::largest_expert_load() const {
  const int64_t sum = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
  if (sum == 0) return 0;
  const double mean = static_cast<double>(sum) / static_cast<double>(tokens.size());
  return static_cast<double>(*std::ranges::max_element(tokens)) / mean;
}

void ExpertActivations::Merge(const ExpertActivations& other) {
  largest_rank_load = std::max(largest_rank_load, other.largest_rank_load);
  waves = std::max(waves, other.waves);
  recomputed_waves = std::max(recomputed_waves, other.recomputed_waves);
  for (size_t e = 0; e < tokens.size(); ++e) {
    tokens[e] += other.tokens[e];
    square_sum[e] += other.square_sum[e];
    absolute_max[e] = std::max(absolute_max[e], other.absolute_max[e]);
  }
}

void ActivationWatch::Merge(const ActivationWatch& other) {
  if (blocks.empty() && experts.empty()) {
    *this = other;
    return;
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    blocks[i].square_sum += other.blocks[i].square_sum;
    blocks[i].elements += other.blocks[i].elements;
    blocks[i].absolute_max = std::max(blocks[i].absolute_max, other.blocks[i].absolute_max);
  }
  for (size_t i = 0; i < experts.size(); ++i) experts[i].Merge(other.experts[i]);
}

AuxiliarySums AuxiliarySums::Zero(const ModelShape& shape) {
  const auto experts = static_cast<size_t>(shape.experts);
  return {.choices = std::vector<double>(experts), .probability = std::vector<double>(experts)};
}

void Observe(const ModelShape& shape, const SequenceLayout& layout,
             const std::vector<BlockObservation>& blocks, AuxiliarySums& sums,
             ActivationWatch& watch) {
  const double elements =
      static_cast<double>(layout.real_rows) * static_cast<double>(shape.model_dim);
  for (const BlockObservation& block : blocks) {
    BlockActivations& watched = watch.blocks[static_cast<size_t>(block.block)];
    if (block.output != nullptr) {
      const RealSum output = SumOverRealTokens(*block.output, layout);
      watched.square_sum += output.square_sum;
      watched.elements += elements;
      watched.absolute_max = std::max(watched.absolute_max, output.absolute_max);
      sums.output_square_sum += output.square_sum;
    }
    if (block.residual != nullptr) {
      sums.residual_square_sum += SumOverRealTokens(*block.residual, layout).square_sum;
    }
    if (block.routing == nullptr) continue;
    const ExpertActivations experts = ObserveExperts(shape, layout, block, watched.name);
    for (int64_t e = 0; e < shape.experts; ++e) {
      sums.choices[e] += static_cast<double>(experts.tokens[e]);
      sums.expert_square_sum += experts.square_sum[e];
    }
    for (int64_t t = 0; t < layout.rows; ++t) {
      if (NumberAt(layout.real, t) == 0) continue;
      const double log_sum_exp = NumberAt(block.routing->log_sum_exp, t);
      sums.z += log_sum_exp * log_sum_exp;
      for (int64_t e = 0; e < shape.experts; ++e) {
        sums.probability[e] += NumberAt(block.routing->probabilities, t * shape.experts + e);
      }
    }
    const auto layer = std::ranges::find(watch.experts, watched.name, &ExpertActivations::name);
    PLAIT_CHECK(layer != watch.experts.end());
    layer->Merge(experts);
  }
}

AuxiliaryLosses ComputeAuxiliaryLosses(const ModelShape& shape, const SequenceLayout& layout,
                                       const AuxiliarySums& sums,
                                       const std::vector<double>& choices,
                                       const StepCounts& counts) {
  const auto num_blocks = static_cast<size_t>(shape.num_blocks());
  AuxiliaryLosses losses;
  losses.factors.resize(num_blocks);
  const auto dim = static_cast<double>(shape.model_dim);
  const auto num_layers = static_cast<double>(shape.num_expert_layers());
  const auto per_choice = static_cast<double>(shape.experts_per_token);
  const double per_token = counts.real_tokens > 0 ? 1.0 / counts.real_tokens : 0.0;
  // Of the means over sites of a kind.
  const double coefficient = shape.activation_loss_coefficient * per_token / dim;
  const double per_block = coefficient / static_cast<double>(num_blocks);
  const double output_factor = shape.activation_loss_on_block_output ? per_block : 0;
  const double residual_factor = shape.activation_loss_on_residual ? per_block : 0;
  const double expert_factor = shape.activation_loss_on_expert_output && num_layers > 0
                                   ? coefficient / (per_choice * num_layers)
                                   : 0;
  const double z_factor = num_layers > 0 ? shape.z_loss_coefficient * per_token / num_layers : 0;
  losses.activation = output_factor * sums.output_square_sum +
                      residual_factor * sums.residual_square_sum +
                      expert_factor * sums.expert_square_sum;
  losses.z = z_factor * sums.z;

  Tensor balance_gradient;
  if (shape.balance_loss_coefficient > 0 && num_layers > 0 && layout.real_tokens > 0) {
    const double rows = num_layers * static_cast<double>(layout.real_tokens);
    const double scale = shape.balance_loss_coefficient * static_cast<double>(shape.experts);
    balance_gradient = Tensor::OnHost(layout.real.dtype(), {shape.experts});
    for (int64_t e = 0; e < shape.experts; ++e) {
      const double fraction = choices[e] / rows;
      // The microbatch's weight real / step real, times fraction x mean probability.
      const double value = scale * fraction / num_layers * per_token;
      losses.balance += value * sums.probability[e];
      SetNumber(balance_gradient, e, value);
    }
  }
  for (size_t i = 0; i < num_blocks; ++i) {
    BlockLossFactors& factors = losses.factors[i];
    factors.block_output = output_factor;
    // The stream after block i is the input of block i + 1, whose backward adds the gradient.
    if (i > 0) factors.residual = residual_factor;
    if (i % 2 == 0 || shape.layers[i / 2].feed_forward != FeedForwardKind::kExperts) continue;
    factors.expert_output = expert_factor;
    factors.z = z_factor;
    factors.balance_gradient = balance_gradient;
  }
  losses.final_residual_factor = residual_factor;
  return losses;
}

}  // namespace plait
