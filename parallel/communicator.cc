#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {
namespace {

template <size_t n>
void CutInto(std::string_view text, std::array<char, n>& to) {
  const size_t length = std::min(text.size(), n - 1);
  std::memcpy(to.data(), text.data(), length);
  std::fill(to.begin() + length, to.end(), '\0');
}

// "trainer/training_step.cc:34": the last two parts of the path say enough.
std::string SiteText(const std::source_location& site) {
  const std::string_view path = site.file_name();
  size_t cut = path.rfind('/');
  if (cut != std::string_view::npos && cut > 0) cut = path.rfind('/', cut - 1);
  const std::string_view file = cut == std::string_view::npos ? path : path.substr(cut + 1);
  return absl::StrCat(absl::string_view(file.data(), file.size()), ":", site.line());
}

CollectiveCall Call(CollectiveOperation operation, const std::source_location& site) {
  CollectiveCall call;
  call.operation = operation;
  CutInto(SiteText(site), call.site);
  return call;
}

CollectiveCall Call(CollectiveOperation operation, DType dtype, int64_t count,
                    const std::source_location& site) {
  CollectiveCall call = Call(operation, site);
  call.dtype = static_cast<int32_t>(dtype);
  call.count = count;
  return call;
}

bool IsPairs(CollectiveOperation operation) {
  return operation == CollectiveOperation::kSend || operation == CollectiveOperation::kReceive;
}

// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
uint64_t Scrambled(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

int64_t Bytes(int64_t elements, DType dtype) {
  return elements * static_cast<int64_t>(SizeOf(dtype));
}

absl::Status CheckSizes(const char* operation, int64_t expected, DType dtype, VectorView output) {
  if (output.size == expected && output.dtype == dtype) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(operation, ": expected an output of ", expected,
                                                 " ", Name(dtype), " elements, got ", output.size,
                                                 " ", Name(output.dtype)));
}

// Done when all that was added is.
class AllOf final : public PendingWork {
 public:
  void Add(const Event& event) {
    if (event.work() != nullptr) works_.push_back(event.work());
  }
  absl::Status Wait() override {
    absl::Status first;
    for (const auto& work : works_) first.Update(work->Wait());
    return first;
  }
  bool Test() override {
    return std::all_of(works_.begin(), works_.end(), [](const auto& work) { return work->Test(); });
  }

 private:
  std::vector<std::shared_ptr<PendingWork>> works_;
};

absl::Status CheckCanBeReduced(const char* operation, DType dtype) {
  if (dtype != DType::kF16) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(operation, ": f16 is for storage only; convert it to f32 first"));
}

}  // namespace

Communicator::Communicator(int rank, int size, std::string name,
                           std::shared_ptr<CollectiveLedger> ledger)
    : rank_(rank), size_(size), name_(std::move(name)), ledger_(std::move(ledger)) {}

void Communicator::TakePlaceOf(Communicator& other) {
  group_ = other.group_;
  calls_ = other.calls_;
  place_ = std::exchange(other.place_, -1);
}

void Communicator::Enter(CollectiveCall& call) {
  if (place_ < 0) place_ = ledger_->Join(group_, rank_);
  // A pair's call is not everybody's: only collectives are counted.
  call.sequence = IsPairs(call.operation) ? calls_ : ++calls_;
  call.group = group_;
  CutInto(name_, call.communicator);
  ledger_->Enter(place_, call);
}

absl::Status Communicator::Begin(CollectiveCall& call) {
  Enter(call);
  if (!ledger_->check() || size_ == 1 || IsPairs(call.operation)) return absl::OkStatus();
  std::vector<CollectiveCall> calls(static_cast<size_t>(size_));
  {
    const CollectiveLedger::Waiting waiting(*ledger_);
    PLAIT_RETURN_IF_ERROR(ExchangeCalls(call, calls));
  }
  return CompareCalls(name_, calls);
}

absl::StatusOr<Event> Communicator::End(absl::StatusOr<Event> event) {
  if (event.ok()) return event;
  return Annotate(event.status(), absl::StrCat("rank ", ledger_->rank()));
}

