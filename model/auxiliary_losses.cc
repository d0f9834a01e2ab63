#include "model/auxiliary_losses.h"

#include <algorithm>
#include <numeric>

namespace plait {
namespace {

double At(const Tensor& tensor, int64_t i) {
  return tensor.dtype() == DType::kF64 ? tensor.data<double>()[i]
                                       : static_cast<double>(tensor.data<float>()[i]);
}

struct RealSum {
  double square_sum = 0;
  double absolute_max = 0;
};

RealSum SumOverRealTokens(const RowStatisticsPair& statistics, const SequenceLayout& layout) {
  RealSum sum;
  for (int64_t t = 0; t < layout.rows; ++t) {
    if (At(layout.real, t) == 0) continue;
    sum.square_sum += At(statistics.square_sum, t);
    sum.absolute_max = std::max(sum.absolute_max, At(statistics.absolute_max, t));
  }
  return sum;
}

// Per expert: real tokens, and sizes of its outputs.
ExpertActivations ObserveExperts(const ModelShape& shape, const SequenceLayout& layout,
                                 const BlockObservation& block) {
  const Routing& routing = *block.routing;
  ExpertActivations experts{.name = block.name,
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
    if (At(layout.real, i / shape.experts_per_token) == 0) continue;
    const int32_t expert = choices[i], row = token_row[i];
    ++experts.tokens[expert];
    experts.square_sum[expert] += At(routing.output_statistics.square_sum, row);
    experts.absolute_max[expert] =
        std::max(experts.absolute_max[expert], At(routing.output_statistics.absolute_max, row));
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
  for (size_t i = 0; i < experts.size(); ++i) {
    experts[i].largest_rank_load =
        std::max(experts[i].largest_rank_load, other.experts[i].largest_rank_load);
    experts[i].waves = std::max(experts[i].waves, other.experts[i].waves);
    experts[i].recomputed_waves =
        std::max(experts[i].recomputed_waves, other.experts[i].recomputed_waves);
    for (size_t e = 0; e < experts[i].tokens.size(); ++e) {
      experts[i].tokens[e] += other.experts[i].tokens[e];
      experts[i].square_sum[e] += other.experts[i].square_sum[e];
      experts[i].absolute_max[e] =
          std::max(experts[i].absolute_max[e], other.experts[i].absolute_max[e]);
    }
  }
}

std::vector<double> ExpertChoices(const ModelShape& shape, const SequenceLayout& layout,
                                  const std::vector<BlockObservation>& blocks) {
  std::vector<double> choices(static_cast<size_t>(shape.experts), 0.0);
  for (const BlockObservation& block : blocks) {
    if (block.routing == nullptr) continue;
    const int32_t* chosen = block.routing->choices.data<int32_t>();
    for (int64_t i = 0; i < layout.rows * shape.experts_per_token; ++i) {
      if (At(layout.real, i / shape.experts_per_token) != 0) choices[chosen[i]] += 1;
    }
  }
  return choices;
}

AuxiliaryLosses ComputeAuxiliaryLosses(const ModelShape& shape, const SequenceLayout& layout,
                                       const std::vector<BlockObservation>& blocks,
                                       const std::vector<double>& choices,
                                       const StepCounts& counts) {
  AuxiliaryLosses losses;
  losses.factors.resize(blocks.size());
  const auto dim = static_cast<double>(shape.model_dim);
  const auto num_blocks = static_cast<double>(blocks.size());
  const auto num_layers = static_cast<double>(shape.num_expert_layers());
  const auto per_choice = static_cast<double>(shape.experts_per_token);
  const double coefficient = shape.activation_loss_coefficient;
  const double per_token = counts.real_tokens > 0 ? 1.0 / counts.real_tokens : 0.0;
  const double output_factor =
      shape.activation_loss_on_block_output ? coefficient * per_token / (dim * num_blocks) : 0;
  const double residual_factor =
      shape.activation_loss_on_residual ? coefficient * per_token / (dim * num_blocks) : 0;
  const double expert_factor = shape.activation_loss_on_expert_output && num_layers > 0
                                   ? coefficient * per_token / (dim * per_choice * num_layers)
                                   : 0;
  const double z_factor = num_layers > 0 ? shape.z_loss_coefficient * per_token / num_layers : 0;

  std::vector<double> probability(shape.experts);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const BlockObservation& block = blocks[i];
    const RealSum output = SumOverRealTokens(*block.output, layout);
    losses.watch.blocks.push_back({block.name, output.square_sum,
                                   static_cast<double>(layout.real_rows) * dim,
                                   output.absolute_max});
    losses.activation += output_factor * output.square_sum;
    losses.factors[i].block_output = output_factor;
    // The stream after block i is the input of block i + 1, whose backward adds the gradient.
    if (block.residual != nullptr) {
      losses.activation += residual_factor * SumOverRealTokens(*block.residual, layout).square_sum;
      if (i + 1 < blocks.size()) {
        losses.factors[i + 1].residual = residual_factor;
      } else {
        losses.final_residual_factor = residual_factor;
      }
    }
    if (block.routing == nullptr) continue;
    const ExpertActivations experts = ObserveExperts(shape, layout, block);
    for (int64_t e = 0; e < shape.experts; ++e) {
      losses.activation += expert_factor * experts.square_sum[e];
    }
    for (int64_t t = 0; t < layout.rows; ++t) {
      if (At(layout.real, t) == 0) continue;
      const double log_sum_exp = At(block.routing->log_sum_exp, t);
      losses.z += z_factor * log_sum_exp * log_sum_exp;
      for (int64_t e = 0; e < shape.experts; ++e) {
        probability[e] += At(block.routing->probabilities, t * shape.experts + e);
      }
    }
    losses.factors[i].expert_output = expert_factor;
    losses.factors[i].z = z_factor;
    losses.watch.experts.push_back(experts);
  }

  if (shape.balance_loss_coefficient > 0 && num_layers > 0 && layout.real_tokens > 0) {
    const double rows = num_layers * static_cast<double>(layout.real_tokens);
    const double scale = shape.balance_loss_coefficient * static_cast<double>(shape.experts);
    Tensor gradient = Tensor::OnHost(layout.real.dtype(), {shape.experts});
    for (int64_t e = 0; e < shape.experts; ++e) {
      const double fraction = choices[e] / rows;
      // The microbatch's weight real / step real, times fraction x mean probability.
      losses.balance += scale * fraction * probability[e] / num_layers * per_token;
      const double value = scale * fraction / num_layers * per_token;
      if (gradient.dtype() == DType::kF64) {
        gradient.data<double>()[e] = value;
      } else {
        gradient.data<float>()[e] = static_cast<float>(value);
      }
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].routing != nullptr) losses.factors[i].balance_gradient = gradient;
    }
  }
  return losses;
}

}  // namespace plait
