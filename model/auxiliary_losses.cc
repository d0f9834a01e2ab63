#include "model/auxiliary_losses.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/number_at.h"
#include "base/status_macros.h"
#include "kernels/real_sums.h"

namespace plait {
namespace {

// Per expert: real tokens, and sizes of its outputs. sums: [3, experts].
ExpertActivations ExpertsOf(const ExpertSchedule* schedule, const std::string& name,
                            const double* sums, int64_t experts) {
  ExpertActivations activations{.name = name};
  activations.tokens.assign(sums, sums + experts);
  activations.square_sum.assign(sums + experts, sums + 2 * experts);
  activations.absolute_max.assign(sums + 2 * experts, sums + 3 * experts);
  if (schedule != nullptr) {
    activations.largest_rank_load = schedule->largest_over_mean();
    activations.waves = static_cast<int64_t>(schedule->waves().size());
    activations.recomputed_waves = schedule->num_recomputed();
  }
  return activations;
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

absl::Status Observation::StartSums(Execution& execution, const ModelShape& shape,
                                    const SequenceLayout& layout, const BlockObservation& block,
                                    const Place& place, Tensor& sums) {
  const auto at = [&](int64_t offset, int64_t size) { return sums.Flat(offset, {size}).vector(); };
  const ConstVectorView real = std::as_const(layout.real).vector();
  const auto column = [](const Tensor& numbers) {
    return numbers.Reshape({numbers.num_elements(), 1}).matrix();
  };
  if (block.output != nullptr) {
    PLAIT_RETURN_IF_ERROR(RealRowSums(
        execution,
        {.real = real, .values = column(block.output->square_sum), .sums = at(place.output, 1)}));
    PLAIT_RETURN_IF_ERROR(RealRowSums(execution, {.real = real,
                                                  .values = column(block.output->absolute_max),
                                                  .maxima = at(place.output + 1, 1)}));
  }
  if (block.residual != nullptr) {
    PLAIT_RETURN_IF_ERROR(RealRowSums(execution, {.real = real,
                                                  .values = column(block.residual->square_sum),
                                                  .sums = at(place.residual, 1)}));
  }
  if (block.routing == nullptr) return absl::OkStatus();
  const Routing& routing = *block.routing;
  const int64_t experts = shape.experts, first = place.routing + 1;
  PLAIT_RETURN_IF_ERROR(RealRowSums(execution, {.real = real,
                                                .values = column(routing.log_sum_exp),
                                                .sum_of = SumOf::kSquares,
                                                .sums = at(place.routing, 1)}));
  PLAIT_RETURN_IF_ERROR(RealExpertSums(
      execution, {.real = real,
                  .choices = routing.choices.data<int32_t>(),
                  .token_row = routing.token_row.data<int32_t>(),
                  .experts_per_token = shape.experts_per_token,
                  .pair_weight = std::as_const(routing.weights).vector(),
                  .square_sum = std::as_const(routing.output_statistics.square_sum).vector(),
                  .absolute_max = std::as_const(routing.output_statistics.absolute_max).vector(),
                  .tokens = at(first, experts),
                  .square_sums = at(first + experts, experts),
                  .maxima = at(first + 2 * experts, experts)}));
  return RealRowSums(execution, {.real = real,
                                 .values = std::as_const(routing.probabilities).matrix(),
                                 .sums = at(first + 3 * experts, experts)});
}

absl::StatusOr<Observation> Observation::Start(Execution& execution, const ModelShape& shape,
                                               const SequenceLayout& layout,
                                               const std::vector<BlockObservation>& blocks) {
  Observation observation;
  int64_t size = 0;
  const auto take = [&size](int64_t count) { return (size += count) - count; };
  for (const BlockObservation& block : blocks) {
    Place& place = observation.places_.emplace_back();
    place.block = block.block;
    if (block.output != nullptr) place.output = take(2);
    if (block.residual != nullptr) place.residual = take(1);
    if (block.routing == nullptr) continue;
    place.routing = take(1 + 4 * shape.experts);
    place.schedule = block.routing->schedule;
  }
  Tensor sums = execution.Empty(DType::kF64, {size});
  for (size_t i = 0; i < blocks.size(); ++i) {
    PLAIT_RETURN_IF_ERROR(
        StartSums(execution, shape, layout, blocks[i], observation.places_[i], sums));
  }
  PLAIT_ASSIGN_OR_RETURN(observation.sums_, execution.StartToHost(sums));
  return observation;
}

absl::Status Observation::Finish(const ModelShape& shape, const SequenceLayout& layout,
                                 AuxiliarySums& sums, ActivationWatch& watch) {
  if (places_.empty()) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, sums_.Wait());
  const double* values = all.data<double>();
  const double elements =
      static_cast<double>(layout.real_rows) * static_cast<double>(shape.model_dim);
  for (const Place& place : places_) {
    BlockActivations& watched = watch.blocks[static_cast<size_t>(place.block)];
    if (place.output >= 0) {
      const double square_sum = values[place.output];
      watched.square_sum += square_sum;
      watched.elements += elements;
      watched.absolute_max = std::max(watched.absolute_max, values[place.output + 1]);
      sums.output_square_sum += square_sum;
    }
    if (place.residual >= 0) sums.residual_square_sum += values[place.residual];
    if (place.routing < 0) continue;
    const double* of_experts = values + place.routing + 1;
    sums.z += values[place.routing];
    const ExpertActivations experts =
        ExpertsOf(place.schedule.get(), watched.name, of_experts, shape.experts);
    for (int64_t e = 0; e < shape.experts; ++e) {
      sums.choices[e] += static_cast<double>(experts.tokens[e]);
      sums.expert_square_sum += experts.square_sum[e];
      sums.probability[e] += of_experts[3 * shape.experts + e];
    }
    const auto layer = std::ranges::find(watch.experts, watched.name, &ExpertActivations::name);
    PLAIT_CHECK(layer != watch.experts.end());
    layer->Merge(experts);
  }
  places_.clear();
  return absl::OkStatus();
}

absl::StatusOr<AuxiliaryLosses> ComputeAuxiliaryLosses(
    Execution& execution, const ModelShape& shape, const SequenceLayout& layout,
    const AuxiliarySums& sums, const std::vector<double>& choices, const StepCounts& counts) {
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
    PLAIT_ASSIGN_OR_RETURN(balance_gradient, execution.ToDevice(balance_gradient));
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
