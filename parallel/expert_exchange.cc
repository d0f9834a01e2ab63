#include "parallel/expert_exchange.h"

#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {
namespace {

int64_t Sum(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Copies groups of rows between the order of arrival (by rank, then expert) and that of the experts
// (by expert, then rank). counts: [ranks x experts].
void Regroup(std::span<const int64_t> counts, int64_t ranks, int64_t experts, bool to_experts,
             const Tensor& from, Tensor& to) {
  const size_t width = static_cast<size_t>(from.shape()[1]) * SizeOf(from.dtype());
  std::vector<int64_t> arrival(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), arrival.begin(), int64_t{0});
  int64_t next = 0;
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t r = 0; r < ranks; ++r) {
      const int64_t count = counts[static_cast<size_t>(r * experts + e)];
      const int64_t by_rank = arrival[static_cast<size_t>(r * experts + e)];
      const int64_t source = to_experts ? by_rank : next;
      const int64_t target = to_experts ? next : by_rank;
      if (count > 0) {
        std::memcpy(static_cast<char*>(to.raw()) + static_cast<size_t>(target) * width,
                    static_cast<const char*>(from.raw()) + static_cast<size_t>(source) * width,
                    static_cast<size_t>(count) * width);
      }
      next += count;
    }
  }
}

}  // namespace

absl::StatusOr<ExpertExchange> ExpertExchange::Create(Communicator& ranks, int64_t experts) {
  if (experts < 1 || experts % ranks.size() != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert axis = ", ranks.size(), " does not divide the ", experts, " experts"));
  }
  return ExpertExchange(ranks, experts);
}

absl::StatusOr<ExpertExchange::Plan> ExpertExchange::Exchange(Execution& execution,
                                                              const Tensor& offsets) const {
  if (offsets.num_elements() != experts_ + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert offsets: expected ", experts_ + 1, ", got ", offsets.num_elements()));
  }
  const int64_t ranks = ranks_->size(), own = own_experts();
  Tensor counts = Tensor::OnHost(DType::kI64, {experts_});
  const int32_t* begin = offsets.data<int32_t>();
  for (int64_t e = 0; e < experts_; ++e) counts.data<int64_t>()[e] = begin[e + 1] - begin[e];
  Plan plan;
  plan.received_by_expert.resize(static_cast<size_t>(ranks * own));
  const std::vector<int64_t> each(static_cast<size_t>(ranks), own);
  PLAIT_ASSIGN_OR_RETURN(
      const Event told,
      ranks_->AllToAll(execution.communication(), counts.vector(), each,
                       {plan.received_by_expert.data(), DType::kI64, ranks * own}, each));
  PLAIT_RETURN_IF_ERROR(told.Synchronize());
  plan.offsets = Tensor::OnHost(DType::kI32, {own + 1});
  for (int64_t r = 0; r < ranks; ++r) {
    plan.sent.push_back(Sum({counts.data<int64_t>() + r * own, static_cast<size_t>(own)}));
    plan.received.push_back(
        Sum({plan.received_by_expert.data() + r * own, static_cast<size_t>(own)}));
  }
  for (int64_t e = 0; e < own; ++e) {
    int64_t rows = 0;
    for (int64_t r = 0; r < ranks; ++r) {
      rows += plan.received_by_expert[static_cast<size_t>(r * own + e)];
    }
    plan.offsets.data<int32_t>()[e + 1] =
        plan.offsets.data<int32_t>()[e] + static_cast<int32_t>(rows);
  }
  return plan;
}

absl::StatusOr<Tensor> ExpertExchange::Move(Execution& execution, std::span<const int64_t> sent,
                                            std::span<const int64_t> received,
                                            const Tensor& rows) const {
  const int64_t width = rows.shape()[1];
  if (rows.shape()[0] != Sum(sent)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert exchange: expected ", Sum(sent), " rows, got ", rows.shape()[0]));
  }
  std::vector<int64_t> out, in;
  for (const int64_t count : sent) out.push_back(count * width);
  for (const int64_t count : received) in.push_back(count * width);
  Tensor moved = execution.Empty(rows.dtype(), {Sum(received), width});
  PLAIT_ASSIGN_OR_RETURN(
      const Event done,
      ranks_->AllToAll(execution.communication(), rows.vector(), out, moved.vector(), in));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(done));
  return moved;
}

absl::StatusOr<Tensor> ExpertExchange::Dispatch(Execution& execution, const Plan& plan,
                                                const Tensor& rows) const {
  PLAIT_ASSIGN_OR_RETURN(const Tensor arrived, Move(execution, plan.sent, plan.received, rows));
  Tensor sorted = execution.Empty(arrived.dtype(), arrived.shape());
  Regroup(plan.received_by_expert, ranks_->size(), own_experts(), /*to_experts=*/true, arrived,
          sorted);
  return sorted;
}

absl::StatusOr<Tensor> ExpertExchange::Combine(Execution& execution, const Plan& plan,
                                               const Tensor& results) const {
  if (results.shape()[0] != Sum(plan.received)) {
    return absl::InvalidArgumentError(absl::StrCat("expert exchange: expected ", Sum(plan.received),
                                                   " results, got ", results.shape()[0]));
  }
  Tensor by_rank = execution.Empty(results.dtype(), results.shape());
  Regroup(plan.received_by_expert, ranks_->size(), own_experts(), /*to_experts=*/false, results,
          by_rank);
  return Move(execution, plan.received, plan.sent, by_rank);
}

}  // namespace plait
