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
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
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

  // other: of as many experts.
  void Merge(const ExpertActivations& other);
  // Tokens of the most chosen expert over the mean of all; 0 without tokens.
  double largest_expert_load() const;
};

struct ActivationWatch {
  std::vector<BlockActivations> blocks;
  std::vector<ExpertActivations> experts;

  // other: of the same blocks, or this watch is empty.
  void Merge(const ActivationWatch& other);
};

// Sums over this rank's real rows of a microbatch, and over its blocks in their order: what the
// losses are made of. The parts of a pipeline hand them on, each adding its blocks'.
struct AuxiliarySums {
  double output_square_sum = 0;     // of the outputs of all blocks
  double residual_square_sum = 0;   // of the stream after every block, where it has a loss
  double expert_square_sum = 0;     // of the chosen experts' outputs
  double z = 0;                     // of the squares of log_sum_exp
  std::vector<double> choices;      // [experts]: how often each was chosen
  std::vector<double> probability;  // [experts]

  static AuxiliarySums Zero(const ModelShape& shape);
};

// One block of a microbatch, as the losses see it. The norm of the next block measures its output
// and the stream after it: at the end of a part that is another part's.
struct BlockObservation {
  int64_t block = 0;                            // of the model
  const RowStatisticsPair* output = nullptr;    // of the block's output, [rows]; nullptr: elsewhere
  const RowStatisticsPair* residual = nullptr;  // of the stream after the block; likewise
  const Routing* routing = nullptr;             // nullptr: no experts, or observed elsewhere
};

// What was observed of the blocks of a part, on its way to the host.
class Observation {
 public:
  Observation() = default;  // nothing
  static absl::StatusOr<Observation> Start(Execution& execution, const ModelShape& shape,
                                           const SequenceLayout& layout,
                                           const std::vector<BlockObservation>& blocks);

  // Once: adds to `sums` and to the watch, which has an entry for every block and expert layer of
  // the model. The host waits for the sums alone, not for what came after them. layout: as before.
  absl::Status Finish(const ModelShape& shape, const SequenceLayout& layout, AuxiliarySums& sums,
                      ActivationWatch& watch);

 private:
  // Where a block's sums lie among those of all blocks, f64.
  struct Place {
    int64_t block = 0;
    int64_t output = -1;    // of squares, then the largest magnitude
    int64_t residual = -1;  // of squares
    int64_t routing = -1;   // of squares of log_sum_exp; per expert: tokens, squares, maxima, p
    std::shared_ptr<const ExpertSchedule> schedule;  // of the routing; nullptr: not dealt
  };
  static absl::Status StartSums(Execution& execution, const ModelShape& shape,
                                const SequenceLayout& layout, const BlockObservation& block,
                                const Place& place, Tensor& sums);

  std::vector<Place> places_;
  HostCopy sums_;
};

// Shares of the step's losses that come from this rank's rows of one microbatch.
struct AuxiliaryLosses {
  double balance = 0;
  double z = 0;
  double activation = 0;
  std::vector<BlockLossFactors> factors;  // per block of the model, for the backward
  double final_residual_factor = 0;  // of the activation loss on the stream after the last block
};

// The factors are of the execution's device.
// sums: over all blocks, for the losses; the factors do not depend on them. choices: those of the
// sums over all blocks, summed over the ranks that the microbatch is divided over; read only where
// the shape has a balance loss.
absl::StatusOr<AuxiliaryLosses> ComputeAuxiliaryLosses(
    Execution& execution, const ModelShape& shape, const SequenceLayout& layout,
    const AuxiliarySums& sums, const std::vector<double>& choices, const StepCounts& counts);

}  // namespace plait
