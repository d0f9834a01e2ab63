#include "parallel/host_collectives.h"

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

absl::Status ExchangeBytesOnHost(
    Communicator& ranks, const std::string& own,
    const std::function<absl::Status(int rank, std::string_view bytes)>& take,
    Communicator::CallSite site) {
  constexpr int64_t kWordBytes = sizeof(int64_t);
  const auto own_bytes = static_cast<int64_t>(own.size());
  PLAIT_ASSIGN_OR_RETURN(const Tensor bytes,
                         GatherOnHost(ranks, Tensor::FromValues<int64_t>({1}, {own_bytes}), site));
  Stream stream;
  absl::Status taken;
  for (int rank = 0; rank < ranks.size(); ++rank) {
    const int64_t size = bytes.data<int64_t>()[rank];
    Tensor words = Tensor::OnHost(DType::kI64, {(size + kWordBytes - 1) / kWordBytes});
    if (rank == ranks.rank() && size > 0) std::memcpy(words.raw(), own.data(), own.size());
    if (size > 0) {
      PLAIT_ASSIGN_OR_RETURN(const Event sent, ranks.Broadcast(stream, words.vector(), rank, site));
      PLAIT_RETURN_IF_ERROR(sent.Synchronize());
    }
    taken.Update(take(rank, {static_cast<const char*>(words.raw()), static_cast<size_t>(size)}));
  }
  return taken;
}

absl::Status AllReduceOnHost(Communicator& ranks, VectorView values, ReduceOperation operation,
                             Communicator::CallSite site) {
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const Event done, ranks.AllReduce(stream, values, operation, site));
  return done.Synchronize();
}

}  // namespace plait