absl::StatusOr<Event> Communicator::AllGather(Stream& stream, ConstVectorView input,
                                              VectorView output, CallSite site) {
  PLAIT_RETURN_IF_ERROR(CheckSizes("all-gather", size_ * input.size, input.dtype, output));
  CollectiveCall call = Call(CollectiveOperation::kAllGather, input.dtype, input.size, site);
  PLAIT_RETURN_IF_ERROR(Begin(call));
  ledger_->AddBytes((size_ - 1) * Bytes(input.size, input.dtype));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoAllGather(stream, input, output));
}

absl::StatusOr<Event> Communicator::ReduceScatter(Stream& stream, ConstVectorView input,
                                                  VectorView output, CallSite site) {
  PLAIT_RETURN_IF_ERROR(CheckCanBeReduced("reduce-scatter", input.dtype));
  if (input.size != size_ * output.size || input.dtype != output.dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("reduce-scatter: expected an input of ", size_ * output.size, " ",
                     Name(output.dtype), " elements, got ", input.size, " ", Name(input.dtype)));
  }
  CollectiveCall call = Call(CollectiveOperation::kReduceScatter, input.dtype, output.size, site);
  PLAIT_RETURN_IF_ERROR(Begin(call));
  ledger_->AddBytes((size_ - 1) * Bytes(output.size, output.dtype));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoReduceScatter(stream, input, output));
}

absl::StatusOr<Event> Communicator::AllReduce(Stream& stream, VectorView buffer,
                                              ReduceOperation operation, CallSite site) {
  PLAIT_RETURN_IF_ERROR(CheckCanBeReduced("all-reduce", buffer.dtype));
  CollectiveCall call =
      Call(operation == ReduceOperation::kSum ? CollectiveOperation::kAllReduceSum
                                              : CollectiveOperation::kAllReduceMax,
           buffer.dtype, buffer.size, site);
  PLAIT_RETURN_IF_ERROR(Begin(call));
  if (size_ > 1) {
    ledger_->AddBytes(2 * (size_ - 1) * Bytes((buffer.size + size_ - 1) / size_, buffer.dtype));
  }
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoAllReduce(stream, buffer, operation));
}

absl::StatusOr<Event> Communicator::Broadcast(Stream& stream, VectorView buffer, int root,
                                              CallSite site) {
  if (root < 0 || root >= size_) {
    return absl::InvalidArgumentError(
        absl::StrCat("broadcast: rank ", root, " does not exist, ", name_, " has ", size_));
  }
  CollectiveCall call = Call(CollectiveOperation::kBroadcast, buffer.dtype, buffer.size, site);
  call.peer = root;
  PLAIT_RETURN_IF_ERROR(Begin(call));
  if (rank_ != root) ledger_->AddBytes(Bytes(buffer.size, buffer.dtype));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoBroadcast(stream, buffer, root));
}

absl::StatusOr<Event> Communicator::AllToAll(Stream& stream, ConstVectorView input,
                                             std::span<const int64_t> input_counts,
                                             VectorView output,
                                             std::span<const int64_t> output_counts,
                                             CallSite site) {
  const auto sum = [](std::span<const int64_t> counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0});
  };
  const auto ranks = static_cast<size_t>(size_);
  if (input_counts.size() != ranks || output_counts.size() != ranks ||
      sum(input_counts) != input.size || sum(output_counts) != output.size ||
      input.dtype != output.dtype) {
    return absl::InvalidArgumentError(absl::StrCat(
        "all-to-all: expected one count per rank (", size_, ") that add up to the buffers, got ",
        input_counts.size(), " input and ", output_counts.size(), " output counts for buffers of ",
        input.size, " ", Name(input.dtype), " and ", output.size, " ", Name(output.dtype)));
  }
  // Counts differ between ranks by right.
  CollectiveCall call = Call(CollectiveOperation::kAllToAll, input.dtype, 0, site);
  PLAIT_RETURN_IF_ERROR(Begin(call));
  ledger_->AddBytes(Bytes(output.size - output_counts[rank_], output.dtype));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoAllToAll(stream, input, input_counts, output, output_counts));
}

