// Block: half a layer, the unit of sharding, recomputation and checkpoint naming: RMSNorm, then a
// mixer or feed-forward. The residual stream travels as a pair whose sum is the stream: `residual`,
// and the `delta` that the block before produced; the norm of the next block adds them in the same
// pass over memory. Backward takes and returns the gradient of the sum. State lives in arguments:
// Saved belongs to one microbatch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "model/initialization.h"
#include "model/sequence_layout.h"
#include "parallel/expert_schedule.h"

namespace plait {

struct ResidualStream {
  Tensor residual;  // [tokens, model_dim], compute dtype
  Tensor delta;     // [tokens, model_dim] not yet added; absent: nothing to add
};

// Sum of squares and largest magnitude per row, before any mask. f32 or f64.
struct RowStatisticsPair {
  Tensor square_sum;    // [rows]
  Tensor absolute_max;  // [rows]
};

// What an expert block decided for one microbatch. Kept even where a block is recomputed: a second
// routing could differ by a rounding.
struct Routing {
  Tensor probabilities;  // f32 or f64 [tokens, experts]
  Tensor weights;        // f32 or f64 [tokens, experts_per_token]
  Tensor choices;        // i32 [tokens, experts_per_token]
  Tensor log_sum_exp;    // f32 or f64 [tokens]
  // The rows, one for each choice of each token, sorted by expert: all of them where the experts
  // are on one rank, else wave by wave (`schedule`).
  Tensor offsets;    // i32 [experts + 1], rows of each expert; absent where they come in waves
  Tensor row_token;  // i32 [rows]
  Tensor token_row;  // i32 [tokens, experts_per_token]
  // The waves; absent where the experts are on one rank.
  std::shared_ptr<const ExpertSchedule> schedule;
  // Per row, of the expert's output times the router weight.
  RowStatisticsPair output_statistics;
};

// Keys, values and recurrent states of one block between steps of cached generation, for one
// sequence.
struct BlockCache {
  int64_t length = 0;  // tokens seen
  Tensor keys;         // [capacity, kv_heads x head_dim]
  Tensor values;       // [capacity, kv_heads x head_dim]
  Tensor convolution;  // [conv_width - 1, channels]
  Tensor scan;         // [state_dim, channels], f32 or f64
};

// Factors of the losses that live inside blocks; already divided by the counts they average over.
struct BlockLossFactors {
  double block_output = 0;   // gradient of the activation loss: 2 x this x delta, on real tokens
  double expert_output = 0;  // 2 x this x output of a chosen expert, on real tokens
  double residual = 0;       // 2 x this x residual sum
  double z = 0;              // router z-loss: 2 x this x log_sum_exp x p
  Tensor balance_gradient;   // f32 or f64 [experts], on the execution's device; absent: none
};

struct BlockForwardContext {
  const SequenceLayout* layout = nullptr;
  // Statistics of the incoming delta (the output of the block before); absent: not wanted.
  RowStatisticsPair* delta_statistics = nullptr;
  // An earlier decision to follow instead of routing anew; expert blocks only.
  const Routing* routing = nullptr;
  BlockCache* cache = nullptr;
};

struct BlockBackwardContext {
  const SequenceLayout* layout = nullptr;
  BlockLossFactors factors;
};

class Block {
 public:
  // What Backward reads; each kind of block has its own.
  struct Saved {
    virtual ~Saved() = default;
    Tensor residual_sum;  // the block's normalised input, [tokens, model_dim]
    Tensor output;        // delta; kept only where the activation loss needs it
  };

  virtual ~Block() = default;

  // "model.layers.3.mamba": for messages and statistics.
  virtual const std::string& name() const = 0;
  virtual std::vector<LayerParameter*> parameters() = 0;
  // Expert blocks: the routing in `saved`. Others: nullptr.
  virtual const Routing* routing(const Saved& saved) const = 0;

  // Replaces stream by (residual + delta, this block's output). saved == nullptr keeps nothing.
  virtual absl::Status Forward(Execution& execution, const BlockForwardContext& context,
                               ResidualStream& stream, std::unique_ptr<Saved>* saved) = 0;
  // gradient: of the stream after this block. Returns that of the stream before it. Adds to the
  // parameters' gradients.
  virtual absl::StatusOr<Tensor> Backward(Execution& execution, const BlockBackwardContext& context,
                                          const Tensor& gradient, const Saved& saved) = 0;
};

}  // namespace plait
