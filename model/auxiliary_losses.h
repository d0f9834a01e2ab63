// Losses that live inside the blocks, their gradients' factors, and the watch over activations.
//   activation loss = coefficient x mean over sites of a kind of (mean square over real tokens),
//   summed over the kinds balance loss    = coefficient x E sum_e f_e P_e, pooled over all expert
//   layers of the microbatch: f_e = choices of e /
//                     (layers x real tokens), P_e = mean probability of e; about experts_per_token
//                     when balanced. The gradient goes through P alone. A microbatch weighs as its
//                     real tokens do in the step.
//   z-loss          = coefficient x mean over real tokens and expert layers of
//   log_sum_exp(logits)^2
// Sources: the Jamba reference (balance loss); Zoph et al., "ST-MoE", 2022 (z-loss); Jamba-1.5
// report, 2024 (activation loss).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/block.h"
#include "model/model_shape.h"

namespace plait {

// Counts over all microbatches and ranks of a step, known before its first forward pass.
struct StepCounts {
  double weight_sum = 0;   // of token weights: divides the language-model loss
  double real_tokens = 0;  // divides the auxiliary losses
};

// Sizes of activations over the real tokens of one microbatch or, merged, of several.
struct BlockActivations {
  std::string name;
  double square_sum = 0;
  double elements = 0;
  double absolute_max = 0;
};

struct ExpertActivations {
  std::string name;
  std::vector<int64_t> tokens;       // per expert, real tokens that chose it
  std::vector<double> square_sum;    // per expert, of its outputs before the router weight
  std::vector<double> absolute_max;  // per expert

  // Of experts that are dealt over ranks (parallel/expert_schedule.h), the most of any microbatch:
  double largest_rank_load = 0;  // rows of the most loaded rank over the mean; 0: not dealt
  int64_t waves = 0;
  int64_t recomputed_waves = 0;  // because of overload

  // Tokens of the most chosen expert over the mean of all; 0 without tokens.
  double largest_expert_load() const;
};

struct ActivationWatch {
  std::vector<BlockActivations> blocks;
  std::vector<ExpertActivations> experts;

  void Merge(const ActivationWatch& other);
};

// Shares of the step's losses that come from this rank's rows of one microbatch.
struct AuxiliaryLosses {
  double balance = 0;
  double z = 0;
  double activation = 0;
  ActivationWatch watch;
  std::vector<BlockLossFactors> factors;  // per block, for the backward
  double final_residual_factor = 0;  // of the activation loss on the stream after the last block
};

// One block of a microbatch, as the losses see it.
struct BlockObservation {
  std::string name;
  const RowStatisticsPair* output = nullptr;  // of the block's output, [rows]
  const RowStatisticsPair* residual =
      nullptr;                       // of the stream after the block; nullptr: not observed
  const Routing* routing = nullptr;  // nullptr: no experts
};

// [experts]: how often each expert was chosen by this rank's real tokens, over all expert layers.
std::vector<double> ExpertChoices(const ModelShape& shape, const SequenceLayout& layout,
                                  const std::vector<BlockObservation>& blocks);

// choices: ExpertChoices summed over the ranks that the microbatch is divided over; read only where
// the shape has a balance loss. The losses are what this rank's rows contribute.
AuxiliaryLosses ComputeAuxiliaryLosses(const ModelShape& shape, const SequenceLayout& layout,
                                       const std::vector<BlockObservation>& blocks,
                                       const std::vector<double>& choices,
                                       const StepCounts& counts);

}  // namespace plait
