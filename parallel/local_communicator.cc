#include "parallel/local_communicator.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/allocator.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/element_reduction.h"

namespace plait {
namespace {

// What all ranks of a job share, whatever communicator they are in.
struct Job {
  std::mutex mutex;
  absl::Status status;  // why the job was aborted; Ok: it was not
};

// What a rank shows the others of its communicator while they are at a barrier.
struct Offer {
  const void* input = nullptr;
  std::span<const int64_t> counts;
  int color = 0;
  int key = 0;
  CollectiveCall call;
};

// One communicator's meeting point.
struct Group {
  Group(int size, std::shared_ptr<Job> job_in) : offers(size), job(std::move(job_in)) {}

  // Waits for all ranks. The aborted job's status instead where that comes first.
  absl::Status Meet() {
    std::unique_lock lock(mutex);
    const int64_t mine = generation;
    if (++arrived == static_cast<int>(offers.size())) {
      arrived = 0;
      ++generation;
      changed.notify_all();
      return absl::OkStatus();
    }
    return WaitUntil(lock, [&] { return generation != mine; });
  }

  // Until done() or the job is aborted. A rank that aborts does not know which groups the others
  // wait in, so they look now and then.
  template <class Done>
  absl::Status WaitUntil(std::unique_lock<std::mutex>& lock, const Done& done) {
    while (!changed.wait_for(lock, std::chrono::milliseconds(20), done)) {
      const std::lock_guard job_lock(job->mutex);
      if (!job->status.ok()) return job->status;
    }
    return absl::OkStatus();
  }

  std::vector<Offer> offers;
  std::shared_ptr<Job> job;
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0;
  int64_t generation = 0;
  // What the rank with index 0 makes for all.
  std::shared_ptr<void> memory;
  std::map<int, std::shared_ptr<Group>> parts;                           // by color
  std::map<std::pair<int, int>, std::deque<std::vector<char>>> letters;  // by (from, to)
};

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(int rank, std::string name, std::shared_ptr<CollectiveLedger> ledger,
                    std::shared_ptr<Group> group)
      : Communicator(rank, static_cast<int>(group->offers.size()), std::move(name),
                     std::move(ledger)),
        group_(std::move(group)) {}

  void Abort(std::string_view reason, int) override {
    const std::lock_guard lock(group_->job->mutex);
    if (!group_->job->status.ok()) return;
    group_->job->status = absl::AbortedError(absl::StrCat(
        "rank ", ledger().rank(), ": ", absl::string_view(reason.data(), reason.size())));
  }
  absl::Status JobStatus() const override {
    const std::lock_guard lock(group_->job->mutex);
    return group_->job->status;
  }

