// DealtExperts: the experts of a mixture where they are dealt, whole, over several ranks. Each rank
// routes its own tokens; their rows go to the experts' ranks and come back in waves
// (parallel/expert_schedule.h), a row and its router weight in one message:
//   forward   dispatch of wave i + 1 | experts of wave i | return of wave i - 1
//   backward  dispatch of wave i + 1 | input gradients of wave i
//             return of wave i       | weight gradients of wave i
// where what stands in one line may go on at the same time. Every rank makes the same calls in the
// same order. Rows of a token are summed at home in the order of its choices, so that neither the
// waves nor the ranks change a result by more than the rounding of the products' sums.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/block.h"
#include "model/expert_feed_forward.h"
#include "parallel/expert_exchange.h"

namespace plait {

class DealtExperts {
 public:
  // What the backward reads of one wave; absent where it is to be computed again.
  struct SavedWave {
    Tensor arrived;  // [received rows, model_dim + weight], in the order of arrival
    Tensor gate_up;  // [received rows, 2 x hidden_dim], in the order of the experts
  };
  // Rows from first_row on of a routing's order, [rows, model_dim].
  using TakeRows = std::function<absl::Status(int64_t first_row, const Tensor& rows)>;
  using GiveRows = std::function<absl::Status(int64_t first_row, MatrixView rows)>;

  // Both outlive it.
  DealtExperts(const ExpertExchange& exchange, ExpertFeedForward& experts)
      : exchange_(exchange), experts_(experts) {}

  // Collective. y: [tokens, model_dim], the normalised tokens. row_weights: [rows]. out: [tokens,
  // model_dim], overwritten. take: sees the weighted outputs of every row, wave by wave. saved ==
  // nullptr keeps nothing.
  absl::Status Forward(Execution& execution, const Tensor& y, const Routing& routing,
                       const Tensor& row_weights, const TakeRows& take, Tensor& out,
                       std::vector<SavedWave>* saved) const;

  // Collective. give: writes the gradient of the rows' weighted outputs. dy: [tokens, model_dim],
  // f32 or f64, and drow_weights: [rows], overwritten. Adds to the experts' gradients.
  absl::Status Backward(Execution& execution, const Tensor& y, const Routing& routing,
                        const Tensor& row_weights, const GiveRows& give,
                        const std::vector<SavedWave>& saved, Tensor& dy, Tensor& drow_weights);

 private:
  // The experts' side of a wave: rows that arrived, with their weights in order.
  struct Arrived {
    Tensor rows;
    Tensor weights;
    ExpertFeedForward::Rows View(const ExpertExchange::Plan& plan, int64_t model_dim) const;
  };

  absl::StatusOr<Tensor> Weights(Execution& execution, const ExpertExchange::Plan& plan,
                                 const Tensor& arrived, int64_t column) const;
  // Sums the tokens' rows of a wave: out[t] = sum over choices, for the tokens of the wave.
  absl::Status Combine(Execution& execution, const Routing& routing,
                       const ExpertSchedule::Wave& wave, ConstMatrixView rows, Tensor& out) const;

  const ExpertExchange& exchange_;
  ExpertFeedForward& experts_;
};

}  // namespace plait