absl::Status Communicator::BeginSend(const Sending& send, CallSite site) {
  if (send.peer < 0 || send.peer >= size_ || send.peer == rank_) {
    return absl::InvalidArgumentError(absl::StrCat("send: there is no peer ", send.peer,
                                                   ", this is rank ", rank_, " of ", size_));
  }
  CollectiveCall call = Call(CollectiveOperation::kSend, send.buffer.dtype, send.buffer.size, site);
  call.peer = send.peer;
  PLAIT_RETURN_IF_ERROR(Begin(call));
  ledger_->AddBytes(Bytes(send.buffer.size, send.buffer.dtype));
  return absl::OkStatus();
}

absl::Status Communicator::BeginReceive(const Receiving& receive, CallSite site) {
  const auto& [buffer, peer] = receive;
  if (peer < 0 || peer >= size_ || peer == rank_) {
    return absl::InvalidArgumentError(
        absl::StrCat("receive: there is no peer ", peer, ", this is rank ", rank_, " of ", size_));
  }
  CollectiveCall call = Call(CollectiveOperation::kReceive, buffer.dtype, buffer.size, site);
  call.peer = peer;
  return Begin(call);
}

absl::StatusOr<Event> Communicator::Send(Stream& stream, ConstVectorView buffer, int peer,
                                         CallSite site) {
  PLAIT_RETURN_IF_ERROR(BeginSend({buffer, peer}, site));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoSend(stream, buffer, peer));
}

absl::StatusOr<Event> Communicator::Receive(Stream& stream, VectorView buffer, int peer,
                                            CallSite site) {
  PLAIT_RETURN_IF_ERROR(BeginReceive({buffer, peer}, site));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoReceive(stream, buffer, peer));
}

absl::StatusOr<Event> Communicator::SendAndReceive(Stream& stream, std::span<const Sending> sends,
                                                   std::span<const Receiving> receives,
                                                   CallSite site) {
  if (sends.empty() && receives.empty()) return Event();
  for (const Sending& send : sends) PLAIT_RETURN_IF_ERROR(BeginSend(send, site));
  for (const Receiving& receive : receives) PLAIT_RETURN_IF_ERROR(BeginReceive(receive, site));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return End(DoSendAndReceive(stream, sends, receives));
}

absl::StatusOr<Event> Communicator::DoSendAndReceive(Stream& stream, std::span<const Sending> sends,
                                                     std::span<const Receiving> receives) {
  auto all = std::make_shared<AllOf>();
  for (const auto& [buffer, peer] : sends) {
    PLAIT_ASSIGN_OR_RETURN(const Event sent, DoSend(stream, buffer, peer));
    all->Add(sent);
  }
  for (const auto& [buffer, peer] : receives) {
    PLAIT_ASSIGN_OR_RETURN(const Event received, DoReceive(stream, buffer, peer));
    all->Add(received);
  }
  return Event(std::move(all));
}

absl::Status Communicator::Barrier(CallSite site) {
  CollectiveCall call = Call(CollectiveOperation::kBarrier, site);
  PLAIT_RETURN_IF_ERROR(Begin(call));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return Annotate(DoBarrier(), absl::StrCat("rank ", ledger_->rank()));
}

absl::StatusOr<std::shared_ptr<Communicator>> Communicator::Split(int color, int key,
                                                                  const std::string& name,
                                                                  CallSite site) {
  CollectiveCall call = Call(CollectiveOperation::kSplit, site);
  PLAIT_RETURN_IF_ERROR(Begin(call));
  const CollectiveLedger::Waiting waiting(*ledger_);
  PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<Communicator> part, DoSplit(color, key, name));
  // The same on all ranks of the part, and no other communicator's.
  part->group_ =
      Scrambled(Scrambled(group_ ^ static_cast<uint64_t>(calls_)) ^ static_cast<uint32_t>(color));
  part->place_ = ledger_->Join(part->group_, part->rank_);
  return part;
}

absl::StatusOr<std::shared_ptr<void>> Communicator::AllocateShared(size_t bytes, CallSite site) {
  CollectiveCall call = Call(CollectiveOperation::kAllocateShared, site);
  call.count = static_cast<int64_t>(bytes);
  PLAIT_RETURN_IF_ERROR(Begin(call));
  const CollectiveLedger::Waiting waiting(*ledger_);
  return DoAllocateShared(bytes);
}

void Communicator::EnterSharedWait(CallSite site) {
  CollectiveCall call = Call(CollectiveOperation::kSharedWait, site);
  Enter(call);
}

}  // namespace plait