 protected:
  absl::StatusOr<Event> DoAllGather(Stream& stream, ConstVectorView input,
                                    VectorView output) override {
    const size_t bytes = static_cast<size_t>(input.size) * SizeOf(input.dtype);
    return Exchange(stream, input.data, [&] {
      for (int peer = 0; peer < size(); ++peer) {
        char* to = output.as<char>() + static_cast<size_t>(peer) * bytes;
        if (to != group_->offers[peer].input) std::memcpy(to, group_->offers[peer].input, bytes);
      }
    });
  }
  absl::StatusOr<Event> DoReduceScatter(Stream& stream, ConstVectorView input,
                                        VectorView output) override {
    const size_t skip = static_cast<size_t>(rank() * output.size) * SizeOf(output.dtype);
    return Exchange(stream, input.data, [&] {
      ReduceElements(ReduceOperation::kSum, output.dtype, Sources(skip), output.size, output.data);
    });
  }
  absl::StatusOr<Event> DoAllReduce(Stream& stream, VectorView buffer,
                                    ReduceOperation operation) override {
    // Into a buffer of its own: the others still read this rank's.
    Tensor result = Tensor::OnHost(buffer.dtype, {buffer.size});
    PLAIT_ASSIGN_OR_RETURN(const Event done, Exchange(stream, buffer.data, [&] {
                             ReduceElements(operation, buffer.dtype, Sources(0), buffer.size,
                                            result.raw());
                           }));
    if (result.bytes() > 0) std::memcpy(buffer.data, result.raw(), result.bytes());
    return done;
  }
  absl::StatusOr<Event> DoBroadcast(Stream& stream, VectorView buffer, int root) override {
    return Exchange(stream, buffer.data, [&] {
      if (rank() == root) return;
      std::memcpy(buffer.data, group_->offers[root].input,
                  static_cast<size_t>(buffer.size) * SizeOf(buffer.dtype));
    });
  }
  absl::StatusOr<Event> DoAllToAll(Stream& stream, ConstVectorView input,
                                   std::span<const int64_t> input_counts, VectorView output,
                                   std::span<const int64_t> output_counts) override {
    group_->offers[rank()].counts = input_counts;
    absl::Status matched;
    PLAIT_ASSIGN_OR_RETURN(const Event done, Exchange(stream, input.data, [&] {
                             matched = TakeFromAll(output, output_counts);
                           }));
    PLAIT_RETURN_IF_ERROR(matched);
    return done;
  }
  absl::StatusOr<Event> DoSend(Stream& stream, ConstVectorView buffer, int peer) override {
    const auto* bytes = static_cast<const char*>(buffer.data);
    const std::lock_guard lock(group_->mutex);
    group_->letters[{rank(), peer}].emplace_back(
        bytes, bytes + static_cast<size_t>(buffer.size) * SizeOf(buffer.dtype));
    group_->changed.notify_all();
    return stream.Record();
  }
  absl::StatusOr<Event> DoReceive(Stream& stream, VectorView buffer, int peer) override {
    const size_t expected = static_cast<size_t>(buffer.size) * SizeOf(buffer.dtype);
    std::unique_lock lock(group_->mutex);
    auto& letters = group_->letters[{peer, rank()}];
    PLAIT_RETURN_IF_ERROR(group_->WaitUntil(lock, [&] { return !letters.empty(); }));
    const std::vector<char> letter = std::move(letters.front());
    letters.pop_front();
    if (letter.size() != expected) {
      return absl::InvalidArgumentError(absl::StrCat("receive: rank ", peer, " sent ",
                                                     letter.size(), " bytes, expected ", expected));
    }
    if (expected > 0) std::memcpy(buffer.data, letter.data(), expected);
    return stream.Record();
  }
  absl::Status DoBarrier() override { return group_->Meet(); }

  absl::StatusOr<std::shared_ptr<Communicator>> DoSplit(int color, int key,
                                                        const std::string& name) override {
    group_->offers[rank()].color = color;
    group_->offers[rank()].key = key;
    PLAIT_RETURN_IF_ERROR(group_->Meet());
    int part_size = 0;
    int part_rank = 0;
    for (int peer = 0; peer < size(); ++peer) {
      const Offer& offer = group_->offers[peer];
      if (offer.color != color) continue;
      ++part_size;
      if (std::pair(offer.key, peer) < std::pair(key, rank())) ++part_rank;
    }
    if (part_rank == 0) {
      const std::lock_guard lock(group_->mutex);
      group_->parts[color] = std::make_shared<Group>(part_size, group_->job);
    }
    PLAIT_RETURN_IF_ERROR(group_->Meet());
    std::shared_ptr<Group> part;
    {
      const std::lock_guard lock(group_->mutex);
      part = group_->parts[color];
    }
    PLAIT_RETURN_IF_ERROR(group_->Meet());  // the next split may begin
    return std::make_shared<LocalCommunicator>(part_rank, name, shared_ledger(), std::move(part));
  }

