// ExpertExchange: rows of tokens to the ranks that hold their experts, and results back. The
// experts of a layer are dealt to the ranks in equal blocks: expert e is on rank
// e / (experts / ranks). Rows come sorted by expert, so that those for one rank are one range.
// Counts go first, one all-gather for all waves of a microbatch (expert_schedule.h); then rows, one
// exact-size all-to-all for each wave and direction. Nothing is dropped or padded. Rows lie in the
// order of arrival (by rank, then expert); `arrival` and `place` lead from the order of the experts
// (by expert, then rank) to it and back. Return is Dispatch backwards, and each is the other's
// gradient. Source: Gale et al., "MegaBlocks", 2022 (dropless experts).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "parallel/communicator.h"
#include "parallel/expert_schedule.h"

namespace plait {

class ExpertExchange {
 public:
  // Which rows of a wave go where.
  struct Plan {
    std::vector<int64_t> sent;      // rows per rank
    std::vector<int64_t> received;  // rows per rank
    Tensor offsets;                 // i32 [own experts + 1]: rows of each own expert
    Tensor arrival;                 // i32 [received rows]: row of arrival of each row in order
    Tensor place;                   // i32 [received rows]: row in order of each arrived one
    int64_t num_received() const { return arrival.num_elements(); }
  };

  // Rows under way.
  class Transfer {
   public:
    // Ends the wait of the compute stream for them and gives them away.
    absl::StatusOr<Tensor> Arrived(Execution& execution);

   private:
    friend class ExpertExchange;
    Tensor source_;  // read until done
    Tensor rows_;
    Event done_;
  };

  // experts: of the layer, a multiple of the ranks. InvalidArgument else.
  static absl::StatusOr<ExpertExchange> Create(Communicator& ranks, int64_t experts);

  int64_t own_experts() const { return experts_ / ranks_->size(); }
  int64_t first_expert() const { return own_experts() * ranks_->rank(); }

  // Collective. choices: host, [tokens, experts_per_token], as many tokens on every rank. The host
  // waits for the counts: the one wait of a step in its middle.
  absl::StatusOr<std::shared_ptr<const ExpertSchedule>> Schedule(const int32_t* choices,
                                                                 int64_t tokens,
                                                                 int64_t experts_per_token,
                                                                 int64_t wave_tokens) const;
  absl::StatusOr<Plan> PlanOf(Execution& execution, const ExpertSchedule::Wave& wave) const;

  // Collective, and under way when these return. rows: [sent rows, width], sorted by expert;
  // becomes [received rows, width] in the order of arrival.
  absl::StatusOr<Transfer> Dispatch(Execution& execution, const Plan& plan, Tensor rows) const;
  // results: [received rows, width] in the order of arrival; becomes [sent rows, width] in the
  // order of Dispatch's input.
  absl::StatusOr<Transfer> Return(Execution& execution, const Plan& plan, Tensor results) const;

 private:
  ExpertExchange(Communicator& ranks, int64_t experts) : ranks_(&ranks), experts_(experts) {}
  absl::StatusOr<Transfer> Move(Execution& execution, const std::vector<int64_t>& sent,
                                const std::vector<int64_t>& received, Tensor rows) const;

  Communicator* ranks_;
  int64_t experts_;
};

}  // namespace plait
