#include "parallel/expert_exchange.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "parallel/host_collectives.h"

namespace plait {

absl::StatusOr<Tensor> ExpertExchange::Transfer::Arrived(Execution& execution) {
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(done_));
  source_ = Tensor();
  return std::exchange(rows_, Tensor());
}

absl::StatusOr<ExpertExchange> ExpertExchange::Create(Communicator& ranks, int64_t experts) {
  if (experts < 1 || experts % ranks.size() != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert axis = ", ranks.size(), " does not divide the ", experts, " experts"));
  }
  return ExpertExchange(ranks, experts);
}

absl::StatusOr<std::shared_ptr<const ExpertSchedule>> ExpertExchange::Schedule(
    const int32_t* choices, int64_t tokens, int64_t experts_per_token, int64_t wave_tokens) const {
  const ExpertSizes sizes{.tokens = tokens,
                          .ranks = ranks_->size(),
                          .experts = experts_,
                          .experts_per_token = experts_per_token,
                          .wave_tokens = wave_tokens};
  const int64_t slices = ExpertSchedule::NumSlices(sizes);
  Tensor own = Tensor::OnHost(DType::kI32, {slices, experts_});
  const int64_t slice_rows = ExpertSchedule::SliceTokens(sizes) * experts_per_token;
  for (int64_t i = 0; i < tokens * experts_per_token; ++i) {
    const int64_t expert = choices[i];
    if (expert < 0 || expert >= experts_) {
      return absl::InvalidArgumentError(
          absl::StrCat("choices[", i, "]: expected 0 to ", experts_ - 1, ", got ", expert));
    }
    ++own.data<int32_t>()[i / slice_rows * experts_ + expert];
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(*ranks_, own));
  return std::make_shared<const ExpertSchedule>(sizes, all.values<int32_t>());
}

absl::StatusOr<ExpertExchange::Plan> ExpertExchange::PlanOf(
    Execution& execution, const ExpertSchedule::Wave& wave) const {
  const int64_t ranks = ranks_->size(), own = own_experts(), first = first_expert();
  const auto rows = [&](int64_t from, int64_t expert) {
    return wave.rows[static_cast<size_t>(from * experts_ + expert)];
  };
  Plan plan;
  // Where each (rank, own expert) begins as it arrives.
  std::vector<int32_t> arrival(static_cast<size_t>(ranks * own));
  int32_t received = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    int64_t sent = 0;
    const int32_t before = received;
    for (int64_t e = 0; e < own; ++e) {
      sent += rows(ranks_->rank(), rank * own + e);
      arrival[static_cast<size_t>(rank * own + e)] = received;
      received += rows(rank, first + e);
    }
    plan.sent.push_back(sent);
    plan.received.push_back(received - before);
  }
  plan.offsets = Tensor::OnHost(DType::kI32, {own + 1});
  Tensor arrivals = Tensor::OnHost(DType::kI32, {received});
  Tensor places = Tensor::OnHost(DType::kI32, {received});
  int32_t next = 0;
  for (int64_t e = 0; e < own; ++e) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int32_t begin = arrival[static_cast<size_t>(rank * own + e)];
      for (int32_t row = begin; row < begin + rows(rank, first + e); ++row) {
        places.data<int32_t>()[row] = next;
        arrivals.data<int32_t>()[next++] = row;
      }
    }
    plan.offsets.data<int32_t>()[e + 1] = next;
  }
  PLAIT_ASSIGN_OR_RETURN(plan.arrival, execution.ToDevice(arrivals));
  PLAIT_ASSIGN_OR_RETURN(plan.place, execution.ToDevice(places));
  return plan;
}

absl::StatusOr<ExpertExchange::Transfer> ExpertExchange::Move(Execution& execution,
                                                              const std::vector<int64_t>& sent,
                                                              const std::vector<int64_t>& received,
                                                              Tensor rows) const {
  const int64_t width = rows.shape()[1];
  const int64_t num_sent = std::accumulate(sent.begin(), sent.end(), int64_t{0});
  const int64_t num_received = std::accumulate(received.begin(), received.end(), int64_t{0});
  if (rows.shape()[0] != num_sent) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert exchange: expected ", num_sent, " rows, got ", rows.shape()[0]));
  }
  std::vector<int64_t> out, in;
  for (const int64_t count : sent) out.push_back(count * width);
  for (const int64_t count : received) in.push_back(count * width);
  Transfer transfer;
  transfer.source_ = std::move(rows);
  transfer.rows_ = execution.Empty(transfer.source_.dtype(), {num_received, width});
  PLAIT_ASSIGN_OR_RETURN(transfer.done_, ranks_->AllToAll(execution.communication_after_compute(),
                                                          std::as_const(transfer.source_).vector(),
                                                          out, transfer.rows_.vector(), in));
  return transfer;
}

absl::StatusOr<ExpertExchange::Transfer> ExpertExchange::Dispatch(Execution& execution,
                                                                  const Plan& plan,
                                                                  Tensor rows) const {
  return Move(execution, plan.sent, plan.received, std::move(rows));
}

absl::StatusOr<ExpertExchange::Transfer> ExpertExchange::Return(Execution& execution,
                                                                const Plan& plan,
                                                                Tensor results) const {
  return Move(execution, plan.received, plan.sent, std::move(results));
}

}  // namespace plait
