#include "parallel/nccl_communicator.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/allocator.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "kernels/cuda/rank_reduction.h"
#include "parallel/nccl_session.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

// Up to here every rank reduces everything itself; above, each its part.
constexpr int64_t kSmallReduceBytes = 256 << 10;
// Rows of scratch begin at multiples of it, in elements of any dtype.
constexpr int64_t kRowElements = 64;
// How long an abort of the job waits for NCCL's.
constexpr double kAbortSeconds = 3;

int64_t RoundedUp(int64_t elements) {
  return (elements + kRowElements - 1) / kRowElements * kRowElements;
}

template <class Byte>
Byte* At(Byte* data, int64_t element, DType dtype) {
  return data + element * static_cast<int64_t>(SizeOf(dtype));
}
const char* At(ConstVectorView view, int64_t element) {
  return At(view.as<char>(), element, view.dtype);
}
char* At(VectorView view, int64_t element) { return At(view.as<char>(), element, view.dtype); }

// Scratch of one rank, each stream its own: blocks go round in the order of one stream.
class StreamScratch {
 public:
  explicit StreamScratch(std::shared_ptr<DeviceRuntime> runtime) : runtime_(std::move(runtime)) {}

  // Until the last call on the stream that uses it has been made.
  Tensor Take(StreamHandle stream, DType dtype, int64_t elements) {
    std::shared_ptr<Allocator>& allocator = allocators_[stream];
    if (allocator == nullptr) allocator = Allocator::Create(runtime_);
    return Tensor::Empty(*allocator, dtype, {elements});
  }

  int64_t bytes_peak() const {
    int64_t bytes = 0;
    for (const auto& [stream, allocator] : allocators_) {
      bytes += static_cast<int64_t>(allocator->bytes_in_use_peak());
    }
    return bytes;
  }

 private:
  std::shared_ptr<DeviceRuntime> runtime_;
  std::map<StreamHandle, std::shared_ptr<Allocator>> allocators_;
};

// What the communicators of one rank have in common.
struct RankState {
  NcclOptions options;
  std::shared_ptr<NcclSession> session;
  StreamScratch scratch;
};

bool OnHost(const Stream& stream) { return stream.handle() == nullptr; }

// The first error of calls that are made together; queued ones are in progress.
NcclResult First(NcclResult first, NcclResult second) { return IsError(first) ? first : second; }

// Made by rank 0, on every rank; with rank 0's error where it could not.
absl::StatusOr<NcclUniqueId> ShareUniqueId(Communicator& host, NcclApi& nccl) {
  NcclUniqueId id;
  absl::Status made;
  if (host.rank() == 0) {
    const NcclResult result = nccl.GetUniqueId(id);
    if (IsError(result)) {
      made = absl::UnavailableError(
          absl::StrCat("NCCL: making an id: ", nccl.Describe(result, nullptr)));
    }
  }
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(host, made));
  Stream stream;
  const VectorView words = {id.bytes.data(), DType::kI32,
                            static_cast<int64_t>(id.bytes.size() / sizeof(int32_t))};
  PLAIT_ASSIGN_OR_RETURN(const Event done, host.Broadcast(stream, words, /*root=*/0));
  PLAIT_RETURN_IF_ERROR(done.Synchronize());
  return id;
}

}  // namespace

