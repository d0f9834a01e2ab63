// ExpertExchange: rows of tokens to the ranks that hold their experts, and results back. The
// experts of a layer are dealt to the ranks of the expert axis in equal blocks: expert e is on rank
// e / (experts / ranks). Rows come sorted by expert, so that those for one rank are one range, and
// go through two all-to-alls: counts, then rows. Nothing is dropped. Combine is Dispatch backwards,
// and each is the other's gradient. Source: Gale et al., "MegaBlocks", 2022 (dropless experts).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "parallel/communicator.h"

namespace plait {

class ExpertExchange {
 public:
  // Which rows went where, for the way back.
  struct Plan {
    std::vector<int64_t> sent;      // rows per rank
    std::vector<int64_t> received;  // rows per rank
    // [ranks x own experts]: rows that came from each rank for each of this rank's experts.
    std::vector<int64_t> received_by_expert;
    // i32 [own experts + 1]: where each expert's rows begin after Dispatch.
    Tensor offsets;
  };

  // experts: of the layer, a multiple of the ranks. InvalidArgument else.
  static absl::StatusOr<ExpertExchange> Create(Communicator& ranks, int64_t experts);

  int64_t own_experts() const { return experts_ / ranks_->size(); }

  // Collective. offsets: i32 [experts + 1], where each expert's rows begin in this rank's sorted
  // rows. The host waits for the counts.
  absl::StatusOr<Plan> Exchange(Execution& execution, const Tensor& offsets) const;
  // rows: [sorted rows, width]. Returns this rank's experts' rows, sorted by expert, then by rank.
  absl::StatusOr<Tensor> Dispatch(Execution& execution, const Plan& plan, const Tensor& rows) const;
  // results: as Dispatch returned them. Returns [sorted rows, width] in the order of Dispatch's
  // input.
  absl::StatusOr<Tensor> Combine(Execution& execution, const Plan& plan,
                                 const Tensor& results) const;

 private:
  ExpertExchange(Communicator& ranks, int64_t experts) : ranks_(&ranks), experts_(experts) {}
  absl::StatusOr<Tensor> Move(Execution& execution, std::span<const int64_t> sent,
                              std::span<const int64_t> received, const Tensor& rows) const;

  Communicator* ranks_;
  int64_t experts_;
};

}  // namespace plait
