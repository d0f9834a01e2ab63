#include "parallel/host_collectives.h"

#include <algorithm>
#include <cstring>

#include "base/status_macros.h"

namespace plait {

absl::StatusOr<Tensor> GatherOnHost(Communicator& ranks, const Tensor& own,
                                    Communicator::CallSite site) {
  Tensor all = Tensor::OnHost(own.dtype(), {ranks.size(), own.num_elements()});
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const Event done,
                         ranks.AllGather(stream, own.vector(), all.vector(), site));
  PLAIT_RETURN_IF_ERROR(done.Synchronize());
  return all;
}

absl::StatusOr<std::vector<std::string>> GatherBytesOnHost(Communicator& ranks,
                                                           const std::string& own,
                                                           Communicator::CallSite site) {
  constexpr int64_t kWordBytes = sizeof(int64_t);
  const auto own_bytes = static_cast<int64_t>(own.size());
  PLAIT_ASSIGN_OR_RETURN(const Tensor bytes,
                         GatherOnHost(ranks, Tensor::FromValues<int64_t>({1}, {own_bytes}), site));
  const std::span<const int64_t> of_rank(bytes.data<int64_t>(), static_cast<size_t>(ranks.size()));
  const int64_t longest = *std::max_element(of_rank.begin(), of_rank.end());
  if (longest == 0) return std::vector<std::string>(of_rank.size());
  Tensor padded = Tensor::OnHost(DType::kI64, {(longest + kWordBytes - 1) / kWordBytes});
  padded.FillZero();
  if (!own.empty()) std::memcpy(padded.raw(), own.data(), own.size());
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(ranks, padded, site));
  std::vector<std::string> of_ranks;
  for (int rank = 0; rank < ranks.size(); ++rank) {
    const int64_t* const words = all.data<int64_t>() + rank * padded.num_elements();
    of_ranks.emplace_back(reinterpret_cast<const char*>(words),
                          static_cast<size_t>(of_rank[static_cast<size_t>(rank)]));
  }
  return of_ranks;
}

absl::Status AllReduceOnHost(Communicator& ranks, VectorView values, ReduceOperation operation,
                             Communicator::CallSite site) {
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const Event done, ranks.AllReduce(stream, values, operation, site));
  return done.Synchronize();
}

}  // namespace plait