class NcclCommunicator final : public Communicator {
 public:
  // Collective. `host` serves this communicator alone.
  static absl::StatusOr<std::shared_ptr<Communicator>> Create(
      std::shared_ptr<Communicator> host, std::shared_ptr<DeviceRuntime> runtime,
      std::shared_ptr<NcclApi> nccl, const NcclOptions& options) {
    auto session = std::make_shared<NcclSession>(
        nccl, runtime, host->shared_ledger(),
        NcclSessionOptions{.connect_timeout_seconds = options.connect_timeout_seconds,
                           .close_timeout_seconds = options.close_timeout_seconds,
                           .on_error = options.on_error,
                           .job_status = [host] { return host->JobStatus(); }});
    std::shared_ptr<NcclChannel> channel;
    if (host->size() > 1) {
      PLAIT_ASSIGN_OR_RETURN(const NcclUniqueId id, ShareUniqueId(*host, *nccl));
      absl::StatusOr<std::shared_ptr<NcclChannel>> connected =
          session->Connect(id, host->size(), host->rank(), host->name());
      PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*host, connected.status()));
      channel = *std::move(connected);
    }
    auto state = std::make_shared<RankState>(
        RankState{options, std::move(session), StreamScratch(std::move(runtime))});
    auto communicator =
        std::make_shared<NcclCommunicator>(host, std::move(state), std::move(channel));
    communicator->TakePlaceOf(*host);
    return communicator;
  }

  // channel: null where there is one rank.
  NcclCommunicator(std::shared_ptr<Communicator> host, std::shared_ptr<RankState> state,
                   std::shared_ptr<NcclChannel> channel)
      : Communicator(host->rank(), host->size(), host->name(), host->shared_ledger()),
        host_(std::move(host)),
        state_(std::move(state)),
        channel_(std::move(channel)) {}
  ~NcclCommunicator() override {
    if (channel_ != nullptr) state_->session->Close(*channel_);
  }

  bool reaches_device() const override { return true; }
  int64_t device_bytes_peak() const override { return state_->scratch.bytes_peak(); }
  void Abort(std::string_view reason, int exit_code) override {
    session().Fail(absl::AbortedError(absl::StrCat(
        "rank ", ledger().rank(), ": ", absl::string_view(reason.data(), reason.size()))));
    session().WaitUntilAborted(kAbortSeconds);
    host_->Abort(reason, exit_code);
  }
  absl::Status JobStatus() const override {
    PLAIT_RETURN_IF_ERROR(host_->JobStatus());
    return session().status();
  }

 protected:
  absl::StatusOr<Event> DoAllGather(Stream& stream, ConstVectorView input,
                                    VectorView output) override {
    if (OnHost(stream)) return ByHost(&Communicator::DoAllGather, stream, input, output);
    if (size() == 1) return Copy(stream, input, output);
    PLAIT_RETURN_IF_ERROR(Gather(stream, input, output));
    return Record(stream);
  }

  absl::StatusOr<Event> DoReduceScatter(Stream& stream, ConstVectorView input,
                                        VectorView output) override {
    if (OnHost(stream)) return ByHost(&Communicator::DoReduceScatter, stream, input, output);
    if (size() == 1) return Copy(stream, input, output);
    if (ByLibrary(input.dtype)) {
      PLAIT_RETURN_IF_ERROR(Submit("reduce-scatter", [&](NcclApi& nccl, NcclHandle handle) {
        return nccl.ReduceScatterSum(input.data, output.data, output.size, output.dtype, handle,
                                     stream.handle());
      }));
      return Record(stream);
    }
    PLAIT_RETURN_IF_ERROR(ReduceParts(
        stream, ReduceOperation::kSum, input, [&](int peer) { return peer * output.size; },
        output));
    return Record(stream);
  }

  absl::StatusOr<Event> DoAllReduce(Stream& stream, VectorView buffer,
                                    ReduceOperation operation) override {
    if (OnHost(stream)) return ByHost(&Communicator::DoAllReduce, stream, buffer, operation);
    if (size() == 1) return Record(stream);
    if (operation == ReduceOperation::kSum && ByLibrary(buffer.dtype)) {
      PLAIT_RETURN_IF_ERROR(Submit("all-reduce", [&](NcclApi& nccl, NcclHandle handle) {
        return nccl.AllReduceSum(buffer.data, buffer.size, buffer.dtype, handle, stream.handle());
      }));
      return Record(stream);
    }
    if (buffer.size * static_cast<int64_t>(SizeOf(buffer.dtype)) <= kSmallReduceBytes) {
      Tensor all = state_->scratch.Take(stream.handle(), buffer.dtype, size() * buffer.size);
      PLAIT_RETURN_IF_ERROR(Gather(stream, buffer, all.vector()));
      PLAIT_RETURN_IF_ERROR(cuda::ReduceRanks(
          stream.handle(), Reduction(operation, buffer.dtype, all.raw(), buffer.size, nullptr,
                                     buffer.size, buffer.data)));
      return Record(stream);
    }
    // Every rank reduces its part in rank order, then all get all parts.
    const auto part = [&](int peer) { return buffer.size * peer / size(); };
    const auto part_size = [&](int peer) { return part(peer + 1) - part(peer); };
    const VectorView own = {At(buffer, part(rank())), buffer.dtype, part_size(rank())};
    PLAIT_RETURN_IF_ERROR(ReduceParts(stream, operation, buffer, part, own));
    if (buffer.size % size() == 0) {
      PLAIT_RETURN_IF_ERROR(Gather(stream, own, buffer));
    } else {
      PLAIT_RETURN_IF_ERROR(Together("all-reduce", [&](NcclApi& nccl, NcclHandle handle, int peer) {
        return First(nccl.Send(own.data, own.size, own.dtype, peer, handle, stream.handle()),
                     nccl.Receive(At(buffer, part(peer)), part_size(peer), buffer.dtype, peer,
                                  handle, stream.handle()));
      }));
    }
    return Record(stream);
  }

  absl::StatusOr<Event> DoBroadcast(Stream& stream, VectorView buffer, int root) override {
    if (OnHost(stream)) return ByHost(&Communicator::DoBroadcast, stream, buffer, root);
    if (size() > 1 && buffer.size > 0) {
      PLAIT_RETURN_IF_ERROR(Submit("broadcast", [&](NcclApi& nccl, NcclHandle handle) {
        return nccl.Broadcast(buffer.data, buffer.size, buffer.dtype, root, handle,
                              stream.handle());
      }));
    }
    return Record(stream);
  }

  absl::StatusOr<Event> DoAllToAll(Stream& stream, ConstVectorView input,
                                   std::span<const int64_t> input_counts, VectorView output,
                                   std::span<const int64_t> output_counts) override {
    if (OnHost(stream)) {
      return ByHost(&Communicator::DoAllToAll, stream, input, input_counts, output, output_counts);
    }
    std::vector<int64_t> from, to;  // where each peer's elements begin
    int64_t input_place = 0, output_place = 0;
    for (int peer = 0; peer < size(); ++peer) {
      from.push_back(std::exchange(input_place, input_place + input_counts[peer]));
      to.push_back(std::exchange(output_place, output_place + output_counts[peer]));
    }
    if (input_counts[rank()] != output_counts[rank()]) {
      return absl::InvalidArgumentError(absl::StrCat("all-to-all: rank ", rank(), " sends itself ",
                                                     input_counts[rank()], " elements and expects ",
                                                     output_counts[rank()]));
    }
    PLAIT_RETURN_IF_ERROR(
        stream.Copy(At(output, to[rank()]), At(input, from[rank()]),
                    static_cast<size_t>(input_counts[rank()]) * SizeOf(input.dtype)));
    PLAIT_RETURN_IF_ERROR(Together("all-to-all", [&](NcclApi& nccl, NcclHandle handle, int peer) {
      NcclResult sent = NcclResult::kSuccess, received = NcclResult::kSuccess;
      if (input_counts[peer] > 0) {
        sent = nccl.Send(At(input, from[peer]), input_counts[peer], input.dtype, peer, handle,
                         stream.handle());
      }
      if (output_counts[peer] > 0) {
        received = nccl.Receive(At(output, to[peer]), output_counts[peer], output.dtype, peer,
                                handle, stream.handle());
      }
      return First(sent, received);
    }));
    return Record(stream);
  }

  absl::StatusOr<Event> DoSend(Stream& stream, ConstVectorView buffer, int peer) override {
    if (OnHost(stream)) return ByHost(&Communicator::DoSend, stream, buffer, peer);
    if (buffer.size > 0) {
      PLAIT_RETURN_IF_ERROR(Submit("send", [&](NcclApi& nccl, NcclHandle handle) {
        return nccl.Send(buffer.data, buffer.size, buffer.dtype, peer, handle, stream.handle());
      }));
    }
    return Record(stream);
  }
  absl::StatusOr<Event> DoReceive(Stream& stream, VectorView buffer, int peer) override {
    if (OnHost(stream)) return ByHost(&Communicator::DoReceive, stream, buffer, peer);
    if (buffer.size > 0) {
      PLAIT_RETURN_IF_ERROR(Submit("receive", [&](NcclApi& nccl, NcclHandle handle) {
        return nccl.Receive(buffer.data, buffer.size, buffer.dtype, peer, handle, stream.handle());
      }));
    }
    return Record(stream);
  }

  absl::StatusOr<Event> DoSendAndReceive(Stream& stream, std::span<const Sending> sends,
                                         std::span<const Receiving> receives) override {
    if (OnHost(stream)) return ByHost(&Communicator::DoSendAndReceive, stream, sends, receives);
    PLAIT_RETURN_IF_ERROR(AsOne("send and receive", [&](NcclApi& nccl, NcclHandle handle) {
      NcclResult result = NcclResult::kSuccess;
      for (const auto& [buffer, peer] : sends) {
        if (buffer.size == 0) continue;
        result = First(result, nccl.Send(buffer.data, buffer.size, buffer.dtype, peer, handle,
                                         stream.handle()));
      }
      for (const auto& [buffer, peer] : receives) {
        if (buffer.size == 0) continue;
        result = First(result, nccl.Receive(buffer.data, buffer.size, buffer.dtype, peer, handle,
                                            stream.handle()));
      }
      return result;
    }));
    return Record(stream);
  }

  absl::Status DoBarrier() override {
    PLAIT_RETURN_IF_ERROR(session().status());
    return host_->DoBarrier();
  }

  absl::StatusOr<std::shared_ptr<Communicator>> DoSplit(int color, int key,
                                                        const std::string& name) override {
    PLAIT_RETURN_IF_ERROR(session().status());
    if (color < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("split: expected a color from 0, got ", color));
    }
    PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<Communicator> host, host_->DoSplit(color, key, name));
    std::shared_ptr<NcclChannel> channel;
    if (channel_ != nullptr) {
      const int part = host->size() == 1 ? NcclApi::kNoColor : color;
      PLAIT_ASSIGN_OR_RETURN(channel, session().Split(*channel_, part, key, name));
    }
    return std::make_shared<NcclCommunicator>(std::move(host), state_, std::move(channel));
  }

  absl::StatusOr<std::shared_ptr<void>> DoAllocateShared(size_t bytes) override {
    PLAIT_RETURN_IF_ERROR(session().status());
    return host_->DoAllocateShared(bytes);
  }
  absl::Status ExchangeCalls(const CollectiveCall& own, std::span<CollectiveCall> all) override {
    PLAIT_RETURN_IF_ERROR(session().status());
    return host_->ExchangeCalls(own, all);
  }

 private:
  NcclSession& session() const { return *state_->session; }

  template <class Operation, class... Arguments>
  absl::StatusOr<Event> ByHost(Operation operation, Arguments&&... arguments) {
    PLAIT_RETURN_IF_ERROR(session().status());
    return ((*host_).*operation)(std::forward<Arguments>(arguments)...);
  }

  absl::Status Submit(std::string_view what, const NcclSession::Call& call) {
    return session().Submit(*channel_, what, call);
  }
  // The calls that body(nccl, handle) makes, as one.
  template <class Body>
  absl::Status AsOne(std::string_view what, const Body& body) {
    return Submit(what, [&](NcclApi& nccl, NcclHandle handle) {
      const NcclResult started = nccl.GroupStart();
      if (IsError(started)) return started;
      const NcclResult result = body(nccl, handle);
      return First(result, nccl.GroupEnd());
    });
  }
  // body(nccl, handle, peer) of every peer, as one call.
  template <class Body>
  absl::Status Together(std::string_view what, const Body& body) {
    if (size() == 1) return session().status();
    return AsOne(what, [&](NcclApi& nccl, NcclHandle handle) {
      NcclResult result = NcclResult::kSuccess;
      // Each rank begins with its right neighbour, so that not all begin with the same one.
      for (int step = 1; step < size() && !IsError(result); ++step) {
        result = body(nccl, handle, (rank() + step) % size());
      }
      return result;
    });
  }
  absl::StatusOr<Event> Record(Stream& stream) {
    return session().Record(stream.handle(), ledger().last_call());
  }
  absl::StatusOr<Event> Copy(Stream& stream, ConstVectorView input, VectorView output) {
    PLAIT_RETURN_IF_ERROR(stream.Copy(output.data, input.data,
                                      static_cast<size_t>(input.size) * SizeOf(input.dtype)));
    return Record(stream);
  }

  bool ByLibrary(DType dtype) const {
    return state_->options.sums == NcclOptions::Sums::kLibrary &&
           (dtype == DType::kF32 || dtype == DType::kF64);
  }

  absl::Status Gather(Stream& stream, ConstVectorView input, VectorView output) {
    if (input.size == 0) return session().status();
    return Submit("all-gather", [&](NcclApi& nccl, NcclHandle handle) {
      return nccl.AllGather(input.data, output.data, input.size, input.dtype, handle,
                            stream.handle());
    });
  }

  // output = the reduction of what every rank has in its `input` from begin(this rank) on, in rank
  // order. begin(peer): where the peer's part begins, which is as long as the peer's output. Output
  // may be this rank's part. In rounds, as many on every rank as the longest part needs.
  template <class Begin>
  absl::Status ReduceParts(Stream& stream, ReduceOperation operation, ConstVectorView input,
                           const Begin& begin, VectorView output) {
    const DType dtype = input.dtype;
    const auto end = [&](int peer) { return peer + 1 < size() ? begin(peer + 1) : input.size; };
    int64_t longest = 0;
    for (int peer = 0; peer < size(); ++peer) {
      longest = std::max(longest, end(peer) - begin(peer));
    }
    const int64_t row =
        std::clamp(state_->options.scratch_bytes / size() / static_cast<int64_t>(SizeOf(dtype)) /
                       kRowElements * kRowElements,
                   kRowElements, std::max(kRowElements, RoundedUp(longest)));
    Tensor rows = state_->scratch.Take(stream.handle(), dtype, size() * row);
    for (int64_t done = 0; done < longest; done += row) {
      // Of the peer's part, in this round.
      const auto count = [&](int peer) {
        return std::clamp<int64_t>(end(peer) - begin(peer) - done, 0, row);
      };
      const int64_t own = count(rank());
      const auto exchange = [&](NcclApi& nccl, NcclHandle handle, int peer) {
        NcclResult sent = NcclResult::kSuccess, received = NcclResult::kSuccess;
        if (count(peer) > 0) {
          sent = nccl.Send(At(input, begin(peer) + done), count(peer), dtype, peer, handle,
                           stream.handle());
        }
        if (own > 0) {
          received = nccl.Receive(At(rows.vector(), peer * row), own, dtype, peer, handle,
                                  stream.handle());
        }
        return First(sent, received);
      };
      PLAIT_RETURN_IF_ERROR(Together("exchange of what is reduced", exchange));
      PLAIT_RETURN_IF_ERROR(cuda::ReduceRanks(
          stream.handle(), Reduction(operation, dtype, rows.raw(), row,
                                     At(input, begin(rank()) + done), own, At(output, done))));
    }
    return absl::OkStatus();
  }

  cuda::RankReductionArgs Reduction(ReduceOperation operation, DType dtype, const void* gathered,
                                    int64_t stride, const void* own, int64_t elements,
                                    void* output) const {
    return {.reduction = operation == ReduceOperation::kSum ? cuda::RankReduction::kSum
                                                            : cuda::RankReduction::kMax,
            .dtype = dtype,
            .gathered = gathered,
            .stride = stride,
            .own = own,
            .own_rank = rank(),
            .ranks = size(),
            .elements = elements,
            .output = output};
  }

  std::shared_ptr<Communicator> host_;
  std::shared_ptr<RankState> state_;
  std::shared_ptr<NcclChannel> channel_;
};

absl::StatusOr<std::shared_ptr<Communicator>> MakeNcclCommunicator(
    Communicator& host, std::shared_ptr<DeviceRuntime> runtime, std::shared_ptr<NcclApi> nccl,
    const NcclOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<Communicator> own,
                         host.Split(/*color=*/0, host.rank(), host.name()));
  return NcclCommunicator::Create(std::move(own), std::move(runtime), std::move(nccl), options);
}

}  // namespace plait