  absl::StatusOr<std::shared_ptr<void>> DoAllocateShared(size_t bytes) override {
    if (rank() == 0) group_->memory = AllocateZeroed(bytes);
    PLAIT_RETURN_IF_ERROR(group_->Meet());
    std::shared_ptr<void> memory = group_->memory;
    PLAIT_RETURN_IF_ERROR(group_->Meet());
    if (rank() == 0) group_->memory = nullptr;
    return memory;
  }

  absl::Status ExchangeCalls(const CollectiveCall& own, std::span<CollectiveCall> all) override {
    group_->offers[rank()].call = own;
    PLAIT_RETURN_IF_ERROR(group_->Meet());
    for (int peer = 0; peer < size(); ++peer) all[peer] = group_->offers[peer].call;
    return group_->Meet();
  }

 private:
  // Shows `input`, meets, lets `take` read the others' buffers, and meets again.
  template <class Take>
  absl::StatusOr<Event> Exchange(Stream& stream, const void* input, const Take& take) {
    group_->offers[rank()].input = input;
    PLAIT_RETURN_IF_ERROR(group_->Meet());
    take();
    PLAIT_RETURN_IF_ERROR(group_->Meet());
    return stream.Record();
  }

  std::vector<const void*> Sources(size_t skip_bytes) const {
    std::vector<const void*> sources;
    for (const Offer& offer : group_->offers) {
      sources.push_back(static_cast<const char*>(offer.input) + skip_bytes);
    }
    return sources;
  }

  absl::Status TakeFromAll(VectorView output, std::span<const int64_t> output_counts) const {
    const size_t width = SizeOf(output.dtype);
    char* to = output.as<char>();
    for (int peer = 0; peer < size(); ++peer) {
      const Offer& offer = group_->offers[peer];
      if (offer.counts[rank()] != output_counts[peer]) {
        return absl::InvalidArgumentError(absl::StrCat("all-to-all: rank ", peer, " sends ",
                                                       offer.counts[rank()], " elements, rank ",
                                                       rank(), " expects ", output_counts[peer]));
      }
      int64_t skip = 0;
      for (int before = 0; before < rank(); ++before) skip += offer.counts[before];
      const size_t bytes = static_cast<size_t>(output_counts[peer]) * width;
      if (bytes > 0) {
        std::memcpy(to, static_cast<const char*>(offer.input) + static_cast<size_t>(skip) * width,
                    bytes);
      }
      to += bytes;
    }
    return absl::OkStatus();
  }

  std::shared_ptr<Group> group_;
};

}  // namespace

std::vector<std::shared_ptr<Communicator>> MakeLocalCommunicators(int ranks) {
  const std::shared_ptr<LedgerSlot[]> slots(new LedgerSlot[ranks]());
  const auto group = std::make_shared<Group>(ranks, std::make_shared<Job>());
  std::vector<std::shared_ptr<Communicator>> communicators;
  for (int rank = 0; rank < ranks; ++rank) {
    auto ledger = std::make_shared<CollectiveLedger>(
        std::shared_ptr<LedgerSlot>(slots, slots.get()), ranks, rank, rank);
    communicators.push_back(
        std::make_shared<LocalCommunicator>(rank, "world", std::move(ledger), group));
  }
  return communicators;
}

absl::Status RunLocalRanks(
    int ranks, const std::function<absl::Status(const std::shared_ptr<Communicator>&)>& body) {
  const std::vector<std::shared_ptr<Communicator>> communicators = MakeLocalCommunicators(ranks);
  std::mutex mutex;
  absl::Status first;
  std::vector<std::jthread> threads;
  for (const std::shared_ptr<Communicator>& communicator : communicators) {
    threads.emplace_back([&, communicator] {
      const absl::Status status = body(communicator);
      if (status.ok()) return;
      communicator->Abort(std::string(status.message()), 0);
      const std::lock_guard lock(mutex);
      if (first.ok()) first = Annotate(status, absl::StrCat("rank ", communicator->rank()));
    });
  }
  threads.clear();
  return first;
}

}  // namespace plait
